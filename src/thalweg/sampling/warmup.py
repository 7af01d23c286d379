"""Warm-up: step sizes to the best acceptance, the metric to the target's own scales; then both are frozen.

All chains share what they learn. Dual averaging: Hoffman & Gelman (2014), *The no-U-turn sampler*; windows that
double: the Stan development team's reference manual, *HMC algorithm parameters*.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.sampling.kernel import AbstractKernel, AbstractTunable, Metric, State, either
from thalweg.sampling.target import Target
from thalweg.sampling.walk import step_all

# Of the dual averaging: how fast it shrinks towards its centre, early steps' weight, forgetting.
GAMMA, EARLY, POWER = 0.05, 10.0, 0.75


class Pace(eqx.Module):
    """The dual averaging of one step size, or of an array of them."""

    log_step: Array
    average: Array
    centre: Array
    error: Array
    count: Array

    @classmethod
    def at(cls, step_size: Array) -> "Pace":
        log = jnp.log(jnp.asarray(step_size, jnp.float32))
        return cls(log, log, log + math.log(10.0), jnp.zeros_like(log), jnp.zeros(()))

    def after(self, acceptance: Array, optimal: float) -> "Pace":
        count = self.count + 1
        share = 1 / (count + EARLY)
        error = (1 - share) * self.error + share * (optimal - acceptance)
        log = self.centre - jnp.sqrt(count) / GAMMA * error
        weight = count**-POWER
        return Pace(log, weight * log + (1 - weight) * self.average, self.centre, error, count)


class Moments(eqx.Module):
    """Count, mean and summed products of positions (*s, d), diagonal or whole; the `last` ones of the chains and their
    summed squared `jumps`."""

    count: Array
    mean: Array
    products: Array
    last: Array
    jumps: Array

    @classmethod
    def none(cls, chains: int, shape: tuple[int, ...], *, dense: bool) -> "Moments":
        zeros, width = jnp.zeros(shape), (*shape, shape[-1]) if dense else shape
        return cls(jnp.zeros(()), zeros, jnp.zeros(width), jnp.zeros((chains, *shape)), zeros)

    def with_rows(self, rows: Float[Array, "c *s d"], *, dense: bool) -> "Moments":
        n = rows.shape[0]
        total = self.count + n
        mean = jnp.mean(rows, axis=0)
        apart, shift = rows - mean[None], mean - self.mean
        if dense:
            own = jnp.einsum("c...i,c...j->...ij", apart, apart)
            between = shift[..., :, None] * shift[..., None, :]
        else:
            own, between = jnp.sum(apart**2, axis=0), shift**2
        products = self.products + own + between * (self.count * n / total)
        jumps = jnp.where(self.count > 0, jnp.sum((rows - self.last) ** 2, axis=0), 0.0)
        return Moments(total, self.mean + shift * (n / total), products, rows, self.jumps + jumps)

    def metric(self, *, dense: bool) -> Metric:
        """A factor of the covariance, drawn towards 1 as if five rows of variance .001 had been seen (as Stan does); or
        deviations, as far apart as the draws can tell."""
        covariance = self.products / jnp.maximum(self.count - 1, 1.0)
        share, small = self.count / (self.count + 5.0), 1e-3 * 5.0 / (self.count + 5.0)
        if dense:
            return Metric(jnp.linalg.cholesky(share * covariance + small * jnp.eye(covariance.shape[-1])))
        return Metric(jnp.exp(self._shrunk(jnp.log(share * covariance + small), covariance) / 2))

    def _shrunk(self, logs: Float[Array, "*s d"], variances: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
        """Logarithms of variances, drawn towards their mean by what of their spread is error of estimation: 2/n in the
        square, of n draws as if the chains were autoregressive, with the correlation of neighbours that they show.

        Slow chains know little of their scales, and a metric of errors is worse than none. James & Stein (1961),
        *Estimation with quadratic loss*.
        """
        moves = self.jumps > 0
        apart = jnp.clip(self.jumps / jnp.maximum(2 * variances * self.count, 1e-30), 1e-4, 1.0)
        n = jnp.maximum(self.count * apart / (2 - apart), 1.0)
        mean = _mean_where(moves, logs)
        spread = _mean_where(moves, (logs - mean) ** 2)
        kept = jnp.clip(1 - _mean_where(moves, 2 / n) / jnp.maximum(spread, 1e-12), 0.0, 1.0)
        return jnp.where(moves, mean + kept * (logs - mean), logs)


def _mean_where(here: Array, values: Float[Array, "*s d"]) -> Float[Array, "*s 1"]:
    count = jnp.maximum(jnp.sum(here, axis=-1, keepdims=True, dtype=values.dtype), 1.0)
    return jnp.sum(jnp.where(here, values, 0.0), axis=-1, keepdims=True) / count


class Windows(eqx.Module):
    """By step of the warm-up: whether positions are gathered, and whether the metric is renewed after it."""

    gather: Array
    renew: Array


def windows(steps: int) -> Windows:
    """A first stretch to find the target, windows that double from 25 steps, a last stretch for the step size."""
    gather, renew = np.zeros(steps, bool), np.zeros(steps, bool)
    first, last, size = 75, 50, 25
    if steps < first + last + size:
        first, last = int(0.15 * steps), int(0.1 * steps)
        size = steps - first - last
    if steps >= 20:
        start, end = first, steps - last
        while start < end:
            stop = start + size if start + 3 * size <= end else end
            gather[start:stop], renew[stop - 1] = True, True
            start, size = stop, 2 * size
    return Windows(jnp.asarray(gather), jnp.asarray(renew))


class Learner(eqx.Module):
    """What warm-up knows about one kernel."""

    pace: Pace
    moments: Moments

    @classmethod
    def of(cls, part: AbstractTunable, chains: int, shape: tuple[int, ...]) -> "Learner":
        """Nothing known of a kernel whose positions have this shape."""
        pace = Pace.at(jnp.asarray(part.step_size))
        return cls(pace, Moments.none(chains, shape, dense=part.mass == "dense"))

    def after(
        self,
        part: AbstractTunable,
        acceptance: Float[Array, "c *s"],
        positions: Float[Array, "c *s d"],
        gather: Array,
        renew: Array,
    ) -> tuple[AbstractTunable, "Learner"]:
        """The kernel and what is known after a step of all chains."""
        pace, moments, dense = self.pace, self.moments, part.mass == "dense"
        if part.mass != "unit":
            moments = either(gather, moments.with_rows(positions, dense=dense), moments)
            metric = either(renew, moments.metric(dense=dense), part.metric)
            part, moments = (
                part.with_metric(metric),
                either(renew, jax.tree.map(jnp.zeros_like, moments), moments),
            )
        if part.optimal is not None:
            pace = pace.after(jnp.nan_to_num(jnp.mean(acceptance, axis=0)), part.optimal)
            # A new metric is a new landscape: the search for a step size begins again from the best one so far.
            pace = either(renew, Pace.at(jnp.exp(pace.average)), pace) if part.mass != "unit" else pace
            part = part.with_step(jnp.exp(pace.log_step))
        return part, Learner(pace, moments)

    def settled(self, part: AbstractTunable) -> AbstractTunable:
        return part if part.optimal is None else part.with_step(jnp.exp(self.pace.average))


class WarmUp(eqx.Module):
    """Where a warm-up is: the chains, the tunable kernels as they are by now, and what is known of them."""

    states: State
    parts: tuple[AbstractTunable, ...]
    learners: tuple[Learner, ...]

    @classmethod
    def begin(cls, target: Target, kernel: AbstractKernel, states: State) -> "WarmUp":
        """Nothing known yet."""
        chains = len(states.potential)
        keys = jax.random.split(jax.random.key(0), chains)
        watched = jax.eval_shape(
            lambda: jax.vmap(kernel.watched)(*step_all(target, kernel, states, 0, keys=keys))
        )
        shapes = [shape.shape[1:] for _, shape in watched]
        parts = tuple(_widened(part, shape) for part, shape in zip(kernel.tunable(), shapes, strict=True))
        learners = tuple(Learner.of(part, chains, shape) for part, shape in zip(parts, shapes, strict=True))
        return cls(states, parts, learners)

    def onwards(
        self,
        target: Target,
        kernel: AbstractKernel,
        plan: Windows,
        first: int | Array,
        until: int | Array,
        *,
        key: PRNGKeyArray,
    ) -> "WarmUp":
        """After the steps from `first` to before `until`."""

        def step(i, at):
            current = kernel.tuned(at.parts)
            states, info = step_all(target, current, at.states, i, keys=keys)
            seen = jax.vmap(current.watched)(states, info)
            after = [
                learner.after(part, *pair, plan.gather[i], plan.renew[i])
                for part, learner, pair in zip(at.parts, at.learners, seen, strict=True)
            ]
            return WarmUp(states, tuple(part for part, _ in after), tuple(learner for _, learner in after))

        keys = jax.random.split(key, len(self.states.potential))
        return jax.lax.fori_loop(jnp.int32(first), jnp.int32(until), step, self)

    def settled(self, kernel: AbstractKernel) -> AbstractKernel:
        """The kernel with what was found, for good."""
        pairs = zip(self.parts, self.learners, strict=True)
        return kernel.tuned(tuple(learner.settled(part) for part, learner in pairs))


@eqx.filter_jit
def warm_up(
    target: Target, kernel: AbstractKernel, states: State, steps: int, *, key: PRNGKeyArray
) -> tuple[AbstractKernel, State]:
    """The tuned kernel, and the states of the chains after `steps` (at least one)."""
    end = WarmUp.begin(target, kernel, states).onwards(target, kernel, windows(steps), 0, steps, key=key)
    return end.settled(kernel), end.states


def _widened(part: AbstractTunable, shape: tuple[int, ...]) -> AbstractTunable:
    """The kernel with its step size and metric as arrays of the shapes that they will have."""
    part = part.with_step(jnp.broadcast_to(jnp.asarray(part.step_size, jnp.float32), shape[:-1]))
    if part.mass == "unit":
        return part
    scale = jnp.asarray(part.metric.scale, jnp.float32)
    if part.mass == "dense":
        if scale.ndim < len(shape) + 1:
            scale = jnp.broadcast_to(scale, shape)[..., None] * jnp.eye(shape[-1])
    else:
        scale = jnp.broadcast_to(scale[..., None] if 0 < scale.ndim < len(shape) else scale, shape)
    return part.with_metric(Metric(scale))
