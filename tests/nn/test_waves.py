"""Waves of numbers: against the formula, through the inputs of a network, and what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg
from thalweg.energy.spaces import Column, Record
from thalweg.errors import SettingsError
from thalweg.models.inputs import Inputs
from thalweg.models.networks import NetworkSettings, network_of
from thalweg.nn.initial import drawn
from thalweg.nn.waves import Waves


def test_waves_are_sines_and_cosines_of_each_number():
    waves = Waves(2, 3, 0.5, initial=drawn(jax.random.key(0)))
    u = np.array([0.3, -1.2], np.float32)
    angles = 2 * np.pi * (u[:, None] * np.asarray(waves.frequencies)).ravel()
    np.testing.assert_allclose(waves(jnp.asarray(u)), np.r_[np.sin(angles), np.cos(angles)], atol=1e-5)
    assert waves.width == len(waves(jnp.asarray(u))) == 12


def test_frequencies_have_the_deviation_asked_for():
    waves = Waves(50, 100, 0.3, initial=drawn(jax.random.key(1)))
    assert np.std(waves.frequencies) == pytest.approx(0.3, rel=0.05)


def space() -> Record:
    return Record(
        (
            Column("a", "real"),
            Column("c", "categorical", size=3),
            Column("b", "real"),
            Column("y", "real"),
        )
    )


def test_a_network_reads_the_numbers_and_their_waves():
    settings = NetworkSettings(network="mlp", width=8, layers=1, waves=4, dropout=0.0)
    network = network_of(Inputs(space(), (3,)), 1, settings, drawn(jax.random.key(0)))
    plain = network.inputs.width
    y, known = jnp.array([0.5, 2.0, -0.7, 9.0]), jnp.array([True, True, False, True])
    read = network.inputs.read(y, known)
    u = network.inputs.numbers(y, known)
    assert u.shape == (2,)
    # What is missing stands at the middle.
    assert u[1] == 0
    weights = jax.random.normal(jax.random.key(2), (plain + network.waves.width, 5))
    seen = jnp.concatenate([read, network.waves(u)]) @ weights
    np.testing.assert_allclose(network._first(y, known, weights, None), seen, rtol=1e-4, atol=1e-5)


def test_there_are_no_waves_without_numbers_or_without_a_hidden_layer():
    columns = Record((Column("c", "categorical", size=3), Column("y", "real")))
    settings = NetworkSettings(network="mlp", waves=4)
    assert network_of(Inputs(columns, (1,)), 1, settings, drawn(jax.random.key(0))).waves is None
    linear = NetworkSettings(network="linear", waves=4)
    assert network_of(Inputs(space(), (3,)), 1, linear, drawn(jax.random.key(0))).waves is None


@pytest.mark.parametrize(
    ("wrong", "said"), [({"waves": -1}, "counted from 0"), ({"frequency": 0.0}, "deviation above 0")]
)
def test_wrong_settings_are_named(wrong, said):
    with pytest.raises(SettingsError, match=said):
        NetworkSettings(**wrong)


@pytest.mark.filterwarnings("ignore:.*outside the range of training")
def test_what_changes_quickly_is_learnt_with_waves():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 1500)
    rows = {"x": x, "y": np.where(np.sin(25 * x) > 0, "up", "down")}
    new = {"x": np.linspace(-0.95, 0.95, 400)}
    right = np.where(np.sin(25 * new["x"]) > 0, "up", "down")
    share = {}
    for waves in (0, 16):
        model = thalweg.fit(
            rows,
            "classifier",
            target="y",
            steps=400,
            width=32,
            waves=waves,
            frequency=2.0,
            calibrate=False,
            progress=False,
        )
        share[waves] = np.mean(np.array(model.predict(new).value.to_pylist()) == right)
    assert share[16] > 0.93
    assert share[16] > share[0] + 0.1
