r"""Which of many overlapping windows to keep: non-maximum suppression.

\[ E(s) = \sum_i s_i\,(E_i - T) + \infty \cdot \sum_{i<j} s_i s_j\,[\mathrm{IoU}_{ij} > o], \qquad s_i \in \{0, 1\} \]

is lowered greedily: the window of the lowest energy is taken, those that overlap it by more than o are ruled out, and
so on. Compiled for a few sizes: windows are padded to a power of 4.

Rosenfeld & Thurston (1971), *Edge and curve detection for visual scene analysis*.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from thalweg.data.boxes import overlaps
from thalweg.errors import SettingsError

#: Windows of the smallest compiled size.
_LEAST = 64


def suppress(
    places: Float[np.ndarray, "n 4"], energies: Float[np.ndarray, "n"], overlap: float = 0.3
) -> np.ndarray:
    """The numbers of the windows that are kept, the lowest energy first; of equal energies the first.

    `places` are x, y, width, height; a window goes where one of lower energy was kept whose intersection with it is
    more than `overlap` of their union. Raises `SettingsError` for an overlap outside [0, 1].
    """
    if not 0 <= overlap <= 1:
        raise SettingsError(f"the overlap of two windows is a share from 0 to 1, not {overlap:g}")
    order = np.argsort(energies, kind="stable")
    room = _LEAST
    while room < len(order):
        room *= 4
    sorted_ = np.zeros((room, 4), np.float32)
    sorted_[: len(order)] = np.asarray(places, np.float64)[order]
    kept = _greedy(sorted_, np.arange(room) < len(order), np.float32(overlap))
    return order[np.asarray(kept)[: len(order)]]


@jax.jit
def _greedy(
    places: Float[Array, "n 4"], there: Bool[Array, "n"], overlap: Float[Array, ""]
) -> Bool[Array, "n"]:
    """Of windows in the order of their energies, those that no kept one before them overlaps."""
    later = jnp.arange(len(places))

    def consider(i, kept):
        hit = (overlaps(places, places[i][None]) > overlap) & (later > i)
        return jnp.where(kept[i] & hit, False, kept)

    return jax.lax.fori_loop(0, jnp.sum(there), consider, there)
