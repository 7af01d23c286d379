"""The mixture of factor analysers against dense Gaussians and enumeration."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from thalweg.data.rows import Rows
from thalweg.energy import Column, Record
from thalweg.errors import SettingsError
from thalweg.models import factors

SPACE = Record(
    (
        Column("height", "real", center=2.0, spread=0.5),
        Column("colour", "categorical", size=3),
        Column("children", "integer", size=6, center=1.5, spread=1.1),
        Column("smoker", "categorical", size=2),
        Column("shape", "categorical", size=4),
    )
)
LINEAR, K, Q = (0, 2, 3), 3, 2
ROW = jnp.array([2.4, 1.0, 4.0, 1.0, 3.0])
MASKS = [jnp.array(mask) for mask in itertools.product([True, False], repeat=5)]


@pytest.fixture(scope="module")
def mixture():
    generator = np.random.default_rng(0)
    normal = lambda *shape: generator.normal(size=shape)  # noqa: E731
    levels = np.concatenate([special.log_softmax(normal(K, size), axis=1) for size in (3, 4)], axis=1)
    arrays = special.log_softmax(normal(K)), normal(K, 3), normal(K, 3, Q), np.exp(normal(K, 3)), levels
    return factors.FactorMixture(SPACE, *(jnp.asarray(a, jnp.float32) for a in arrays))


def dense(mixture, mask):
    """log w_k p(y_o | k), E[u | y_o, k] and Var[u | y_o, k] in double precision, without factors."""
    u, _ = mixture.coordinates(ROW, jnp.ones(5, bool))
    u = np.asarray(u, float)
    seen = np.asarray(mask)[list(LINEAR)]
    joint, means, variances = [], [], []
    for k in range(K):
        mean, loading = np.asarray(mixture.means[k], float), np.asarray(mixture.loadings[k], float)
        covariance = loading @ loading.T + np.diag(np.asarray(mixture.noise[k], float))
        log_p = float(mixture.log_weights[k])
        gain = np.zeros((3, seen.sum()))
        if seen.any():
            block = covariance[np.ix_(seen, seen)]
            log_p += stats.multivariate_normal(mean[seen], block).logpdf(u[seen])
            gain = np.linalg.solve(block, covariance[seen]).T
        for column, first in ((1, 0), (4, 3)):
            if mask[column]:
                log_p += float(mixture.levels[k, first + int(ROW[column])])
        joint.append(log_p)
        means.append(mean + gain @ (u - mean)[seen])
        variances.append(np.diag(covariance - gain @ covariance[seen]))
    return np.array(joint), np.array(means), np.array(variances)


def test_any_known_part_says_what_the_dense_gaussians_say(mixture):
    believe = eqx.filter_jit(lambda mask: mixture.belief(ROW, mask))
    for mask in MASKS:
        joint, means, variances = dense(mixture, mask)
        belief = believe(mask)
        np.testing.assert_allclose(belief.log_joint, joint, rtol=1e-4, atol=1e-4)
        shares = special.softmax(joint)
        mean, deviation = mixture.moments(belief)
        hidden = ~np.asarray(mask)[list(LINEAR)]
        # A known coordinate is predicted anew, noise and all: only what is hidden has the dense moments.
        expected = shares @ means
        spread = np.sqrt(shares @ (variances + (means - expected) ** 2))
        np.testing.assert_allclose(np.asarray(mean)[hidden], expected[hidden], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(np.asarray(deviation)[hidden], spread[hidden], rtol=1e-3)
        for i in np.flatnonzero(hidden):
            one = mixture.moment(belief, jnp.int32(i))
            np.testing.assert_allclose(one, (mean[i], deviation[i]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 3, 0, 1), (1, 4, 0)])
def test_column_by_column_is_all_at_once(mixture, order):
    update = eqx.filter_jit(mixture.update)
    belief, mask = mixture.prior, jnp.zeros(5, bool)
    for d in order:
        belief, mask = update(belief, jnp.int32(d), ROW[d]), mask.at[d].set(True)
        at_once = mixture.belief(ROW, mask)
        for a, b in zip(belief, at_once, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_the_energy_is_a_normalised_density_of_the_codes(mixture):
    """Over the levels by sums, over the one real column by quadrature; counts and values of two are left out."""
    mask = jnp.array([True, True, False, False, True])
    heights = jnp.linspace(-8, 12, 2001)
    rows = jnp.stack(
        [jnp.array([0.0, a, jnp.nan, jnp.nan, b]) for a, b in itertools.product(range(3), range(4))]
    )
    points = jnp.tile(rows[:, None], (1, len(heights), 1)).at[:, :, 0].set(heights)
    energy = jax.jit(jax.vmap(jax.vmap(lambda y: mixture.energy(y, mask))))(points)
    total = np.exp(-np.asarray(energy, float)).sum() * (heights[1] - heights[0])
    assert float(total) == pytest.approx(1, abs=1e-3)


def test_an_empty_mixture_expects_every_column_as_it_usually_is():
    mixture = factors.empty(SPACE, 2, 2)
    mean, deviation = mixture.moments(mixture.belief(ROW, jnp.ones(5, bool)))
    np.testing.assert_allclose(mean, 0, atol=1e-6)
    np.testing.assert_allclose(deviation, mixture.layout.spread, rtol=1e-6)


def crowd(n, seed, missing=0.0):
    """Two groups on two lines, one of each colour, in codes."""
    generator = np.random.default_rng(seed)
    group, along = generator.integers(2, size=n), generator.normal(size=n)
    noise = 0.3 * generator.normal(size=(n, 3))
    sign = 2 * group - 1
    values = np.stack([along, sign * along, 3 * sign + 0.2 * along], axis=1) + noise
    values = np.column_stack([values, np.where(group == 1, 2, generator.integers(2, size=n))])
    observed = generator.random((n, 4)) >= missing
    return Rows(np.where(observed, values, np.nan).astype(np.float32), observed, np.zeros(n, int))


CROWD = Record(
    (
        *(Column(name, "real", spread=1.0) for name in ("a", "b")),
        Column("c", "real", spread=3.0),
        Column("colour", "categorical", size=3),
    )
)


def energies(mixture, rows):
    of_rows = jax.jit(jax.vmap(mixture.energy))
    return np.asarray(of_rows(jnp.asarray(rows.values), jnp.asarray(rows.observed)), float)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_em_finds_the_groups_and_what_varies_together_in_each(missing):
    rows, fresh = crowd(600, 0, missing), crowd(400, 1)
    whole = {"iterations": 300, "tolerance": 1e-3}
    mixture = factors.fit(factors.empty(CROWD, 4, 1), rows, key=jax.random.key(0), **whole)
    alone = factors.fit(factors.empty(CROWD, 1, 1), rows, key=jax.random.key(0))
    assert energies(mixture, fresh).mean() < energies(alone, fresh).mean() - 0.5
    # The sign of b follows from a and from the group, which the colour tells.
    y = jnp.array([[1.5, 0, 0, 2], [1.5, 0, 0, 0]])
    mask = jnp.array([True, False, False, True])
    mean, _ = jax.vmap(lambda y: mixture.moments(mixture.belief(y, mask)))(y)
    assert mean[0, 1] - mean[1, 1] > 0.5


def test_few_rows_leave_components_empty_and_nothing_undefined():
    rows = crowd(30, 0, 0.5)
    mixture = factors.fit(factors.empty(CROWD, 12, 2), rows, key=jax.random.key(0))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(mixture))
    assert float(jax.nn.logsumexp(mixture.log_weights)) == pytest.approx(0, abs=1e-5)
    assert np.sum(np.asarray(mixture.log_weights) > -6) <= 4
    assert np.isfinite(energies(mixture, crowd(50, 2, 0.5))).all()


def test_a_space_of_categories_alone_is_a_latent_class_model():
    space = Record(tuple(Column(name, "categorical", size=3) for name in "ab"))
    generator = np.random.default_rng(0)
    a = generator.integers(3, size=300)
    values = np.stack([a, np.where(generator.random(300) < 0.9, a, generator.integers(3, size=300))], axis=1)
    rows = Rows(values.astype(np.float32), np.ones((300, 2), bool), np.zeros(300, int))
    mixture = factors.fit(factors.empty(space, 6, 2), rows, key=jax.random.key(0))
    grid = jnp.asarray(list(itertools.product(range(3), repeat=2)), jnp.float32)
    known = jnp.ones(2, bool)
    table = np.exp(-np.asarray(jax.vmap(lambda y: mixture.energy(y, known))(grid), float)).reshape(3, 3)
    assert table.sum() == pytest.approx(1, abs=1e-5)
    share = np.array([[np.mean((values == (i, j)).all(axis=1)) for j in range(3)] for i in range(3)])
    np.testing.assert_allclose(table, share, atol=0.05)


@pytest.mark.parametrize(("components", "dimensions"), [(0, 2), (2, 0)])
def test_a_mixture_of_nothing_is_refused(components, dimensions):
    with pytest.raises(SettingsError, match="at least one component of one factor"):
        factors.empty(SPACE, components, dimensions)


def test_extreme_cells_are_cut_off_and_cost_much(mixture):
    usual = float(mixture.energy(ROW, jnp.ones(5, bool)))
    far = float(mixture.energy(ROW.at[0].set(1e30), jnp.ones(5, bool)))
    assert np.isfinite(far)
    assert far > usual + 20
