"""Samplers beside blackjax: effective draws per CPU-second of HMC, NUTS and MALA, and how often a warm-up is paid for.

Both run the same number of chains from the same starts, warmed up by their own adaptation (blackjax's window adaptation
for each chain; ours shares what all chains learn), then frozen; compiled before the clock starts. HMC takes the same
number of leapfrog steps in both, ours of a length that varies by 20 % between trajectories, as is its default. The least bulk effective sample size over coordinates and energies, by our own
diagnostics for both, over processor seconds (so that threads are no advantage).

    python benchmarks/samplers.py [--write]
"""

import argparse
import time
import warnings
from collections.abc import Callable

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

from machine import report, table
from thalweg.energy import Real, energy_of
from thalweg.energy.base import AbstractEnergy
from thalweg.evaluate import diagnostics
from thalweg.sampling import HMC, MALA, NUTS, Target, sample
from thalweg.sampling.walk import points_of, start_all, step_all

CHAINS, WARMUP, LEAPFROGS, SEEDS = 4, 1000, 16, 10


def gaussian() -> AbstractEnergy:
    """100 dimensions with random axes, deviations from 1 to 10."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.standard_normal((100, 100)))
    precision = jnp.asarray(axes / np.geomspace(1, 100, 100) @ axes.T, jnp.float32)
    return energy_of(lambda y: y @ precision @ y / 2, Real((100,)))


def funnel() -> AbstractEnergy:
    """Ten dimensions, the first the log variance of the others: N(0, 1.5^2), N(0, e^y)."""
    return energy_of(
        lambda y: (y[0] / 1.5) ** 2 / 2 + jnp.sum(y[1:] ** 2) * jnp.exp(-y[0]) / 2 + 4.5 * y[0], Real((10,))
    )


def regression() -> AbstractEnergy:
    """Bayesian logistic regression of scikit-learn's breast cancer: 569 rows, 31 coefficients, prior N(0, 1)."""
    rows, labels = load_breast_cancer(return_X_y=True)
    x = jnp.asarray(np.column_stack([np.ones(len(rows)), scale(rows)]), jnp.float32)
    sign = jnp.asarray(2 * labels - 1, jnp.float32)
    return energy_of(lambda y: jnp.sum(y**2) / 2 - jnp.sum(jax.nn.log_sigmoid(sign * (x @ y))), Real((31,)))


def network() -> AbstractEnergy:
    """An MLP 2-128-128-1 with random weights and a weak confinement."""
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = [(2, 128), (128, 128), (128, 1)]
    weights = [jax.random.normal(k, s) * np.sqrt(2 / s[0]) for k, s in zip(keys, sizes, strict=True)]

    def energy(y):
        h = jax.nn.softplus(y @ weights[0])
        return (jax.nn.softplus(h @ weights[1]) @ weights[2])[0] + jnp.sum(y**2) / 8

    return energy_of(energy, Real((2,)))


TARGETS = {
    "gaussian, 100": gaussian,
    "funnel, 10": funnel,
    "logistic regression, 31": regression,
    "MLP 2-128-128-1": network,
}
KERNELS = {
    "nuts": (NUTS(), 1000),
    "hmc": (HMC(leapfrogs=LEAPFROGS), 2000),
    "mala": (MALA(), 20_000),
}


def timed(run: Callable[[jax.Array], tuple], key: jax.Array) -> tuple[tuple, float, float]:
    """What a compiled run returns, its seconds and its processor seconds."""
    jax.block_until_ready(run(jax.random.fold_in(key, 1)))
    wall, processor = time.perf_counter(), time.process_time()
    found = jax.block_until_ready(run(key))
    return found, time.perf_counter() - wall, time.process_time() - processor


def ours(energy: AbstractEnergy, kernel: object, steps: int, starts: jax.Array, key: jax.Array) -> tuple:
    tuned = sample(energy, key=key, kernel=kernel, chains=CHAINS, steps=10, warmup=WARMUP, start=starts)
    target, points = Target(energy), jnp.asarray(tuned.draws[:, -1])

    @jax.jit
    def run(key):
        def step(states, i):
            states, info = step_all(target, tuned.kernel, states, i, keys=keys)
            return states, (points_of(target, states), states.energy, info.work)

        keys = jax.random.split(key, CHAINS)
        return jax.lax.scan(step, start_all(target, tuned.kernel, points), jnp.arange(steps))[1]

    return timed(run, key)


def theirs(energy: AbstractEnergy, name: str, steps: int, starts: jax.Array, key: jax.Array) -> tuple:
    def log_density(y):
        return -energy(y)

    if name == "mala":
        # It has no adaptation for MALA: the step of ours, without a metric, is tuned for it.
        tuned = sample(
            energy, key=key, kernel=MALA(mass="unit"), chains=CHAINS, steps=10, warmup=WARMUP, start=starts
        )
        algorithm = blackjax.mala(log_density, float(tuned.kernel.step_size))
        states = jax.vmap(algorithm.init)(jnp.asarray(tuned.draws[:, -1]))
        step_of = lambda key, state, _: algorithm.step(key, state)  # noqa: E731
        parameters = jnp.zeros(CHAINS)
    else:
        make = {"nuts": blackjax.nuts, "hmc": blackjax.hmc}[name]
        extra = {"num_integration_steps": LEAPFROGS} if name == "hmc" else {}
        goal = {"nuts": 0.8, "hmc": 0.651}[name]
        adaptation = blackjax.window_adaptation(make, log_density, target_acceptance_rate=goal, **extra)
        warm = jax.jit(jax.vmap(lambda k, y: adaptation.run(k, y, WARMUP)[0]))
        states, parameters = warm(jax.random.split(key, CHAINS), starts)
        kernel = make.build_kernel()
        fixed = {k: v for k, v in parameters.items() if k == "num_integration_steps"}
        parameters = {k: v for k, v in parameters.items() if k not in fixed}

        def step_of(key, state, own):
            return kernel(key, state, log_density, **own, **extra)

    @jax.jit
    def run(key):
        def step(states, i):
            keys = jax.random.split(jax.random.fold_in(key, i), CHAINS)
            states, info = jax.vmap(step_of)(keys, states, parameters)
            work = getattr(info, "num_integration_steps", jnp.ones(CHAINS, jnp.int32))
            return states, (states.position, -states.logdensity, work)

        return jax.lax.scan(step, states, jnp.arange(steps))[1]

    return timed(run, key)


def least(found: tuple) -> tuple[float, float]:
    """The least effective sample size of a coordinate or of the energy, and energies a step."""
    positions, energies, work = (np.swapaxes(np.asarray(a), 0, 1) for a in found)
    columns = np.concatenate([positions, energies[..., None]], axis=2)
    return float(np.nanmin(diagnostics.bulk_ess(columns))), float(np.mean(work))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines: list[list[object]] = []
    for target, make in TARGETS.items():
        energy = make()
        starts = jax.random.normal(jax.random.key(7), (CHAINS, *energy.space.shape))
        for name, (kernel, steps) in KERNELS.items():
            if given.only and given.only not in f"{target} {name}":
                continue
            rates, line = [], [target, name]
            for run in (
                lambda key, e=energy, k=kernel, s=steps, y=starts: ours(e, k, s, y, key),
                lambda key, e=energy, n=name, s=steps, y=starts: theirs(e, n, s, y, key),
            ):
                results = [run(jax.random.key(seed)) for seed in range(SEEDS)]
                sizes = [least(found) for found, _, _ in results]
                rates.append(
                    np.mean([size / cpu for (size, _), (_, _, cpu) in zip(sizes, results, strict=True)])
                )
                per_energy = np.mean([size / (CHAINS * steps * max(work, 1)) for size, work in sizes])
                line += [
                    f"{rates[-1]:,.0f}",
                    f"{per_energy:.4f}",
                    float(np.mean([cpu for _, _, cpu in results])),
                ]
            lines.append([*line, float(rates[0] / rates[1])])
            print(lines[-1], flush=True)
    head = ["target", "kernel"]
    for who in ("ours", "blackjax"):
        head += [f"{who}: effective draws / CPU s", "a gradient", "CPU s"]
    title = f"{CHAINS} chains after {WARMUP:,} steps of warm-up, mean of {SEEDS} seeds"
    report(
        "samplers",
        "python benchmarks/samplers.py",
        [table(title, [*head, "ratio"], lines)],
        "blackjax",
        write=given.write,
    )


if __name__ == "__main__":
    main()
