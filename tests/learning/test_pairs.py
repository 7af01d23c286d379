"""Losses of pairs against values by hand, sums in plain loops and enumerated triplets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.energy import Real
from thalweg.energy.capabilities import AbstractEmbedded
from thalweg.errors import DataError, SettingsError
from thalweg.learning import pairs
from thalweg.learning.groups import groups, some_of_each
from thalweg.learning.objective import EnergyLoss

N = 12


@pytest.fixture(scope="module")
def batch():
    """Embeddings of length 1, their classes (one with a single row), squares of distances, kinds of pairs."""
    rng = np.random.default_rng(2)
    u = rng.normal(size=(N, 3)).astype(np.float32)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    of = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4], np.int32)
    present = np.arange(N) != 1
    same, other = pairs.kinds_of_pairs(jnp.asarray(of), jnp.asarray(present))
    return u, of, present, pairs.square_distances(jnp.asarray(u), jnp.asarray(u)), same, other


def ordered(batch):
    """Ordered pairs of different rows that are present, with their distance and whether they are of one class."""
    u, of, present, *_ = batch
    for i, j in itertools.permutations(range(N), 2):
        if present[i] and present[j]:
            yield i, j, float(np.linalg.norm(u[i] - u[j])), of[i] == of[j]


def test_square_distances(batch):
    u, *_, squares, _, _ = batch
    expected = np.sum((u[:, None] - u[None, :]) ** 2, axis=2)
    np.testing.assert_allclose(squares, expected, atol=1e-6)


def test_kinds_of_pairs(batch):
    *_, same, other = batch
    for i, j, _, alike in ordered(batch):
        assert bool(same[i, j]) == alike
        assert bool(other[i, j]) == (not alike)
    assert not np.any((same | other)[1])
    assert not np.any(np.diagonal(same | other))


def test_contrastive_is_square_square(batch):
    *_, squares, same, other = batch
    near = [d**2 / 2 for _, _, d, alike in ordered(batch) if alike]
    far = [max(0, 0.9 - d) ** 2 / 2 for _, _, d, alike in ordered(batch) if not alike]
    found = pairs.contrastive(squares, same, other, 0.9)
    assert float(found) == pytest.approx((np.sum(near) + np.sum(far)) / len(near), rel=1e-5)


def test_contrastive_by_hand():
    # Two rows at distance 0.5, margin 2: 0.125 of one class; of two 1.125, and that for either order.
    squares = jnp.array([[0.0, 0.25], [0.25, 0.0]])
    off = ~jnp.eye(2, dtype=bool)
    none = jnp.zeros((2, 2), bool)
    assert float(pairs.contrastive(squares, off, none, 2.0)) == pytest.approx(0.125)
    assert float(pairs.contrastive(squares, none, off, 2.0)) == pytest.approx(2.25)


def test_near_a_point_the_push_is_whole_and_at_it_none():
    off = ~jnp.eye(2, dtype=bool)

    def loss(gap):
        squares = jnp.array([[0.0, 1.0], [1.0, 0.0]]) * gap**2
        return pairs.contrastive(squares, jnp.zeros((2, 2), bool), off, 1.0)

    # d/dD of (m - D)^2 / 2 is D - m, for either order of the two: on the way to collapse the push is as hard as can be.
    assert float(jax.grad(loss)(1e-3)) == pytest.approx(2 * (1e-3 - 1.0), rel=1e-4)
    assert float(jax.grad(loss)(0.0)) == 0.0


def semi_hard(batch, margin):
    """The loss by going through all triplets."""
    u, of, present, *_ = batch
    squares = np.sum((u[:, None] - u[None, :]).astype(np.float64) ** 2, axis=2)
    losses = []
    for a, p in itertools.permutations(range(N), 2):
        if not (present[a] and present[p] and of[a] == of[p]):
            continue
        negatives = [squares[a, n] for n in range(N) if present[n] and of[n] != of[a]]
        farther = [d for d in negatives if d > squares[a, p]]
        chosen = min(farther) if farther else max(negatives)
        losses.append(max(0.0, squares[a, p] - chosen + margin))
    return np.mean(losses)


@pytest.mark.parametrize("margin", [0.05, 0.3, 2.0])
def test_triplets_are_those_of_brute_force(batch, margin):
    *_, squares, same, other = batch
    assert float(pairs.triplet(squares, same, other, margin)) == pytest.approx(
        semi_hard(batch, margin), rel=1e-5
    )


def test_info_nce_is_a_softmax_over_one_partner_and_all_of_other_classes(batch):
    _, of, present, squares, same, other = batch
    energies = np.asarray(squares, np.float64) / 0.4
    losses = []
    for a, p, _, alike in ordered(batch):
        if alike:
            rivals = [n for n in range(N) if present[n] and of[n] != of[a]]
            logits = -np.array([energies[a, p], *energies[a, rivals]])
            losses.append(-np.log(np.exp(logits[0]) / np.exp(logits).sum()))
    assert float(pairs.info_nce(squares / 0.4, same, other)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_matching_is_the_mean_of_both_softmaxes():
    energies = np.random.default_rng(0).exponential(size=(5, 5))
    p = np.exp(-energies)
    rows, columns = np.diag(p / p.sum(1, keepdims=True)), np.diag(p / p.sum(0, keepdims=True))
    expected = -(np.log(rows) + np.log(columns)).mean() / 2
    assert float(pairs.matching(jnp.asarray(energies, jnp.float32))) == pytest.approx(expected, rel=1e-5)
    # Energies that say nothing: one of five.
    assert float(pairs.matching(jnp.zeros((5, 5)))) == pytest.approx(np.log(5), rel=1e-6)


LOSSES = {
    "contrastive": lambda s, same, other: pairs.contrastive(s, same, other, 1.0),
    "triplet": lambda s, same, other: pairs.triplet(s, same, other, 0.2),
    "info_nce": pairs.info_nce,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [[0, 0, 0], [0, 1, 2], [0, 0, 1]])
def test_a_batch_without_one_kind_of_pair_has_a_finite_gradient(name, classes):
    of = jnp.array(classes, jnp.int32)
    same, other = pairs.kinds_of_pairs(of, jnp.ones(3, bool))

    def loss(u):
        return LOSSES[name](pairs.square_distances(u, u), same, other)

    value, slope = jax.value_and_grad(loss)(jnp.eye(3))
    assert np.isfinite(value)
    assert np.all(np.isfinite(slope))


class Directions(AbstractEmbedded):
    """Each row its own direction, turned by a learnt matrix."""

    space: Real
    turn: jax.Array

    @property
    def temperature(self):
        return 0.2

    @property
    def sides(self):
        return (0, 1), (0, 1)

    def embed(self, y, observed, side=0, *, key=None):
        v = y @ self.turn
        return v / jnp.linalg.norm(v)

    def __call__(self, y, x=None):
        return jnp.sum(y**2)


@pytest.mark.parametrize("objective", [pairs.Contrastive(3), pairs.Triplet(3), pairs.InfoNCE(3)])
def test_an_objective_is_its_loss_over_all_rows_of_the_batch(objective):
    rng = np.random.default_rng(1)
    values, of = rng.normal(size=(9, 2)).astype(np.float32), np.array([0, 0, 0, 1, 1, 1, 2, 2, 3])
    energy = Directions(Real((2,)), jnp.array([[1.0, 0.2], [0.1, 1.0]]))
    laid = groups((values, np.ones_like(values, bool)), of, 3, seed=0)
    found, (_, metrics) = objective(energy, laid, None, key=jax.random.key(0))
    u = jax.vmap(energy.embed, (0, None))(jnp.asarray(values), jnp.ones(2, bool))
    squares = pairs.square_distances(u, u)
    same, other = pairs.kinds_of_pairs(jnp.asarray(of, jnp.int32), jnp.ones(9, bool))
    assert float(found) == pytest.approx(float(objective.of_pairs(energy, squares, same, other)), rel=1e-5)
    alone = np.where(np.asarray(same | other), squares, np.inf)
    right = of[alone.argmin(axis=1)] == of
    assert float(metrics["recall"]) == pytest.approx(right[:8].mean())
    assert float(metrics["apart"]) == pytest.approx(
        np.sqrt(np.asarray(squares))[np.asarray(other)].mean(), rel=1e-5
    )


def test_energies_without_embedding_are_refused():
    from thalweg import energy_of

    energy = energy_of(lambda y: jnp.sum(y**2), Real((2,)))
    for objective in (pairs.Contrastive(), pairs.Matching()):
        with pytest.raises(SettingsError, match="FunctionEnergy has no embedding"):
            objective(energy, None, None, key=jax.random.key(0))


def test_settings_that_cannot_be():
    with pytest.raises(SettingsError, match="at least 2 rows of it in a batch, not 1"):
        pairs.Triplet(each=1)
    with pytest.raises(SettingsError, match="margin must be more than 0, not -1"):
        pairs.Contrastive(margin=-1.0)
    assert EnergyLoss().measures_progress


def test_groups_hold_every_row_once():
    of = np.array([5, 2, 5, 5, 2, 9, 5, 5, 5])
    laid = groups(np.arange(9), of, 4, seed=3)
    rows, present = np.asarray(laid.rows), np.asarray(laid.present)
    assert sorted(rows[present].tolist()) == list(range(9))
    assert present.sum(axis=1).tolist() == [2, 3, 3, 1]  # six rows of class 5 are two groups of three
    assert np.asarray(laid.of).tolist() == [2, 5, 5, 9]
    for group, kind, known in zip(rows, np.asarray(laid.of), present, strict=True):
        assert set(of[group]) == {kind}
        assert set(group) == set(group[known])


def test_some_of_each_draws_rows_that_are_there_without_repetition():
    laid = groups(np.arange(40), np.repeat([0, 1, 2], [2, 8, 30]), 16, seed=0)
    seen = set()
    for i in range(30):
        some = some_of_each(laid, 4, key=jax.random.key(i))
        rows, present = np.asarray(some.rows), np.asarray(some.present)
        assert present.sum(axis=1).tolist() == [2, 4, 4, 4]
        drawn = rows[present].tolist()
        assert len(set(drawn)) == len(drawn)
        seen |= set(drawn)
    assert seen == set(range(40))


def test_no_rows_no_groups():
    with pytest.raises(DataError, match="no rows to lay out"):
        groups(np.zeros((0, 2)), np.zeros(0, int), 4, seed=0)
