"""Parts of speech on the Brown corpus: a chain over word, affix and shape features, against sklearn-crfsuite.

`brown_tagged.txt.gz` of the folder THALWEG_DATA: 57,340 sentences whose 12 coarse tags are made of Brown's own. The
file does not say where its documents end, so the split is by contiguous blocks: of 500, each about as long as a
document, every tenth is tested on. Both sides have the same features (values seen twice or more in training) and the
same penalty of squares. sklearn-crfsuite trains by L-BFGS until its own rule stops it, ours by some passes of Adam; its
extra transitions and our energies of the first and the last label are all that differs between the models.

    python benchmarks/pos.py [--write] [--share 1.0] [--ours-only]
"""

import argparse
import gzip
import os
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np

from machine import report, table
from ocr import _best
from thalweg.data.rows import Rows
from thalweg.energy.spaces import Column, Record
from thalweg.learning.run import Run
from thalweg.models.crf import CRF
from thalweg.models.recipe import Problem
from thalweg.models.sequences import laid_out

#: The coarse tag of each of Brown's tags, by how it begins, the longest first.
COARSE = {
    "NOUN": "nn np nr n",
    "VERB": "vb be do hv md",
    "ADJ": "jj ap od",
    "ADV": "rb rn ql wrb wql",
    "DET": "at dt abn abl abx wdt pp$ wp$",
    "PRON": "pp pn wp ex",
    "NUM": "cd",
    "CONJ": "cc",
    "ADP": "in cs",
    "PRT": "to rp * uh",
    "X": "fw nil",
}
STARTS = sorted(
    ((start, tag) for tag, starts in COARSE.items() for start in starts.split()), key=lambda s: -len(s[0])
)
TAGS = (*COARSE, ".")
#: c2 of crfsuite; ours is a ridge of twice as much.
C2 = 0.1
PASSES, BATCH = 5, 16

Sentence = list[tuple[str, str]]


def coarse(tag: str) -> str:
    """NOUN of nn-tl, VERB of vb+ppo, ADV of rb; marks of punctuation are '.'."""
    tag = tag.lower()
    return next((coarse for start, coarse in STARTS if tag.startswith(start)), ".")


def sentences() -> list[Sentence]:
    folder = os.environ.get("THALWEG_DATA")
    if not folder:
        sys.exit("THALWEG_DATA is not set: it names the folder with brown_tagged.txt.gz")
    with gzip.open(Path(folder) / "brown_tagged.txt.gz", "rt", encoding="utf-8") as file:
        lines = [line.split() for line in file]
    cut = [[token.rpartition("/") for token in line] for line in lines if line]
    return [[(word, coarse(tag)) for word, _, tag in line] for line in cut]


def shape(word: str) -> str:
    """Xx of Word, d-x of 19-year: each run of one kind of character once."""
    kinds = ["X" if c.isupper() else "x" if c.islower() else "d" if c.isdigit() else c for c in word]
    return "".join(k for k, before in zip(kinds, ["", *kinds], strict=False) if k != before)


def features(sentence: Sentence) -> list[list[str]]:
    """The features of each word, in the order of `NAMES`."""
    words = [word for word, _ in sentence]
    lower = [word.lower() for word in words]
    around = ["<s>", *lower, "</s>"]
    return [
        [low, *(low[:i] for i in (1, 2, 3)), *(low[-i:] for i in (1, 2, 3, 4)), shape(word), before, after]
        for word, low, before, after in zip(words, lower, around, around[2:], strict=False)
    ]


NAMES = ("word", "pre1", "pre2", "pre3", "suf1", "suf2", "suf3", "suf4", "shape", "before", "after")


def folded(train: list[list[list[str]]], every: list[list[list[str]]]) -> tuple[list[dict[str, int]], list]:
    """The values of each feature that come twice or more in training, and the features without the others."""
    levels = []
    for i in range(len(NAMES)):
        counts = Counter(word[i] for sentence in train for word in sentence)
        levels.append({value: code for code, value in enumerate(v for v, n in counts.items() if n > 1)})
    kept = [
        [[v if v in levels[i] else None for i, v in enumerate(w)] for w in sentence] for sentence in every
    ]
    return levels, kept


def as_rows(levels: list[dict[str, int]], kept: list, tags: list[list[str]]) -> tuple[Record, Rows]:
    columns = [Column(n, "categorical", max(len(v), 1)) for n, v in zip(NAMES, levels, strict=True)]
    space = Record((*columns, Column("tag", "categorical", len(TAGS))))
    values = np.array(
        [
            [-1 if v is None else levels[i][v] for i, v in enumerate(word)] + [TAGS.index(tag)]
            for sentence, named in zip(kept, tags, strict=True)
            for word, tag in zip(sentence, named, strict=True)
        ],
        np.float32,
    )
    sequence = np.repeat(np.arange(len(kept)), [len(sentence) for sentence in kept])
    observed = values >= 0
    return space, Rows(np.maximum(values, 0), observed, np.zeros(len(values), int), sequence)


def ours(space: Record, train: Rows, test: Rows) -> list[object]:
    target = len(NAMES)
    packed = laid_out(train, target, together=True)
    settings = CRF.configure(
        {"target": "tag", "network": "linear", "ridge": 2 * C2, "batch": BATCH, "learning_rate": 0.03}
        | {"steps": PASSES * len(packed.y) // BATCH}
    )
    started = time.perf_counter()
    result = CRF.train(Problem(space, train, train[:0], settings, jax.random.key(0), Run(progress=False)))
    took = time.perf_counter() - started
    pairs = laid_out(test, target, together=True)
    energy = result.energy.energy
    jax.block_until_ready(_best(energy, pairs.x))
    started = time.perf_counter()
    found = np.asarray(_best(energy, laid_out(test, target, together=True).x))
    seconds = time.perf_counter() - started
    mask = np.asarray(pairs.x.mask)
    return ["ours", float(np.mean((found == pairs.y)[mask])), took, seconds, mask.sum() / seconds]


def crfsuite(train: tuple[list, list], test: tuple[list, list]) -> list[object]:
    import sklearn_crfsuite

    def named(kept: list) -> list:
        return [
            [{n: v for n, v in zip(NAMES, word, strict=True) if v is not None} for word in sentence]
            for sentence in kept
        ]

    x, y, seen = named(train[0]), train[1], named(test[0])
    model = sklearn_crfsuite.CRF(algorithm="lbfgs", c1=0.0, c2=C2, all_possible_transitions=True)
    started = time.perf_counter()
    model.fit(x, y)
    took = time.perf_counter() - started
    started = time.perf_counter()
    found = model.predict(seen)
    seconds = time.perf_counter() - started
    right = [a == b for f, t in zip(found, test[1], strict=True) for a, b in zip(f, t, strict=True)]
    return ["sklearn-crfsuite", float(np.mean(right)), took, seconds, len(right) / seconds]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep the results in benchmarks/results")
    parser.add_argument("--share", type=float, default=1.0, help="share of the training sentences")
    parser.add_argument("--ours-only", action="store_true")
    given = parser.parse_args()
    found = sentences()
    block = np.arange(len(found)) * 500 // len(found)
    held = block % 10 == 9
    chosen = np.flatnonzero(~held)[: int(given.share * np.sum(~held))]
    parts = [found[i] for i in chosen], [found[i] for i in np.flatnonzero(held)]
    seen = [[features(sentence) for sentence in part] for part in parts]
    tags = [[[tag for _, tag in sentence] for sentence in part] for part in parts]
    levels, kept = folded(seen[0], seen[0] + seen[1])
    n = len(parts[0])
    space, rows = as_rows(levels, kept, tags[0] + tags[1])
    words = sum(map(len, parts[0]))
    rows_of = [ours(space, rows[:words], rows[words:])]
    if not given.ours_only:
        rows_of.append(crfsuite((kept[:n], tags[0]), (kept[n:], tags[1])))
    title = f"{n:,} sentences of {words:,} words to train on, {len(rows) - words:,} words to test on"
    columns = ["", "tags right", "training, s", "decoding, s", "words/s"]
    part = table(title, columns, rows_of)
    report(
        "pos", "python benchmarks/pos.py", [part], "sklearn-crfsuite", "python-crfsuite", write=given.write
    )


if __name__ == "__main__":
    main()
