"""The objective whose negatives are noise of a known density: noise-contrastive estimation."""

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.energy.base import AbstractDensity
from thalweg.errors import SettingsError
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.rows import Pairs, whole


class NoiseContrastive(AbstractObjective):
    r"""\(L = -E_{y}\log\sigma(G(y)) - \nu E_{y' \sim p_n}\log\sigma(-G(y'))\), with
    \(G(y) = -F(y) - \log p_n(y) - \log\nu\): tell rows from noise, `ratio` \(\nu\) draws of it a row.

    The energy learns its own constant, if it has one (`Offset`): at the optimum \(e^{-F}\) is normalised. The noise is
    any density over the same space; the nearer to the data, the less noise is needed. Of `Pairs` energy and noise are
    told the input, and \(e^{-F(y, x)}\) comes to be \(p(y \mid x)\), normalised for each input. Gutmann & Hyvärinen
    (2012), *Noise-contrastive estimation of unnormalized statistical models*.
    """

    noise: AbstractDensity
    ratio: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if self.ratio < 1:
            raise SettingsError(
                f"noise-contrastive estimation needs at least one draw of noise a row, not {self.ratio}"
            )

    def __call__(self, energy, batch, memory, *, key):
        paired = isinstance(batch, Pairs)
        values, x = (batch.y, batch.x) if paired else (whole(batch, "noise-contrastive estimation"), None)

        def log_odds(y, x):
            return -energy(y, x) - self.noise.log_prob(y, x) - jnp.log(float(self.ratio))

        def of_draw(x, key):
            return log_odds(self.noise.sample(x, key=key), x)

        keys = jax.random.split(key, (len(values), self.ratio))
        of_rows = jax.vmap(log_odds)(values, x)
        of_noise = jax.vmap(lambda x, keys: jax.vmap(lambda key: of_draw(x, key))(keys))(x, keys)
        loss = -jnp.mean(jax.nn.log_sigmoid(of_rows)) - self.ratio * jnp.mean(jax.nn.log_sigmoid(-of_noise))
        told = (
            jnp.mean((of_rows > 0).astype(jnp.float32)) + jnp.mean((of_noise < 0).astype(jnp.float32))
        ) / 2
        return loss, (memory, {"told_apart": told})
