"""Lattices, against the enumeration of all of their paths."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import chisquare

from thalweg.energy.arcs import Arcs, path_lengths, stacked
from thalweg.energy.lattice import Lattice, LatticeEnergy, lattice_of
from thalweg.errors import SettingsError
from thalweg.inference.exact import draws, lowest, marginals

GENERATOR = np.random.default_rng(0)
#: Not in topological order; the arcs at (4, 5), (0, 7) and (8, 9) lie on no path from 0 to 9.
PAIRS = [(3, 9), (0, 1), (1, 3), (0, 3), (1, 2), (4, 5), (2, 9), (0, 7), (2, 3), (0, 1), (8, 9)]
SYMBOLS = 2


def drawn(*shape):
    return GENERATOR.normal(size=shape).astype(np.float32)


def paths(pairs, start, end):
    """All paths as tuples of arcs."""
    if start == end:
        return [()]
    return [(i, *rest) for i, (a, b) in enumerate(pairs) if a == start for rest in paths(pairs, b, end)]


def enumerated(pairs, start, end, energies, transitions, initial, final):
    """Every labelled path as a point, and its energy in double precision."""
    points, found = [], []
    for path in paths(pairs, start, end):
        for word in itertools.product(range(energies.shape[1]), repeat=len(path)):
            y = np.zeros(len(pairs))
            y[list(path)] = np.array(word) + 1
            steps = sum(float(transitions[a, b]) for a, b in itertools.pairwise(word))
            arcs = sum(float(energies[a, s]) for a, s in zip(path, word, strict=True))
            points.append(y)
            found.append(arcs + steps + float(initial[word[0]]) + float(final[word[-1]]))
    return np.array(points), np.array(found)


ENERGIES, TRANSITIONS = drawn(len(PAIRS), SYMBOLS), drawn(SYMBOLS, SYMBOLS)
INITIAL, FINAL = drawn(SYMBOLS), drawn(SYMBOLS)
PARTS = tuple(map(jnp.asarray, (ENERGIES, TRANSITIONS, INITIAL, FINAL)))
LATTICE = Lattice(Arcs.of(PAIRS, 0, 9), *PARTS)
POINTS, ALL = enumerated(PAIRS, 0, 9, ENERGIES, TRANSITIONS, INITIAL, FINAL)


def test_the_energy_of_a_path_and_of_what_is_none():
    np.testing.assert_allclose(jax.vmap(LATTICE)(jnp.asarray(POINTS, jnp.float32)), ALL, atol=1e-5)
    every = GENERATOR.integers(0, SYMBOLS + 1, (3000, len(PAIRS)))
    energies = np.asarray(jax.vmap(LATTICE)(jnp.asarray(every, jnp.float32)))
    known = {tuple(point) for point in POINTS.astype(int)}
    assert all(np.isfinite(e) == (tuple(y) in known) for y, e in zip(every, energies, strict=True))


def test_the_lowest_paths_are_those_of_enumeration():
    order = np.argsort(ALL)
    found = lowest(LATTICE, k=6)
    np.testing.assert_array_equal(found.values, POINTS[order[:6]])
    np.testing.assert_allclose(found.energies, ALL[order[:6]], atol=1e-5)


def test_arc_marginals_are_those_of_enumeration():
    for beta in (0.5, 40.0):
        weights = np.exp(-beta * ALL - logsumexp(-beta * ALL))
        expected = np.stack([weights @ np.equal(POINTS, v) for v in range(SYMBOLS + 1)], axis=1)
        np.testing.assert_allclose(marginals(LATTICE, beta=beta), expected, atol=1e-5)
    free, gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda e: e.free_energy()))(LATTICE)
    weights = np.exp(-ALL - logsumexp(-ALL))
    assert free == pytest.approx(-logsumexp(-ALL), abs=1e-5)
    assert LATTICE.log_partition() == pytest.approx(logsumexp(-ALL), abs=1e-5)
    step = 1e-3
    for part, (at, name) in {0: ((1, 0), "transitions"), 2: ((1,), "initial"), 3: ((0,), "final")}.items():
        changed = [ENERGIES, TRANSITIONS, INITIAL, FINAL]
        index = {"transitions": 1, "initial": 2, "final": 3}[name]
        changed[index] = changed[index].astype(np.float64).copy()
        changed[index][at] += step
        moved = enumerated(PAIRS, 0, 9, *changed)[1]
        slope = (-logsumexp(-moved) + logsumexp(-ALL)) / step
        assert getattr(gradient, name)[at] == pytest.approx(slope, abs=1e-3), part


def test_symbols_that_follow_freely():
    """Without transitions, and with symbols that cost nothing at the ends."""
    alone = Lattice(LATTICE.arcs, PARTS[0])
    free = np.zeros((SYMBOLS, SYMBOLS)), np.zeros(SYMBOLS), np.zeros(SYMBOLS)
    points, energies = enumerated(PAIRS, 0, 9, ENERGIES, *free)
    assert alone.free_energy() == pytest.approx(-logsumexp(-energies), abs=1e-5)
    found = lowest(alone, k=3)
    np.testing.assert_array_equal(found.values, points[np.argsort(energies)[:3]])


def test_draws_are_exact():
    found = np.asarray(draws(LATTICE, n=4000, key=jax.random.key(0)))
    index = {tuple(point): i for i, point in enumerate(POINTS.astype(int))}
    counts = np.bincount([index[tuple(y)] for y in found.astype(int)], minlength=len(ALL))
    weights = np.exp(-ALL - logsumexp(-ALL))
    many = weights > 0.003
    expected = 4000 * np.array([*weights[many], weights[~many].sum()])
    assert chisquare([*counts[many], counts[~many].sum()], expected).pvalue > 1e-3


def test_spelling_a_word_leaves_the_paths_that_read_so():
    for word in ((1, 0), (0, 0, 1), (1, 1, 1, 1, 1)):
        reads = [tuple(y[y > 0] - 1) for y in _in_order(POINTS.astype(int))]
        those = ALL[[of == word for of in reads]]
        spelt = LATTICE.spelling(jnp.array([*word, 0, 0])[:5], len(word))
        free, best = eqx.filter_jit(lambda e: (e.free_energy(), e.best()[1][0]))(spelt)
        assert free == pytest.approx(-logsumexp(-those) if len(those) else np.inf, abs=1e-5)
        assert best == pytest.approx(min(those, default=np.inf), abs=1e-5)


def _in_order(points):
    """The points with their arcs in the order of the path: an arc comes before those from later nodes."""
    return points[:, np.argsort([pair[0] for pair in PAIRS], kind="stable")]


def test_ragged_graphs_are_one_batch():
    cases = [(PAIRS, 0, 9), ([("a", "b"), ("b", "c"), ("a", "c")], "a", "c"), ([(5, 6)], 5, 6)]
    arcs = stacked([Arcs.of(*case) for case in cases])
    energies = drawn(3, len(PAIRS), SYMBOLS)
    zero = np.zeros(SYMBOLS)

    def network(x):
        graph, energies = x
        return Lattice(graph, energies, jnp.asarray(TRANSITIONS))

    energy = LatticeEnergy(network, len(PAIRS), SYMBOLS)
    fewest, most = path_lengths(arcs)
    lengths = [[len(path) for path in paths(*case)] for case in cases]
    np.testing.assert_array_equal(fewest, [min(of) for of in lengths])
    np.testing.assert_array_equal(most, [max(of) for of in lengths])
    costs = drawn(len(PAIRS), SYMBOLS + 1)
    dear = energy.with_costs(jnp.asarray(costs))
    x = (arcs, jnp.asarray(energies))
    free, (values, least) = eqx.filter_jit(
        lambda: (jax.vmap(energy.free_energy)(x), jax.vmap(lambda x: dear.best(x, 2))(x))
    )()
    for i, (pairs, start, end) in enumerate(cases):
        points, all_ = enumerated(pairs, start, end, energies[i], TRANSITIONS, zero, zero)
        points = np.pad(points, ((0, 0), (0, len(PAIRS) - len(pairs))))
        assert free[i] == pytest.approx(-logsumexp(-all_), abs=1e-5)
        paid = all_ + costs[np.arange(len(PAIRS)), points.astype(int)].sum(1)
        order = np.argsort(paid)[:2]
        np.testing.assert_allclose(least[i], paid[order], atol=1e-5)
        np.testing.assert_array_equal(values[i], points[order])


def test_a_path_that_is_forbidden_is_not_taken_and_derivatives_are_finite():
    barred = jnp.asarray(ENERGIES).at[0].set(jnp.inf).at[4].set(jnp.inf)
    alone = Lattice(LATTICE.arcs, barred)
    assert alone.free_energy() == jnp.inf
    gradient = eqx.filter_grad(lambda e: e.free_energy())(alone)
    np.testing.assert_array_equal(gradient.energies, 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Arcs.of([(0, 1), (1, 2), (2, 1), (2, 3)], 0, 3), r"no cycles.*(1 → 2 → 1|2 → 1 → 2)"),
        (
            lambda: Arcs.of([(0, 1), (2, 3)], 0, 3),
            "no path leads from 0 to 3: the last node that is reached is 1",
        ),
        (lambda: Arcs.of([(0, 1)], 5, 1), "no path leads from 5 to 1: no arc leaves the start"),
        (lambda: Arcs.of([(0, 1)], 1, 1), "different nodes"),
        (lambda: lattice_of([(0, 1)], jnp.zeros(2), start=0, end=1), r"energies .* \(1, 1\), not \(2, 1\)"),
        (lambda: Lattice(LATTICE.arcs, PARTS[0], jnp.zeros((3, 3))), r"transitions .* \(2, 2\)"),
        (lambda: LATTICE.with_costs(jnp.zeros((3, 3))), r"costs have the shape \(11, 3\)"),
        (lambda: LATTICE.best(k=0), "at least one answer"),
        (lambda: LatticeEnergy(lambda x: LATTICE, 3, 2).free_energy(), "the network made a lattice over"),
    ],
)
def test_impossible_lattices_are_refused(build, message):
    with pytest.raises(SettingsError, match=message):
        build()
