"""`orderless` against enumeration and quadrature on spaces small enough for both."""

import itertools
import math
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from thalweg.energy import Column, Record
from thalweg.errors import SettingsError
from thalweg.learning.objective import OrderAgnostic
from thalweg.models import factors
from thalweg.models.layout import Layout
from thalweg.models.orderless import ORDERLESS, Objective, Orderless, Settings, skeleton
from thalweg.nn.initial import drawn

REAL = Column("height", "real", center=2.0, spread=0.5)
COUNT = Column("children", "integer", size=4, center=1.5, spread=1.1)
BINARY = Column("smoker", "categorical", size=2)
COLOUR = Column("colour", "categorical", size=3)
MIXED = Record((REAL, COUNT, BINARY, COLOUR))
#: The same columns as parts of an image, where the network starts from what the mixture expects.
IMAGE = Record(tuple(replace(column, pixel=True) for column in MIXED.columns))
CELLS = np.array(list(itertools.product(range(4), range(2), range(3))), np.float32)

# Quadrature of the real column: y = 2 + sinh(s) is dense in the middle and reaches far out.
S = np.linspace(-4.5, 4.5, 1201)
GRID, WEIGHT = 2 + np.sinh(S), np.cosh(S) * (S[1] - S[0])


def model(space=MIXED, *, orderings=1, seed=0, noise=1.0, orders=None, **settings):
    """A network with random weights, far from what it starts with."""
    key, noise_key, mixture_key = jax.random.split(jax.random.key(seed), 3)
    mixture = random_mixture(space, key=mixture_key)
    energy = Orderless(
        space,
        mixture,
        width=12,
        order_width=11,
        layers=2,
        components=3,
        orderings=orderings if orders is None else len(orders),
        initial=drawn(key),
        **settings,
    )
    parameters, static = eqx.partition(energy, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(parameters)
    keys = jax.random.split(noise_key, len(leaves))
    leaves = [
        a + noise * jax.random.normal(k, a.shape) / math.sqrt(12) for a, k in zip(leaves, keys, strict=True)
    ]
    energy = eqx.combine(jax.tree.unflatten(structure, leaves), static)
    energy = eqx.tree_at(lambda e: e.mixture, energy, mixture)
    if orders is not None:
        energy = eqx.tree_at(lambda e: e.orders, energy, jnp.asarray(orders, jnp.int32))
    return energy


def by_any_subset(energy):
    """The same with the density of the network that knows any subset, as in an image."""
    return eqx.tree_at(lambda e: e.ordered, energy, None)


def only(energy, m):
    """The m-th ordering alone."""
    arrays, static = eqx.partition(energy.ordered, eqx.is_array)
    one = eqx.combine(jax.tree.map(lambda leaf: leaf[m : m + 1], arrays), static)
    return eqx.tree_at(lambda e: (e.orders, e.ordered), energy, (energy.orders[m : m + 1], one))


def random_mixture(space, *, key, components=2, dimensions=2):
    """A mixture that says something, with levels that are probabilities."""
    mixture = factors.empty(space, components, dimensions)
    keys = jax.random.split(key, 5)
    weights, means, loadings, noise = (
        a + s * jax.random.normal(k, a.shape)
        for a, s, k in zip(
            (mixture.log_weights, mixture.means, mixture.loadings, jnp.log(mixture.noise)),
            (0.5, 1.0, 0.7, 0.5),
            keys,
            strict=False,
        )
    )
    levels = jax.random.normal(keys[4], mixture.levels.shape)
    layout = mixture.layout
    for first, size in zip(layout.first, layout.sizes, strict=True):
        block = levels[:, first : first + size]
        levels = levels.at[:, first : first + size].set(jax.nn.log_softmax(block, axis=1))
    return factors.FactorMixture(space, jax.nn.log_softmax(weights), means, loadings, jnp.exp(noise), levels)


column_energies = eqx.filter_jit(Orderless.column_energies)
complete = eqx.filter_jit(Orderless.complete)
masked_log_probs = eqx.filter_jit(Orderless.masked_log_probs)


@eqx.filter_jit
def log_probs(energy, rows):
    """Compiled once for all networks of one shape."""
    return jax.vmap(energy.log_prob)(rows)


@eqx.filter_jit
def marginals(energy, rows, observed):
    return jax.vmap(energy.marginal, (0, None))(rows, observed)


def points():
    """Every row of the mixed space on the grid: (cells, grid, 4)."""
    y = np.empty((len(CELLS), len(GRID), 4), np.float32)
    y[:, :, 0], y[:, :, 1:] = GRID, CELLS[:, None]
    return jnp.asarray(y)


def probabilities(energy):
    """p(y) over cells and grid, in double precision."""
    return np.exp(np.asarray(log_probs(energy, points().reshape(-1, 4)), float)).reshape(len(CELLS), -1)


@pytest.mark.parametrize("space", [MIXED, IMAGE], ids=["table", "image"])
@pytest.mark.parametrize(("orderings", "seed"), [(1, 0), (3, 0)])
def test_the_whole_space_has_probability_one(orderings, seed, space):
    energy = model(space, orderings=orderings, seed=seed)
    density = probabilities(energy) * WEIGHT
    assert density.sum() == pytest.approx(1, abs=2e-3)
    assert density.sum(1).max() < 0.9


def test_a_mixture_of_orderings_is_the_mean_of_their_densities():
    energy = model(orderings=3)
    densities = [probabilities(only(energy, m)) for m in range(3)]
    np.testing.assert_allclose(probabilities(energy), np.mean(densities, axis=0), rtol=1e-4, atol=1e-9)
    assert np.max(np.abs(densities[0] - densities[1])) > 1e-3


@pytest.mark.parametrize(("last", "axis"), [(1, 0), (2, 1), (3, 2)])
def test_a_missing_cell_is_summed_over_where_it_comes_last(last, axis):
    """Along an ordering that ends with the missing column, and with NaN in its place: it is never read."""
    order = [i for i in (3, 0, 1, 2) if i != last] + [last]
    energy = model(orders=[order])
    density = probabilities(energy)[:, 600].reshape(4, 2, 3).sum(axis)
    observed = jnp.arange(4) != last
    rows = points()[:, 600].reshape(4, 2, 3, 4).take(0, axis=axis).at[..., last].set(jnp.nan)
    marginal = marginals(energy, rows.reshape(-1, 4), observed).reshape(density.shape)
    np.testing.assert_allclose(np.exp(-marginal), density, rtol=1e-4)


def test_a_missing_number_is_integrated_over_where_it_comes_last():
    energy = model(orders=[[2, 1, 3, 0]])
    marginal = marginals(energy, points()[:, 0].at[:, 0].set(jnp.nan), jnp.arange(4) > 0)
    np.testing.assert_allclose(np.exp(-marginal), (probabilities(energy) * WEIGHT).sum(1), rtol=3e-3)


def test_the_marginal_of_everything_is_the_energy_and_of_nothing_is_0():
    energy = model(orderings=3)
    y = points()[7, 500]
    everything = marginals(energy, y[None], jnp.ones(4, bool))
    assert float(everything[0]) == pytest.approx(-float(log_probs(energy, y[None])[0]), rel=1e-6)
    assert float(marginals(energy, y[None] * jnp.nan, jnp.zeros(4, bool))[0]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("space", [MIXED, IMAGE], ids=["table", "image"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2, 0, 3, 1]])
def test_one_masked_pass_a_step_is_the_chain_of_them(order, space):
    energy = by_any_subset(model(space, orders=[order]))
    y = points()[13, 533]
    total = 0.0
    for i, d in enumerate(order):
        known = jnp.zeros(4, bool).at[jnp.array(order[:i], int)].set(True)
        total += masked_log_probs(energy, jnp.where(known | (jnp.arange(4) == d), y, 0.0), known)[d]
    assert float(total) == pytest.approx(float(log_probs(energy, y[None])[0]), abs=1e-4)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_a_network_of_one_ordering_says_of_a_column_what_those_before_it_allow(order):
    """Changing a cell changes what is said of later columns, and of no other."""
    energy = only(model(orders=[order]), 0)
    network = jax.tree.map(lambda leaf: leaf[0], eqx.filter(energy.ordered, eqx.is_array))
    network = eqx.combine(network, energy.ordered)
    layout = Layout(MIXED)

    @jax.jit
    def said(y, observed):
        raw, logits = network.outputs(layout, energy.orders[0], y, observed)
        by_column = [raw[0].ravel(), raw[1].ravel(), jnp.exp(logits[0]), jnp.exp(logits[1])]
        return [by_column[d] for d in order]

    y, everything = points()[13, 533], jnp.ones(4, bool)
    other = jnp.stack([y[0] + 1, (y[1] + 1) % 4, 1 - y[2], (y[3] + 1) % 3])
    before = said(y, everything)
    for place, d in enumerate(order):
        for after in (said(y.at[d].set(other[d]), everything), said(y, everything.at[d].set(False))):
            same = [bool(jnp.all(a == b)) for a, b in zip(before, after, strict=True)]
            assert same == [later <= place for later in range(4)]


def test_masked_log_probs_are_normalised_and_do_not_read_what_is_hidden():
    energy = model()
    observed = jnp.array([True, False, False, False])
    y = jnp.array([2.3, 0.0, 0.0, 0.0])
    log_probs = jax.vmap(lambda cells: energy.masked_log_probs(y.at[1:].set(cells), observed))(
        jnp.asarray(CELLS)
    )
    by_cell = np.exp(np.asarray(log_probs, float)).reshape(4, 2, 3, 4)
    for d, axis in ((1, 0), (2, 1), (3, 2)):
        # Each column's own probabilities, the same whatever stands in the other hidden cells.
        np.testing.assert_allclose(by_cell[..., d].sum(axis), 1, rtol=1e-4)
    assert np.ptp(by_cell[2, ..., 1]) < 1e-6


@pytest.mark.parametrize(("orderings", "space"), [(1, MIXED), (3, MIXED), (3, IMAGE)])
def test_samples_have_the_probabilities_of_the_density(orderings, space):
    energy = model(space, orderings=orderings)
    keys = jax.random.split(jax.random.key(5), 6000)
    rows = np.asarray(jax.jit(jax.vmap(lambda k: energy.sample(key=k)))(keys))
    density = probabilities(energy) * WEIGHT
    density /= density.sum()
    codes = (rows[:, 1] * 6 + rows[:, 2] * 3 + rows[:, 3]).astype(int)
    counts = np.bincount(codes, minlength=24)
    expected = density.sum(1) * len(rows)
    likely = expected > 5
    assert np.sum((counts - expected)[likely] ** 2 / expected[likely]) < stats.chi2.ppf(0.9999, likely.sum())
    cumulative = np.cumsum(density.sum(0)) - density.sum(0) / 2
    assert stats.kstest(rows[:, 0].astype(float), lambda t: np.interp(t, GRID, cumulative)).pvalue > 1e-4


@pytest.mark.parametrize("space", [MIXED, IMAGE], ids=["table", "image"])
def test_conditional_draws_keep_what_is_known_and_follow_the_ordered_conditional(space):
    """With the known columns first in the ordering, p(rest | known) is the density over its own sum."""
    energy = by_any_subset(model(space, orders=[[0, 3, 1, 2]]))
    index = 550
    y = jnp.array([GRID[index], jnp.nan, jnp.nan, 2.0])
    observed = jnp.array([True, False, False, True])
    keys = jax.random.split(jax.random.key(6), 5000)
    rows = np.asarray(jax.jit(jax.vmap(lambda k: energy.sample_given(y, observed, key=k)))(keys))
    assert np.all(rows[:, 0] == np.float32(GRID[index]))
    assert np.all(rows[:, 3] == 2)
    density = probabilities(energy)[:, index].reshape(4, 2, 3)[:, :, 2].ravel()
    expected = density / density.sum() * len(rows)
    counts = np.bincount((rows[:, 1] * 2 + rows[:, 2]).astype(int), minlength=8)
    assert np.sum((counts - expected) ** 2 / np.maximum(expected, 1)) < stats.chi2.ppf(0.9999, 8)


@pytest.mark.parametrize("space", [MIXED, IMAGE], ids=["table", "image"])
@pytest.mark.parametrize("last", [0, 1, 2, 3])
def test_one_columns_energies_and_best_guess_are_those_of_the_enumerated_conditional(last, space):
    order = [i for i in (2, 0, 3, 1) if i != last] + [last]
    energy = by_any_subset(model(space, orders=[order], seed=2))
    y = points()[10, 640]
    values = GRID if last == 0 else np.arange(MIXED.columns[last].size)
    rows = jnp.tile(y[None], (len(values), 1)).at[:, last].set(jnp.asarray(values, jnp.float32))
    density = np.exp(np.asarray(log_probs(energy, rows), float))
    conditional = density / (density * WEIGHT if last == 0 else density).sum()
    hidden = y.at[last].set(jnp.nan)
    for observed in (jnp.ones(4, bool), jnp.arange(4) != last):
        got = column_energies(energy, hidden, jnp.int32(last), jnp.asarray(values, jnp.float32), observed)
        np.testing.assert_allclose(np.exp(-np.asarray(got, float)), conditional, rtol=5e-3, atol=1e-6)
    guess = complete(energy, hidden, jnp.arange(4) != last)
    expected = {
        0: np.sum(conditional * GRID * WEIGHT) if last == 0 else None,
        1: np.sum(conditional * values),
    }.get(last, np.argmax(conditional))
    assert float(guess[last]) == pytest.approx(float(expected), abs=0.02)
    others = np.arange(4) != last
    np.testing.assert_array_equal(np.asarray(guess)[others], np.asarray(y)[others])


SPACES = {
    "numbers only": Record((REAL, COUNT, Column("age", "real", center=40.0, spread=12.0))),
    "categories only": Record((COLOUR, BINARY, COLOUR)),
    "one value": Record((Column("constant", "categorical", size=1), BINARY)),
    "far apart": Record(
        (
            Column("tiny", "real", center=1e-6, spread=1e-8),
            Column("huge", "integer", size=10**6, center=3e5, spread=1e5),
        )
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_every_question_is_answered_in_every_space(name):
    space = SPACES[name]
    energy = model(space, orderings=2, dropout=0.1)
    d = len(space.columns)
    y = space.project(jnp.array([c.center for c in space.columns], jnp.float32))

    @eqx.filter_jit
    def ask(energy, y, key):
        drawn = energy.sample(key=key)
        nothing = jnp.zeros(d, bool)
        batch = jnp.stack([y, drawn]), jnp.ones((2, d), bool)
        loss = eqx.filter_value_and_grad(lambda e: Objective()(e, batch, None, key=key)[0])(energy)
        column = energy.column_energies(y, jnp.int32(0), y[:1], nothing)
        return drawn, (energy(y), energy(drawn), energy.complete(y, nothing), column, loss)

    drawn, answers = ask(energy, y, jax.random.key(0))
    assert drawn.shape == (d,)
    assert bool(space.contains(drawn))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(answers))


def test_derivatives_are_finite_for_extreme_cells_and_missing_ones():
    energy = model(orderings=2)
    values = jnp.array(
        [[1e6, 3.0, 1.0, 2.0], [-1e30, -5.0, 0.0, 0.0], [jnp.nan, 900.0, jnp.nan, 1.0], [jnp.nan] * 4]
    )
    observed = ~jnp.isnan(values)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(energy, key):
        marginal = jax.vmap(energy.marginal)(values, observed)
        return jnp.mean(marginal) + Objective()(energy, (values, observed), None, key=key)[0]

    for seed in range(3):
        value, gradient = loss(energy, jax.random.key(seed))
        assert jnp.isfinite(value)
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("space", [MIXED, IMAGE], ids=["table", "image"])
def test_the_training_loss_is_the_mean_energy_over_all_orderings(space):
    """Uria, Murray & Larochelle's estimate is unbiased: compared with all 24 orderings, and with missing cells."""
    energy = model(space)
    rows = points()[jnp.array([3, 17]), jnp.array([500, 700])]
    observed = jnp.array([[True] * 4, [True, False, True, True]])
    everything = eqx.tree_at(
        lambda e: e.orders, energy, jnp.array(list(itertools.permutations(range(4))), jnp.int32)
    )

    def mean_energy(y, o):
        along = jax.vmap(lambda order: everything._chain_log_prob(order, jnp.where(o, y, 0.0), o))
        return -jnp.mean(along(everything.orders))

    expected = float(jnp.mean(jax.vmap(mean_energy)(rows, observed)))
    estimate = jax.jit(jax.vmap(lambda k: OrderAgnostic()(energy, (rows, observed), None, key=k)[0]))
    estimates = np.asarray(estimate(jax.random.split(jax.random.key(1), 4000)), float)
    error = estimates.std() / math.sqrt(len(estimates))
    assert estimates.mean() == pytest.approx(expected, abs=4 * error)
    assert error < 0.03 * expected


def test_a_network_without_layers_is_refused():
    with pytest.raises(SettingsError, match="at least one layer of one unit, not 0 of 12"):
        skeleton(MIXED, Settings(width=12, layers=0))


def test_the_mixture_is_not_trained_with_the_network():
    energy = model(IMAGE)
    batch = points()[:4, 500], jnp.ones((4, 4), bool)
    gradient = eqx.filter_grad(lambda e: OrderAgnostic()(e, batch, None, key=jax.random.key(0))[0])(energy)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient.mixture))
    assert all(
        np.any(leaf)
        for leaf in (gradient.component, gradient.trunk, gradient.heads)
        for leaf in jax.tree.leaves(leaf)
    )


def test_the_smoother_energy_is_that_of_the_mixture():
    energy = model(IMAGE)
    y, observed = points()[5, 480], jnp.array([True, False, True, True])
    assert float(energy.smooth(y, observed)) == float(energy.mixture.energy(y, observed))


# --- the recipe ---------------------------------------------------------------------------------------------------


def test_a_skeleton_has_the_shapes_of_what_is_trained():
    settings = Settings(width=12, layers=2, components=3, orderings=3, order_width=11, context=2, factors=2)
    made = jax.eval_shape(lambda: skeleton(MIXED, settings))
    real = model(orderings=3)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, real)
    assert jax.tree.structure(made) == jax.tree.structure(real)
    assert ORDERLESS.skeleton is skeleton
