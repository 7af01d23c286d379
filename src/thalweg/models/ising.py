r"""Ising model and Boltzmann machine: bits that pull at each other, in pairs.

\[ F(y) = -\tfrac12 s^\top J s - b^\top s, \qquad s = 2y - 1 \in \{-1, 1\}^d \]

with hidden bits \(t\), \(F(y) = -\log\sum_t e^{-E(s, t)}\), \(-E = \tfrac12 s^\top J s + b^\top s +
\tfrac12 t^\top K t + t^\top(c + Ls)\).
Contrastive (C2). Without hidden bits the likelihood is concave, and pseudo-likelihood finds its maximum without chains.

Ising (1925), *Beitrag zur Theorie des Ferromagnetismus*; Ackley, Hinton & Sejnowski (1985), *A learning algorithm for
Boltzmann machines*; Besag (1975), *Statistical analysis of non-lattice data*.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractGibbs, AbstractNeighbours, AbstractTempered
from thalweg.energy.reference import Reference
from thalweg.energy.spaces import AbstractSpace, Record
from thalweg.errors import SettingsError
from thalweg.learning.fit import fit
from thalweg.learning.neighbours import PseudoLikelihood
from thalweg.learning.run import Fit
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.sampling.gibbs import Gibbs

#: The most hidden bits, whose states are all summed over.
LARGEST_HIDDEN = 12
#: The most blocks of a graph that are redrawn together: each is code of its own, and with many the blocks are small.
MOST_BLOCKS = 16


class Graph(eqx.Module):
    """Which bits pull at each other: the `neighbours` (d, k) of each and their `edges` (d, k) among the couplings,
    filled up with d and m; and `blocks` (c, s) of bits that share no edge, filled up with d."""

    neighbours: Int[Array, "d k"]
    edges: Int[Array, "d k"]
    blocks: Int[Array, "c s"]

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]], size: int) -> "Graph":
        """The graph of these edges over `size` bits; the blocks are coloured greedily."""
        edges = sorted({(min(pair), max(pair)) for pair in pairs})
        if any(a == b or a < 0 or b >= size for a, b in edges):
            raise SettingsError(f"an edge joins two different bits of 0 to {size - 1}")
        around: list[list[tuple[int, int]]] = [[] for _ in range(size)]
        for number, (a, b) in enumerate(edges):
            around[a].append((b, number))
            around[b].append((a, number))
        colour: list[int] = []
        for i in range(size):
            used = {colour[j] for j, _ in around[i] if j < i}
            colour.append(next(c for c in range(size) if c not in used))
        blocks = [[i for i in range(size) if colour[i] == c] for c in range(max(colour) + 1)]

        def filled(rows: list[list[int]], fill: int) -> Array:
            width = max(1, max(len(row) for row in rows))
            return jnp.asarray([row + [fill] * (width - len(row)) for row in rows], jnp.int32)

        return cls(
            filled([[j for j, _ in row] for row in around], size),
            filled([[e for _, e in row] for row in around], len(edges)),
            filled(blocks, size),
        )


def square_lattice(rows: int, columns: int, *, periodic: bool = False) -> list[tuple[int, int]]:
    """The edges between neighbours on a square lattice, in C order."""
    index = np.arange(rows * columns).reshape(rows, columns)
    right = zip(index[:, :-1].ravel().tolist(), index[:, 1:].ravel().tolist(), strict=True)
    down = zip(index[:-1].ravel().tolist(), index[1:].ravel().tolist(), strict=True)
    edges = [*right, *down]
    if periodic:
        edges += zip(index[:, -1].tolist(), index[:, 0].tolist(), strict=True)
        edges += zip(index[-1].tolist(), index[0].tolist(), strict=True)
    return edges


class Ising(AbstractGibbs, AbstractNeighbours, AbstractTempered):
    r"""\(F(y) = -\frac12 s^\top Js - b^\top s\), \(s = 2y - 1\), in nats, not normalised.

    `couplings` are (d, d), of which the symmetric part without its diagonal counts; with a `graph` one for each of its
    edges, (m,). `bias` (d,).
    """

    space: AbstractSpace = eqx.field(static=True)
    couplings: Float[Array, "..."]
    bias: Float[Array, "d"]
    graph: Graph | None = None

    def __check_init__(self):
        if any(level != 2 for level in self.space.levels()):
            raise SettingsError(f"an Ising model is over bits, and {self.space} has other coordinates")

    @property
    def matrix(self) -> Float[Array, "d d"]:
        """J, symmetric with a diagonal of 0."""
        if self.graph is None:
            half = (self.couplings + self.couplings.T) / 2
            return half - jnp.diag(jnp.diag(half))
        rows = jnp.arange(len(self.bias))[:, None]
        padded = jnp.append(self.couplings, 0.0)[self.graph.edges]
        whole = jnp.zeros((len(self.bias), len(self.bias) + 1)).at[rows, self.graph.neighbours].add(padded)
        return whole[:, :-1]

    def field(self, s: Float[Array, "d"]) -> Float[Array, "d"]:
        r"""\(Js\), the pull of the others at each bit."""
        if self.graph is None:
            return self.matrix @ s
        return _pull(self.couplings, self.graph, jnp.append(s, 0.0), slice(None))

    def __call__(self, y, x=None):
        s = spins(y)
        return -jnp.vdot(s, self.field(s) / 2 + self.bias)

    def neighbour_energies(self, y, x=None):
        s = spins(y)
        pull = self.field(s)
        here = -jnp.vdot(s, pull / 2 + self.bias)
        flipped = here + 2 * s * (pull + self.bias)
        down = s < 0
        return jnp.stack([jnp.where(down, here, flipped), jnp.where(down, flipped, here)], axis=1)

    def gibbs(self, y, observed, x=None, *, beta, key, backwards=False):
        s, held = spins(y), jnp.ravel(observed)
        if self.graph is None or len(self.graph.blocks) > MOST_BLOCKS:
            new = self._one_by_one(s, held, beta, key, backwards)
        else:
            new = self._by_block(self.graph, s, held, beta, key, backwards)
        return ((new + 1) / 2).reshape(self.space.shape)

    def _by_block(
        self, graph: Graph, s: Array, held: Array, beta: Array | float, key: PRNGKeyArray, backwards: bool
    ) -> Array:
        d, (count, size) = len(s), graph.blocks.shape
        order = range(count)[::-1] if backwards else range(count)
        draws = jax.random.uniform(key, (count, size))
        weights = jnp.append(self.couplings, 0.0)[graph.edges]
        # New spins are appended, block after block, and read where they lie: writing them in place would scatter.
        known, place = jnp.append(s, 0.0), jnp.arange(d + 1, dtype=jnp.int32)
        for turn, c in enumerate(order):
            block = jnp.minimum(graph.blocks[c], d - 1)
            near = place[graph.neighbours[block]]
            pull = self.bias[block]
            for j in range(near.shape[1]):
                pull = pull + weights[block, j] * known[near[:, j]]
            up = jnp.where(draws[c] < jax.nn.sigmoid(2 * beta * pull), 1.0, -1.0)
            known = jnp.append(known, jnp.where(held[block], s[block], up))
            at = d + 1 + turn * size + jnp.arange(size, dtype=jnp.int32)
            place = place.at[graph.blocks[c]].set(at).at[d].set(d)
        return known[place[:d]]

    def _one_by_one(
        self, s: Array, held: Array, beta: Array | float, key: PRNGKeyArray, backwards: bool
    ) -> Array:
        matrix, d = self.matrix, len(s)
        draws = jax.random.uniform(key, (d,))

        def redraw(step, carry):
            s, pull = carry
            i = d - 1 - step if backwards else step
            up = draws[i] < jax.nn.sigmoid(2 * beta * (pull[i] + self.bias[i]))
            new = jnp.where(held[i], s[i], jnp.where(up, 1.0, -1.0))
            return s.at[i].set(new), pull + matrix[i] * (new - s[i])

        return jax.lax.fori_loop(0, d, redraw, (s, matrix @ s))[0]

    def tempered(self, beta):
        return Ising(self.space, beta * self.couplings, beta * self.bias, self.graph)

    def start(self):
        return Reference(self.space)


def spins(y: Float[Array, "..."]) -> Float[Array, "d"]:
    """Bits as -1 and 1, flat."""
    return 2 * jnp.ravel(y) - 1


def _pull(couplings: Array, graph: Graph, padded: Float[Array, "d+1"], bits: Array | slice) -> Array:
    weights = jnp.append(couplings, 0.0)[graph.edges[bits]]
    return jnp.sum(weights * padded[graph.neighbours[bits]], axis=1)


class BoltzmannMachine(AbstractEnergy):
    r"""Visible and hidden bits that all pull at each other; the hidden ones are summed over, all of their states.

    `visible` is the Ising model of the visible bits, `across` L (h, d), `among` K (h, h) of which the symmetric part
    without its diagonal counts, `bias` c (h,). In nats, not normalised.
    """

    visible: Ising
    across: Float[Array, "h d"]
    among: Float[Array, "h h"]
    bias: Float[Array, "h"]

    def __check_init__(self):
        if not 1 <= len(self.bias) <= LARGEST_HIDDEN:
            raise SettingsError(
                f"a Boltzmann machine sums over 1 to {LARGEST_HIDDEN} hidden bits, not {len(self.bias)}: use rbm, "
                "whose hidden units do not pull at each other and are summed in closed form"
            )

    @property
    def space(self) -> AbstractSpace:
        return self.visible.space

    def __call__(self, y, x=None):
        return self.visible(y) - jax.nn.logsumexp(self._log_weights(y))

    def hidden_probabilities(self, y: Float[Array, "..."]) -> Float[Array, "h"]:
        r"""\(p(t_j = 1 \mid y)\)."""
        return jax.nn.softmax(self._log_weights(y)) @ ((_states(len(self.bias)) + 1) / 2)

    def _log_weights(self, y: Array) -> Float[Array, "n"]:
        states = _states(len(self.bias))
        half = (self.among + self.among.T) / 2
        among = half - jnp.diag(jnp.diag(half))
        own = jnp.sum(states * (states @ among), axis=1) / 2
        return own + states @ (self.bias + self.across @ spins(y))


def _states(count: int) -> Float[Array, "n h"]:
    rank = np.arange(1 << count)
    return jnp.asarray(2.0 * ((rank[:, None] >> np.arange(count)) & 1) - 1, jnp.float32)


def ising(space: AbstractSpace, graph: Graph | None = None, edges: int = 0) -> Ising:
    """A model without pull: all points alike. `edges` is the number of couplings of the `graph`."""
    size = len(space.levels())
    return Ising(space, jnp.zeros(edges if graph is not None else (size, size)), jnp.zeros(size), graph)


def boltzmann_machine(space: AbstractSpace, hidden: int, *, key: PRNGKeyArray) -> BoltzmannMachine:
    """A machine whose hidden bits start with small random pulls."""
    size = len(space.levels())
    across = 0.05 * jax.random.normal(key, (hidden, size))
    return BoltzmannMachine(ising(space), across, jnp.zeros((hidden, hidden)), jnp.zeros(hidden))


@dataclass(frozen=True)
class Settings:
    """Settings of the Ising model."""

    hidden: int = setting(0, "hidden bits, at most 12 (0: none)")
    steps: int = setting(3000, "training steps")
    batch: int = setting(256, "rows a step, and chains where there are hidden bits or missing cells")
    learning_rate: float = setting(1e-2, "largest step of Adam, falling to 0")
    decay: float = setting(1e-4, "weight decay")


def skeleton(space: Record, settings: Settings) -> Ising | BoltzmannMachine:
    """A model of the right shapes."""
    if settings.hidden:
        return boltzmann_machine(space, settings.hidden, key=jax.random.key(0))
    return ising(space)


def train(problem: Problem) -> Fit:
    """Pseudo-likelihood; with hidden bits or missing cells persistent contrastive divergence, which draws them."""
    settings, space, rows = problem.settings, problem.space, problem.rows
    others = [column.name for column in space.columns if column.size != 2]
    if others:
        raise SettingsError(
            f"ising is for columns of two values, and {others[0]!r} is another: leave it out (--drop), or fit rbm"
        )
    init_key, fit_key = jax.random.split(problem.key)
    schedule = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    start = boltzmann_machine(space, settings.hidden, key=init_key) if settings.hidden else ising(space)
    whole = bool(rows.complete.all())
    objective = (
        PseudoLikelihood()
        if whole and not settings.hidden
        else ContrastiveDivergence(Gibbs(), 1, "persistent", chains=settings.batch)
    )
    return fit(
        start,
        rows.values if whole else (rows.values, rows.observed),
        objective,
        optimiser=optax.adamw(schedule, weight_decay=settings.decay),
        steps=settings.steps,
        batch=settings.batch,
        averaging=0.999,
        measure_every=max(1, settings.steps // 100),
        key=fit_key,
        run=problem.run,
    )


ISING = Recipe(
    name="ising",
    title="Ising model, Boltzmann machine",
    code="C2",
    paper="Ackley, Hinton & Sejnowski (1985), A learning algorithm for Boltzmann machines",
    formula="F(y) = −½ sᵀJs − bᵀs,  s = 2y − 1",
    about="Bits that pull at each other in pairs; with hidden bits a Boltzmann machine.",
    energy=Ising,
    settings=Settings,
    skeleton=skeleton,
    train=train,
)
