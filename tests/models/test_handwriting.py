"""Reading words without segmentation: cuts, pieces, losses against the enumeration of paths, and a small alphabet."""

import itertools
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp

from thalweg.errors import DataError, SettingsError
from thalweg.learning.fit import fit
from thalweg.learning.rows import Pairs
from thalweg.learning.run import Run
from thalweg.models.handwriting import Spelling, coded, read, reader, resampled, wrong_columns
from thalweg.models.segmentation import candidates, greedy, of_rows, segmented

#: Three letters of six rows: a bar, a box and a cross, which touch and overlap in words.
GLYPHS = [
    np.array([[1, 1]] * 6),
    np.array([[1] * 5] + [[1, 0, 0, 0, 1]] * 4 + [[1] * 5]),
    np.array([[0, 0, 1, 0, 0]] * 2 + [[1] * 5] * 2 + [[0, 0, 1, 0, 0]] * 2),
]


def pasted(word, gaps):
    """A picture of a word, and its cuts."""
    columns, cuts = 1, [1]
    picture = np.zeros((6, 60), np.float32)
    for code, gap in zip(word, [*gaps, 0], strict=True):
        glyph = GLYPHS[code]
        picture[:, columns : columns + glyph.shape[1]] = np.maximum(
            picture[:, columns : columns + glyph.shape[1]], glyph
        )
        columns += glyph.shape[1] + gap
        cuts.append(columns - (gap + 1) // 2)
    return picture[:, : columns + 1], cuts


def words(n, seed):
    generator = np.random.default_rng(seed)
    texts = [generator.integers(0, 3, generator.integers(1, 5)).tolist() for _ in range(n)]
    # Bars never overlap one another: of two that do and one with a third between them there is but one picture.
    made = [
        pasted(text, [generator.integers(-1 if a or b else 0, 3) for a, b in pairwise(text)])
        for text in texts
    ]
    return [picture for picture, _ in made], texts, [cuts for _, cuts in made]


@eqx.filter_jit
def loss_of(objective, energy, batch):
    """The loss, and the share of words that some path spells."""
    loss, (_, metrics) = objective(energy, batch, None, key=jax.random.key(0))
    return loss, metrics["readable"]


def test_candidates_reach_from_end_to_end_and_lie_close():
    for picture, _, cuts in zip(*words(50, 0), strict=True):
        ink = np.flatnonzero(picture.any(axis=0))
        found = np.array(candidates(picture))
        assert found[0] == ink[0]
        assert found[-1] == ink[-1] + 1
        assert np.all((np.diff(found) >= 1) & (np.diff(found) <= 3))
        assert max(np.min(np.abs(found - cut)) for cut in cuts) <= 1.5
    blank = np.ones((2, 9))
    blank[:, 2:6] = 0
    assert 4 in candidates(blank)
    assert greedy(blank, 9) == [0, 4, 9]


def test_pieces_are_without_margins_and_no_wider_than_asked():
    pictures, _, _ = words(20, 1)
    pieces = segmented(pictures, widest=6)
    for i, picture in enumerate(pictures):
        used = np.asarray(pieces.arcs.used[i])
        spans, inked = np.asarray(pieces.spans[i])[used], np.asarray(pieces.inked[i])[used]
        assert np.all(inked[:, 1] - inked[:, 0] <= 6)
        for (a, b), (first, behind) in zip(spans, inked, strict=True):
            where = a + np.flatnonzero(picture[:, a:b].any(axis=0))
            assert (first, behind) == (where[0], where[-1] + 1)


def test_a_piece_is_resampled_between_the_middles_of_its_columns():
    picture = jnp.asarray(np.random.default_rng(0).normal(size=(3, 20)), jnp.float32)
    np.testing.assert_array_equal(resampled(picture, jnp.array([4, 12])), picture[:, 4:12])
    middles = (np.arange(8) + 0.5) * 16 / 8 - 0.5
    expected = [np.interp(middles, np.arange(16), row) for row in np.asarray(picture)[:, 2:18]]
    np.testing.assert_allclose(resampled(picture, jnp.array([2, 18])), expected, atol=1e-6)
    # A column by itself is repeated.
    np.testing.assert_array_equal(resampled(picture, jnp.array([7, 8])), picture[:, 7:8].repeat(8, axis=1))


def paths(spans, end):
    """All ways of arcs from the first cut to the last."""

    def onwards(at):
        if at == end:
            return [()]
        return [(i, *rest) for i, (a, b) in enumerate(spans) if a == at for rest in onwards(b)]

    return onwards(spans[0][0])


def test_losses_are_those_of_all_paths():
    picture, _ = pasted([0, 1], [1])
    pieces = segmented([picture], widest=6)
    energy = reader(pieces, 3, width=8, key=jax.random.key(0))
    generator = np.random.default_rng(0)
    energy = eqx.tree_at(
        lambda e: (e.network.transitions, e.network.initial),
        energy,
        (
            jnp.asarray(generator.normal(size=(3, 3)), jnp.float32),
            jnp.asarray(generator.normal(size=3), jnp.float32),
        ),
    )
    x = jax.tree.map(lambda a: a[0], pieces)
    lattice = energy.lattice(x)
    spans = np.asarray(x.spans).tolist()
    found = []
    for path in paths(spans, int(x.spans[-1, 1])):
        for word in itertools.product(range(3), repeat=len(path)):
            y = np.zeros(len(spans), np.float32)
            y[list(path)] = np.array(word) + 1
            found.append((path, word, y))
    points = jnp.asarray(np.stack([y for *_, y in found]))
    heights = np.asarray(eqx.filter_jit(lambda lattice, y: jax.vmap(lattice)(y))(lattice, points), np.float64)
    right = np.array([word == (0, 1) for _, word, _ in found])
    best = found[np.flatnonzero(right)[heights[right].argmin()]][0]

    def letter_of(path, word):
        """For each column the letter that it is read as."""
        return [s for i, s in zip(path, word, strict=True) for _ in range(spans[i][0], spans[i][1])]

    truth = letter_of(best, (0, 1))
    wrong = (
        np.array([sum(a != b for a, b in zip(letter_of(p, w), truth, strict=True)) for p, w, _ in found]) / 8
    )
    expected = {
        "nll": -logsumexp(-heights[right]) + logsumexp(-heights),
        "perceptron": heights[right].min() - heights.min(),
        "hinge": heights[right].min() - (heights - 1.5 * wrong).min(),
    }
    batch = Pairs(pieces, coded([[0, 1]]))
    for name, value in expected.items():
        loss, readable = loss_of(Spelling(name, margin=1.5), energy, batch)
        np.testing.assert_allclose(loss, value, atol=1e-4)
        assert readable == 1
    clamped = np.zeros(len(spans), np.float32)
    clamped[list(best)] = [1, 2]
    costs = wrong_columns(x, jnp.asarray(clamped), jnp.array([0, 1]), 3)
    total = [sum(costs[i, int(y[i])] for i in range(len(spans))) for *_, y in found]
    np.testing.assert_allclose(total, wrong, atol=1e-5)


@pytest.mark.parametrize("loss", ["nll", pytest.param("hinge", marks=pytest.mark.slow)])
def test_it_learns_to_read_from_words_alone(loss):
    pictures, texts, _ = words(300, 2)
    pieces = segmented(pictures[:200], widest=6)
    start = reader(pieces, 3, width=16, key=jax.random.key(1))
    energy = fit(
        start,
        Pairs(pieces, coded(texts[:200])),
        Spelling(loss),
        optimiser=optax.adam(0.01),
        steps=150,
        batch=16,
        key=jax.random.key(2),
        run=Run(progress=False),
    ).energy
    others = read(energy, segmented(pictures[200:], widest=6))
    assert np.mean([found.letters == text for found, text in zip(others, texts[200:], strict=True)]) > 0.9
    assert all(len(found.cuts) == len(found.letters) + 1 for found in others)


def test_words_that_no_path_spells_do_not_count():
    picture, _ = pasted([0], [])
    pieces = segmented([picture, picture], widest=6)
    energy = reader(pieces, 3, width=8, key=jax.random.key(0))
    words = coded([[0], [0, 1, 2, 0, 1]])
    (both, readable), gradient = eqx.filter_jit(
        eqx.filter_value_and_grad(lambda e: loss_of(Spelling(), e, Pairs(pieces, words)), has_aux=True)
    )(energy)
    twice = Pairs(of_rows(pieces, np.array([0, 0])), words[jnp.array([0, 0])])
    assert readable == 0.5
    assert both == pytest.approx(float(loss_of(Spelling(), energy, twice)[0]) / 2, rel=1e-5)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def started(texts):
    pieces = segmented([pasted([0], [])[0]] * 2, widest=6)
    return Spelling().init(
        reader(pieces, 3, key=jax.random.key(0)), Pairs(pieces, coded(texts)), key=jax.random.key(0)
    )


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: segmented([np.ones((4, 9)), np.zeros((4, 9))]), DataError, "picture 1 has no ink"),
        (lambda: segmented([np.ones((4, 9)), np.ones((5, 9))]), DataError, "one height"),
        (lambda: segmented([]), DataError, "one word at least"),
        (lambda: segmented([np.ones((4, 9))], widest=2), SettingsError, "at least 3 wide"),
        (lambda: coded([[1], []]), DataError, "word 1 has no letters"),
        (
            lambda: started([[0], [0] * 30]),
            DataError,
            "1 words have more or fewer.*word 1 has 30, and its .*widest",
        ),
        (lambda: Spelling("square"), SettingsError, "perceptron, hinge or nll"),
    ],
)
def test_what_cannot_be_read_says_why(build, error, message):
    with pytest.raises(error, match=message):
        build()
