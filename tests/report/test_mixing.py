"""The part about chains: whether it says what chains are known to do, and only where chains draw."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stub import StubModel, wine_table
from test_page import Checked

from thalweg.data.rows import Rows
from thalweg.energy.capabilities import AbstractAnnealed, AbstractZeroTemperature
from thalweg.energy.spaces import AbstractSpace, Column, Real, Record
from thalweg.errors import NotAnswered
from thalweg.models.ising import Ising
from thalweg.questions import chains
from thalweg.report import mixing
from thalweg.report.html import LeftOut
from thalweg.report.page import page

PAIRS = 5
BITS = Record(tuple(Column(f"bit {i}", "categorical", size=2) for i in range(2 * PAIRS)))


def pairs_of_bits(coupling: float) -> SimpleNamespace:
    """A model of pairs of bits that are equal with odds e^(2 coupling), and 0 as often as 1."""
    couplings = np.kron(np.eye(PAIRS), [[0, 1], [1, 0]]).astype(np.float32)
    F = Ising(BITS, jnp.asarray(coupling * couplings), jnp.zeros(2 * PAIRS))
    values = np.random.default_rng(0).integers(0, 2, (40, 2 * PAIRS)).astype(np.float32)
    rows = Rows(values, np.ones(values.shape, bool), np.zeros(len(values), np.int64))
    return SimpleNamespace(
        F=F, schema=SimpleNamespace(space=BITS), evidence={}, _walker=chains.Walker(F, rows)
    )


def test_chains_that_mix_are_said_to():
    model = pairs_of_bits(0.5)
    found = chains.mixing(model._walker)
    assert found.complaints == []
    # Every bit is 0 as often as 1, and equal to its neighbour with probability e / (1 + e).
    draws = found.settled.draws
    np.testing.assert_array_less(np.abs(draws.mean(axis=(0, 1)) - 0.5), 5 * found.settled.standard_error)
    equal = np.mean(draws[..., ::2] == draws[..., 1::2])
    assert equal == pytest.approx(np.e / (1 + np.e), abs=5 * 0.5 / np.sqrt(found.settled.bulk_ess.min()))
    section = mixing.chains(model)
    assert "trusted" in section.title
    assert "Do not" not in section.title


def test_chains_that_stay_where_they_are_are_said_to_with_the_remedy():
    section = mixing.chains(pairs_of_bits(20.0))
    text = Checked(section.html()).text
    assert section.title == "Do not trust these draws yet"
    assert "do not agree yet" in text
    assert "--steps 4000" in text
    assert "bit " in text


class Led(Ising, AbstractAnnealed):
    """Pairs of bits that never part, and exact draws of them to start at."""

    def annealed(self, y, observed, *, key):
        first = jax.random.bernoulli(key, 0.5, (PAIRS,)).astype(jnp.float32)
        return jnp.where(observed, y, jnp.repeat(first, 2))


def test_chains_that_are_led_start_there_and_are_not_compared():
    model = pairs_of_bits(20.0)
    F = Led(**vars(model.F))
    model.F, model._walker = F, chains.Walker(F, model._walker.rows)
    found = chains.mixing(model._walker)
    assert (found.led, found.complaints, found.steps) == (True, [], chains.LED)
    assert "was led to a place of its own" in mixing.chains(model).title
    nothing = Rows(
        np.zeros((1, 2 * PAIRS), np.float32), np.zeros((1, 2 * PAIRS), bool), np.zeros(1, np.int64)
    )
    drawn = chains.draws(model._walker, nothing, 400, 0, None)
    np.testing.assert_array_equal(drawn[:, ::2], drawn[:, 1::2])
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=5 * 0.5 / 20)


def test_the_facts_are_those_of_the_second_half():
    model = pairs_of_bits(0.5)
    found, section = chains.mixing(model._walker), mixing.chains(model)
    settled = found.settled
    assert settled.draws.shape == (chains.CHAINS, chains.KEPT, 2 * PAIRS)
    np.testing.assert_array_equal(settled.draws, found.chains.draws[:, -chains.KEPT :])
    text = Checked(section.html()).text
    assert f"{settled.r_hat.max():.2f} at most" in text
    assert f"{settled.bulk_ess.min():.0f} of {settled.energies.size} draws" in text
    worst = int(np.argmax(settled.r_hat))
    assert f"{BITS.names[worst]} {settled.r_hat[worst]:.3f}" in text


def test_a_model_with_exact_draws_has_none():
    assert isinstance(mixing.chains(StubModel(wine_table())), LeftOut)
    checked = Checked(page(StubModel(wine_table())))
    assert "chains" not in checked.ids
    assert "Chains : its draws are exact and need none" in checked.text


class Distance(AbstractZeroTemperature):
    """How far from 0."""

    space: AbstractSpace

    def __call__(self, y, x=None):
        return y @ y


def test_a_distance_has_no_draws():
    F = Distance(Real((2,)))
    with pytest.raises(NotAnswered, match="has no draws"):
        mixing.chains(SimpleNamespace(F=F, _walker=chains.Walker(F, None)))
