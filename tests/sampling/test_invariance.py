"""A step leaves a density as it is: exact draws, moved, are exact draws still.

The chains are independent, so the errors of their means are those of independent draws, whatever the kernel.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sampling.targets import BOUNDED, FINITE, MIXED, REAL, Case, Gaussian, Table, lattice
from thalweg.energy import Binary, Real, energy_of
from thalweg.models.ising import Graph, Ising
from thalweg.sampling import (
    HMC,
    MALA,
    NUTS,
    ULA,
    Cycle,
    Gibbs,
    GibbsWithGradients,
    Metropolis,
    ParallelTempering,
    Target,
    walk,
)
from thalweg.sampling.kernel import AbstractKernel

CHAINS = 20_000
#: Some 300 statistics are tested in all: one beyond 4.5 deviations is expected once in 500 runs of the suite.
DEVIATIONS = 4.5

GRADIENT = {
    "metropolis": lambda step: Metropolis(3 * step),
    "mala": lambda step: MALA(step**2),
    "hmc": lambda step: HMC(step, 5),
    "nuts": lambda step: NUTS(step, max_depth=5),
}
DISCRETE = {
    "gibbs": Gibbs(),
    "gradients": GibbsWithGradients(flips=3),
}
#: What every run of the tests looks at; the slow lane looks at all.
OFTEN = {"banana", "box", "simplex", "lattice", "mixed"}


def often(case, *values):
    marks = () if case.name in OFTEN else (pytest.mark.slow,)
    return pytest.param(case, *values, marks=marks, id="-".join([case.name, *map(str, values[:1])]))


TABLE = [often(case, name, make(case.step)) for case in REAL + BOUNDED for name, make in GRADIENT.items()]
TABLE += [often(case, name, kernel) for case in FINITE for name, kernel in DISCRETE.items()]
TABLE += [often(case, "cycle", Cycle((HMC(case.step, 5), Gibbs()))) for case in MIXED]


def statistics(y):
    """What is compared, a row a draw: means, squares, products of neighbours, and indicators of bands."""
    flat = np.asarray(y, np.float64).reshape(len(y), -1)[:, :4]
    products = flat * np.roll(flat, 1, axis=1)
    # Heavy tails are squashed, or the error of a mean would be no guide.
    return np.concatenate([np.tanh(flat / 2), np.cos(flat), np.tanh(products / 4), flat > 0.5], axis=1)


def deviations(case, kernel, steps=3, *, folded=False, seed=0):
    """By how many standard errors the moved draws differ from as many others."""
    density, keys = case.density, jax.random.split(jax.random.key(seed), 3)
    draw = jax.jit(jax.vmap(lambda key: density.sample(key=key)))
    start, other = (draw(jax.random.split(key, CHAINS)) for key in keys[:2])
    moved = jax.jit(lambda y, k: walk(Target(density, folded=folded), kernel, y, steps, key=k))(
        start, keys[2]
    )
    assert np.isfinite(np.asarray(moved.points)).all()
    share = np.mean(np.any(np.asarray(moved.points != start).reshape(CHAINS, -1), axis=1))
    assert share > 0.2, f"only {share:.0%} of the chains moved"
    a, b = statistics(moved.points), statistics(other)
    error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / CHAINS)
    return (a.mean(axis=0) - b.mean(axis=0)) / np.maximum(error, 1e-12)


@pytest.mark.parametrize(("case", "name", "kernel"), TABLE)
def test_a_step_leaves_the_density_as_it_is(case, name, kernel):
    found = deviations(case, kernel)
    assert np.abs(found).max() < DEVIATIONS, np.round(found, 1)


def test_tempering_leaves_all_of_its_densities_as_they_are():
    """Replicas that start with exact draws, each at its temperature, keep them."""
    betas = (1.0, 0.6, 0.3)
    glass, kernel = lattice(3), ParallelTempering(Gibbs(), betas)
    tables = [Table.of(beta * glass) for beta in betas]
    keys = jax.random.split(jax.random.key(0), 3)

    def draw(key):
        return jnp.stack(
            [table.sample(key=k) for table, k in zip(tables, jax.random.split(key, 3), strict=True)]
        )

    def move(positions, key):
        target = Target(glass)
        state = kernel._cold(kernel._all(target, positions), jnp.int32(0))
        for k in jax.random.split(key, 3):
            state, info = kernel.step(target, state, key=k)
        return state.chains.position, info.parts[1].acceptance

    start, other = (jax.vmap(draw)(jax.random.split(key, CHAINS)) for key in keys[:2])
    moved, swaps = jax.jit(jax.vmap(move))(start, jax.random.split(keys[2], CHAINS))
    assert 0.3 < np.nanmean(swaps) < 1
    for level in range(3):
        a, b = statistics(moved[:, level]), statistics(other[:, level])
        error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / CHAINS)
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < DEVIATIONS * np.maximum(error, 1e-12)).all()


@pytest.mark.parametrize("name", ["hmc", "nuts", "metropolis"])
@pytest.mark.parametrize("case", BOUNDED[:2], ids=lambda case: case.name)
def test_a_folded_box_is_the_same_density(case, name):
    found = deviations(case, GRADIENT[name](case.step), folded=True)
    assert np.abs(found).max() < DEVIATIONS, np.round(found, 1)


def test_the_comparison_sees_a_kernel_that_is_not_exact():
    normal = Case("normal", lambda: Gaussian(Real((2,)), jnp.zeros(2), jnp.eye(2)))
    assert np.abs(deviations(normal, ULA(0.5), steps=20)).max() > 2 * DEVIATIONS


class Symmetric(AbstractKernel):
    """A kernel that takes itself for its own reverse."""

    kernel: AbstractKernel

    def check(self, target):
        self.kernel.check(target)

    def init(self, target, position):
        return self.kernel.init(target, position)

    def step(self, target, state, *, key):
        return self.kernel.step(target, state, key=key)


def there_and_back(table, energy, kernel):
    """How far apart the shares of the pairs (y, step of y) and (step back of y, y) are, in standard errors."""
    keys = jax.random.split(jax.random.key(2), 4)

    def pairs(kernel, draw, step):
        y = jax.vmap(lambda key: table.sample(key=key))(jax.random.split(draw, 4 * CHAINS))
        return y, jax.jit(lambda y: walk(Target(energy), kernel, y, 1, key=step))(y).points

    def shares(first, second):
        power = 2 ** np.arange(first.shape[1])
        pair = (np.asarray(first) @ power * 2 ** first.shape[1] + np.asarray(second) @ power).astype(int)
        return np.bincount(pair, minlength=4 ** first.shape[1]) / len(pair)

    ahead = shares(*pairs(kernel, *keys[:2]))
    behind = shares(*pairs(kernel.reversed(), *keys[2:])[::-1])
    error = np.sqrt((ahead + behind) / (4 * CHAINS))
    return np.abs(ahead - behind) / np.maximum(error, 1e-9)


@pytest.mark.parametrize("name", ["one by one", "in blocks", "dense", "cycle"])
def test_a_reversed_kernel_goes_back_in_time(name):
    """pi(y) T(y, y') = pi(y') T~(y', y), on three bits in a row with strong pulls; a sweep is not its own reverse."""
    bits, pulls = Binary((3,)), jnp.array([0.9, -1.1])
    energy = {
        "one by one": energy_of(lambda y: -pulls @ ((2 * y[1:] - 1) * (2 * y[:-1] - 1)) - 0.5 * y[0], bits),
        "in blocks": Ising(bits, pulls, jnp.array([0.3, 0.0, -0.2]), Graph.of([(0, 1), (1, 2)], 3)),
        "dense": Ising(bits, jnp.diag(2 * pulls, 1), jnp.array([0.3, 0.0, -0.2])),
    }.get(name, energy_of(lambda y: -pulls @ ((2 * y[1:] - 1) * (2 * y[:-1] - 1)), bits))
    kernel = Cycle((Gibbs(), GibbsWithGradients())) if name == "cycle" else Gibbs()
    table = Table.of(energy)
    assert there_and_back(table, energy, kernel).max() < DEVIATIONS
    assert there_and_back(table, energy, Symmetric(kernel)).max() > 2 * DEVIATIONS


def test_hastings_ratio_of_a_proposal_that_is_not_symmetric():
    def towards_the_right(u, step, key):
        """A jump of mean 1/2: without the ratio the draws would drift."""
        move = 0.5 + jax.random.normal(key, u.shape)
        return u + move, jnp.sum(-((-move - 0.5) ** 2) / 2 + (move - 0.5) ** 2 / 2)

    case = REAL[1]
    assert np.abs(deviations(case, Metropolis(proposal=towards_the_right))).max() < DEVIATIONS

    def without_the_ratio(u, step, key):
        return towards_the_right(u, step, key)[0], jnp.zeros(())

    assert np.abs(deviations(case, Metropolis(proposal=without_the_ratio))).max() > 2 * DEVIATIONS
