"""Samplers beside blackjax: effective draws per CPU-second of HMC, NUTS and MALA, and how often a warm-up is paid for.

Both run the same number of chains from the same starts, warmed up by their own adaptation (blackjax's window adaptation
for each chain; ours shares what all chains learn), then frozen; compiled before the clock starts. HMC takes the same
number of leapfrog steps in both, ours of a length that varies by 20 % between trajectories, as is its default. What is
compared is the least bulk effective sample size over coordinates and energies, by our own diagnostics for both, over
processor seconds, so that threads are no advantage; the ratio with its standard error over the seeds.

    python benchmarks/samplers.py [--write]
"""

import argparse
import time
import warnings
from collections.abc import Callable

import blackjax
import equinox as eqx
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
from thalweg.sampling.kernel import AbstractKernel
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


#: A run from starts and a key: draws, energies and work by step, and its processor seconds.
Timed = Callable[[jax.Array, jax.Array], tuple[tuple, float]]


def timed(run: Callable[..., tuple], *settings: object, key: jax.Array) -> tuple[tuple, float]:
    """What a compiled run returns, and its processor seconds."""
    jax.block_until_ready(run(*settings, jax.random.fold_in(key, 1)))
    began = time.process_time()
    found = jax.block_until_ready(run(*settings, key))
    return found, time.process_time() - began


def ours(energy: AbstractEnergy, kernel: AbstractKernel, steps: int) -> Timed:
    target = Target(energy)

    @eqx.filter_jit
    def run(kernel, points, key):
        keys = jax.random.split(key, CHAINS)

        def step(states, i):
            states, info = step_all(target, kernel, states, i, keys=keys)
            return states, (points_of(target, states), states.energy, info.work)

        return jax.lax.scan(step, start_all(target, kernel, points), jnp.arange(steps))[1]

    def of(starts, key):
        tuned = sample(energy, key=key, kernel=kernel, chains=CHAINS, steps=10, warmup=WARMUP, start=starts)
        return timed(run, tuned.kernel, jnp.asarray(tuned.draws[:, -1]), key=key)

    return of


def theirs(energy: AbstractEnergy, name: str, steps: int) -> Timed:
    def log_density(y):
        return -energy(y)

    make = {"nuts": blackjax.nuts, "hmc": blackjax.hmc, "mala": blackjax.mala}[name]
    extra = {"num_integration_steps": LEAPFROGS} if name == "hmc" else {}
    kernel = make.build_kernel()

    @jax.jit
    def run(parameters, states, key):
        def step(states, i):
            keys = jax.random.split(jax.random.fold_in(key, i), CHAINS)
            states, info = jax.vmap(lambda k, s, own: kernel(k, s, log_density, **own, **extra))(
                keys, states, parameters
            )
            work = getattr(info, "num_integration_steps", jnp.ones(CHAINS, jnp.int32))
            return states, (states.position, -states.logdensity, work)

        return jax.lax.scan(step, states, jnp.arange(steps))[1]

    if name == "mala":
        # It has no adaptation for MALA: the step of ours, without a metric, is tuned for it.
        def of(starts, key):
            own = MALA(mass="unit")
            tuned = sample(energy, key=key, kernel=own, chains=CHAINS, steps=10, warmup=WARMUP, start=starts)
            states = jax.vmap(lambda y: make.init(y, log_density))(jnp.asarray(tuned.draws[:, -1]))
            sizes = jnp.full(CHAINS, tuned.kernel.step_size)
            return timed(run, {"step_size": sizes}, states, key=key)

        return of
    goal = {"nuts": 0.8, "hmc": 0.651}[name]
    adaptation = blackjax.window_adaptation(make, log_density, target_acceptance_rate=goal, **extra)
    warm = jax.jit(jax.vmap(lambda k, y: adaptation.run(k, y, WARMUP)[0]))

    def of(starts, key):
        states, parameters = warm(jax.random.split(key, CHAINS), starts)
        parameters = {k: v for k, v in parameters.items() if k != "num_integration_steps"}
        return timed(run, parameters, states, key=key)

    return of


def least(found: tuple) -> tuple[float, float]:
    """The least effective sample size of a coordinate or of the energy, and energies a step."""
    positions, energies, work = (np.swapaxes(np.asarray(a), 0, 1) for a in found)
    columns = np.concatenate([positions, energies[..., None]], axis=2)
    return float(np.nanmin(diagnostics.bulk_ess(columns))), float(np.mean(work))


def ratio(ours: np.ndarray, theirs: np.ndarray) -> str:
    """The ratio of the means, with its standard error."""
    value = ours.mean() / theirs.mean()
    error = np.hypot(*(r.std(ddof=1) / r.mean() / np.sqrt(len(r)) for r in (ours, theirs)))
    return f"{value:.2f} ± {value * error:.2f}"


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
            for run in (ours(energy, kernel, steps), theirs(energy, name, steps)):
                results = [run(starts, jax.random.key(seed)) for seed in range(SEEDS)]
                sizes = [least(found) for found, _ in results]
                seconds = np.array([cpu for _, cpu in results])
                rates.append(np.array([size for size, _ in sizes]) / seconds)
                per_energy = np.mean([size / (CHAINS * steps * max(work, 1)) for size, work in sizes])
                line += [f"{rates[-1].mean():,.0f}", f"{per_energy:.4f}", float(seconds.mean())]
            lines.append([*line, ratio(*rates)])
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
