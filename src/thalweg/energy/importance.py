r"""The elimination of a real latent of any dimension by importance sampling."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.energy.latent import SumElimination
from thalweg.energy.reference import Reference
from thalweg.energy.spaces import Real
from thalweg.errors import SettingsError


class Weighed(eqx.Module):
    """Draws of a proposal (k, ...) and their log weights (k,), of which the mean is the integral."""

    points: Float[Array, "k ..."]
    log_weights: Float[Array, "k"]


class ImportanceSampled(SumElimination):
    r"""\(\int e^{-\beta E(z)}\,dz \approx \frac1K \sum_k e^{-\beta E(z_k)} / q(z_k)\), with `samples` draws of a
    density q that is fitted to the integrand in `rounds`.

    q is a normal density with the mean and the deviations of the draws of the round before, weighted; and, with a
    share `anywhere`, the reference density of the latent's space (uniform in a box, else standard normal), so that no
    weight is without a bound where the integrand is below it. The draws are the same at each call (`seed`), and so the
    free energy is a smooth function of its arguments; q and the draws are constants to its derivative. `error` says
    how far off it is. It is unbiased for the integral, and so too high for the free energy by about \(\beta\,error^2 /
    2\).

    Cappé, Guillin, Marin & Robert (2004), *Population Monte Carlo*; Owen (2013), *Monte Carlo theory, methods and
    examples*, chapter 9, for the mixture and the error.
    """

    samples: int = eqx.field(static=True, default=256)
    rounds: int = eqx.field(static=True, default=3)
    anywhere: float = eqx.field(static=True, default=0.2)
    seed: int | Array = 0

    def check(self, latent):
        if not isinstance(latent, Real):
            raise SettingsError(
                f"importance sampling integrates real coordinates, not {latent}: use Enumerate"
            )
        if self.samples < 2 or self.rounds < 1:
            raise SettingsError(f"it takes two samples and a round at least: {self.samples}, {self.rounds}")
        if not 0 < self.anywhere <= 1:
            raise SettingsError(f"`anywhere` is a share above 0, at most 1, not {self.anywhere:g}")

    def free_energy(self, energy, beta, x=None):
        weighed = self.draws(energy, beta, x)
        return -(jax.nn.logsumexp(weighed.log_weights) - math.log(self.samples)) / beta

    def posterior(self, energy, beta, x=None):
        weighed = self.draws(energy, beta, x)
        shares = jax.nn.softmax(weighed.log_weights)
        return shares @ weighed.points.reshape(self.samples, -1)

    def error(self, energy: AbstractEnergy, beta: float | Scalar, x: PyTree = None) -> Scalar:
        """The standard error of the free energy, from the spread of the weights: too small where the draws have missed
        a part of the integrand, as any such estimate is."""
        weights = self.samples * jax.nn.softmax(self.draws(energy, beta, x).log_weights)
        return jnp.sqrt(jnp.sum((weights - 1) ** 2) / (self.samples * (self.samples - 1))) / beta

    def draws(self, energy: AbstractEnergy, beta: float | Scalar, x: PyTree = None) -> Weighed:
        """The draws of the last round."""
        space = energy.space
        assert isinstance(space, Real)
        size = math.prod(space.shape)
        reference, keys = Reference(space), jax.random.split(jax.random.key(self.seed), self.rounds)

        def weigh(mean, deviation, anywhere, key):
            pick_key, far_key, near_key = jax.random.split(key, 3)
            far = jax.vmap(lambda k: reference.sample(key=k))(jax.random.split(far_key, self.samples))
            near = mean[None] + deviation[None] * jax.random.normal(near_key, (self.samples, size))
            chosen = jax.random.uniform(pick_key, (self.samples, 1)) < anywhere
            points = jax.lax.stop_gradient(jnp.where(chosen, far.reshape(self.samples, size), near))
            normal = jnp.sum(jax.scipy.stats.norm.logpdf(points, mean[None], deviation[None]), axis=1)
            shaped = points.reshape(self.samples, *space.shape)
            inside = jnp.all((points >= space.lower) & (points <= space.upper), axis=1)
            uniform = jnp.where(inside, jax.vmap(reference.log_prob)(shaped), -jnp.inf)
            log_q = jnp.logaddexp(jnp.log(anywhere) + uniform, jnp.log1p(-anywhere) + normal)
            within = jnp.where(inside.reshape(-1, *[1] * len(space.shape)), shaped, space.project(shaped))
            values = jax.vmap(lambda z: energy(z, x))(within)
            log_w = jnp.where(inside, -beta * values - jax.lax.stop_gradient(log_q), -jnp.inf)
            return Weighed(within, log_w)

        mean, deviation = self._whole(space, size)
        weighed = weigh(mean, deviation, jnp.float32(1.0), keys[0])
        for key in keys[1:]:
            mean, deviation = jax.lax.stop_gradient(_moments(weighed, deviation))
            weighed = weigh(mean, deviation, jnp.float32(self.anywhere), key)
        return weighed

    def _whole(self, space: Real, size: int) -> tuple[Array, Array]:
        """The mean and the deviation of the reference density, about."""
        if np.isfinite(space.lower) and np.isfinite(space.upper):
            middle, width = (space.lower + space.upper) / 2, (space.upper - space.lower) / math.sqrt(12)
            return jnp.full(size, middle), jnp.full(size, width)
        return jnp.zeros(size), jnp.ones(size)


def _moments(weighed: Weighed, before: Float[Array, "d"]) -> tuple[Float[Array, "d"], Float[Array, "d"]]:
    """The weighted mean and deviations; of few draws that carry all the weight rather those before."""
    shares = jax.nn.softmax(weighed.log_weights)
    points = weighed.points.reshape(len(shares), -1)
    mean = shares @ points
    alone = jnp.sum(shares**2)
    return mean, jnp.sqrt(shares @ (points - mean[None]) ** 2 + alone * before**2)
