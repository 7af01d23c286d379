"""The Boltzmann machines against enumeration: free energies, sums, conditionals and sweeps."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sampling.targets import Table
from sampling.test_invariance import CHAINS, DEVIATIONS, statistics
from thalweg.energy import Binary, energy_of
from thalweg.energy.spaces import Categorical, Column, Real, Record
from thalweg.errors import SettingsError
from thalweg.inference.enumeration import log_partition
from thalweg.inference.profile import profile
from thalweg.models.ising import BoltzmannMachine, Graph, Ising, boltzmann_machine, ising, square_lattice
from thalweg.models.rbm import RBM, rbm
from thalweg.models.visible import Independent, base_rates, drawn, log_normaliser, seen, units_of
from thalweg.sampling import Gibbs, GibbsWithGradients, Target, walk
from thalweg.sampling.gibbs import one_by_one

KEY = jax.random.key(0)
ROW = Record(
    (
        Column("kind", "categorical", size=3),
        Column("heavy", "categorical", size=2),
        Column("count", "integer", size=5, center=2.0, spread=1.5),
        Column("size", "real", center=1.0, spread=2.0),
    )
)
FINITE = Record(ROW.columns[:3])
SPACES = {"bits": Binary((6,)), "categories": Categorical((3,), 3), "row": FINITE}


def machine(space, hidden=3, scale=0.7):
    """A machine with parameters that are all different."""
    rng, width = np.random.default_rng(0), units_of(space).width
    numbers = [rng.standard_normal(shape) * scale for shape in ((hidden, width), hidden, width, width, width)]
    return RBM(space, *(jnp.asarray(n, jnp.float32) for n in numbers))


def joint(m, y, h):
    """E(y, h) as it is written."""
    u, q = np.asarray(seen(m.space, y), np.float64), np.asarray(m.precision, np.float64)
    own = np.sum(q * u**2 / 2 - np.asarray(m.visible) * u)
    return own - h @ (np.asarray(m.hidden) + np.asarray(m.weights) @ u)


@pytest.mark.parametrize("name", SPACES)
def test_the_free_energy_sums_over_hidden_units(name):
    m = machine(SPACES[name])
    for y in np.asarray(m.space.points())[::7]:
        terms = [-joint(m, jnp.asarray(y), np.array(h)) for h in itertools.product((0, 1), repeat=3)]
        assert np.isclose(m(jnp.asarray(y)), -np.log(np.sum(np.exp(terms))), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SPACES)
def test_its_own_sum_is_that_over_all_points(name):
    m = machine(SPACES[name])
    assert np.isclose(m.log_partition(), log_partition(m), rtol=1e-5)


def test_its_own_sum_integrates_over_numbers():
    m = machine(ROW)
    nodes = np.linspace(-80, 80, 40_001)
    total = 0.0
    for finite in np.asarray(FINITE.points()):
        rows = np.column_stack([np.tile(finite, (len(nodes), 1)), nodes]).astype(np.float32)
        energies = np.asarray(jax.vmap(m)(jnp.asarray(rows)), np.float64)
        total += np.sum(np.exp(-energies)) * (nodes[1] - nodes[0])
    assert np.isclose(m.log_partition(), np.log(total), rtol=1e-4)


@pytest.mark.parametrize("name", SPACES)
def test_energies_of_neighbours(name):
    m = machine(SPACES[name])
    y = m.space.points()[11]
    sizes = m.space.levels()
    found = m.neighbour_energies(y)
    for i, size in enumerate(sizes):
        values = jnp.arange(float(size))
        assert np.allclose(found[i, :size], jax.vmap(lambda v, i=i: m(y.at[i].set(v)))(values), atol=1e-4)


def exact_draws(m, n, key):
    """Hidden states by their probability, then the visible units given them."""
    states = jnp.asarray(list(itertools.product((0.0, 1.0), repeat=len(m.hidden))))
    fields = m.visible[None] + states @ m.weights
    logs = states @ m.hidden + jax.vmap(lambda f: log_normaliser(m.space, f, m.precision))(fields)
    which = jax.random.categorical(key, logs, shape=(n,))
    keys = jax.random.split(jax.random.fold_in(key, 1), n)
    return jax.vmap(lambda f, k: drawn(m.space, f, m.precision, key=k))(fields[which], keys)


def compare(moved, others):
    a, b = statistics(moved), statistics(others)
    error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / CHAINS)
    return np.abs(a.mean(axis=0) - b.mean(axis=0)) / np.maximum(error, 1e-12)


@pytest.mark.parametrize("name", SPACES)
def test_drawing_by_fields_is_drawing_by_probability(name):
    m = machine(SPACES[name])
    table = Table.of(m)
    others = jax.vmap(lambda k: table.sample(key=k))(jax.random.split(jax.random.key(5), CHAINS))
    assert compare(exact_draws(m, CHAINS, KEY), others).max() < DEVIATIONS


@pytest.mark.parametrize("space", [*SPACES.values(), ROW], ids=[*SPACES, "mixed"])
def test_a_sweep_leaves_the_machine_as_it_is(space):
    m = machine(space, scale=0.5)
    start = exact_draws(m, CHAINS, KEY)
    moved = jax.jit(lambda y, k: walk(Target(m), Gibbs(), y, 3, key=k))(start, jax.random.key(7)).points
    assert np.mean(np.any(np.asarray(moved != start), axis=1)) > 0.5
    assert compare(moved, exact_draws(m, CHAINS, jax.random.key(3))).max() < DEVIATIONS


def test_proposals_know_what_the_neighbours_of_a_category_cost():
    m = machine(FINITE)
    start = exact_draws(m, CHAINS, KEY)
    moved = walk(Target(m), GibbsWithGradients(flips=3), start, 2, key=jax.random.key(7))
    assert compare(moved.points, exact_draws(m, CHAINS, jax.random.key(3))).max() < DEVIATIONS
    # The derivative in the codes of a category is 0, and what is proposed without it is rejected more often.
    blind = walk(Target(energy_of(m, m.space)), GibbsWithGradients(flips=3), start, 2, key=jax.random.key(7))
    assert moved.acceptance > blind.acceptance + 0.1


def test_at_another_temperature_it_is_swept_bit_by_bit():
    m = machine(SPACES["bits"])
    table = Table.of(2.0 * m)
    keys = jax.random.split(KEY, 3)
    draw = jax.vmap(lambda k: table.sample(key=k))
    start, others = (draw(jax.random.split(k, CHAINS)) for k in keys[:2])
    moved = jax.jit(lambda y, k: walk(Target(m, beta=2.0), Gibbs(), y, 2, key=k))(start, keys[2]).points
    assert compare(moved, others).max() < DEVIATIONS


@pytest.mark.parametrize("space", [*SPACES.values(), ROW], ids=[*SPACES, "mixed"])
def test_the_path_begins_at_independent_units_and_ends_at_the_machine(space):
    m = machine(space)
    points = exact_draws(m, 50, KEY)
    assert np.allclose(jax.vmap(m.tempered(1.0))(points), jax.vmap(m)(points), rtol=1e-4, atol=1e-4)
    apart = jax.vmap(m.start())(points) - jax.vmap(m.tempered(0.0))(points)
    assert np.ptp(apart) < 1e-3
    assert np.isclose(apart[0], m.tempered(0.0).log_partition(), atol=1e-3)


def test_independent_units_know_their_moments():
    base = machine(ROW).start()
    draws = jax.vmap(lambda k: seen(ROW, base.sample(key=k)))(jax.random.split(KEY, 40_000))
    mean, variance = base.moments()
    assert np.allclose(mean, np.mean(draws, axis=0), atol=0.03)
    assert np.allclose(variance, np.var(draws, axis=0), atol=0.03)


def test_hidden_units_begin_as_often_on_as_the_start_would_have_them():
    m = rbm(Binary((200,)), 20, key=KEY, scale=0.3, rows=np.random.default_rng(0).random((50, 200)) < 0.1)
    m = eqx.tree_at(lambda m: m.hidden, m, jnp.linspace(-3.0, 1.0, 20))
    draws = jax.vmap(lambda k: m.start().sample(key=k))(jax.random.split(KEY, 10_000))
    on = jax.nn.sigmoid(m.hidden[None] + draws @ m.weights.T).mean(axis=0)
    assert np.allclose(jax.nn.sigmoid(m.tempered(0.0).hidden), on, atol=0.01)


def test_independent_units_have_the_rates_of_the_rows():
    rng = np.random.default_rng(0)
    rows = np.column_stack(
        [
            rng.choice(3, 4000, p=[0.2, 0.5, 0.3]),
            rng.random(4000) < 0.3,
            rng.integers(0, 5, 4000),
            rng.normal(1, 2, 4000),
        ]
    ).astype(np.float32)
    base = Independent(ROW, jnp.asarray(base_rates(ROW, rows)), jnp.where(units_of(ROW).numeric, 1.0, 0.0))
    draws = np.asarray(jax.vmap(lambda k: base.sample(key=k))(jax.random.split(KEY, 20_000)))
    assert np.allclose(np.bincount(draws[:, 0].astype(int)) / 20_000, [0.2, 0.5, 0.3], atol=0.03)
    assert np.isclose(draws[:, 1].mean(), 0.3, atol=0.03)
    assert np.isclose(draws[:, 3].mean(), 1.0, atol=0.1)


def glass(graph=None):
    rng = np.random.default_rng(0)
    if graph is None:
        return Ising(
            Binary((9,)), jnp.asarray(0.4 * rng.standard_normal((9, 9)), jnp.float32), 0.2 * jnp.ones(9)
        )
    return Ising(
        Binary((9,)), jnp.asarray(0.6 * rng.standard_normal(12), jnp.float32), 0.2 * jnp.ones(9), graph
    )


MODELS = {"dense": glass, "lattice": lambda: glass(Graph.of(square_lattice(3, 3), 9))}


@pytest.mark.parametrize("name", MODELS)
def test_an_ising_model_is_its_formula(name):
    m = MODELS[name]()
    y = jnp.asarray(np.random.default_rng(2).integers(0, 2, 9), jnp.float32)
    s, matrix = 2 * np.asarray(y) - 1, np.asarray(m.matrix)
    assert np.allclose(matrix, matrix.T)
    assert (np.diag(matrix) == 0).all()
    assert np.isclose(m(y), -s @ matrix @ s / 2 - np.asarray(m.bias) @ s, rtol=1e-5)
    found = m.neighbour_energies(y)
    for i in range(9):
        generic = jax.vmap(lambda v, i=i: m(y.at[i].set(v)))(jnp.arange(2.0))
        assert np.allclose(found[i], generic, atol=1e-4)
        assert np.allclose(found[i], profile(m, y, i, jnp.arange(2.0)), atol=1e-4)


@pytest.mark.parametrize("beta", [pytest.param(1.0, marks=pytest.mark.slow), 0.5])
@pytest.mark.parametrize("name", MODELS)
def test_an_ising_sweep_leaves_it_as_it_is(name, beta):
    m = MODELS[name]()
    table = Table.of(beta * m)
    keys = jax.random.split(KEY, 3)
    draw = jax.vmap(lambda k: table.sample(key=k))
    start, others = (draw(jax.random.split(k, CHAINS)) for k in keys[:2])
    moved = jax.jit(lambda y, k: walk(Target(m, beta=beta), Gibbs(), y, 3, key=k))(start, keys[2]).points
    assert np.mean(np.any(np.asarray(moved != start), axis=1)) > 0.9
    assert compare(moved, others).max() < DEVIATIONS
    # Conditionally on some of them, too.
    observed = jnp.arange(9) < 4
    held = jnp.broadcast_to(observed, (CHAINS, 9))
    target = Target(m, beta=beta, held=start, observed=held)
    moved = jax.jit(lambda y, k: walk(target, Gibbs(), y, 3, key=k))(start, keys[2]).points
    assert (np.asarray(moved == start)[:, :4]).all()
    assert compare(moved, others).max() < DEVIATIONS


def test_bits_one_by_one_by_energies_alone():
    """The generic sweep and the model's own have the same transition: the same conditionals in the same order."""
    m = glass()
    target = Target(m)
    y = jnp.zeros(9)
    keys = jax.random.split(KEY, 20_000)
    own = jax.vmap(lambda k: m.gibbs(y, jnp.zeros(9, bool), beta=1.0, key=k))(keys)
    generic = jax.vmap(lambda k: one_by_one(target, y, key=k))(keys)
    assert compare(own, generic).max() < DEVIATIONS


def test_blocks_share_no_edge():
    graph = Graph.of(square_lattice(4, 5, periodic=True), 20)
    neighbours, blocks = np.asarray(graph.neighbours), np.asarray(graph.blocks)
    assert sorted(i for i in blocks.ravel().tolist() if i < 20) == list(range(20))
    for block in blocks:
        inside = set(block.tolist()) - {20}
        assert all(not inside & set(neighbours[i].tolist()) for i in inside)


def test_a_boltzmann_machine_sums_over_its_hidden_bits():
    rng = np.random.default_rng(0)
    m = boltzmann_machine(Binary((4,)), 3, key=KEY)
    among = jnp.asarray(rng.standard_normal((3, 3)), jnp.float32)
    m = BoltzmannMachine(m.visible, 5 * m.across, among, jnp.array([0.1, -0.2, 0.3]))
    y = jnp.array([1.0, 0.0, 0.0, 1.0])
    s = 2 * np.asarray(y) - 1
    pull = (np.asarray(among) + np.asarray(among).T) / 2
    np.fill_diagonal(pull, 0)
    total, ups = 0.0, np.zeros(3)
    for t in itertools.product((-1, 1), repeat=3):
        t = np.array(t)
        weight = np.exp(t @ pull @ t / 2 + t @ (np.asarray(m.bias) + np.asarray(m.across) @ s))
        total, ups = total + weight, ups + weight * (t > 0)
    assert np.isclose(m(y), -np.log(total) - np.asarray(-m.visible(y)), rtol=1e-5)
    assert np.allclose(m.hidden_probabilities(y), ups / total, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rbm(Binary((3,)), 0, key=KEY), "at least one hidden unit"),
        (lambda: rbm(Binary((3,)), 25, key=KEY).log_partition(), "25 hidden units has 2.25 terms"),
        (lambda: ising(Real((3,))), "over bits"),
        (lambda: ising(Categorical((3,), 3)), "over bits"),
        (lambda: boltzmann_machine(Binary((3,)), 13, key=KEY), "1 to 12 hidden bits, not 13: use rbm"),
        (lambda: Graph.of([(0, 0)], 3), "joins two different bits"),
        (lambda: Graph.of([(0, 3)], 3), "joins two different bits"),
    ],
)
def test_impossible_machines_are_refused(make, message):
    with pytest.raises(SettingsError, match=message):
        make()
