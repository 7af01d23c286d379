"""Factor graphs, against the enumeration of all of their answers."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import chisquare

from thalweg.energy import Categorical, Real
from thalweg.energy.factors import Factor, FactorGraph, graph_of
from thalweg.energy.tables import Entrywise
from thalweg.errors import SettingsError

GENERATOR = np.random.default_rng(0)


def drawn(*shape):
    return GENERATOR.normal(size=shape).astype(np.float32)


def graph(sizes, scopes):
    names = {f"v{i}": size for i, size in enumerate(sizes)}
    tables = {tuple(f"v{i}" for i in scope): drawn(*(sizes[i] for i in scope)) for scope in scopes}
    return graph_of(names, {scope: jnp.asarray(table) for scope, table in tables.items()}), tables


def enumerated(sizes, tables):
    """All answers in lexicographic order and their energies, in double precision."""
    points = np.array(list(itertools.product(*map(range, sizes))))
    energies = np.zeros(len(points))
    for names, table in tables.items():
        energies += np.asarray(table, np.float64)[tuple(points[:, int(name[1:])] for name in names)]
    return points, energies


@eqx.filter_jit
def value_and_gradient(energy, beta):
    """The free energy, and its derivatives by the tables."""
    return eqx.filter_value_and_grad(lambda e: e.free_energy(beta=beta))(energy)


CASES = {
    "tree of mixed sizes": ((2, 3, 4, 2, 3), [(0,), (2,), (1, 0), (1, 2), (3, 1), (4, 2)]),
    "loop": ((2, 3, 2, 3), [(0, 1), (1, 2), (2, 3), (3, 0), (1,)]),
    "two parts, one of higher order": ((2, 3, 2, 2, 2), [(2, 0, 1), (1, 3), (3, 2), (0,), (4,)]),
}


@pytest.mark.parametrize("name", CASES)
def test_all_answers_are_those_of_enumeration(name):
    sizes, scopes = CASES[name]
    energy, tables = graph(sizes, scopes)
    points, energies = enumerated(sizes, tables)
    order = np.argsort(energies)[:5]
    np.testing.assert_allclose(jax.vmap(energy)(jnp.asarray(points, jnp.float32)), energies, atol=1e-5)
    answers, lowest = eqx.filter_jit(lambda e: e.best(k=5))(energy)
    np.testing.assert_array_equal(answers, points[order])
    np.testing.assert_allclose(lowest, energies[order], atol=1e-5)
    weights = np.exp(-0.7 * energies - logsumexp(-0.7 * energies))
    free, gradient = value_and_gradient(energy, jnp.float32(0.7))
    np.testing.assert_allclose(free, -logsumexp(-0.7 * energies) / 0.7, rtol=2e-6)
    for factor in gradient.factors:
        # A derivative by a table is the probability of each of its entries.
        expected = np.zeros(factor.table.shape)
        np.add.at(expected, tuple(points[:, v] for v in factor.scopes[0]), weights)
        np.testing.assert_allclose(factor.table, expected, atol=2e-6)


def test_draws_are_exact():
    sizes, scopes = CASES["loop"]
    energy, tables = graph(sizes, scopes)
    _, energies = enumerated(sizes, tables)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = eqx.filter_jit(lambda e, keys: jax.vmap(lambda key: e.draw(beta=1.5, key=key))(keys))(
        energy, keys
    )
    rank = np.ravel_multi_index(np.asarray(drawn, int).T, sizes)
    expected = np.exp(-1.5 * energies - logsumexp(-1.5 * energies))
    many = expected > 0.002
    counts = np.bincount(rank, minlength=len(expected))
    found = [*counts[many], counts[~many].sum()]
    assert chisquare(found, 4000 * np.array([*expected[many], expected[~many].sum()])).pvalue > 1e-3


def test_the_trellis_of_the_tutorial_takes_16_evaluations_and_not_96():
    calls = []

    def counted(name):
        weight = float(GENERATOR.normal())

        def energy(x, *values):
            jax.debug.callback(lambda *v: calls.append((name, *map(float, v))), *values)
            return weight * x * sum((i + 1) * v * v - v for i, v in enumerate(values))

        return energy

    values = {"z1": 2, "z2": 2, "y1": 2, "y2": 3}
    scopes = {"a": ("z1",), "b": ("z1", "z2"), "c": ("z2", "y1"), "d": ("y1", "y2")}
    networks = {
        scope: Entrywise(counted(name), tuple(values[v] for v in scope)) for name, scope in scopes.items()
    }
    trellis = graph_of(values, networks)
    x = jnp.float32(0.7)
    answer, lowest = eqx.filter_jit(lambda x: trellis.best(x))(x)
    jax.effects_barrier()
    assert len(calls) == len(set(calls)) == trellis.cost().evaluations == 16
    assert trellis.cost().by_enumeration == 96
    points, energies = enumerated(values.values(), _numbered(trellis.tabulated(x)))
    np.testing.assert_array_equal(answer[0], points[energies.argmin()])
    assert lowest[0] == pytest.approx(energies.min(), abs=1e-5)


def _numbered(energy):
    return {
        tuple(f"v{v}" for v in scope): table
        for factor in energy.factors
        for scope, table in zip(factor.scopes, factor.table, strict=True)
    }


def test_what_is_forbidden_never_happens_and_has_finite_derivatives():
    bar = jnp.where(jnp.eye(3) > 0, jnp.inf, jnp.asarray(drawn(3, 3)))
    energy = FactorGraph(Categorical((3,), 3), (Factor([(0, 1), (1, 2)], bar), Factor((0, 2), bar)))
    points, energies = enumerated((3, 3, 3), _numbered(energy.tabulated()))
    assert np.isfinite(energies).sum() == 6
    near = eqx.filter_jit(lambda e, y: jax.vmap(e.neighbour_energies)(y))(
        energy, jnp.asarray(points, jnp.float32)
    )
    answers, lowest = eqx.filter_jit(lambda e: e.best(k=8))(energy)
    np.testing.assert_allclose(lowest, np.sort(energies)[:8], atol=1e-5)
    np.testing.assert_array_equal(answers[:6], points[np.argsort(energies)[:6]])
    for beta in (0.1, 1000.0):
        free, gradient = value_and_gradient(energy, jnp.float32(beta))
        np.testing.assert_allclose(free, -logsumexp(-beta * energies) / beta, rtol=1e-5)
        np.testing.assert_allclose(sum(jnp.sum(f.table) for f in gradient.factors), 3, rtol=1e-5)
    slope = eqx.filter_jit(jax.grad(lambda beta: energy.free_energy(beta=beta)))(2.0)
    step = [-logsumexp(-b * energies) / b for b in (2 - 1e-4, 2 + 1e-4)]
    np.testing.assert_allclose(slope, (step[1] - step[0]) / 2e-4, rtol=1e-3)
    for point, of in zip(points, near, strict=True):
        for i, v in itertools.product(range(3), range(3)):
            other = np.where(np.arange(3) == i, v, point)
            np.testing.assert_allclose(of[i, v], energies[np.ravel_multi_index(other, (3, 3, 3))], atol=1e-5)


def test_where_nothing_is_allowed_energies_are_infinite_and_derivatives_0():
    energy = FactorGraph(Categorical((2,), 2), (Factor((0, 1), jnp.full((2, 2), jnp.inf)),))
    assert jnp.all(jnp.isinf(eqx.filter_jit(lambda e: e.best(k=2))(energy)[1]))
    free, gradient = value_and_gradient(energy, jnp.float32(1.0))
    assert free == jnp.inf
    np.testing.assert_array_equal(gradient.factors[0].table, 0)


def test_equal_energies_are_listed_once_each():
    energy = FactorGraph(Categorical((3,), 2), (Factor([(0, 1), (1, 2)], jnp.zeros((2, 2))),))
    answers, lowest = eqx.filter_jit(lambda e: e.best(k=8))(energy)
    assert len({tuple(map(float, row)) for row in answers}) == 8
    np.testing.assert_array_equal(lowest, 0)


def test_a_long_chain_keeps_its_digits():
    unary, pair = 5 * drawn(300, 4), 5 * drawn(299, 4, 4)
    scopes = [(i,) for i in range(300)], [(i, i + 1) for i in range(299)]
    energy = FactorGraph(Categorical((300,), 4), (Factor(scopes[0], unary), Factor(scopes[1], pair)))
    forward, backward = np.zeros((300, 4)), np.zeros((300, 4))
    for i in range(1, 300):
        before = forward[i - 1] + unary[i - 1].astype(np.float64)
        forward[i] = -logsumexp(-(before[:, None] + pair[i - 1]) * 3.0, axis=0) / 3
        j = 299 - i
        after = backward[j + 1] + unary[j + 1].astype(np.float64)
        backward[j] = -logsumexp(-(after[None] + pair[j]) * 3.0, axis=1) / 3
    whole = forward + backward + unary
    marginals = np.exp(-3.0 * (whole + logsumexp(-3.0 * whole, axis=1, keepdims=True) / 3))
    free, gradient = value_and_gradient(energy, jnp.float32(3.0))
    np.testing.assert_allclose(free, -logsumexp(-3.0 * whole[0]) / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient.factors[0].table, marginals, atol=2e-5)


class Pull(eqx.Module):
    weights: jnp.ndarray

    def __call__(self, x):
        return jnp.tanh(self.weights * x)


def test_networks_in_batches_have_the_gradients_of_finite_differences():
    weights = jnp.asarray(drawn(2, 3, 3))
    scopes = [(0, 1), (2, 1)]
    energy = FactorGraph(Categorical((3,), 3), (Factor(scopes, Pull(weights)), Factor((0,), jnp.arange(3.0))))
    x, costs = jnp.asarray(drawn(4)), jnp.asarray(drawn(4, 3, 3))

    def loss(energy):
        free = jax.vmap(lambda x, c: energy.with_costs(c).free_energy(x))(x, costs)
        return jnp.sum(free)

    with jax.numpy_dtype_promotion("standard"):
        expected = 0.0
        for xi, c in zip(np.asarray(x), np.asarray(costs), strict=True):
            tables = {**_numbered(energy.tabulated(xi)), **{(f"v{i}",): 0 * c[i] for i in range(3)}}
            tables = {k: np.array(v) for k, v in tables.items()}
            tables[("v0",)] = np.arange(3.0) + c[0]
            tables[("v1",)], tables[("v2",)] = c[1], c[2]
            expected += -logsumexp(-enumerated((3, 3, 3), tables)[1])
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))(energy)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    step = jnp.asarray(drawn(2, 3, 3))
    ends = [
        eqx.filter_jit(loss)(eqx.tree_at(lambda e: e.factors[0].table.weights, energy, weights + h * step))
        for h in (-1e-2, 1e-2)
    ]
    along = jnp.sum(gradient.factors[0].table.weights * step)
    np.testing.assert_allclose(along, (ends[1] - ends[0]) / 2e-2, rtol=2e-3)


def test_a_sweep_leaves_exact_draws_exact():
    sizes, scopes = CASES["two parts, one of higher order"]
    energy, tables = graph(sizes, scopes)
    _, energies = enumerated(sizes, tables)
    observed = jnp.array([False, False, True, False, True])

    @eqx.filter_jit
    def moved(energy, keys):
        def one(key):
            a, b, c = jax.random.split(key, 3)
            y = energy.gibbs(energy.draw(key=a), observed, beta=1.0, key=b)
            return energy.gibbs(y, ~observed, beta=1.0, key=c, backwards=True)

        return jax.vmap(one)(keys)

    rank = np.ravel_multi_index(
        np.asarray(moved(energy, jax.random.split(jax.random.key(1), 4000)), int).T, sizes
    )
    expected = np.exp(-energies - logsumexp(-energies))
    assert chisquare(np.bincount(rank, minlength=48), 4000 * expected).pvalue > 1e-3


def square(side, table):
    index = np.arange(side * side).reshape(side, side)
    pairs = [*zip(index[:, :-1].flat, index[:, 1:].flat, strict=True)]
    pairs += zip(index[:-1].flat, index[1:].flat, strict=True)
    return FactorGraph(Categorical((side, side), 2), (Factor(pairs, table),))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: square(40, jnp.eye(2)).free_energy(),
            r"tables of at least [\d,]+ entries.*thalweg.inference.loopy",
        ),
        (lambda: Factor((0, 0), jnp.eye(2)), "different variables"),
        (lambda: Factor([(0, 1), (2,)], jnp.eye(2)), "all of as many variables"),
        (lambda: Factor((0,), jnp.array([0.0, -jnp.inf])), r"forbid by \+inf"),
        (lambda: Factor((0,), jnp.array([0.0, jnp.nan])), "not a number"),
        (lambda: graph_of({"a": 2}, {("a", "b"): jnp.eye(2)}), "over 'b', and the variables are a"),
        (lambda: graph_of({"a": 2, "b": 3}, {("a", "b"): jnp.eye(2)}), r"table of shape \(2, 2\).*\(2, 3\)"),
        (lambda: FactorGraph(Categorical((2,), 2), ()), "at least one factor"),
        (lambda: FactorGraph(Real((2,)), (Factor((0,), jnp.zeros(2)),)), "finite variables"),
        (lambda: FactorGraph(Categorical((2,), 2), (Factor((2,), jnp.zeros(2)),)), "over variable 2"),
        (lambda: square(2, jnp.eye(2)).best(k=0), "at least one answer"),
        (lambda: square(2, jnp.eye(2)).with_costs(jnp.zeros((4, 2))), r"costs have the shape \(2, 2, 2\)"),
        (
            lambda: FactorGraph(Categorical((2,), 2), (Factor((0,), lambda x: x),)).free_energy(jnp.zeros(3)),
            r"table of shape \(3,\)",
        ),
        (
            lambda: (
                graph_of({"a": 2, "b": 3}, {("a",): jnp.zeros(2)}).cost()
                and FactorGraph(
                    graph_of({"a": 2, "b": 3}, {("a",): jnp.zeros(2)}).space,
                    (Factor([(0,), (1,)], jnp.zeros(2)),),
                )
            ),
            "make a factor for each",
        ),
    ],
)
def test_impossible_graphs_are_refused(build, message):
    with pytest.raises(SettingsError, match=message):
        build()
