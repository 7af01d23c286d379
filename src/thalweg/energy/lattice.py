r"""Lattices: energies of the paths through an acyclic graph, whose arcs may each read as one of several symbols.

\[ F(y, x) = \sum_{t} \big(E_{a_t, s_t}(x) + T_{s_{t-1}, s_t}\big) \]

for the path of arcs \(a_1, a_2, ...\) with the symbols \(s_1, s_2, ...\); \(T\) is what it costs that one symbol
follows another. The lowest paths, the free energy over all and exact draws are one recursion over the nodes with
another semiring; the probability that an arc is taken is the derivative of the free energy by its energy.

Bottou, Bengio & LeCun (1997), *Global training of document processing systems using graph transformer networks*; LeCun,
Bottou, Bengio & Haffner (1998), *Gradient-based learning applied to document recognition*; Mohri (2002), *Semiring
frameworks and algorithms for shortest-distance problems*.
"""

from collections.abc import Callable, Hashable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from thalweg.energy.arcs import Arcs
from thalweg.energy.base import Scalar
from thalweg.energy.capabilities import AbstractPartition, AbstractStructured
from thalweg.energy.semirings import AbstractSemiring, Drawn, Lowest, Soft
from thalweg.energy.spaces import Categorical
from thalweg.errors import SettingsError


class Lattice(AbstractStructured, AbstractPartition):
    r"""Paths from the start to the end of `arcs`. A point has a coordinate for each arc: 0 where the path does not take
    it, 1 + s where it takes it with the symbol s; it is infinitely high where the arcs are no path.

    `energies` (a, s) are those of each arc and symbol, in nats, infinite where forbidden; `transitions` (s, s) from one
    symbol to the next, none where they are free; `initial` and `final` (s,) of the first and the last symbol. `offset`
    is added to all.
    """

    arcs: Arcs
    energies: Float[Array, "a s"]
    transitions: Float[Array, "s s"] | None = None
    initial: Float[Array, "s"] | None = None
    final: Float[Array, "s"] | None = None
    offset: float | Scalar = 0.0

    def __check_init__(self):
        a, s = len(self.arcs.used), np.shape(self.energies)[-1]
        wanted = {"energies": (a, s), "transitions": (s, s), "initial": (s,), "final": (s,)}
        for name, shape in wanted.items():
            part = getattr(self, name)
            if part is not None and jnp.shape(part) != shape:
                raise SettingsError(
                    f"the {name} of a lattice of {a} arcs and {s} symbols have the shape {shape}, not {jnp.shape(part)}"
                )

    @property
    def space(self) -> Categorical:
        return Categorical((len(self.arcs.used),), self.energies.shape[1] + 1)

    def __call__(self, y, x=None):
        arcs, taken = self.arcs, y > 0
        symbol = jnp.maximum(y.astype(jnp.int32) - 1, 0)
        nodes = jnp.zeros(len(arcs.incoming), jnp.int32)
        flow = taken.astype(jnp.int32)
        surplus = nodes.at[arcs.sources].add(flow).at[arcs.targets].add(-flow)
        wanted = nodes.at[0].set(1).at[arcs.end].set(-1)
        arrived = nodes.at[arcs.targets].add(jnp.where(taken, symbol, 0))
        own = jnp.take_along_axis(self._energies(), symbol[:, None], axis=1)[:, 0]
        first, between, last = self._borders()
        before = jnp.where(arcs.sources == 0, first[symbol], between[arrived[arcs.sources], symbol])
        whole = jnp.sum(jnp.where(taken, own + before, 0)) + last[arrived[arcs.end]] + self.offset
        return jnp.where(jnp.all(surplus == wanted), whole, jnp.inf)

    def best(self, x=None, k=1):
        if k < 1:
            raise SettingsError(f"at least one answer is asked for, not {k}")
        still = jax.lax.stop_gradient(self)
        lowest, pull = jax.vjp(lambda energies: still._shortest(Lowest(k), energies), still._energies())
        answers = jax.vmap(lambda one: _path(pull(one)[0]))(jnp.eye(k))
        return answers, jnp.where(jnp.isfinite(lowest), jax.vmap(self)(answers), jnp.inf)

    def free_energy(self, x=None, beta=1.0):
        return self._shortest(Soft(beta), self._energies())[0]

    def log_partition(self, x=None):
        return -self.free_energy(x)

    def draw(self, x=None, beta=1.0, *, key):
        still, semiring = jax.lax.stop_gradient(self), Drawn(beta, key)
        return _path(jax.grad(lambda energies: still._shortest(semiring, energies)[0])(still._energies()))

    def with_costs(self, costs):
        """A cost of not taking an arc is finite."""
        if jnp.shape(costs) != (*self.space.shape, self.space.size):
            raise SettingsError(
                f"costs have the shape {(*self.space.shape, self.space.size)}, not taken and each symbol, not "
                f"{jnp.shape(costs)}"
            )
        without = costs[:, :1]
        # An arc that is not there is never taken, whatever its energy.
        return eqx.tree_at(
            lambda lattice: (lattice.energies, lattice.offset),
            self,
            (self.energies + costs[:, 1:] - without, self.offset + jnp.sum(without)),
        )

    def spelling(self, symbols: Int[Array, "t"], length: Int[Array, ""] | int | None = None) -> "Lattice":
        """The lattice of the paths that read as these symbols, or as so many of the first of them.

        Its symbols are places in the word: arc after arc reads the next. Infinitely high where no path has as many.
        """
        place = jnp.arange(len(symbols))
        last = (len(symbols) if length is None else length) - 1
        first, between, final = self._borders()
        following = place[:, None] + 1 == place[None]
        return Lattice(
            self.arcs,
            self.energies[:, symbols],
            jnp.where(following, between[symbols[:, None], symbols[None]], jnp.inf),
            jnp.where(place == 0, first[symbols], jnp.inf),
            jnp.where(place == last, final[symbols], jnp.inf),
            self.offset,
        )

    def _energies(self) -> Float[Array, "a s"]:
        return jnp.where(self.arcs.used[:, None], self.energies, jnp.inf)

    def _borders(self) -> tuple[Array, Array, Array]:
        """What the first symbol costs, each pair of symbols and the last."""
        size = self.energies.shape[1]
        parts = ((self.initial, (size,)), (self.transitions, (size, size)), (self.final, (size,)))
        first, between, last = (jnp.zeros(shape) if part is None else part for part, shape in parts)
        return first, between, last

    def _shortest(self, semiring: AbstractSemiring, energies: Float[Array, "a s"]) -> Float[Array, "k"]:
        r"""\(\bigoplus\) over all paths of the sums of their energies."""
        arcs, (first, between, last) = self.arcs, self._borders()
        count, size = len(arcs.incoming), energies.shape[1]
        barred = jnp.append(energies, jnp.full((1, size), jnp.inf), axis=0)
        sources = jnp.append(arcs.sources, 0)[arcs.incoming]

        def onwards(reached: Array, turn: Array) -> Array:
            """The energy of having come so far, before each next symbol."""
            if self.transitions is None:
                return jnp.broadcast_to(semiring.either(reached, turn), reached.shape)
            pairs = jnp.swapaxes(reached[:, None] + between[..., None], 0, 1)
            return semiring.either(pairs, turn)

        def visit(before, now):
            node, source, arc = now
            ways = before[source] + barred[arc][..., None]
            reached = semiring.either(jnp.swapaxes(ways, 0, 1), 2 * node)
            return before.at[node].set(onwards(reached, 2 * node + 1)), reached

        start = semiring.lifted(jnp.full((count, size), jnp.inf)).at[0].set(semiring.lifted(first))
        where = (jnp.arange(1, count), sources[1:], arcs.incoming[1:])
        _, reached = jax.lax.scan(visit, start, where)
        ends = semiring.both(reached[arcs.end - 1], last[:, None])
        return semiring.either(ends, 2 * count) + self.offset


class LatticeEnergy(AbstractStructured):
    r"""\(F(y, x)\) of the lattice that a network makes of each input, `network(x) -> Lattice`, all of `arcs` arcs and
    `symbols` symbols."""

    network: Callable[[PyTree], Lattice]
    arcs: int = eqx.field(static=True)
    symbols: int = eqx.field(static=True)
    costs: Float[Array, "a s+1"] | None = None

    @property
    def space(self) -> Categorical:
        return Categorical((self.arcs,), self.symbols + 1)

    def lattice(self, x: PyTree) -> Lattice:
        """The lattice of one input. Raises `SettingsError` where it has other arcs or symbols."""
        lattice = self.network(x)
        if lattice.space != self.space:
            raise SettingsError(
                f"the network made a lattice over {lattice.space}, and the energy is over {self.space}"
            )
        return lattice if self.costs is None else lattice.with_costs(self.costs)

    def of_input(self, x):
        return self.lattice(x), None

    def __call__(self, y, x=None):
        return self.lattice(x)(y)

    def best(self, x=None, k=1):
        return self.lattice(x).best(k=k)

    def free_energy(self, x=None, beta=1.0):
        return self.lattice(x).free_energy(beta=beta)

    def draw(self, x=None, beta=1.0, *, key):
        return self.lattice(x).draw(beta=beta, key=key)

    def with_costs(self, costs):
        whole = costs if self.costs is None else self.costs + costs
        return LatticeEnergy(self.network, self.arcs, self.symbols, whole)


def lattice_of(
    pairs: Sequence[tuple[Hashable, Hashable]],
    energies: Float[Array, "a ..."],
    *,
    start: Hashable,
    end: Hashable,
    transitions: Float[Array, "s s"] | None = None,
) -> Lattice:
    """The lattice of arcs (source, target) with an energy each (a,), or one for each of their symbols (a, s).

    Raises `SettingsError` for a cycle, where no path leads from `start` to `end`, and for energies of another number.
    """
    energies = jnp.asarray(energies, jnp.result_type(float))
    return Lattice(Arcs.of(pairs, start, end), energies.reshape(len(energies), -1), transitions)


def _path(derivatives: Float[Array, "a s"]) -> Float[Array, "a"]:
    """The arcs whose energies have the derivative 1, each with its symbol."""
    taken = jnp.max(derivatives, axis=1) > 0.5
    return jnp.where(taken, 1 + jnp.argmax(derivatives, axis=1), 0).astype(jnp.float32)
