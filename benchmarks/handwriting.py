"""Handwritten words read without given cuts: with true cuts, with greedy ones, and through the lattice of all pieces.

Letters of real words (OCR letters) are pasted side by side with -2 to 3 columns between them, so that some overlap and
some touch. Each repeat trains on nine folds and is judged on the tenth; the folds are those of the data, in which all
55 words come in every fold, so that bigrams of letters say much. The recogniser is a perceptron with one hidden layer.
Steps, rates and decay were chosen with folds 0 to 2 for training and 4 for judging.

Rows: how the reader was trained. "letters" knows no bigrams and "chain" does: both by the likelihood of the letters at
the true cuts. "words alone" starts from nothing and never sees a cut: likelihood with the cuts summed out. "chain, then
…" goes on from the chain on whole words through the lattice, without cuts, by that loss. Columns: what cuts it reads
with.

    THALWEG_DATA=… python benchmarks/handwriting.py [--write] [--repeats 3] [--steps 1400] [--words N]
"""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np
import optax

from machine import RESULTS, report, table
from tables import folder
from thalweg.energy import LatticeEnergy
from thalweg.learning.fit import fit
from thalweg.learning.rows import Pairs
from thalweg.learning.run import Run
from thalweg.models.handwriting import Reading, Spelling, coded, over, read, reader
from thalweg.models.segmentation import Pieces, greedy, segmented

LETTERS = 26
#: The fold that each repeat is judged on.
FOLDS = (7, 8, 9)
GAPS = (-2, 3)


class Words(NamedTuple):
    """Pictures of words, their letters, and where the letters were pasted: the cuts between them."""

    pictures: list[np.ndarray]
    texts: list[list[int]]
    cuts: list[list[int]]


def letters() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pictures (n, 16, 8) and codes of letters, where words begin, and the fold of each word."""
    with np.load(folder() / "ocr_letters.npz", allow_pickle=False) as content:
        pictures = np.unpackbits(content["images"], axis=1).reshape(-1, 16, 8).astype(np.float32)
        return pictures, content["labels"].astype(int), content["word_offsets"], content["fold"]


def words(folds: Sequence[int], seed: int, most: int | None = None) -> Words:
    """The words of some folds, pasted anew."""
    pictures, codes, starts, fold = letters()
    generator = np.random.default_rng(seed)
    which = generator.permutation(np.flatnonzero(np.isin(fold, folds)))[:most]
    made = [_pasted(pictures[starts[i] : starts[i + 1]], generator) for i in which]
    texts = [codes[starts[i] : starts[i + 1]].tolist() for i in which]
    return Words([picture for picture, _ in made], texts, [cuts for _, cuts in made])


def _pasted(glyphs: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    inked = [glyph[:, glyph.any(axis=0).argmax() : 8 - glyph.any(axis=0)[::-1].argmax()] for glyph in glyphs]
    spans: list[tuple[int, int]] = []
    for i, glyph in enumerate(inked):
        start = 1
        if i:
            # At most half of the narrower of the two, so that every letter keeps its place.
            least = -(min(glyph.shape[1], inked[i - 1].shape[1]) // 2)
            start = spans[-1][1] + max(int(generator.integers(GAPS[0], GAPS[1] + 1)), least)
        spans.append((start, start + glyph.shape[1]))
    picture = np.zeros((16, max(end for _, end in spans) + 1), np.float32)
    for glyph, (a, b) in zip(inked, spans, strict=True):
        picture[:, a:b] = np.maximum(picture[:, a:b], glyph)
    between = [(a[1] + b[0]) // 2 for a, b in pairwise(spans)]
    return picture, [1, *between, picture.shape[1] - 1]


def widest_of(given: Words) -> int:
    """The width from which greedy cutting divides a piece, by the number of letters of the training words."""

    def right(width: int) -> float:
        found = [len(greedy(picture, width)) - 1 for picture in given.pictures]
        return float(np.mean([n == len(text) for n, text in zip(found, given.texts, strict=True)]))

    return max(range(6, 14), key=right)


def trained(
    energy: LatticeEnergy, pieces: Pieces, texts: list[list[int]], loss: str, steps: int
) -> LatticeEnergy:
    """The energy that the words have made of it."""
    return fit(
        energy,
        Pairs(pieces, coded(texts)),
        Spelling(loss),
        optimiser=optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=0.2),
        steps=steps,
        batch=32,
        averaging=0.99,
        key=jax.random.key(1),
        run=Run(progress=False),
    ).energy


def readers(given: Words, steps: int) -> dict[str, LatticeEnergy]:
    """The reader trained in each way."""
    whole, cut = segmented(given.pictures), segmented(given.pictures, cuts=given.cuts)
    key = jax.random.key(0)
    alone = reader(cut, LETTERS, bigrams=False, layers=1, key=key)
    found = {"letters": trained(alone, cut, given.texts, "nll", 2 * steps)}
    found["chain"] = trained(reader(cut, LETTERS, layers=1, key=key), cut, given.texts, "nll", 2 * steps)
    start = reader(whole, LETTERS, layers=1, key=key)
    found["words alone, nll"] = trained(start, whole, given.texts, "nll", steps)
    for loss in ("perceptron", "hinge", "nll"):
        start = over(found["chain"], whole)
        found[f"chain, then {loss}"] = trained(start, whole, given.texts, loss, steps // 2)
    return found


def distance(a: Sequence[int], b: Sequence[int]) -> int:
    """How many letters are to be put in, left out or exchanged (Levenshtein 1966)."""
    before = list(range(len(b) + 1))
    for i, x in enumerate(a):
        now = [i + 1]
        for j, y in enumerate(b):
            now.append(min(before[j] + (x != y), before[j + 1] + 1, now[-1] + 1))
        before = now
    return before[-1]


def accuracy(found: list[Reading], texts: list[list[int]]) -> tuple[float, float]:
    """The share of words that are right, and 1 less the edits a letter."""
    right = np.mean([one.letters == text for one, text in zip(found, texts, strict=True)])
    edits = sum(distance(one.letters, text) for one, text in zip(found, texts, strict=True))
    return float(right), 1 - edits / sum(map(len, texts))


def repeat(
    number: int, given
) -> tuple[dict[tuple[str, str], tuple[float, float]], dict[str, list[Reading]], Words]:
    test = FOLDS[number]
    seen = words([fold for fold in range(10) if fold != test], number, given.words)
    held = words([test], 100 + number, given.words)
    width = widest_of(seen)
    ways = {
        "true cuts": segmented(held.pictures, cuts=held.cuts),
        "greedy cuts": segmented(held.pictures, cuts=[greedy(picture, width) for picture in held.pictures]),
        "lattice": segmented(held.pictures),
    }
    scores, shown = {}, {}
    for name, energy in readers(seen, given.steps).items():
        for way, pieces in ways.items():
            found = read(energy, pieces)
            scores[name, way] = accuracy(found, held.texts)
            print(number, name, way, scores[name, way], flush=True)
            if name == "chain, then nll":
                shown[way] = found
    print(
        f"repeat {number}: {len(seen.texts)} words seen, {len(held.texts)} read; greedy cuts from {width} columns on"
    )
    return scores, shown, held


def tabled(all_scores: list[dict[tuple[str, str], tuple[float, float]]]) -> list[str]:
    names, ways = (list(dict.fromkeys(key[i] for key in all_scores[0])) for i in (0, 1))

    def cell(name: str, way: str, which: int) -> str:
        values = np.array([scores[name, way][which] for scores in all_scores])
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        return f"{values.mean():.3f} ± {error:.3f}"

    return [
        table(title, ["reader", *ways], [[name, *(cell(name, way, which) for way in ways)] for name in names])
        for which, title in enumerate(("Words that are right", "Letters, 1 - edits / letters"))
    ]


def picture(shown: dict[str, list[Reading]], held: Words, count: int = 6) -> None:
    """Words with the cuts that were found, and what was read."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    long = [i for i, text in enumerate(held.texts) if 6 <= len(text) <= 9][:count]
    figure, axes = pyplot.subplots(count, len(shown), figsize=(4 * len(shown), 1.35 * count), squeeze=False)
    for row, i in zip(axes, long, strict=True):
        for axis, (way, found) in zip(row, shown.items(), strict=True):
            axis.imshow(1 - held.pictures[i], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            for cut in found[i].cuts:
                axis.axvline(cut - 0.5, color="C3", linewidth=1.2)
            colour = "C2" if found[i].letters == held.texts[i] else "C3"
            for (a, b), code in zip(pairwise(found[i].cuts), found[i].letters, strict=True):
                axis.text((a + b - 1) / 2, 18.5, chr(97 + code), ha="center", color=colour)
            axis.set(xticks=[], yticks=[])
            text = "".join(chr(97 + code) for code in held.texts[i])
            axis.set_title(f"{way}: {text}" if axis in axes[0] else text, fontsize=9)
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "handwriting.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--repeats", type=int, default=len(FOLDS))
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--words", type=int, default=None, help="at most so many words a split")
    given = parser.parse_args()
    results = [repeat(number, given) for number in range(given.repeats)]
    if given.write:
        picture(*results[0][1:])
    parts = tabled([scores for scores, _, _ in results])
    report("handwriting", "python benchmarks/handwriting.py", [__doc__ or "", *parts], write=given.write)


if __name__ == "__main__":
    main()
