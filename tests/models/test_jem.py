"""One network that classifies and is an energy: its two sides agree, and it learns to read digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

import thalweg
from thalweg.data.dataset import Dataset
from thalweg.data.load import load
from thalweg.data.schema import Schema
from thalweg.errors import SettingsError
from thalweg.models.canvas import canvas_of
from thalweg.models.conv_ebm import build
from thalweg.models.jem import Settings
from thalweg.nn.initial import drawn

FEW = {"channels": 4, "layers": 3, "buffer": 50, "chain": 5, "progress": False}


def network():
    schema = Schema.infer(load("digits"), target="label")
    F = build(schema.space, Settings(target="label", channels=3, layers=3), drawn(jax.random.key(0)))
    rows = jnp.asarray(schema.encode(load("digits").table.slice(0, 5)).values)
    return F, rows, schema


def test_the_logits_are_the_energy_and_the_picture_is_their_sum():
    F, rows, schema = network()
    place = schema.index("label")
    for y in rows:
        each = np.array([F(y.at[place].set(label)) for label in range(10)])
        h = F.features(y[canvas_of(F.space).pixels])
        np.testing.assert_allclose(each, -np.asarray(F.outputs(h)), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(F.of_picture(h), -jax.nn.logsumexp(-each), rtol=1e-4)
        p = np.exp(-each - np.logaddexp.reduce(-each))
        codes = jnp.stack([y.at[place].set(label) for label in range(10)])
        logs = jax.vmap(lambda y, h=h: F.log_probs(h, y)[0])(codes)
        np.testing.assert_allclose(np.exp(logs), p, atol=1e-5)


@pytest.mark.slow
def test_digits_are_read_and_other_pictures_are_told_from_them(tmp_path):
    digits = load("digits").table
    model = thalweg.fit(digits.slice(0, 1200), "jem", target="label", matching=400, steps=20, **FEW)
    test = digits.slice(1200)
    right = np.asarray(model.predict(test).value) == np.asarray(test["label"])
    assert right.mean() > 0.9
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(thalweg.load(tmp_path / "model").energy(test[:5]), model.energy(test[:5]))


def test_what_is_no_labelled_picture_is_refused():
    with pytest.raises(SettingsError, match="say which, target="):
        thalweg.fit("digits", "jem", **FEW)
    with pytest.raises(SettingsError, match="for a table fit mlp-ebm"):
        thalweg.fit("wine", "jem", target="target", **FEW)
    digits = load("digits")
    ink = np.linspace(0.0, 1.0, digits.table.num_rows)
    inked = Dataset(digits.table.append_column("ink", pa.array(ink)), "digits", digits.grid)
    with pytest.raises(SettingsError, match="predicts a category, and 'ink' is a number"):
        thalweg.fit(inked, "jem", target="ink", **FEW)
    with pytest.raises(SettingsError, match="pictures with a label, and 'ink' is neither"):
        thalweg.fit(inked, "jem", target="label", **FEW)
