"""crf: its questions against enumeration, its networks against copies by hand, its training against known sequences."""

import itertools
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

import thalweg
from thalweg.data.dataset import Dataset
from thalweg.errors import DataError, DataWarning, SettingsError
from thalweg.models import crf
from thalweg.models.inputs import Elements, Inputs, Seen
from thalweg.nn.initial import drawn
from thalweg.nn.recurrent import BothWays
from thalweg.sklearn import EnergyLabeller

TAGS = ("a", "b", "c")
#: A hidden Markov chain: what follows what, and what is seen of each.
AFTER = np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]])
SEEN = np.array([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]])


def draw(sequences: int, seed: int, sharp: float = 1.0) -> Dataset:
    """Sequences of the chain, of one to seven rows, with the words that are seen; more of what is likely if `sharp`."""
    rng = np.random.default_rng(seed)
    after, emitted = (table**sharp / (table**sharp).sum(axis=1, keepdims=True) for table in (AFTER, SEEN))
    of, tag, word = [], [], []
    for s in range(sequences):
        state = rng.integers(3)
        for _ in range(rng.integers(1, 8)):
            of.append(s)
            tag.append(TAGS[state])
            word.append("uvw"[rng.choice(3, p=emitted[state])])
            state = rng.choice(3, p=after[state])
    table = pa.table({"of": of, "word": word, "tag": tag})
    return Dataset(table, "chain", kinds={"of": "sequence", "tag": "categorical"})


def truth(dataset: Dataset) -> np.ndarray:
    """The marginals of the chain that the rows were drawn from, by the sum over all labellings of each sequence."""
    words = np.array(["uvw".index(w) for w in dataset.table["word"].to_pylist()])
    of, out = np.array(dataset.table["of"].to_pylist()), []
    for s in np.unique(of):
        seen = words[of == s]
        every = np.array(list(itertools.product(range(3), repeat=len(seen))))
        p = SEEN[every, seen].prod(axis=1) * AFTER[every[:, :-1], every[:, 1:]].prod(axis=1)
        out.append(np.stack([p @ (every == v) for v in range(3)], axis=1) / p.sum())
    return np.concatenate(out)


@pytest.fixture(scope="module")
def fitted():
    return thalweg.fit(draw(1500, 0), "crf", target="tag", progress=False)


def test_the_marginals_of_the_chain_are_found(fitted):
    """The field of a hidden Markov chain is in the model: what is left is the error of some twenty weights."""
    new = draw(300, 1)
    marginals = truth(new)
    shares = fitted.predict(new).probabilities
    divergence = np.sum(marginals * (np.log(marginals) - np.log(shares)), axis=1).mean()
    assert 0 <= divergence < 0.01
    alone = SEEN[:, ["uvw".index(w) for w in new.table["word"].to_pylist()]].T
    tags = np.array([TAGS.index(t) for t in new.table["tag"].to_pylist()])
    by_itself = np.mean(alone.argmax(axis=1) == tags)
    together = np.mean(fitted.predict(new).probabilities.argmax(axis=1) == tags)
    assert together > by_itself + 0.05
    assert float(fitted.F.beta) == pytest.approx(1, abs=0.15)


def test_it_is_saved_and_answers_the_same(fitted, tmp_path):
    new = draw(20, 2)
    again = thalweg.load(fitted.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.energy(new), fitted.energy(new))
    assert again.label(new, k=2).to_table().equals(fitted.label(new, k=2).to_table())
    assert again.calibration.rows.sequence is not None
    scores = again.score(new)
    np.testing.assert_array_equal(scores.p_value, fitted.score(new).p_value)


def test_batches_number_their_sequences_on(fitted):
    new = draw(30, 8).table
    whole = fitted.label(new, k=3).to_table()
    batches = [new.slice(0, 0), *(new.slice(at, 17) for at in range(0, len(new), 17))]
    parts = [table for table in thalweg.answer_batches(fitted, "label", batches, k=3) if len(table)]
    assert len(parts) > 3
    assert pa.concat_tables(parts).equals(whole)
    # A sequence of one row has three labellings, of which some are beyond what it has.
    short = pa.table({"of": [0, 1, 1], "word": ["u", "v", "w"]})
    beyond = fitted.label(short, k=4).to_table()
    assert beyond["tag 4"].to_pylist()[0] is None
    assert beyond["energy 4"].to_pylist()[0] is None
    assert beyond["tag 4"].to_pylist()[1] is not None


def test_words_without_a_value_stay_so_where_labels_are_filled(fitted):
    new = pa.table({"of": [0, 0, 0], "word": ["u", None, "w"], "tag": [None, "b", None]})
    done = fitted.complete(new)
    assert done["word"].to_pylist() == ["u", None, "w"]
    assert done["tag"].to_pylist() == ["a", "b", "c"]
    drawn = fitted.complete(new, n=3)
    assert drawn["word"].to_pylist() == ["u"] * 3 + [None] * 3 + ["w"] * 3
    assert set(drawn["tag"].to_pylist()) <= set(TAGS)


def test_the_report_explains_its_worst_rows(fitted):
    from thalweg.report.html import Section
    from thalweg.report.rows import look_at
    from thalweg.report.worst import worst

    look = look_at(fitted, None)
    assert isinstance(worst(fitted, look, fitted.score(look.table)), Section)


def test_wrong_labels_are_odd(fitted):
    new = draw(200, 3)
    tags = new.table["tag"].to_pylist()
    worst = [TAGS[i] for i in truth(new).argmin(axis=1)]
    spoiled = [worst[i] if i % 7 == 0 else tag for i, tag in enumerate(tags)]
    table = new.table.set_column(2, "tag", pa.array(spoiled))
    flags = fitted.score(table, alpha=0.1).flag
    assert flags[::7].mean() > 0.5
    assert flags.mean() < 0.3


@pytest.mark.parametrize("loss", ["hinge", "perceptron", "square-square"])
def test_other_losses_label_as_well(loss):
    """Where little is left to chance: margins do not look for probabilities."""
    new = draw(300, 4, sharp=3)
    tags, words = (np.array(new.table[name].to_pylist()) for name in ("tag", "word"))
    model = thalweg.fit(draw(400, 5, sharp=3), "crf", target="tag", loss=loss, steps=400, progress=False)
    right = np.mean(np.array(model.predict(new).value.to_pylist()) == tags)
    alone = np.mean(np.array(TAGS)[["uvw".index(word) for word in words]] == tags)
    assert right > alone + 0.01
    assert right > 0.97


def rows(n: int, d: int = 2, seed: int = 0):
    values = jax.random.normal(jax.random.key(seed), (n, d + 1))
    return values, jnp.ones((n, d + 1), bool).at[:, 0].set(False)


def energy(**settings) -> crf.LabelChain:
    """An energy over rows of two numbers, its weights drawn."""
    table = pa.table(
        {"tag": ["x", "y", "z"] * 20, "p": np.linspace(-1, 1, 60), "q": np.linspace(0, 3, 60) ** 2}
    )
    schema = thalweg.data.schema.Schema.infer(Dataset(table, "t"), target="tag")
    chosen = crf.CRF.configure({"target": "tag", "network": "linear", **settings})
    built = crf.build(schema.space, chosen, drawn(jax.random.key(1))).energy
    leaves, tree = jax.tree.flatten(eqx.filter(built, eqx.is_inexact_array))
    keys = jax.random.split(jax.random.key(2), len(leaves))
    random = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return eqx.combine(jax.tree.unflatten(tree, random), built)


def test_the_window_reaches_neighbours_of_the_same_sequence():
    """Output s of a row is for the one s before it: added up by hand."""
    F, k, w = energy(window=2), 3, 2
    values, observed = rows(7)
    mask, starts = jnp.ones(7, bool), jnp.zeros(7, bool).at[jnp.array([0, 4])].set(True)
    said = np.asarray(jax.vmap(F.network)(values, observed)).reshape(7, 2 * w + 1, k)
    found = np.asarray(F.outputs(Elements(Seen(values, observed), mask, starts)))
    group = [0, 0, 0, 0, 1, 1, 1]
    for t in range(7):
        near = [s for s in range(-w, w + 1) if 0 <= t + s < 7 and group[t + s] == group[t]]
        np.testing.assert_allclose(found[t], sum(said[t + s, w - s] for s in near), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"window": 1}, {"recurrent": 4, "network": "mlp", "width": 5}, {"order": 2}]
)
def test_what_is_masked_is_as_if_it_were_not_there(settings):
    F = energy(**settings)
    values, observed = rows(8)
    kept = jnp.array([0, 2, 3, 5, 7])
    mask = jnp.zeros(8, bool).at[kept].set(True)
    starts = jnp.zeros(8, bool).at[jnp.array([0, 5])].set(True)
    holes = Elements(Seen(values, observed), mask, starts)
    short = Elements(Seen(values[kept], observed[kept]), jnp.ones(5, bool), starts[kept])
    np.testing.assert_allclose(F.outputs(holes)[kept], F.outputs(short), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(F.free_energy(holes), F.free_energy(short), rtol=1e-5)
    y = jnp.array([0.0, 1, 2, 2, 1])
    np.testing.assert_allclose(F(jnp.zeros(8).at[kept].set(y), holes), F(y, short), rtol=1e-5)


def test_costs_add_up():
    F = energy()
    values, observed = rows(4)
    x = Elements(Seen(values, observed), jnp.ones(4, bool), jnp.zeros(4, bool).at[0].set(True))
    y, costs = jnp.array([0.0, 2, 1, 1]), jax.random.normal(jax.random.key(3), (4, 3))
    twice = F.with_costs(costs).with_costs(costs)
    expected = F(y, x) + 2 * jnp.sum(costs[jnp.arange(4), y.astype(int)])
    np.testing.assert_allclose(twice(y, x), expected, rtol=1e-5)


def test_a_recurrent_network_reads_back_what_it_reads_onwards():
    """Turned round, with its directions swapped, it says the same."""
    both = BothWays(3, 4, drawn(jax.random.key(0)))
    swapped = eqx.tree_at(lambda b: (b.onwards, b.back), both, (both.back, both.onwards))
    x = jax.random.normal(jax.random.key(1), (6, 3))
    mask, starts = jnp.ones(6, bool), jnp.array([True, False, False, True, False, False])
    ahead, turned = both(x, mask, starts), swapped(x[::-1], mask, starts)[::-1]
    np.testing.assert_allclose(
        ahead, jnp.concatenate([turned[:, 4:], turned[:, :4]], axis=1), rtol=1e-5, atol=1e-6
    )
    # What lies in another sequence changes nothing.
    moved = both(x.at[3:].add(1.0), mask, starts)
    np.testing.assert_array_equal(moved[:3], ahead[:3])


def test_many_levels_are_looked_up_as_they_are_multiplied():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in rng.integers(0, 300, 900)] + [f"w{i}" for i in range(300)]
    table = pa.table({"word": words, "n": rng.normal(size=1200), "tag": ["x", "y"] * 600})
    schema = thalweg.data.schema.Schema.infer(Dataset(table, "t", kinds={"word": "word"}), target="tag")
    inputs = Inputs(schema.space, (2,))
    assert inputs.embedding.width > 256
    weights = jax.random.normal(jax.random.key(0), (inputs.width, 3))
    encoded = schema.encode(table)
    for i, hidden in ((5, False), (6, True)):
        known = jnp.asarray(encoded.observed[i]).at[0].set(not hidden)
        y = jnp.asarray(encoded.values[i])
        np.testing.assert_allclose(
            inputs.project(y, known, weights), inputs.read(y, known) @ weights, rtol=1e-4
        )


def test_scikit_learn_takes_lists_of_sequences():
    rng = np.random.default_rng(0)
    y = [["ab"[(i + s) % 2] for i in range(1 + s % 5)] for s in range(60)]
    X = [[{"word": f"{t}{rng.integers(3)}", "number": float(rng.normal())} for t in tags] for tags in y]
    model = EnergyLabeller(settings={"steps": 150}, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.95
    found = model.predict([[], X[4], [{"word": "never seen"}]])
    assert found[0] == []
    assert found[1] == y[4]
    assert len(found[2]) == 1
    marginals = model.predict_marginals([X[4], []])
    assert marginals[0].shape == (5, 2)
    assert marginals[1].shape == (0, 2)
    np.testing.assert_allclose(marginals[0].sum(axis=1), 1, rtol=1e-5)
    arrays = [np.array([[t == "a"] for t in tags], float) for tags in y]
    assert EnergyLabeller(settings={"steps": 100}).fit(arrays, y).predict([arrays[2]]) == [y[2]]
    with pytest.raises(DataError, match="X has 1 sequences and y 2"):
        model.fit(X[:1], y[:2])
    with pytest.raises(DataError, match="sequence 1 has 2 elements and 1 labels"):
        model.fit([X[0], X[1]], [y[0], y[1][:1]])
    with pytest.raises(DataError, match="every sequence is empty"):
        model.fit([[], []], [[], []])
    with pytest.raises(DataError, match="y has one label, 'a'"):
        model.fit([X[0]], [["a"]])


def test_what_it_is_not_for():
    data = draw(20, 6)
    by_itself = replace(data, kinds={"tag": "categorical"})
    with pytest.raises(SettingsError, match="labels sequences of rows: say which column"):
        thalweg.fit(by_itself, "crf", target="tag", progress=False)
    with pytest.raises(SettingsError, match="the order of a chain is 1 or 2, not 3"):
        crf.CRF.configure({"order": 3})
    with pytest.raises(SettingsError, match="give a window or recurrent, not both"):
        crf.CRF.configure({"window": 1, "recurrent": 3})
    holes = data.table.set_column(2, "tag", pa.array([None, *data.table["tag"].to_pylist()[1:]]))
    with pytest.raises(DataError, match="training rows have no label: leave their sequences out"):
        thalweg.fit(replace(data, table=holes), "crf", target="tag", steps=2, calibrate=False, progress=False)


def test_unseen_labels_and_words_are_as_missing(fitted):
    new = pa.table(
        {"of": [0, 0, 1, 2], "word": ["u", "never", "v", "never"], "tag": ["a", "nine", None, None]}
    )
    with pytest.warns(DataWarning, match="categories that training never saw"):
        energies = fitted.energy(new)
    # No label is known: nothing is surprising but the label that was never seen, and no word is judged.
    assert energies[2] == energies[3] == 0
    assert energies[1] == pytest.approx(np.log(fitted.schema.rows + 1))
    with pytest.warns(DataWarning, match="categories that training never saw"):
        assert len(fitted.predict(new).value) == 4


def test_a_wrong_label_is_explained_by_its_neighbours(fitted):
    """What a label would release is how much likelier the likeliest one is."""
    new = draw(20, 7)
    marginals, tags = truth(new), np.array([TAGS.index(t) for t in new.table["tag"].to_pylist()])
    found = fitted.explain(new)
    assert found.columns == ("tag",)
    expected = np.log(marginals.max(axis=1) / marginals[np.arange(len(tags)), tags])
    np.testing.assert_allclose(found.release[:, 0], expected, atol=0.5)


def test_what_is_missing_is_explained_as_missing(fitted):
    found = fitted.explain(pa.table({"of": [0, 0, 0], "word": ["u", None, "w"], "tag": ["a", "b", None]}))
    assert found.value["word"].to_pylist() == found.proposal["word"].to_pylist() == ["u", None, "w"]
    assert found.value["tag"].to_pylist() == ["a", "b", None]
    told = found.to_table(top=3)
    assert told["column"].to_pylist() == ["tag"] * 3
    assert told["value"].to_pylist() == ["a", "b", None]
    assert told["suggestion"][2].as_py() is None


def test_labels_that_are_held_are_told_and_can_be_found_anew(fitted):
    new = draw(10, 9).table
    tags = new["tag"].to_pylist()
    some = [tag if i % 3 == 0 else None for i, tag in enumerate(tags)]
    # One is as wrong as can be: where it is held it stays.
    some[0] = TAGS[truth(draw(10, 9))[0].argmin()]
    partly = new.set_column(2, "tag", pa.array(some))
    found = fitted.label(partly)
    assert found.held.tolist() == [tag is not None for tag in some]
    assert [tag for tag, held in zip(found.value.to_pylist(), found.held, strict=True) if held] == some[::3]
    assert (found.probability[found.held] > 0.999).all()
    table = found.to_table()
    assert table["held"].to_pylist() == found.held.tolist()
    anew = fitted.label(partly, anew=True)
    assert not anew.held.any()
    assert anew.to_table().equals(fitted.label(new.drop_columns(["tag"])).to_table())
    assert anew.value[0].as_py() != some[0]


def test_the_command_says_how_many_labels_were_held(fitted, tmp_path, capsys):
    import json

    import pyarrow.parquet

    from thalweg.cli.main import main

    new = draw(10, 9).table
    some = [tag if i % 3 == 0 else None for i, tag in enumerate(new["tag"].to_pylist())]
    pyarrow.parquet.write_table(new.set_column(2, "tag", pa.array(some)), tmp_path / "new.parquet")
    model = str(tmp_path / "tagger")
    fitted.save(model)
    held, rows = len(some[::3]), len(some)
    assert main(["label", model, str(tmp_path / "new.parquet"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["held"] == held
    assert f"{held} of {rows} labels were held as " in err
    assert "--anew labels every row" in err
    assert main(["label", model, str(tmp_path / "new.parquet"), "--json", "--anew"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["held"] == 0
    assert "were held" not in err


def test_draws_of_a_row_have_its_marginals(fitted):
    drawn = fitted.sample(400, given={"word": "u"})["tag"].to_pylist()
    one = fitted.predict(pa.table({"of": [3], "word": ["u"]})).probabilities[0]
    np.testing.assert_allclose([drawn.count(t) / 400 for t in TAGS], one, atol=4 * np.sqrt(0.25 / 400))
