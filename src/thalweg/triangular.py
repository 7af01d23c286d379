r"""Cholesky factors with their inverses, and inverses alone, in plain array operations.

\[ \begin{pmatrix} A & \cdot \\ C & D \end{pmatrix}: \quad L_{11} = L(A), \; L_{21} = C L_{11}^{-\top}, \;
   L_{22} = L(D - L_{21} L_{21}^\top), \quad (L^{-1})_{21} = -L_{22}^{-1} L_{21} L_{11}^{-1} \]

Why not LAPACK's: on a CPU, JAX 0.10 hands a batch of matrices to the same threads that run the program and
then waits for them, so that two independent batches on two cores wait for ever (two marginals in one
compiled function are enough). With the inverse at hand, all that follows is matrix products.

Golub & Van Loan (2013), *Matrix computations*, 4.2; Murray (2016), *Differentiation of the Cholesky
decomposition*.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: The relative ridge that a matrix first gets when it cannot be factored as it is.
FIRST_RIDGE = 1e-7
#: The largest block that is eliminated column by column.
BLOCK = 32


@jax.jit
def factorise(matrix: Float[Array, "e e"]) -> tuple[Float[Array, "e e"], Float[Array, "e e"]]:
    r"""The lower Cholesky factor \(L\) and \(L^{-1}\) of A, or of \(A + \rho\,\mathrm{diag}A\) where A has none.

    Rounding can leave a covariance with an eigenvalue below 0. \(\rho\) is the smallest of 1e-7, 1e-6, … that
    works, so a matrix that factors is left exactly as it is.
    """
    return _with_ridge(matrix)


@jax.custom_jvp
def _with_ridge(matrix):
    diagonal = jnp.diag(jnp.diagonal(matrix))

    def fails(state):
        _, inverse, ridge = state
        return ~jnp.all(jnp.isfinite(inverse)) & (ridge < 1)

    def attempt(state):
        ridge = state[2]
        return *_factorise(matrix + ridge * diagonal), jnp.maximum(10 * ridge, FIRST_RIDGE)

    nothing = jnp.full_like(matrix, jnp.nan)
    return jax.lax.while_loop(fails, attempt, (nothing, nothing, jnp.zeros((), matrix.dtype)))[:2]


@_with_ridge.defjvp
def _derivative(primals, tangents):
    # A while loop has no reverse derivative: dL = L low(L^-1 dA L^-T), the lower half with half the diagonal.
    (factor, inverse), (change,) = _with_ridge(*primals), tangents
    inner = product(product(inverse, (change + change.T) / 2), inverse.T)
    lower = jnp.tril(inner) - 0.5 * jnp.diag(jnp.diagonal(inner))
    return (factor, inverse), (product(factor, lower), -product(lower, inverse))


@jax.jit
def invert(factor: Float[Array, "e e"]) -> Float[Array, "e e"]:
    r"""\(L^{-1}\) of a lower triangular L."""
    return _invert(factor)


def solve(matrix: Float[Array, "e e"], b: Float[Array, "e"]) -> Float[Array, "e"]:
    r"""\(A^{-1} b\) for a symmetric, positive definite A; not a number where A is not."""
    _, inverse = _factorise(matrix)
    return product(inverse.T, product(inverse, b))


@jax.jit
def swept(matrix: Float[Array, "e e"]) -> tuple[Float[Array, "e e"], Float[Array, ""]]:
    r"""\(A^{-1}\) and \(\log\det A\) of a symmetric, positive definite A.

    Every row is swept in turn, which takes a third of the arithmetic of a factor and its inverse and half the memory:
    for many small matrices where no factor is asked for. A pivot that rounding would leave at 0 or below is a rounding
    error of its diagonal. Dempster (1969), *Elements of continuous multivariate analysis*, 4.3.2.
    """
    e = len(matrix)
    places = jnp.arange(e)
    least = jnp.finfo(matrix.dtype).eps * jnp.diagonal(matrix)

    def sweep(j, state):
        a, log_det = state
        pivot, here = jnp.maximum(a[j, j], least[j]), places == j
        row = jnp.where(here, 1, a[j]) / pivot
        column = jnp.where(here, -1, a[:, j])
        rest = jnp.where(here[:, None] | here[None], 0, a)
        return rest - column[:, None] * row[None], log_det + jnp.log(pivot)

    return jax.lax.fori_loop(0, e, sweep, (matrix, jnp.zeros((), matrix.dtype)))


def product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """`a @ b` at the full precision of its type, which accelerators give only when asked."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _invert(factor):
    e = len(factor)
    if e <= BLOCK:
        identity = jnp.eye(e, dtype=factor.dtype)

        def substitute(j, rows):
            known = jnp.where(jnp.arange(e) < j, factor[j], 0)
            return rows.at[j].set((identity[j] - product(known, rows)) / factor[j, j])

        return jax.lax.fori_loop(0, e, substitute, jnp.zeros_like(factor))
    h = e // 2
    return _corner(_invert(factor[:h, :h]), factor[h:, :h], _invert(factor[h:, h:]))


def _factorise(matrix):
    e = len(matrix)
    if e <= BLOCK:
        return _eliminate(matrix)
    h = e // 2
    first, first_inverse = _factorise(matrix[:h, :h])
    corner = product(matrix[h:, :h], first_inverse.T)
    last, last_inverse = _factorise(matrix[h:, h:] - product(corner, corner.T))
    factor = jnp.block([[first, jnp.zeros_like(corner.T)], [corner, last]])
    return factor, _corner(first_inverse, corner, last_inverse)


def _eliminate(matrix):
    """Gauss's elimination of (A | I), each pivot row divided by the root of its pivot: (L' | L^-1)."""
    e = len(matrix)
    places = jnp.arange(e)

    def step(j, rows):
        pivot = rows[j] / jnp.sqrt(rows[j, j])
        rows = rows - jnp.outer(jnp.where(places > j, pivot[:e], 0), pivot)
        return rows.at[j].set(pivot)

    rows = jax.lax.fori_loop(0, e, step, jnp.hstack([matrix, jnp.eye(e, dtype=matrix.dtype)]))
    return jnp.triu(rows[:, :e]).T, jnp.tril(rows[:, e:])


def _corner(first_inverse, corner, last_inverse):
    below = -product(last_inverse, product(corner, first_inverse))
    return jnp.block([[first_inverse, jnp.zeros_like(below.T)], [below, last_inverse]])
