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
        throw, walk, first = jax.random.split(key, 3)
        r = target.momentum(throw)
        energy = state.potential + jnp.vdot(r, r) / 2

        def grow(tree: "_Tree") -> "_Tree":
            draws = jax.random.uniform(jax.random.fold_in(walk, tree.work), (3,))
            front, r = leapfrog(
                target, self.metric, tree.direction * self.step_size, tree.front, tree.front_r
            )
            gain = energy - front.potential - jnp.vdot(r, r) / 2
            gain = jnp.where(jnp.isfinite(gain), gain, -jnp.inf)
            return _merged(_longer(tree, front, r, gain, draws[0]), draws[1:], self.max_depth)

        end = jax.lax.while_loop(lambda tree: ~tree.done, grow, self._root(state, r, first))
        info = Info(end.acceptance / end.work.astype(jnp.float32), end.divergent, end.work)
        return end.chosen, info

    def _root(self, state: State, r: Vector, key: Array) -> "_Tree":
        zeros = jnp.zeros((self.max_depth, len(r)))
        return _Tree(
            left=state,
            left_r=r,
            right=state,
            right_r=r,
            chosen=state,
            weight=jnp.zeros(()),
            momenta=r,
            depth=jnp.zeros((), jnp.int32),
            direction=jnp.where(jax.random.bernoulli(key), 1.0, -1.0),
            front=state,
            front_r=r,
            first_r=r,
            branch=_Branch(
                state, jnp.array(-jnp.inf), jnp.zeros_like(r), jnp.zeros((), jnp.int32), zeros, zeros
            ),
            turned=jnp.array(False),
            divergent=jnp.array(False),
            done=jnp.array(False),
            acceptance=jnp.zeros(()),
            work=jnp.zeros((), jnp.int32),
        )


class _Branch(eqx.Module):
    """The half that is being added: the state drawn from it, its weight, the sum of its momenta, its leaves so far,
    and the momenta (and sums) at which those smaller trees began that are not yet complete."""

    chosen: State
    weight: Scalar
    momenta: Vector
    leaves: Int[Array, ""]
    starts: Float[Array, "depth d"]
    sums: Float[Array, "depth d"]


class _Tree(eqx.Module):
    left: State
    left_r: Vector
    right: State
    right_r: Vector
    chosen: State
    weight: Scalar
    momenta: Vector
    depth: Int[Array, ""]
    direction: Scalar
    front: State
    front_r: Vector
    first_r: Vector
    branch: _Branch
    turned: Bool[Array, ""]
    divergent: Bool[Array, ""]
    done: Bool[Array, ""]
    acceptance: Scalar
    work: Int[Array, ""]


def _longer(tree: _Tree, front: State, r: Vector, gain: Scalar, draw: Scalar) -> _Tree:
    """The branch with one leaf more."""
    branch = tree.branch
    weight = jnp.logaddexp(branch.weight, gain)
    take = jnp.log(draw) < gain - weight
    momenta = branch.momenta + r
    # Leaf n closes as many smaller trees as its binary digits end in ones; those that are open are kept by the number
    # of ones above.
    n = branch.leaves
    slot = jax.lax.population_count(n >> 1)
    even = n % 2 == 0
    slots = jnp.arange(len(branch.starts), dtype=jnp.int32)
    here = (slots == slot) & even
    starts = jnp.where(here[:, None], r[None], branch.starts)
    sums = jnp.where(here[:, None], momenta[None], branch.sums)
    closed = jax.lax.population_count(n & ~(n + 1))
    spans = momenta[None] - sums + starts
    turns = (spans @ r <= 0) | (jnp.sum(spans * starts, axis=1) <= 0)
    turned = jnp.any(turns & ~even & (slots <= slot) & (slots > slot - closed))
    longer = _Branch(_either(take, front, branch.chosen), weight, momenta, n + 1, starts, sums)
    return eqx.tree_at(
        lambda t: (t.front, t.front_r, t.first_r, t.branch, t.turned, t.divergent, t.acceptance, t.work),
        tree,
        (
            front,
            r,
            jnp.where(n == 0, r, tree.first_r),
            longer,
            turned,
            ~(gain > -DIVERGENT),
            tree.acceptance + jnp.exp(jnp.minimum(gain, 0.0)),
            tree.work + 1,
        ),
    )


def _merged(tree: _Tree, draws: Float[Array, "2"], max_depth: int) -> _Tree:
    """The tree with its branch, where that is complete and sound, and a new one begun."""
    branch, forwards = tree.branch, tree.direction > 0
    broken = tree.turned | tree.divergent
    whole = (branch.leaves == jnp.left_shift(jnp.int32(1), tree.depth)) & ~broken
    take = whole & (jnp.log(draws[0]) < branch.weight - tree.weight)
    momenta = tree.momenta + branch.momenta
    left, left_r = _either(whole & ~forwards, (tree.front, tree.front_r), (tree.left, tree.left_r))
    right, right_r = _either(whole & forwards, (tree.front, tree.front_r), (tree.right, tree.right_r))
    # Across the joint too: each half with the nearest point of the other.
    near_r = jnp.where(forwards, tree.right_r, tree.left_r)
    far_r = jnp.where(forwards, tree.left_r, tree.right_r)
    turned = (
        _turns(left_r, right_r, momenta)
        | _turns(far_r, tree.first_r, tree.momenta + tree.first_r)
        | _turns(near_r, tree.front_r, branch.momenta + near_r)
    )
    depth = tree.depth + whole.astype(jnp.int32)
    direction = jnp.where(whole, jnp.where(draws[1] < 0.5, -1.0, 1.0), tree.direction)
    onwards = _either(direction > 0, (right, right_r), (left, left_r))
    front, front_r = _either(whole, onwards, (tree.front, tree.front_r))
    return _Tree(
        left=left,
        left_r=left_r,
        right=right,
        right_r=right_r,
        chosen=_either(take, branch.chosen, tree.chosen),
        weight=jnp.where(whole, jnp.logaddexp(tree.weight, branch.weight), tree.weight),
        momenta=jnp.where(whole, momenta, tree.momenta),
        depth=depth,
        direction=direction,
        front=front,
        front_r=front_r,
        first_r=tree.first_r,
        branch=_Branch(
            branch.chosen,
            jnp.where(whole, -jnp.inf, branch.weight),
            jnp.where(whole, 0.0, branch.momenta),
            jnp.where(whole, 0, branch.leaves),
            branch.starts,
            branch.sums,
        ),
        turned=tree.turned,
        divergent=tree.divergent,
        done=broken | (whole & (turned | (depth >= max_depth))),
        acceptance=tree.acceptance,
        work=tree.work,
    )


def _turns(start: Vector, end: Vector, momenta: Vector) -> Bool[Array, ""]:
    """Whether one of the two ends no longer moves along the sum of the momenta."""
    return (jnp.vdot(start, momenta) <= 0) | (jnp.vdot(end, momenta) <= 0)


def _either(condition, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
