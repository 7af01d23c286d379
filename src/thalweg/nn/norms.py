r"""How far a matrix stretches at most, bounded from above without state.

\[ \lambda_{max}(G) \le \lVert G^{2^p} \rVert_F^{1/2^p}, \qquad \sigma_{max}(W)^2 = \lambda_{max}(W^\top W), \]

Gelfand's formula by repeated squaring, above by at most the factor \(n^{1/2^{p+1}}\) for n singular values. A power
iteration comes from below, and from a vector that has to be carried along.

Delattre, Barthélemy, Araujo & Allauzen (2023), *Efficient bound of Lipschitz constant for convolutional layers by Gram
iteration*; why an energy needs a bound: Miyato, Kataoka, Koyama & Yoshida (2018), *Spectral normalization for
generative adversarial networks*; Du & Mordatch (2019), *Implicit generation and modeling with energy-based models*.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

#: Squarings: for 128 singular values the bound on the largest is then too high by less than 8 %.
SQUARINGS = 5
#: Keeps the norm of a matrix of zeros differentiable.
TINY = 1e-30
#: What rounding may take off the bound.
ROUNDING = 1e-5


def largest_stretch(matrix: Float[Array, "m n"], squarings: int = SQUARINGS) -> Float[Array, ""]:
    r"""An upper bound of \(\max \lVert Wv \rVert / \lVert v \rVert\), differentiable."""
    narrow = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    power, log_bound = narrow.T @ narrow, jnp.zeros(())
    for i in range(squarings + 1):
        norm = jnp.sqrt(jnp.sum(power**2) + TINY)
        log_bound = log_bound + jnp.log(norm) / 2**i
        power = power / norm
        power = power @ power
    return (1 + ROUNDING) * jnp.exp(log_bound / 2)


def bounded(matrix: Float[Array, "m n"], most: float = 1.0) -> Float[Array, "m n"]:
    """The matrix, scaled down where it may stretch by more than `most`.

    Gouk, Frank, Pfahringer & Cree (2021), *Regularisation of neural networks by enforcing Lipschitz continuity*.
    """
    return matrix * jnp.minimum(1.0, most / largest_stretch(matrix))
