"""The ten functionals against their table: values by hand, margins, and the sufficient condition."""

import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.learning import losses

INF = np.inf


def energy(right, wrong):
    return right


def perceptron(right, wrong):
    """With one wrong answer, the lowest is the lower of the two."""
    return losses.perceptron(right, jnp.minimum(right, wrong))


def of_two(functional):
    """A functional of the free energy, of one right and one wrong answer at an inverse temperature of 1."""
    return lambda right, wrong: functional(right, -jnp.logaddexp(-right, -wrong))


#: Each functional; its margin (None: not even 0; infinite: any); and its values at (0.5, 2) and (2, 0.5), by hand.
TABLE = {
    "energy": (energy, None, 0.5, 2.0),
    "perceptron": (perceptron, 0.0, 0.0, 1.5),
    "hinge": (losses.hinge, 1.0, 0.0, 2.5),
    "log": (losses.log, INF, 0.201413277983, 1.701413277983),
    "lvq2": (losses.lvq2, 0.0, 0.0, 1.0),
    "lvq2, relative": (lambda c, i: losses.lvq2_relative(c, i, 4.0), 0.0, 0.0, 0.75),
    "mce": (losses.mce, INF, 0.182425523806, 0.817574476194),
    "square-square": (losses.square_square, 1.0, 0.25, 4.25),
    "square-exp": (losses.square_exponential, INF, 0.385335283237, 4.606530659713),
    "nll": (of_two(losses.negative_log_likelihood), INF, 0.201413277983, 1.701413277983),
    "mee": (of_two(losses.mee), INF, 0.182425523806, 0.817574476194),
}


@pytest.mark.parametrize("name", TABLE)
def test_values(name):
    functional, _, low, high = TABLE[name]
    assert functional(jnp.float32(0.5), jnp.float32(2.0)) == pytest.approx(low, rel=1e-6, abs=1e-7)
    assert functional(jnp.float32(2.0), jnp.float32(0.5)) == pytest.approx(high, rel=1e-6)


#: Those that are for energies that are not negative.
DISTANCES = {"lvq2, relative", "square-square", "square-exp"}


def sufficient(functional, margin, lowest):
    """Condition 3 on energies from `lowest` up: a point with E_C + m < E_I whose loss is below that of all those with
    E_C + m > E_I."""
    right, apart = (
        a.reshape(-1)
        for a in jnp.meshgrid(jnp.arange(lowest, 5.001, 0.1), jnp.arange(-5.0, 5.001, 0.1), indexing="ij")
    )
    inside = (right + apart >= lowest) if lowest == 0 else right > -jnp.inf
    right, apart = right[inside], apart[inside]
    loss, room = np.asarray(functional(right, right + apart)), np.asarray(apart) - margin
    return bool(loss[room > 1e-3].min() < loss[room < -1e-3].min())


@pytest.mark.parametrize("name", TABLE)
def test_the_condition_for_a_margin_holds_up_to_it_and_not_beyond(name):
    functional, margin, *_ = TABLE[name]
    asked = [0.0, 0.25, 1.0, 1.5, 3.0]
    expected = [margin is not None and m <= margin for m in asked]
    lowest = 0.0 if name in DISTANCES else -5.0
    assert [sufficient(functional, m, lowest) for m in asked] == expected


@pytest.mark.parametrize("margin", [0.5, 2.0])
@pytest.mark.parametrize("functional", [losses.hinge, losses.square_square])
def test_a_margin_is_what_was_asked_for(functional, margin):
    def asked(right, wrong):
        return functional(right, wrong, margin)

    assert [sufficient(asked, m, 0.0) for m in (margin, margin + 0.5)] == [True, False]


def test_the_minus_of_the_printed_table_would_reward_wrong_answers():
    """Square-square with a plus falls as wrong answers rise; the trap is the sign of its second term."""
    wrong = jnp.linspace(0.0, 1.0, 11)
    assert (jnp.diff(losses.square_square(jnp.float32(0.3), wrong)) < 0).all()


@pytest.mark.parametrize("window", [0.5, 2.0])
def test_the_relative_lvq2_is_one_from_the_ratio_of_one_and_its_window_on(window):
    wrong = jnp.float32(0.4)
    ratios = jnp.array([0.5, 1.0, 1 + window / 2, 1 + window, 5 + window])
    found = losses.lvq2_relative(ratios * wrong, jnp.full(5, wrong), window)
    np.testing.assert_allclose(found, [0, 0, 0.5, 1, 1], atol=1e-6)


def test_energies_far_apart_overflow_nowhere():
    for name, (functional, *_) in TABLE.items():
        right, wrong = jnp.array([0.0, 1e4]), jnp.array([1e4, 0.0])
        assert np.isfinite(np.asarray(functional(right, wrong))).all(), name
