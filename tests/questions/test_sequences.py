"""Questions about rows in sequences, against the enumeration of all labellings of each."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from jaxtyping import Array, Float

import thalweg
from thalweg.data.dataset import Dataset
from thalweg.data.schema import Schema
from thalweg.energy.capabilities import AbstractSequential
from thalweg.energy.chain import Chain
from thalweg.energy.spaces import Record
from thalweg.errors import NotAnswered, SchemaError, SettingsError
from thalweg.model import Calibration, Model
from thalweg.questions import sequences

SHOWN, LETTERS = ("u", "v", "w"), ("a", "b", "c")
LENGTHS = (3, 1, 4, 2)


class Tagger(AbstractSequential):
    """Letters that prefer what is shown and each other, by tables."""

    shown: Float[Array, "3 3"]
    after: Float[Array, "4 3"]
    end: Float[Array, "3"]
    space: Record
    answers = (1,)

    def chain(self, values, observed, mask, starts):
        places = self.shown[values[:, 0].astype(jnp.int32)] * observed[:, :1].astype(jnp.float32)
        held = observed[:, 1:] & (values[:, 1:] != jnp.arange(3.0)[None])
        return Chain(jnp.where(held, jnp.inf, places), self.after, self.end, mask, starts, 1)

    def labelled(self, values, observed, mask, starts):
        chain = self.chain(values, observed, mask, starts)
        return chain.best()[0][0], jnp.log(chain.marginals())

    def paths(self, values, observed, mask, starts, k):
        found, energies = self.chain(values, observed, mask, starts).best(k=k)
        free = observed.at[:, 1].set(False)
        return found, energies - self.chain(values, free, mask, starts).free_energy()

    def drawn(self, values, observed, mask, starts, *, key):
        return self.chain(values, observed, mask, starts).draw(key=key)

    def marginal(self, y, observed, x=None):
        raise NotImplementedError

    def __call__(self, y, x=None):
        raise NotImplementedError


def table() -> pa.Table:
    rng = np.random.default_rng(3)
    n = sum(LENGTHS)
    return pa.table(
        {
            "word": np.repeat([7, 2, 9, 4], LENGTHS),
            "shown": rng.choice(SHOWN, n),
            "letter": rng.choice(LETTERS, n),
        }
    )


@pytest.fixture(scope="module")
def model() -> Model:
    schema = Schema.infer(Dataset(table(), "words", kinds={"word": "sequence"}), target="letter")
    keys = jax.random.split(jax.random.key(5), 3)
    energy = Tagger(
        jax.random.normal(keys[0], (3, 3)),
        jax.random.normal(keys[1], (4, 3)),
        jax.random.normal(keys[2], (3,)),
        schema.space,
    )
    rows = schema.encode(table())
    return Model(
        energy,
        "tagger",
        {},
        schema,
        Calibration(rows, np.zeros(len(rows)), np.zeros(len(rows)), np.eye(2)),
        {},
    )


def enumerated(model: Model, rows: pa.Table) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every labelling of each sequence (27, …) and its probability, by the formula."""
    F, shown = model.F, np.array([SHOWN.index(cell) for cell in rows["shown"].to_pylist()])
    found, at = [], 0
    for length in LENGTHS:
        here = shown[at : at + length]
        every = np.array(list(itertools.product(range(3), repeat=length)))
        energy = np.asarray(F.shown)[here, every].sum(axis=1) + np.asarray(F.end)[every[:, -1]]
        before = np.concatenate([np.full((len(every), 1), 3), every[:, :-1]], axis=1)
        energy = energy + np.asarray(F.after)[before, every].sum(axis=1)
        share = np.exp(-energy)
        found.append((every, share / share.sum()))
        at += length
    return found


def test_labels_are_the_best_of_all_and_their_probabilities_marginals(model):
    truth = enumerated(model, table())
    answer = model.predict(table(), "letter")
    best = np.concatenate([every[np.argmax(share)] for every, share in truth])
    marginals = np.concatenate(
        [np.stack([(every == v).T @ share for v in range(3)], axis=1) for every, share in truth]
    )
    assert answer.value.to_pylist() == [LETTERS[i] for i in best]
    np.testing.assert_allclose(answer.probabilities, marginals, atol=1e-5)
    own = np.array([LETTERS.index(cell) for cell in table()["letter"].to_pylist()])
    np.testing.assert_allclose(model.energy(table()), -np.log(marginals[np.arange(10), own]), rtol=1e-4)


def test_the_k_best_labellings_of_each_sequence(model):
    open_ = table().drop_columns(["letter"])
    labels = model.label(open_, k=3)
    for s, (every, share) in enumerate(enumerated(model, table())):
        order = np.argsort(-share)[:3]
        np.testing.assert_allclose(labels.energy[:, s][: len(order)], -np.log(share[order]), rtol=1e-4)
        for i, rank in enumerate(order):
            path = np.array(labels.paths[i].to_pylist())[labels.sequence == s]
            assert path.tolist() == [LETTERS[v] for v in every[rank]]
    assert labels.to_table().column_names == [
        "sequence",
        "letter",
        "p",
        "held",
        "letter 2",
        "letter 3",
        "energy",
        "energy 2",
        "energy 3",
    ]


def test_known_labels_are_held(model):
    """Of the labellings with the letters that are known the best one; and draws from them."""
    letters = table()["letter"].to_pylist()
    known = [letter if i in (1, 5, 9) else None for i, letter in enumerate(letters)]
    asked = table().set_column(2, "letter", pa.array(known))
    filled = model.complete(asked)["letter"].to_pylist()
    expected, at, shares = [], 0, []
    for every, share in enumerated(model, table()):
        here = known[at : at + every.shape[1]]
        fits = np.array(
            [all(h is None or LETTERS[v] == h for v, h in zip(e, here, strict=True)) for e in every]
        )
        share = np.where(fits, share, 0) / share[fits].sum()
        expected += [LETTERS[v] for v in every[np.argmax(share)]]
        shares.append((every == 0).T @ share)
        at += every.shape[1]
    assert filled == expected
    drawn = np.array(model.complete(asked, n=2000)["letter"].to_pylist()).reshape(10, 2000)
    np.testing.assert_allclose(
        (drawn == "a").mean(axis=1), np.concatenate(shares), atol=4 * np.sqrt(0.25 / 2000)
    )


def test_packed_or_apart_the_answers_are_the_same(model):
    """A sequence's answer does not depend on what lies beside it."""
    rows = model.schema.encode(table())
    together = sequences.labelled(model.F, sequences.without(rows, (1,)))
    at = 0
    for length in LENGTHS:
        part = sequences.labelled(model.F, sequences.without(rows[at : at + length], (1,)))
        np.testing.assert_array_equal(part[0], together[0][at : at + length])
        np.testing.assert_allclose(part[1], together[1][at : at + length], atol=1e-5)
        at += length


def test_a_sequence_of_no_known_kind_is_refused(model):
    with pytest.raises(SchemaError, match="has no column 'word', which says which rows belong together"):
        model.predict(table().drop_columns(["word"]), "letter")
    with pytest.raises(SettingsError, match="says which rows belong together, and is not to be asked for"):
        model.predict(table(), "word")
    with pytest.raises(NotAnswered, match="sees each row by itself"):
        thalweg.fit("wine", "kmeans", progress=False).label("wine")
    with pytest.raises(SettingsError, match="at least 1, not 0"):
        model.label(table(), k=0)
