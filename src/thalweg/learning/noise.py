"""The objective whose negatives are noise of a known density: noise-contrastive estimation."""

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.energy.base import AbstractDensity
from thalweg.errors import SettingsError
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.rows import whole


class NoiseContrastive(AbstractObjective):
    r"""\(L = -E_{y}\log\sigma(G(y)) - \nu E_{y' \sim p_n}\log\sigma(-G(y'))\), with
    \(G(y) = -F(y) - \log p_n(y) - \log\nu\): tell rows from noise, `ratio` \(\nu\) draws of it a row.

    The energy learns its own constant, if it has one (`Offset`): at the optimum \(e^{-F}\) is normalised. The noise
    is any density over the same space; the nearer to the data, the less noise is needed.
    Gutmann & Hyvärinen (2012), *Noise-contrastive estimation of unnormalized statistical models*.
    """

    noise: AbstractDensity
    ratio: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if self.ratio < 1:
            raise SettingsError(
                f"noise-contrastive estimation needs at least one draw of noise a row, not {self.ratio}"
            )

    def __call__(self, energy, batch, memory, *, key):
        values = whole(batch, "noise-contrastive estimation")
        n = len(values)
        drawn = jax.vmap(lambda k: self.noise.sample(key=k))(jax.random.split(key, n * self.ratio))

        def log_odds(y):
            return -energy(y) - self.noise.log_prob(y) - jnp.log(float(self.ratio))

        of_rows, of_noise = jax.vmap(log_odds)(values), jax.vmap(log_odds)(drawn)
        loss = -jnp.mean(jax.nn.log_sigmoid(of_rows)) - self.ratio * jnp.mean(jax.nn.log_sigmoid(-of_noise))
        told = (
            jnp.mean((of_rows > 0).astype(jnp.float32)) + jnp.mean((of_noise < 0).astype(jnp.float32))
        ) / 2
        return loss, (memory, {"told_apart": told})
