r"""One-dimensional families for a column given its context: what a network's outputs mean.

* real: a mixture of logistic densities, \(\sum_k \pi_k\, \mathrm{sech}^2((y-\mu_k)/2s_k)/4s_k\);
* integer: the same mixture's mass of the unit bin around each count, the first and last of the training range
  taking the tails (Salimans, Karpathy, Chen & Kingma 2017, *PixelCNN++*);
* categorical: softmax.

Real and integer columns share parameters `raw` (3, k): logits, means and, before a softplus, scales, in
standardised units.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

#: A number of Python or of JAX.
Number = float | Float[Array, ""]

#: The smallest logistic scale: of a standardised real column, and of an integer column in counts.
REAL_FLOOR, INTEGER_FLOOR = 1e-3, 0.05


def mixture(raw: Float[Array, "3 k"], floor: Number) -> tuple[Array, Array, Array]:
    """Log weights, means and scales (at least `floor`) of a logistic mixture."""
    logits, means, scales = raw
    return jax.nn.log_softmax(logits), means, jax.nn.softplus(scales) + floor


def around(raw: Float[Array, "3 k"], mean: Number, deviation: Number) -> Float[Array, "3 k"]:
    r"""The parameters of the mixture that lies about `mean` as `raw` does about 0, in units of `deviation`.

    At raw scales of -1, where networks start, each component has half the deviation.
    """
    logits, means, scales = raw
    half = jnp.maximum(deviation / 2, 0.01)
    return jnp.stack([logits, mean + deviation * means, scales + 1 + jnp.log(jnp.expm1(half))])


def real_log_prob(raw: Float[Array, "3 k"], y: Float[Array, ""]) -> Float[Array, ""]:
    """Log density at a standardised value, in nats."""
    log_weights, means, scales = mixture(raw, REAL_FLOOR)
    t = (y - means) / scales
    log_density = jax.nn.log_sigmoid(t) + jax.nn.log_sigmoid(-t) - jnp.log(scales)
    return jax.nn.logsumexp(log_weights + log_density)


def integer_log_prob(
    raw: Float[Array, "3 k"], y: Number, size: Number, center: Number, spread: Number
) -> Float[Array, ""]:
    """Log mass of the count `y` among `0..size-1`, in nats.

    A count outside the range has the mass of its own bin, which is less than what the range's edge has.
    """
    log_weights, means, scales = mixture(raw, INTEGER_FLOOR / spread)
    # The half is added last: large counts have no room for it in single precision.
    above = ((y - center) + 0.5) / spread
    below = ((y - center) - 0.5) / spread
    upper, lower = (above - means) / scales, (below - means) / scales
    # log(sigma(u) - sigma(l)) without cancellation: sigma(u) sigma(-l) (1 - e^{l-u}).
    gap = jnp.log(-jnp.expm1(-1.0 / (spread * scales)))
    first, last = y == 0, y == size - 1
    log_mass = (
        jnp.where(last, 0.0, jax.nn.log_sigmoid(upper))
        + jnp.where(first, 0.0, jax.nn.log_sigmoid(-lower))
        + jnp.where(first | last, 0.0, gap)
    )
    return jax.nn.logsumexp(log_weights + log_mass)


def real_mean(raw: Float[Array, "3 k"]) -> Float[Array, ""]:
    """The mean of the mixture, in standardised units."""
    log_weights, means, _ = mixture(raw, REAL_FLOOR)
    return jnp.sum(jnp.exp(log_weights) * means)


def integer_mean(raw: Float[Array, "3 k"], size: Number, center: Number, spread: Number) -> Float[Array, ""]:
    r"""The mean count, \(\sum_{k=1}^{size-1} P(Y > k - \tfrac12)\).

    The sum is the midpoint rule for \(\int_0^{size-1} P(Y > t)\,dt\), which has a closed form. The two differ
    by the steps near each component's middle, where they are exchanged; the rest cancels to below 0.01.
    """
    log_weights, means, scales = mixture(raw, INTEGER_FLOOR / spread)
    means, scales = center + spread * means, spread * scales
    rise = scales * jax.nn.softplus(-means / scales)
    fall = scales * jax.nn.softplus((means - (size - 1)) / scales)
    k = jnp.floor(means)[:, None] + jnp.arange(-3.0, 6.0)[None, :]
    t = (means[:, None] - k) / scales[:, None]
    half = 0.5 / scales[:, None]
    cell = (jax.nn.softplus(t + 2 * half) - jax.nn.softplus(t)) * scales[:, None]
    steps = jnp.where((k >= 1) & (k <= size - 1), jax.nn.sigmoid(t + half) - cell, 0.0)
    return jnp.sum(jnp.exp(log_weights) * (means + rise - fall + jnp.sum(steps, axis=1)))


def mixture_draw(raw: Float[Array, "3 k"], floor: Number, *, key: PRNGKeyArray) -> Float[Array, ""]:
    """A draw from the mixture, in standardised units."""
    log_weights, means, scales = mixture(raw, floor)
    component_key, noise_key = jax.random.split(key)
    k = jax.random.categorical(component_key, log_weights)
    return means[k] + scales[k] * jax.random.logistic(noise_key)
