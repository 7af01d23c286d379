"""The convolution of patches and a product against the library's own, alone and inside a compiled loop.

Three 3×3 layers (1, 32, 32 to 32 channels, stride 1) on 32 pictures of 28×28: the energies, their gradient in the
picture, and 20 Langevin steps in one `lax.scan`. Each is compiled first; the least of some runs in turn is given.

    python benchmarks/convolution.py [--write] [--repeats 5]
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from machine import report, table
from thalweg.nn.convolution import by_library, by_patches

BATCH, SIZE, CHANNELS, STEPS = 32, 28, 32, 20


def kernels() -> list[jax.Array]:
    rng = np.random.default_rng(0)
    sizes = [(1, CHANNELS), (CHANNELS, CHANNELS), (CHANNELS, CHANNELS)]
    return [jnp.asarray(rng.normal(size=(3, 3, *s)) / (3 * s[0] ** 0.5), jnp.float32) for s in sizes]


def tasks(convolve: Callable) -> dict[str, Callable]:
    """The compiled functions of a batch and a key."""
    weights = kernels()

    def energy(x):
        for w in weights:
            x = jax.nn.silu(convolve(x, w, 1, "same"))
        return jnp.sum(x)

    def chain(x, key):
        def step(x, key):
            slope = jax.vmap(jax.grad(energy))(x)
            return x - 1e-3 * slope + 0.05 * jax.random.normal(key, x.shape), None

        return jax.lax.scan(step, x, jax.random.split(key, STEPS))[0]

    return {
        "energies": jax.jit(lambda x, key: jax.vmap(energy)(x)),
        "gradient": jax.jit(lambda x, key: jax.vmap(jax.grad(energy))(x)),
        f"{STEPS} Langevin steps": jax.jit(chain),
    }


def milliseconds(function: Callable, x: jax.Array) -> float:
    started = time.perf_counter()
    jax.block_until_ready(function(x, jax.random.key(1)))
    return 1000 * (time.perf_counter() - started)


def rows(repeats: int) -> list[list[object]]:
    x = jax.random.normal(jax.random.key(0), (BATCH, SIZE, SIZE, 1))
    ours, library = tasks(by_patches), tasks(by_library)
    found: list[list[object]] = []
    for name in ours:
        both = (ours[name], library[name])
        for function in both:
            milliseconds(function, x)
        times = np.array([[milliseconds(function, x) for function in both] for _ in range(repeats)])
        own, other = times.min(axis=0)
        found.append([name, float(own), float(other), float(other / own)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep the results in benchmarks/results")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    title = (
        f"Three 3×3 layers of {CHANNELS} channels, {BATCH} pictures of {SIZE}×{SIZE}, {jax.default_backend()}"
    )
    parts = [table(title, ["", "patches, ms", "library, ms", "ratio"], rows(options.repeats))]
    report("convolution", "python benchmarks/convolution.py", parts, write=options.write)


if __name__ == "__main__":
    main()
