"""Moves of discrete coordinates: Gibbs sampling, and proposals that follow a gradient."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.energy.capabilities import AbstractGibbs, AbstractNeighbours
from thalweg.errors import SettingsError
from thalweg.inference.neighbours import finite_coordinates
from thalweg.inference.profile import profile
from thalweg.sampling.kernel import AbstractKernel, Info, State, at, on_slope_of_codes, require_positive
from thalweg.sampling.metropolis import accepted
from thalweg.sampling.target import Target


class Gibbs(AbstractKernel):
    r"""Each finite coordinate redrawn from \(p(y_i \mid y_{\setminus i}) \propto e^{-\beta F}\), `sweeps` times over.

    In blocks, by the energy's own conditionals, where it is an `AbstractGibbs`; otherwise one coordinate after the
    other, at the cost of one energy a value; `backwards` from the last to the first. Geman & Geman (1984), *Stochastic
    relaxation, Gibbs distributions, and the Bayesian restoration of images*.
    """

    sweeps: int = eqx.field(static=True, default=1)
    backwards: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.sweeps < 1:
            raise SettingsError(f"Gibbs sampling needs at least one sweep, not {self.sweeps}")

    def check(self, target):
        if not isinstance(target.energy, AbstractGibbs):
            require_finite("Gibbs sampling", target)

    def init(self, target, position):
        return at(target, position)

    def step(self, target, state, *, key):
        def once(i, u):
            return sweep(target, u, key=jax.random.fold_in(key, i), backwards=self.backwards)

        moved = jax.lax.fori_loop(0, self.sweeps, once, state.position)
        return at(target, moved), Info(jnp.ones(()), jnp.array(False), jnp.asarray(self.sweeps, jnp.int32))

    def reversed(self):
        return replace(self, backwards=not self.backwards)


def sweep(
    target: Target, u: Float[Array, "d"], *, key: PRNGKeyArray, backwards: bool = False
) -> Float[Array, "d"]:
    """Every free coordinate redrawn once: all of them by an energy that knows how, else the finite ones."""
    if isinstance(target.energy, AbstractGibbs):
        y = target.point(u)
        held = ~target.free.reshape(y.shape)
        drawn = target.energy.gibbs(y, held, target.x, beta=target.beta, key=key, backwards=backwards)
        return target.coordinates(drawn)
    return one_by_one(target, u, key=key, backwards=backwards)


def one_by_one(
    target: Target, u: Float[Array, "d"], *, key: PRNGKeyArray, backwards: bool = False
) -> Float[Array, "d"]:
    """Each finite coordinate that is free redrawn in turn, all of its values compared."""
    sizes, index = finite_coordinates(target.space)
    values = np.arange(sizes.max(), dtype=np.float32)

    def redraw(step, u):
        # The same place in all chains: an order of each chain's own would be scattered writes.
        k = len(index) - 1 - step if backwards else step
        i = jnp.asarray(index)[k]
        # Only finite coordinates change, of which the coordinates are the codes themselves.
        energies = jnp.ravel(profile(target.energy, target.point(u), i, jnp.asarray(values), x=target.x))
        logits = jnp.where(values < jnp.asarray(sizes, jnp.float32)[k], -target.beta * energies, -jnp.inf)
        drawn = jax.random.categorical(jax.random.fold_in(key, k), logits).astype(u.dtype)
        return u.at[i].set(jnp.where(target.free[i], drawn, u[i]))

    return jax.lax.fori_loop(0, len(index), redraw, u)


class GibbsWithGradients(AbstractKernel):
    r"""One coordinate to another value, proposed by \(q \propto e^{-\frac12 \beta\, \partial_i F(y)\,(v - y_i)}\)
    and accepted by the Hastings ratio.

    Follows the derivative of F in the codes, so it suits binary and ordered values of an energy that is smooth in
    them; where that derivative is 0 the proposal is uniform, and still right. An energy that knows its neighbours is
    asked for \(F(y_{i \to v}) - F(y)\) itself (Zanella 2020, *Informed proposals for local MCMC in discrete spaces*).
    Grathwohl, Swersky, Hashemi, Duvenaud &
    Maddison (2021), *Oops I took a gradient: scalable sampling for discrete distributions*.
    """

    flips: int = eqx.field(static=True, default=1)
    balance: float = 0.5

    def __check_init__(self):
        require_positive("the balance", self.balance)
        if self.flips < 1:
            raise SettingsError(f"Gibbs with gradients needs at least one flip a step, not {self.flips}")

    def check(self, target):
        require_finite("Gibbs with gradients", target)

    def init(self, target, position):
        if not isinstance(target.energy, AbstractNeighbours):
            return on_slope_of_codes(target, position)
        state = at(target, position)
        near = target.energy.neighbour_energies(target.point(position), target.x)
        return State(position, state.potential, state.energy, target.beta * (near - state.energy))

    def step(self, target, state, *, key):
        def flip(i, carry):
            state, probability = carry
            kept, info = self._flip(target, state, jax.random.fold_in(key, i))
            return kept, probability + info.acceptance / self.flips

        end, acceptance = jax.lax.fori_loop(0, self.flips, flip, (state, jnp.zeros(())))
        return end, Info(acceptance, jnp.array(False), jnp.asarray(self.flips, jnp.int32))

    def _flip(self, target: Target, state: State, key: PRNGKeyArray) -> tuple[State, Info]:
        choose, accept = jax.random.split(key)
        forwards = self._log_proposal(target, state)
        which = jax.random.categorical(choose, forwards.reshape(-1))
        _, index = finite_coordinates(target.space)
        row, value = jnp.divmod(which, forwards.shape[1])
        i = jnp.asarray(index)[row]
        moved = self.init(target, state.position.at[i].set(value.astype(state.position.dtype)))
        backwards = self._log_proposal(target, moved)
        old = state.position[i].astype(jnp.int32)
        log_ratio = backwards[row, old] - forwards[row, value]
        return accepted(state, moved, log_ratio, jax.random.uniform(accept), 1)

    def _log_proposal(self, target: Target, state: State) -> Float[Array, "n v"]:
        """The log probability of each change of a coordinate to a value."""
        sizes, index = finite_coordinates(target.space)
        values = np.arange(sizes.max(), dtype=np.float32)
        now = state.position[index][:, None]
        if isinstance(target.energy, AbstractNeighbours):
            logits = -self.balance * state.gradient
        else:
            logits = -self.balance * state.gradient[index][:, None] * (values[None] - now)
        allowed = (values[None] < sizes[:, None]) & (values[None] != now) & target.free[index][:, None]
        logits = jnp.where(allowed, logits, -jnp.inf)
        return logits - jax.nn.logsumexp(logits)


def require_finite(name: str, target: Target) -> None:
    """Raise `SettingsError` where no coordinate has finitely many values."""
    if all(level is None for level in target.space.levels()):
        raise SettingsError(f"{name} redraws finite coordinates, and {target.space} has none: use NUTS")
