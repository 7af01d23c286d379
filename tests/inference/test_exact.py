"""Marginals, draws, loopy belief propagation and iterated conditional modes, against enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import chisquare

from thalweg.energy import Categorical, Real, energy_of
from thalweg.energy.factors import Factor, FactorGraph, graph_of
from thalweg.errors import NotAnswered, NotConverged, SettingsError
from thalweg.inference.exact import draws, factor_marginals, lowest, marginals
from thalweg.inference.icm import icm
from thalweg.inference.loopy import loopy_argmin, loopy_beliefs

GENERATOR = np.random.default_rng(1)
BETA = 0.8


def drawn(*shape):
    return jnp.asarray(GENERATOR.normal(size=shape), jnp.float32)


def square(side, strength, field):
    index = np.arange(side * side).reshape(side, side)
    pairs = [*zip(index[:, :-1].flat, index[:, 1:].flat, strict=True)]
    pairs += zip(index[:-1].flat, index[1:].flat, strict=True)
    singles = [(i,) for i in range(side * side)]
    factors = (
        Factor(pairs, strength * drawn(len(pairs), 2, 2)),
        Factor(singles, field * drawn(side * side, 2)),
    )
    return FactorGraph(Categorical((side, side), 2), factors)


def enumerated(graph):
    """All answers, their energies in double precision, and the marginals."""
    points = np.array(list(itertools.product(*map(range, graph.sizes))))
    energies = np.zeros(len(points))
    for group in graph.groups():
        for scope, table in zip(group.scopes, np.asarray(group.tables, np.float64), strict=True):
            energies += table[tuple(points[:, v] for v in scope)]
    weights = np.exp(-BETA * energies - logsumexp(-BETA * energies))
    by_value = np.zeros((len(graph.sizes), max(graph.sizes)))
    for i in range(len(graph.sizes)):
        np.add.at(by_value[i], points[:, i], weights)
    return points, energies, weights, by_value


TREE = graph_of(
    {"a": 2, "b": 3, "c": 4, "d": 2, "e": 3},
    {("a", "b"): drawn(2, 3), ("b", "c"): drawn(3, 4), ("d", "b"): drawn(2, 3), ("c", "e"): drawn(4, 3)}
    | {("e",): jnp.array([0.3, jnp.inf, 0.1])},
)


def test_marginals_and_draws_are_those_of_enumeration():
    _, energies, weights, expected = enumerated(TREE)
    np.testing.assert_allclose(marginals(TREE, beta=BETA), expected, atol=2e-6)
    for of, names in zip(factor_marginals(TREE, beta=BETA), TREE.scopes, strict=True):
        np.testing.assert_allclose(
            of[0].sum(tuple(range(1, len(names)))), expected[names[0]][: len(of[0])], atol=2e-6
        )
    found = draws(TREE, n=4000, beta=BETA, key=jax.random.key(0))
    rank = np.ravel_multi_index(np.asarray(found, int).T, TREE.sizes)
    counts, many = np.bincount(rank, minlength=len(weights)), weights > 0.002
    assert counts[np.isinf(energies)].sum() == 0
    expected = 4000 * np.array([*weights[many], weights[~many].sum()])
    assert chisquare([*counts[many], counts[~many].sum()], expected).pvalue > 1e-3


def test_messages_are_exact_on_a_tree():
    points, energies, _, expected = enumerated(TREE)
    beliefs = loopy_beliefs(TREE, beta=BETA, damping=0.0, tolerance=1e-6)
    assert beliefs.converged
    assert beliefs.steps <= 6
    np.testing.assert_allclose(beliefs.marginals, expected, atol=5e-6)
    np.testing.assert_allclose(beliefs.bethe_free_energy, -logsumexp(-BETA * energies) / BETA, rtol=1e-5)
    found = loopy_argmin(TREE, damping=0.0)
    np.testing.assert_array_equal(found.value, points[energies.argmin()])
    np.testing.assert_allclose(found.energy, energies.min(), rtol=1e-5)


def test_messages_are_close_on_a_weak_grid():
    grid = square(4, 0.3, 1.0)
    points, energies, _, expected = enumerated(grid)
    beliefs = loopy_beliefs(grid, beta=BETA)
    assert beliefs.converged
    error = np.abs(beliefs.marginals.reshape(16, 2) - expected).max()
    assert 1e-6 < error < 5e-3
    np.testing.assert_allclose(beliefs.bethe_free_energy, -logsumexp(-BETA * energies) / BETA, atol=5e-3)
    np.testing.assert_array_equal(loopy_argmin(grid).value.ravel(), points[energies.argmin()])


def test_a_mode_is_lower_than_all_neighbours_and_no_higher_than_its_start():
    grid = square(4, 1.5, 1.0)
    start = jnp.asarray(GENERATOR.integers(0, 2, (4, 4)), jnp.float32)
    found = icm(grid, start)
    assert found.converged
    assert found.energy < grid(start)
    assert found.energy == pytest.approx(float(grid(found.value)))
    assert jnp.all(grid.neighbour_energies(found.value) >= found.energy - 1e-5)
    # A grid of strong couplings has many modes: the lowest is found from itself.
    points, energies, _, _ = enumerated(grid)
    best = jnp.asarray(points[energies.argmin()], jnp.float32).reshape(4, 4)
    np.testing.assert_array_equal(icm(grid, best).value, best)


def test_what_is_held_stays():
    y, observed = jnp.array([1.0, 2.0, 0.0, 0.0, 0.0]), jnp.array([True, True, False, False, False])
    points, energies, _, _ = enumerated(TREE)
    kept = (points[:, 0] == 1) & (points[:, 1] == 2)
    found = lowest(TREE.held(y, observed), k=2)
    order = np.flatnonzero(kept)[np.argsort(energies[kept])[:2]]
    np.testing.assert_array_equal(found.values, points[order])
    np.testing.assert_allclose(found.energies, energies[order], rtol=1e-5)


FORBIDDEN = FactorGraph(Categorical((2,), 2), (Factor((0, 1), jnp.full((2, 2), jnp.inf)),))


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda: lowest(FORBIDDEN), NotAnswered, "every answer is forbidden.*allow more"),
        (lambda: marginals(FORBIDDEN), NotAnswered, "every answer is forbidden"),
        (lambda: draws(FORBIDDEN, n=2, key=jax.random.key(0)), NotAnswered, "every answer is forbidden"),
        (
            lambda: lowest(energy_of(jnp.sum, Real((2,)))),
            SettingsError,
            "FunctionEnergy has no exact structured",
        ),
        (
            lambda: loopy_beliefs(TREE, steps=2),
            NotConverged,
            "raise the damping or the steps",
        ),
        (lambda: loopy_argmin(FORBIDDEN), NotConverged, "no answer with a finite energy"),
        (lambda: loopy_beliefs(TREE, damping=1.0), SettingsError, "share of a message"),
        (lambda: loopy_beliefs(TREE, steps=0), SettingsError, "at least once"),
        (lambda: loopy_argmin(energy_of(jnp.sum, Real((2,)))), SettingsError, "factors of a FactorGraph"),
        (lambda: icm(TREE, jnp.zeros(3)), SettingsError, r"start has shape \(3,\)"),
        (
            lambda: icm(energy_of(jnp.sum, Real((2,))), jnp.zeros(2)),
            SettingsError,
            "minimise with Coordinate",
        ),
    ],
)
def test_what_cannot_be_answered_says_why(ask, error, message):
    with pytest.raises(error, match=message):
        ask()
