"""Pictures of words cut into pieces: candidate cuts, and the lattice of all pieces that may be letters.

Made on the host. A cut is a place between columns; a piece lies between two cuts, and every way from the left of the
word to its right is a path of pieces. LeCun, Bottou, Bengio & Haffner (1998), *Gradient-based learning applied to
document recognition*, section 5.
"""

from collections.abc import Sequence
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from thalweg.energy.arcs import Arcs, stacked
from thalweg.errors import DataError, SettingsError


class Pieces(eqx.Module):
    """The pieces of a picture (h, w): the cuts around each, `spans` (a, 2), the columns `inked` (a, 2) that are left
    without its margins, from the first to behind the last, and the `arcs` of the lattice. A batch has an axis more."""

    picture: Float[Array, "h w"]
    spans: Int[Array, "a 2"]
    inked: Int[Array, "a 2"]
    arcs: Arcs


def candidates(picture: np.ndarray, apart: int = 3) -> list[int]:
    """Where a word may be cut: at its ends, in the middle of each blank, where there is less ink than to both sides,
    and so often that no two cuts lie more than `apart` columns from one another."""
    ink = np.asarray(picture, float).sum(axis=0)
    start, end = _extent(ink)
    between = np.minimum(ink[:-1], ink[1:])
    low = [
        i + 1
        for i in range(start, end - 1)
        if between[i] > 0 and between[i] <= min(between[max(i - 1, 0)], between[min(i + 1, len(between) - 1)])
    ]
    cuts = sorted({start, end, *_blanks(ink, start, end), *low})
    found = [start]
    for cut in cuts[1:]:
        steps = -(-(cut - found[-1]) // apart)
        found += [round(found[-1] + (cut - found[-1]) * (i + 1) / steps) for i in range(steps)]
    return found


def greedy(picture: np.ndarray, widest: int) -> list[int]:
    """Cuts without a second thought: in each blank, and where what is wider than `widest` columns has the least ink, of
    places alike that nearest to its middle, until nothing is wider."""
    ink = np.asarray(picture, float).sum(axis=0)
    start, end = _extent(ink)
    cuts = sorted({start, end, *_blanks(ink, start, end)})
    done = False
    while not done:
        done = True
        for a, b in pairwise(cuts):
            first, last = _trimmed(ink, a, b)
            if last - first > widest:
                inner = np.arange(first + 2, last - 1)
                cost = np.minimum(ink[inner - 1], ink[inner]) + 1e-3 * np.abs(inner - (first + last) / 2)
                cuts = sorted({*cuts, int(inner[np.argmin(cost)])})
                done = False
                break
    return cuts


def segmented(
    pictures: Sequence[np.ndarray], widest: int = 9, cuts: Sequence[Sequence[int]] | None = None
) -> Pieces:
    """A batch of words as lattices of pieces of up to `widest` inked columns, between `candidates`; with `cuts` of one
    piece between each two neighbours alone, however wide. Values are ink from 0 to 1; all pictures have one height.

    Raises `DataError` for a picture without ink or of another shape, `SettingsError` where no piece is wide enough.
    """
    if widest < 3:
        raise SettingsError(
            f"candidates lie up to 3 columns apart, so pieces are at least 3 wide, not {widest}"
        )
    heights = {np.shape(picture)[0] if np.ndim(picture) == 2 else None for picture in pictures}
    if len(heights) != 1 or None in heights:
        raise DataError("pictures of words are arrays (height, width) of one height, and one word at least")
    width = max(picture.shape[1] for picture in pictures)
    words = [
        _word(np.asarray(picture, np.float32), i, widest, None if cuts is None else cuts[i])
        for i, picture in enumerate(pictures)
    ]
    arcs = stacked(
        [Arcs.of([tuple(span) for span in spans], spans[0][0], spans[-1][1]) for spans, _ in words]
    )
    most = arcs.used.shape[1]

    def filled(rows: list) -> Array:
        return jnp.asarray(
            np.stack([np.pad(r, ((0, most - len(r)), (0, 0)), mode="edge") for r in rows]), jnp.int32
        )

    whole = [np.pad(np.asarray(p, np.float32), ((0, 0), (0, width - p.shape[1]))) for p in pictures]
    return Pieces(
        jnp.asarray(np.stack(whole)),
        filled([spans for spans, _ in words]),
        filled([inked for _, inked in words]),
        arcs,
    )


def of_rows(pieces: Pieces, index: np.ndarray) -> Pieces:
    """Some words of a batch."""
    return jax.tree.map(lambda a: a[index], pieces)


def _word(
    picture: np.ndarray, number: int, widest: int, cuts: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The spans of the pieces, from left to right, and their inked columns."""
    ink = picture.sum(axis=0)
    if not np.any(ink > 0):
        raise DataError(f"picture {number} has no ink: leave it out, or turn it about (ink is 1, paper 0)")
    places = candidates(picture) if cuts is None else list(cuts)
    spans, inked = [], []
    for i, a in enumerate(places):
        for b in places[i + 1 : i + 2] if cuts is not None else places[i + 1 :]:
            first, last = _trimmed(ink, a, b)
            if cuts is None and last - first > widest:
                break
            spans.append((int(a), int(b)))
            inked.append((first, last))
    return np.array(spans), np.array(inked)


def _extent(ink: np.ndarray) -> tuple[int, int]:
    where = np.flatnonzero(ink > 0)
    return int(where[0]), int(where[-1]) + 1


def _trimmed(ink: np.ndarray, a: int, b: int) -> tuple[int, int]:
    """The columns from a to b without blank ones at either end; all where there is no ink."""
    inside = ink[a:b] > 0
    if not inside.any():
        return a, b
    return a + int(inside.argmax()), b - int(inside[::-1].argmax())


def _blanks(ink: np.ndarray, start: int, end: int) -> list[int]:
    """The middle of each run of blank columns."""
    blank = np.flatnonzero(ink[start:end] <= 0) + start
    runs = np.split(blank, np.flatnonzero(np.diff(blank) > 1) + 1) if len(blank) else []
    return [int(run[0] + run[-1] + 1) // 2 for run in runs]
