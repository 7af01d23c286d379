"""The no-U-turn sampler: a Hamiltonian throw that ends where it would turn back.

One loop over leapfrog steps, not a recursion over trees, so that chains of a batch wait for each other only at the
end of a trajectory.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from thalweg.energy.base import Scalar
from thalweg.errors import SettingsError
from thalweg.sampling.hmc import leapfrog
from thalweg.sampling.kernel import (
    DIVERGENT,
    AbstractTunable,
    Info,
    Mass,
    Metric,
    State,
    on_slope,
    require_positive,
    require_real,
)

Vector = Float[Array, "d"]
#: Leapfrog steps of which the random numbers are drawn at once: alone they would cost more than the step.
BLOCK = 16


class NUTS(AbstractTunable):
    r"""A trajectory doubled forwards or backwards in time until its ends turn towards each other; the next state is
    one of its points, drawn by \(e^{-U - r^\top r / 2}\).

    Hoffman & Gelman (2014), *The no-U-turn sampler*; multinomial weights and the criterion on the sum of momenta:
    Betancourt (2017), *A conceptual introduction to Hamiltonian Monte Carlo*; without recursion: Phan, Pradhan &
    Jankowiak (2019), *Composable effects for flexible and accelerated probabilistic programming in NumPyro*.
    """

    optimal: ClassVar[float | None] = 0.8
    step_size: Float[Array, ""] | float = 0.1
    max_depth: int = eqx.field(static=True, default=10)
    metric: Metric = Metric()
    mass: Mass = eqx.field(static=True, default="diagonal")

    def __check_init__(self):
        require_positive("the step size", self.step_size)
        if not 1 <= self.max_depth <= 20:
            raise SettingsError(f"a trajectory is doubled 1 to 20 times, not {self.max_depth}")

    def check(self, target):
        require_real("Hamiltonian Monte Carlo", target)

    def init(self, target, position):
        return on_slope(target, position)

    def step(self, target, state, *, key):
        r, uniform = target.noise(key, 1 + 3 * BLOCK)
        energy = state.potential + jnp.vdot(r, r) / 2

        def grow(tree: "_Tree", draws: Float[Array, "block 3"]) -> "_Tree":
            size = jnp.where(tree.forwards, self.step_size, -self.step_size)
            front, r = leapfrog(target, self.metric, size, *_unpacked(tree.front))
            gain = energy - front.potential - jnp.vdot(r, r) / 2
            gain = jnp.where(jnp.isfinite(gain), gain, -jnp.inf)
            return _grown(tree, _packed(front, r), r, gain, draws[tree.work % BLOCK], self.max_depth)

        def grow_block(tree: "_Tree") -> "_Tree":
            draws = jax.random.uniform(jax.random.fold_in(key, tree.work), (BLOCK, 3))
            return grow_by(tree, draws)

        def grow_by(tree: "_Tree", draws: Float[Array, "block 3"]) -> "_Tree":
            until = tree.work + BLOCK
            return jax.lax.while_loop(
                lambda tree: ~tree.done & (tree.work < until), lambda tree: grow(tree, draws), tree
            )

        root = _root(_packed(state, r), r, uniform[0] < 0.5, self.max_depth)
        begun = grow_by(root, uniform[1:].reshape(BLOCK, 3))
        end = jax.lax.while_loop(lambda tree: ~tree.done, grow_block, begun)
        info = Info(end.acceptance / end.work.astype(jnp.float32), end.divergent, end.work)
        return _unpacked(end.chosen)[0], info


class _Tree(eqx.Module):
    """A trajectory and the half that is being added to it, the branch.

    Points are packed (`_packed`), for the loop costs what it carries: `ends` backwards and forwards in time, the
    `chosen` point with the tree's log `weight` and the sum of its `momenta`. Of the branch: its moving `front`, its
    `first` momentum, its `leaves` so far, and what it has chosen, weighs and sums to. In `open` the momenta (and the
    sums) at which those smaller trees began that are not complete yet.
    """

    ends: Float[Array, "2 p"]
    chosen: Float[Array, "p"]
    weight: Scalar
    momenta: Vector
    depth: Int[Array, ""]
    forwards: Bool[Array, ""]
    front: Float[Array, "p"]
    first: Vector
    leaves: Int[Array, ""]
    branch_chosen: Float[Array, "p"]
    branch_weight: Scalar
    branch_momenta: Vector
    open: Float[Array, "2 depth d"]
    divergent: Bool[Array, ""]
    done: Bool[Array, ""]
    acceptance: Scalar
    work: Int[Array, ""]


def _packed(state: State, r: Vector) -> Float[Array, "p"]:
    return jnp.concatenate([state.position, state.gradient, r, jnp.stack([state.potential, state.energy])])


def _unpacked(packed: Float[Array, "p"]) -> tuple[State, Vector]:
    d = (len(packed) - 2) // 3
    return State(packed[:d], packed[-2], packed[-1], packed[d : 2 * d]), packed[2 * d : 3 * d]


def _root(point: Float[Array, "p"], r: Vector, forwards: Bool[Array, ""], max_depth: int) -> _Tree:
    zero, none = jnp.zeros((), jnp.int32), jnp.array(False)
    return _Tree(
        ends=jnp.stack([point, point]),
        chosen=point,
        weight=jnp.zeros(()),
        momenta=r,
        depth=zero,
        forwards=forwards,
        front=point,
        first=r,
        leaves=zero,
        branch_chosen=point,
        branch_weight=jnp.array(-jnp.inf),
        branch_momenta=jnp.zeros_like(r),
        open=jnp.zeros((2, max_depth, len(r))),
        divergent=none,
        done=none,
        acceptance=jnp.zeros(()),
        work=zero,
    )


def _grown(
    tree: _Tree,
    front: Float[Array, "p"],
    r: Vector,
    gain: Scalar,
    draws: Float[Array, "3"],
    max_depth: int,
) -> _Tree:
    """The tree after one more leaf of its branch; with the branch, where that is then complete and sound."""
    weight = jnp.logaddexp(tree.branch_weight, gain)
    branch = jnp.where(jnp.log(draws[0]) < gain - weight, front, tree.branch_chosen)
    momenta = tree.branch_momenta + r
    open_trees, turned = _closed(tree.open, tree.leaves, r, momenta)
    divergent = ~(gain > -DIVERGENT)
    broken = turned | divergent
    first = jnp.where(tree.leaves == 0, r, tree.first)
    leaves = tree.leaves + 1

    whole = (leaves == jnp.left_shift(jnp.int32(1), tree.depth)) & ~broken
    take = whole & (jnp.log(draws[1]) < weight - tree.weight)
    side = jnp.stack([~tree.forwards, tree.forwards])
    ends = jnp.where((whole & side)[:, None], front[None], tree.ends)
    depth = tree.depth + whole.astype(jnp.int32)
    ends_here = broken | (whole & (_turned(tree, r, first, momenta) | (depth >= max_depth)))
    forwards = jnp.where(whole, draws[2] < 0.5, tree.forwards)
    return _Tree(
        ends=ends,
        chosen=jnp.where(take, branch, tree.chosen),
        weight=jnp.where(whole, jnp.logaddexp(tree.weight, weight), tree.weight),
        momenta=jnp.where(whole, tree.momenta + momenta, tree.momenta),
        depth=depth,
        forwards=forwards,
        front=jnp.where(whole, jnp.where(forwards, ends[1], ends[0]), front),
        first=first,
        leaves=jnp.where(whole, 0, leaves),
        branch_chosen=branch,
        branch_weight=jnp.where(whole, -jnp.inf, weight),
        branch_momenta=jnp.where(whole, 0.0, momenta),
        open=open_trees,
        divergent=divergent,
        done=ends_here,
        acceptance=tree.acceptance + jnp.exp(jnp.minimum(gain, 0.0)),
        work=tree.work + 1,
    )


def _closed(
    opened: Float[Array, "2 depth d"], n: Int[Array, ""], r: Vector, momenta: Vector
) -> tuple[Float[Array, "2 depth d"], Bool[Array, ""]]:
    """The open trees after leaf `n`, and whether one that it closes has turned.

    A leaf closes as many trees as its number's binary digits end in ones; those that are open are kept by the number of
    ones above.
    """
    slot = jax.lax.population_count(n >> 1)
    even = n % 2 == 0
    slots = jnp.arange(opened.shape[1], dtype=jnp.int32)
    here = (slots == slot) & even
    opened = jnp.where(here[None, :, None], jnp.stack([r, momenta])[:, None], opened)
    closed = jax.lax.population_count(n & ~(n + 1))
    starts, sums = opened
    spans = momenta[None] - sums + starts
    turns = (spans @ r <= 0) | (jnp.sum(spans * starts, axis=1) <= 0)
    return opened, jnp.any(turns & ~even & (slots <= slot) & (slots > slot - closed))


def _turned(tree: _Tree, r: Vector, first: Vector, momenta: Vector) -> Bool[Array, ""]:
    """Whether the tree with its branch has turned: end to end, and across the joint, each half with the nearest point
    of the other."""
    backward, forward = (_unpacked(end)[1] for end in tree.ends)
    far = jnp.where(tree.forwards, backward, forward)
    near = jnp.where(tree.forwards, forward, backward)
    whole = tree.momenta + momenta
    spans = jnp.stack([whole, tree.momenta + first, momenta + near])
    starts, stops = jnp.stack([far, far, near]), jnp.stack([r, first, r])
    return jnp.any((jnp.sum(spans * starts, axis=1) <= 0) | (jnp.sum(spans * stops, axis=1) <= 0))
