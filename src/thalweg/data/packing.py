"""Ragged sequences in rows of one length, so that whatever walks along them is compiled once."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

#: The shortest row that sequences are packed into, where there are enough of them.
SHORTEST = 64


class Packed(NamedTuple):
    """Which element stands where: `place` (b, t), -1 where none does, and where a sequence `starts` (b, t)."""

    place: Int[np.ndarray, "b t"]
    starts: Bool[np.ndarray, "b t"]

    @property
    def mask(self) -> Bool[np.ndarray, "b t"]:
        return self.place >= 0


def lengths_of(sequence: Int[np.ndarray, "n"]) -> Int[np.ndarray, "s"]:
    """How many elements each sequence has, of the numbers of the sequences of all elements."""
    begins = np.flatnonzero(np.diff(sequence, prepend=sequence[:1] - 1))
    return np.diff(np.append(begins, len(sequence)))


def pack(lengths: Int[np.ndarray, "s"], width: int = 0) -> Packed:
    """Sequences of these lengths, one after another in rows of `width` (0: a power of two that holds the longest).

    Longer ones first, each into the row with the least room that it fits in (best fit decreasing: Johnson 1973,
    *Near-optimal bin packing algorithms*).
    """
    longest, total = int(max(lengths, default=1)), int(np.sum(lengths))
    width = width or 1 << (max(longest, min(SHORTEST, total), 1) - 1).bit_length()
    first = np.cumsum(lengths) - lengths
    rows: list[list[int]] = []
    room: dict[int, list[int]] = {}
    for s in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[s])
        left = next((r for r in range(length, width + 1) if room.get(r)), None)
        row = room[left].pop() if left is not None else len(rows)
        if left is None:
            rows.append([])
        rows[row].append(s)
        room.setdefault((width if left is None else left) - length, []).append(row)
    place = np.full((len(rows), width), -1)
    starts = np.zeros((len(rows), width), bool)
    for i, together in enumerate(rows):
        at = 0
        for s in together:
            length = int(lengths[s])
            place[i, at : at + length] = np.arange(first[s], first[s] + length)
            starts[i, at] = True
            at += length
    return Packed(place, starts)


def separate(lengths: Int[np.ndarray, "s"]) -> Packed:
    """Each sequence in a row of its own."""
    width = 1 << (int(max(lengths, default=1)) - 1).bit_length()
    first = np.cumsum(lengths) - lengths
    step = np.arange(width)
    place = np.where(step < lengths[:, None], first[:, None] + step, -1)
    return Packed(place, np.broadcast_to(step == 0, place.shape))


def gathered(values: np.ndarray, packed: Packed) -> np.ndarray:
    """Values of the elements (n, …) where they stand (b, t, …); 0 where none does."""
    found = values[np.maximum(packed.place, 0)]
    found[~packed.mask] = 0
    return found


def scattered(values: np.ndarray, packed: Packed, n: int) -> np.ndarray:
    """Values where elements stand (b, t, …) as those of the elements (n, …)."""
    out = np.zeros((n, *values.shape[2:]), values.dtype)
    out[packed.place[packed.mask]] = values[packed.mask]
    return out
