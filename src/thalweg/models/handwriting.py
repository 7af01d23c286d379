r"""Reading words without given segmentation: one energy of the cuts z and the letters y of a picture x.

\[ E(y, z, x) = \sum_t \big(E_{y_t}(x_{z_t}) + T_{y_{t-1}, y_t}\big) \]

A recogniser gives each piece of the picture an energy for each letter; they need not sum to anything, so a piece that
is no letter is high for all of them. The answer is the lowest path of the lattice of all pieces, over cuts and letters
at once. It is trained from words alone: the energy of the right word is the minimum over z, or the free energy, of the
lattice that spells it, and what is pushed up is that of the whole lattice.

LeCun, Bottou, Bengio & Haffner (1998), *Gradient-based learning applied to document recognition*, sections 4 to 7; the
hinge with latent cuts: Yu & Joachims (2009), *Learning structural SVMs with latent variables*.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.energy.arcs import path_lengths
from thalweg.energy.base import Scalar
from thalweg.energy.lattice import Lattice, LatticeEnergy
from thalweg.errors import DataError, SettingsError
from thalweg.learning import losses
from thalweg.learning.objective import AbstractObjective
from thalweg.models.segmentation import Pieces
from thalweg.nn.initial import drawn
from thalweg.nn.mlp import Trunk, linear_weights

#: How many columns a piece has for the recogniser.
COLUMNS = 8


class Recogniser(eqx.Module):
    """The energies of a piece, one for each symbol: a perceptron over its picture, as (h, 8), and its width."""

    first: Float[Array, "f h"]
    bias: Float[Array, "h"]
    trunk: Trunk
    last: Float[Array, "h s"]
    level: Float[Array, "s"]

    def __init__(self, height: int, symbols: int, width: int = 128, layers: int = 2, *, key: PRNGKeyArray):
        initial = drawn(key)
        self.first = linear_weights(initial, rows=height * COLUMNS + 2, columns=width)
        self.bias = initial.zeros(width)
        self.trunk = Trunk(width, layers, initial=initial)
        self.last = linear_weights(initial, rows=width, columns=symbols)
        self.level = initial.zeros(symbols)

    def __call__(self, piece: Float[Array, "h 8"], width: Scalar) -> Float[Array, "s"]:
        wide = width / COLUMNS - 1
        features = jnp.concatenate([2 * jnp.ravel(piece) - 1, jnp.stack([wide, wide**2])])
        return self.trunk(features @ self.first + self.bias) @ self.last + self.level


class Reader(eqx.Module):
    """A recogniser and what letters cost that follow one another, begin and end a word: the lattice of a picture."""

    recogniser: Recogniser
    transitions: Float[Array, "s s"] | None
    initial: Float[Array, "s"] | None
    final: Float[Array, "s"] | None

    def __call__(self, x: Pieces) -> Lattice:
        pieces = jax.vmap(lambda inked: resampled(x.picture, inked))(x.inked)
        widths = (x.inked[:, 1] - x.inked[:, 0]).astype(jnp.float32)
        energies = jax.vmap(self.recogniser)(pieces, widths)
        return Lattice(x.arcs, energies, self.transitions, self.initial, self.final)


def reader(
    pieces: Pieces,
    symbols: int,
    *,
    bigrams: bool = True,
    width: int = 128,
    layers: int = 2,
    key: PRNGKeyArray,
) -> LatticeEnergy:
    """An energy of the words in pictures, before training; without `bigrams` letters do not know each other."""
    height, count = pieces.picture.shape[-2], pieces.inked.shape[-2]
    pairs = jnp.zeros((symbols, symbols)) if bigrams else None
    ends = [jnp.zeros(symbols) if bigrams else None for _ in range(2)]
    recogniser = Recogniser(height, symbols, width, layers, key=key)
    return LatticeEnergy(Reader(recogniser, pairs, *ends), count, symbols)


def over(energy: LatticeEnergy, pieces: Pieces) -> LatticeEnergy:
    """The same reader for a batch of other shapes."""
    return LatticeEnergy(energy.network, pieces.inked.shape[-2], energy.symbols)


def resampled(picture: Float[Array, "h w"], columns: Array) -> Float[Array, "h 8"]:
    """The columns from the first to behind the last as 8, linearly between the middles of the pixels."""
    first, behind = columns[0].astype(jnp.float32), columns[1].astype(jnp.float32)
    place = first + (jnp.arange(COLUMNS, dtype=jnp.float32) + 0.5) * (behind - first) / COLUMNS - 0.5
    place = jnp.clip(place, first, jnp.maximum(behind - 1, first))
    left = jnp.floor(place)
    share = (place - left)[None]
    left = left.astype(jnp.int32)
    right = jnp.minimum(left + 1, picture.shape[1] - 1)
    return (1 - share) * picture[:, left] + share * picture[:, right]


class Spelling(AbstractObjective):
    r"""Learns to read from `Pairs(pieces, words)`, words of codes (n, t) with -1 behind the end.

    With \(E_C\) of the lattice that spells the word and \(E\) of the whole: "perceptron" \(\min E_C - \min E\);
    "nll" \(F_\beta(E_C) - F_\beta(E)\), that is \(-\frac1\beta \log p(y \mid x)\) with the cuts summed out; "hinge"
    \(\max_{y, z}(m\,\Delta + \min E_C - E(y, z))\), where \(\Delta\) counts the columns that are read as another letter
    than in the best cuts of the word itself, in letters of 8 columns.

    Metrics: `readable`, the share of words that some path spells; the others do not count.
    """

    loss: Literal["perceptron", "hinge", "nll"] = eqx.field(static=True, default="nll")
    beta: float = 1.0
    margin: float = 1.0

    def __check_init__(self):
        if self.loss not in ("perceptron", "hinge", "nll"):
            raise SettingsError(f"words are read by perceptron, hinge or nll, not {self.loss!r}")

    def init(self, energy, data, *, key):
        """Raises `DataError` for words of more or fewer letters than their pictures have pieces."""
        lengths = np.sum(np.asarray(data.y) >= 0, axis=1)
        fewest, most = path_lengths(data.x.arcs)
        wrong = np.flatnonzero((lengths < fewest) | (lengths > most))
        if len(wrong):
            i = wrong[0]
            raise DataError(
                f"{len(wrong)} words have more or fewer letters than their pictures can be cut into: word {i} has "
                f"{lengths[i]}, and its picture {fewest[i]} to {most[i]} pieces. Leave them out, allow wider pieces "
                "(segmented(…, widest=…)), or give cuts that suit"
            )

    def __call__(self, energy, batch, memory, *, key):
        found, readable = jax.vmap(lambda x, word: self.of_word(energy, x, word))(batch.x, batch.y)
        share = jnp.mean(readable.astype(found.dtype))
        return jnp.sum(jnp.where(readable, found, 0)) / len(found), (memory, {"readable": share})

    def of_word(self, energy: LatticeEnergy, x: Pieces, word: Float[Array, "t"]) -> tuple[Scalar, Array]:
        """The loss of a word, and whether any path spells it."""
        lattice = energy.lattice(x)
        symbols, length = jnp.maximum(word, 0).astype(jnp.int32), jnp.sum(word >= 0)
        spelt = lattice.spelling(symbols, length)
        if self.loss == "nll":
            right, whole = spelt.free_energy(beta=self.beta), lattice.free_energy(beta=self.beta)
            readable = jnp.isfinite(right)
            right = jnp.where(readable, right, 0)
            return losses.negative_log_likelihood(right, whole), readable
        paths, energies = spelt.best()
        right, readable = energies[0], jnp.isfinite(energies[0])
        if self.loss == "hinge":
            lattice = lattice.with_costs(-self.margin * wrong_columns(x, paths[0], symbols, energy.symbols))
        least = lattice.best()[1][0]
        return losses.perceptron(jnp.where(readable, right, 0), least), readable


def wrong_columns(x: Pieces, path: Float[Array, "a"], symbols: Array, count: int) -> Float[Array, "a s+1"]:
    """For each piece and symbol the columns that a path, whose symbols are places in a word, reads as another; in
    letters of 8 columns, and 0 for a piece that is not taken."""
    taken = path > 0
    columns = jnp.arange(x.picture.shape[1])[None]
    within = ((columns >= x.spans[:, :1]) & (columns < x.spans[:, 1:])).astype(jnp.float32)
    own = symbols[jnp.maximum(path.astype(jnp.int32) - 1, 0)]
    truth = jnp.where(taken[:, None], jax.nn.one_hot(own, count), 0)
    agreeing = within @ (within.T @ truth)
    wrong = jnp.sum(within, axis=1, keepdims=True) - agreeing
    return jnp.pad(wrong, ((0, 0), (1, 0))) / COLUMNS


class Reading(NamedTuple):
    """A word as it was read: the codes of its letters, the cuts around them, and the energy."""

    letters: list[int]
    cuts: list[int]
    energy: float


def read(energy: LatticeEnergy, pieces: Pieces, chunk: int = 64) -> list[Reading]:
    """The lowest path of each picture of a batch."""
    energy, count = over(energy, pieces), len(pieces.picture)
    found = []
    for start in range(0, count, chunk):
        # One shape for all chunks: the last is filled up with words of the one before.
        rows = np.minimum(np.arange(start, start + chunk), count - 1)
        paths, energies = _read(energy, jax.tree.map(lambda a, rows=rows: a[rows], pieces))
        for i, path, height in zip(
            rows, np.asarray(paths)[: count - start], np.asarray(energies), strict=False
        ):
            taken = np.flatnonzero(path)
            spans = np.asarray(pieces.spans[i])[taken]
            cuts = [*spans[:, 0].tolist(), *spans[-1:, 1].tolist()]
            found.append(Reading((path[taken].astype(int) - 1).tolist(), cuts, float(height)))
    return found


@eqx.filter_jit
def _read(energy: LatticeEnergy, pieces: Pieces) -> tuple[Array, Array]:
    paths, energies = jax.vmap(energy.best)(pieces)
    return paths[:, 0], energies[:, 0]


def coded(words: Sequence[Sequence[int]]) -> Float[Array, "n t"]:
    """Words of codes as an array, with -1 behind their ends. Raises `DataError` for a word without letters."""
    empty = [i for i, word in enumerate(words) if not len(word)]
    if empty:
        raise DataError(f"word {empty[0]} has no letters: leave it out")
    codes = np.full((len(words), max(map(len, words))), -1.0, np.float32)
    for row, word in zip(codes, words, strict=True):
        row[: len(word)] = word
    return jnp.asarray(codes)
