r"""The loss functionals of energy-based learning, as functions of a few energies of one row.

\(E_C\), `right`, is the energy of the right answer, and \(E_I\), `wrong`, that of the most offending incorrect one:
the lowest of all others. LeCun, Chopra, Hadsell, Ranzato & Huang (2006), *A tutorial on energy-based learning*,
table 1. Who finds those energies is `thalweg.learning.search`.
"""

import jax
import jax.numpy as jnp

from thalweg.energy.base import Scalar


def perceptron(right: Scalar, least: Scalar) -> Scalar:
    r"""\(E_C - \min_y E\), never negative; no margin. Eq. 7."""
    return right - least


def hinge(right: Scalar, wrong: Scalar, margin: float = 1.0) -> Scalar:
    r"""\(\max(0, m + E_C - E_I)\); margin m. Eq. 11."""
    return jnp.maximum(0.0, margin + right - wrong)


def log(right: Scalar, wrong: Scalar) -> Scalar:
    r"""\(\log(1 + e^{E_C - E_I})\), a hinge without a corner; any margin. Eq. 12."""
    return jax.nn.softplus(right - wrong)


def lvq2(right: Scalar, wrong: Scalar, ceiling: float = 1.0) -> Scalar:
    r"""\(\min(M, \max(0, E_C - E_I))\): no row counts for more than M; no margin. Eq. 13 as the table has it."""
    return jnp.clip(right - wrong, 0.0, ceiling)


def lvq2_relative(right: Scalar, wrong: Scalar, window: float = 1.0) -> Scalar:
    r"""\(\min(1, \max(0, (E_C - E_I) / (\delta E_I)))\), for energies that are positive: it is 1 from
    \(E_C = (1 + \delta) E_I\) on; no margin. Eq. 13 as the text has it."""
    return jnp.clip((right - wrong) / (window * jnp.maximum(wrong, 1e-12)), 0.0, 1.0)


def mce(right: Scalar, wrong: Scalar) -> Scalar:
    r"""\(\sigma(E_C - E_I)\), a smooth count of errors; any margin. Eq. 15."""
    return jax.nn.sigmoid(right - wrong)


def square_square(right: Scalar, wrong: Scalar, margin: float = 1.0) -> Scalar:
    r"""\(E_C^2 + \max(0, m - E_I)^2\), for energies that are not negative; margin m. Eq. 16.

    The table of the paper prints a minus; its text, and the margin that it is to have, ask for the plus."""
    return right**2 + jnp.maximum(0.0, margin - wrong) ** 2


def square_exponential(right: Scalar, wrong: Scalar, weight: float = 1.0) -> Scalar:
    r"""\(E_C^2 + \gamma e^{-E_I}\), for energies that are not negative; any margin. Eq. 17."""
    return right**2 + weight * jnp.exp(-wrong)


def negative_log_likelihood(right: Scalar, free: Scalar) -> Scalar:
    r"""\(E_C - F_\beta = E_C + \frac1\beta \log \sum_y e^{-\beta E}\), which is \(-\frac1\beta \log p(y \mid x)\); any
    margin. Eq. 23."""
    return right - free


def mee(right: Scalar, free: Scalar, beta: float = 1.0) -> Scalar:
    r"""\(1 - e^{-\beta (E_C - F_\beta)} = 1 - p(y \mid x)\), the error of a draw; any margin. Eq. 27."""
    return -jnp.expm1(-beta * (right - free))
