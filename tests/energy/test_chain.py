"""Chains against the list of all their labellings, in numpy's float64."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from thalweg.energy import sumproduct
from thalweg.energy.chain import Chain
from thalweg.energy.logsum import log_partition_in_logs
from thalweg.errors import SettingsError

N, K = 6, 3
#: Which places count, and where sequences start: whole; holes, and a start at a hole; lengths 2, 0, 1, 1; nothing.
MASKS = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 1], [1, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]], bool)
STARTS = np.array([[1, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0], [1, 0, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0]], bool)
#: Order of the transitions, spread of the scores in nats, whether some are forbidden, whether they vary by place.
KINDS = {
    "order 1": (1, 1.0, False, False),
    "order 2": (2, 1.0, False, False),
    "order 3": (3, 1.0, False, False),
    "varying, order 2": (2, 1.0, False, True),
    "hundreds of nats": (1, 200.0, False, False),
    "forbidden, hundreds of nats, order 2": (2, 200.0, True, False),
    "forbidden, hundreds of nats, varying": (1, 200.0, True, True),
}


@pytest.fixture(params=KINDS, scope="module")
def batch(request):
    """One table of transitions under every mask, with all labellings and their energies."""
    order, scale, forbidden, varying = KINDS[request.param]
    rng = np.random.default_rng(order)
    table = (N,) * varying + (K + 1,) * order + (K,)
    places, after, end = (scale * rng.normal(size=shape) for shape in ((len(MASKS), N, K), table, (K,)))
    if forbidden:
        after[rng.random(table) < 0.25] = np.inf
        places[0, 3, 1] = np.inf
    places, after, end = (a.astype(np.float32) for a in (places, after, end))
    chain = Chain(jnp.asarray(places[0]), jnp.asarray(after), jnp.asarray(end), MASKS[0], STARTS[0], order)
    rows = (jnp.asarray(places), jnp.asarray(MASKS), jnp.asarray(STARTS))
    truth = [enumerated(*row, after, end, order) for row in zip(places, MASKS, STARTS, strict=True)]
    return chain, rows, truth


def enumerated(places, mask, starts, after, end, order) -> dict[tuple[int, ...], float]:
    """The energy of every labelling, written as its definition."""
    sequences = [
        [t for t in part if mask[t]] for part in np.split(np.arange(N), np.flatnonzero(starts)) if len(part)
    ]
    kept = [t for part in sequences for t in part]
    varying = after.ndim == order + 2
    energies = {}
    for labels in itertools.product(range(K), repeat=len(kept)):
        y = np.zeros(N, int)
        y[kept] = labels
        total = 0.0
        for part in sequences:
            padded = [K] * order + [y[t] for t in part]
            for i, t in enumerate(part):
                step = tuple(padded[i : i + order + 1])
                total += float(places[t, y[t]]) + float(after[(t, *step) if varying else step])
            total += float(end[y[part[-1]]]) if part else 0.0
        energies[tuple(y)] = total
    return energies


def at(chain, row):
    places, mask, starts = row
    return replace(chain, places=places, mask=mask, starts=starts)


def over(batch, function):
    """`function` of each chain, compiled for all of them at once."""
    chain, rows, _ = batch
    return jax.jit(jax.vmap(lambda row: function(at(chain, row))))(rows)


def gibbs(energies: dict, beta: float) -> tuple[float, np.ndarray]:
    """The free energy and the probabilities of the labellings."""
    values = np.array(list(energies.values()))
    total = logsumexp(-beta * values)
    return -total / beta, np.exp(-beta * values - total)


def rounding(energies: dict) -> float:
    """What float32 may take off sums of scores of this size."""
    values = np.array(list(energies.values()))
    return 2e-6 * max(5.0, np.abs(values[np.isfinite(values)]).max())


def test_energies(batch):
    chain, rows, truth = batch
    for i, energies in enumerate(truth):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], rows)
        labels = jnp.asarray(np.array(list(energies)), jnp.float32)
        found = jax.jit(jax.vmap(at(chain, row)))(labels)
        np.testing.assert_allclose(found, list(energies.values()), rtol=0, atol=rounding(energies))


@pytest.mark.parametrize("beta", [0.3, 7.0])
def test_free_energies_and_marginals(batch, beta):
    free = over(batch, lambda chain: chain.free_energy(beta=beta))
    marginals = np.asarray(over(batch, lambda chain: chain.marginals(beta)))
    for i, energies in enumerate(batch[2]):
        expected, shares = gibbs(energies, beta)
        np.testing.assert_allclose(free[i], expected, rtol=0, atol=rounding(energies))
        labels = np.array(list(energies))
        truth = np.stack([(shares[:, None] * (labels == v)).sum(axis=0) for v in range(K)], axis=1)
        np.testing.assert_allclose(marginals[i], truth * MASKS[i][:, None], atol=1e-5)


def test_marginals_of_transitions(batch):
    chain, _, truth = batch

    def slope(one):
        return jax.grad(lambda after: replace(one, transitions=after).free_energy())(chain.transitions)

    found = np.asarray(over(batch, slope))
    # Counted by the energies themselves: how often the labellings use each entry.
    for i, energies in enumerate(truth):
        _, shares = gibbs(energies, 1.0)
        row = jax.tree.map(lambda leaf, i=i: leaf[i], batch[1])
        one = at(chain, row)
        used = jax.vmap(
            lambda y, one=one: jax.grad(lambda a: replace(one, transitions=a)(y))(
                jnp.zeros_like(chain.transitions)
            )
        )(jnp.asarray(np.array(list(energies)), jnp.float32))
        np.testing.assert_allclose(found[i], np.tensordot(shares, np.asarray(used, float), 1), atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_best_labellings(batch, k):
    paths, found = over(batch, lambda chain: chain.best(k=k))
    for i, energies in enumerate(batch[2]):
        values = np.sort(list(energies.values()))[:k]
        values = np.append(values, np.full(k - len(values), np.inf))
        np.testing.assert_allclose(found[i], values, rtol=0, atol=rounding(energies))
        there = np.isfinite(found[i])
        named = [tuple(path) for path in np.asarray(paths[i], int)[there]]
        assert len(set(named)) == len(named)
        np.testing.assert_allclose(
            [energies[y] for y in named], found[i][there], rtol=0, atol=rounding(energies)
        )


@pytest.mark.parametrize("batch", ["order 1", "forbidden, hundreds of nats, order 2"], indirect=True)
def test_draws_have_the_probabilities(batch):
    n = 4000
    draws = over(
        batch, lambda chain: jax.vmap(lambda key: chain.draw(key=key))(jax.random.split(jax.random.key(0), n))
    )
    for i, energies in enumerate(batch[2]):
        _, shares = gibbs(energies, 1.0)
        index = {y: j for j, y in enumerate(energies)}
        counts = np.bincount([index[tuple(y)] for y in np.asarray(draws[i], int)], minlength=len(index))
        # Pearson's statistic over labellings expected five times or more, the others together.
        often = shares * n >= 5
        observed = np.append(counts[often], counts[~often].sum())
        expected = np.append(shares[often], shares[~often].sum()) * n
        used = expected > 1e-3
        assert observed[~used].sum() == 0
        statistic = ((observed[used] - expected[used]) ** 2 / expected[used]).sum()
        freedom = max(used.sum() - 1, 1)
        assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_products_and_logarithms_agree_and_say_when_they_do_not_serve():
    rng = np.random.default_rng(0)
    for spread, served in ((1.0, True), (300.0, False)):
        places, after = spread * rng.normal(size=(40, 5)), spread * rng.normal(size=(6, 5))
        after[:5][rng.random((5, 5)) < 0.5] = np.inf
        chain = Chain(
            jnp.asarray(places, jnp.float32),
            jnp.asarray(after, jnp.float32),
            jnp.zeros(5),
            jnp.ones(40, bool),
            jnp.arange(40) == 0,
            1,
        )
        scores = chain._scores(-1.0)
        assert bool(sumproduct.both_ways(scores)[-1]) == served
        np.testing.assert_allclose(sumproduct.log_partition(scores), log_partition_in_logs(scores), rtol=1e-5)


def test_derivatives_of_marginals():
    rng = np.random.default_rng(1)
    places, after = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((N, K), (K + 1, K)))
    chain = Chain(places, after, jnp.zeros(K), jnp.asarray(MASKS[1]), jnp.asarray(STARTS[1]), 1)
    found = jax.jit(jax.hessian(lambda places: replace(chain, places=places).free_energy()))(places)
    energies = enumerated(np.asarray(places), MASKS[1], STARTS[1], np.asarray(after), np.zeros(K), 1)
    _, shares = gibbs(energies, 1.0)
    ones = np.array([np.eye(K)[list(y)] * MASKS[1][:, None] for y in energies]).reshape(len(shares), -1)
    mean = shares @ ones
    covariance = (ones * shares[:, None]).T @ ones - np.outer(mean, mean)
    np.testing.assert_allclose(np.asarray(found).reshape(N * K, N * K), -covariance, atol=1e-5)


def test_no_labelling_is_allowed():
    after = jnp.full((3, 2), jnp.inf).at[2].set(0.0)
    chain = Chain(jnp.zeros((3, 2)), after, jnp.zeros(2), jnp.ones(3, bool), jnp.arange(3) == 0, 1)
    assert chain.free_energy() == jnp.inf
    assert chain.best()[1][0] == jnp.inf


def test_tables_of_the_wrong_shape_are_named():
    with pytest.raises(SettingsError, match=r"order 1 between 2 labels have the shape \(3, 2\)"):
        Chain(jnp.zeros((3, 2)), jnp.zeros((2, 2)), jnp.zeros(2), jnp.ones(3, bool), jnp.ones(3, bool), 1)
