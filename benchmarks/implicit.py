r"""The derivative of a minimum: by the implicit function theorem, by unrolling the solver, and by finite differences.

\(F(y, \theta) = \frac12 y^\top A y + \sum_i \log\cosh(B y - \theta)_i\) of 64 coordinates, with A of eigenvalues from
0.005 to 1 and B orthogonal: convex, smooth, not quadratic. The derivative is that of
\(L(\theta) = \frac1n\sum_n \frac12\|\hat y(\theta_n) - t_n\|^2\) over a batch of 32, with \(\hat y\) by `minimise`:
gradient descent of a fixed number of steps, of size one half (no curvature is above 2), tolerance 0.

Truth: Newton's method and the linear system of the implicit function theorem, in float64 NumPy. Error: the norm of the
difference to it, relative. Finite differences: central, a solution of the whole batch for each of the 2 × 64
coordinates of theta, at the best of four step sizes. Memory: the temporary buffers of the compiled program, as XLA
plans them (`memory_analysis().temp_size_in_bytes`); a process that runs it grows by as much.
Time: the median of seven calls, compilation apart.

    python benchmarks/implicit.py [--write] [--steps 10 30 100 300 1000 3000]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from machine import report, table
from thalweg.energy import AbstractEnergy, Real
from thalweg.inference import BFGS, AbstractAdjoint, AbstractSolver, Gradient, Implicit, Unrolled, minimise

SIZE, BATCH = 64, 32
RNG = np.random.default_rng(0)


def orthogonal() -> np.ndarray:
    return np.linalg.qr(RNG.normal(size=(SIZE, SIZE)))[0]


BASIS = orthogonal()
A = BASIS @ np.diag(np.geomspace(0.005, 1.0, SIZE)) @ BASIS.T
B = orthogonal()
THETA, TARGET = 3 * RNG.normal(size=(BATCH, SIZE)), RNG.normal(size=(BATCH, SIZE))


class Soft(AbstractEnergy):
    r"""\(\frac12 y^\top A y + \sum_i \log\cosh(B y - x)_i\)."""

    a: Array
    b: Array
    space: Real = Real((SIZE,))

    def __call__(self, y, x=None):
        t = self.b @ y - x
        # log cosh without overflow.
        return y @ self.a @ y / 2 + jnp.sum(jnp.logaddexp(t, -t))


ENERGY = Soft(jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32))
#: The largest curvature is that of A, 1, and at most 1 of log cosh.
STEP = optax.sgd(0.5)


def newton(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The minimum, its tanh and its Hessian; a step is halved until the gradient falls."""

    def at(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t = np.tanh(B @ y - theta)
        return A @ y + B.T @ t, t

    y = np.zeros(SIZE)
    for _ in range(200):
        gradient, t = at(y)
        hessian = A + B.T @ np.diag(1 - t**2) @ B
        step = np.linalg.solve(hessian, gradient)
        while np.linalg.norm(at(y - step)[0]) > np.linalg.norm(gradient) > 1e-13:
            step = step / 2
        y = y - step
    assert np.linalg.norm(gradient) < 1e-12
    return y, t, hessian


def truth() -> tuple[np.ndarray, np.ndarray]:
    """The minima, and the gradient of L, in float64."""
    minima, gradients = [], []
    for theta, target in zip(THETA, TARGET, strict=True):
        y, t, hessian = newton(theta)
        # d y / d theta = H^-1 B' diag(1 - t^2).
        minima.append(y)
        gradients.append((1 - t**2) * (B @ np.linalg.solve(hessian, y - target)) / BATCH)
    return np.array(minima), np.array(gradients)


MINIMA, GRADIENT = truth()


def loss(solver: AbstractSolver, adjoint: AbstractAdjoint) -> Callable[[Array], tuple[Array, Array]]:
    """L of the batch of theta, and the minima."""

    def of(theta):
        def one(x):
            return minimise(ENERGY, jnp.zeros(SIZE), x, solver=solver, adjoint=adjoint, throw=False).value

        found = jax.vmap(one)(theta)
        return jnp.sum((found - jnp.asarray(TARGET, jnp.float32)) ** 2) / (2 * BATCH), found

    return of


def relative(found: Array, expected: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected))


def timed(call: Callable[[], object]) -> float:
    """Milliseconds."""
    call()
    times = []
    for _ in range(7):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def derivative(solver: AbstractSolver, adjoint: AbstractAdjoint) -> list[object]:
    """Error of the gradient, milliseconds and MiB."""
    theta = jnp.asarray(THETA, jnp.float32)
    compiled = jax.jit(jax.grad(loss(solver, adjoint), has_aux=True)).lower(theta).compile()
    gradient, _ = compiled(theta)
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return [relative(gradient, GRADIENT), timed(lambda: compiled(theta)), memory]


def differences(solver: AbstractSolver) -> list[object]:
    """The same by central differences."""
    theta = jnp.asarray(THETA, jnp.float32)
    of = jax.jit(lambda theta: loss(solver, Implicit())(theta)[1])
    basis, target = np.eye(SIZE), TARGET

    def gradient(h: float) -> np.ndarray:
        def half(y: Array) -> np.ndarray:
            return ((np.asarray(y, np.float64) - target) ** 2).sum(axis=1) / (2 * BATCH)

        columns = []
        for e in basis:
            moved = jnp.asarray(h * e, jnp.float32)[None]
            columns.append((half(of(theta + moved)) - half(of(theta - moved))) / (2 * h))
        return np.stack(columns, axis=1)

    error = min(relative(gradient(h), GRADIENT) for h in (3e-3, 1e-2, 3e-2, 1e-1))
    compiled = of.lower(theta).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return [error, 2 * SIZE * timed(lambda: of(theta)), memory]


WAYS: dict[str, AbstractAdjoint] = {
    "implicit, dense": Implicit(),
    "implicit, conjugate gradients": Implicit(dense=0),
    "unrolled": Unrolled(),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30, 100, 300, 1000, 3000])
    given = parser.parse_args()
    rows: list[list[object]] = []

    def add(steps: object, off: float, way: str, cells: list[object]) -> None:
        rows.append([steps, f"{off:.1e}", way, f"{cells[0]:.1e}", *cells[1:]])
        print(rows[-1], flush=True)

    for steps in given.steps:
        solver = Gradient(STEP, steps=steps, tolerance=0.0)
        found = eqx.filter_jit(loss(solver, Implicit()))(jnp.asarray(THETA, jnp.float32))[1]
        off = relative(found, MINIMA)
        for way, adjoint in WAYS.items():
            add(steps, off, way, derivative(solver, adjoint))
        if steps <= 1000:
            add(steps, off, "finite differences", differences(solver))
    found = eqx.filter_jit(loss(BFGS(), Implicit()))(jnp.asarray(THETA, jnp.float32))[1]
    for way in ("implicit, dense", "unrolled"):
        add("BFGS, to 1e-5", relative(found, MINIMA), way, derivative(BFGS(), WAYS[way]))
    head = ["steps", "error of the minimum", "derivative", "error of the gradient", "ms", "MiB"]
    parts = [table(f"Gradient of a loss through {BATCH} minima of {SIZE} coordinates", head, rows)]
    report("implicit", "python benchmarks/implicit.py", parts, "optax", "optimistix", write=given.write)


if __name__ == "__main__":
    main()
