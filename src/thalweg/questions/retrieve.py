r"""retrieve: which of these belongs to it?

The energy of a pair is \(\lVert u - v \rVert^2 / 2\tau\) of embeddings of length 1, so the partners of least energy are
the nearest, and all energies at once are one matrix product.
"""

from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractEmbedded
from thalweg.errors import NotAnswered, SchemaError, SettingsError
from thalweg.questions.batches import by_row, in_batches
from thalweg.questions.records import Ranking

Method = Literal["exact", "hnsw"]
#: Rows whose products with all candidates are held at once.
AT_ONCE = 1024
#: Neighbours of a node of the graph, and how many are looked at when it is built and when it is searched.
LINKS, BUILT, SEARCHED = 32, 200, 128


def method(kind: type[AbstractEnergy]) -> str | None:
    if issubclass(kind, AbstractEmbedded):
        return "exact: the nearest embeddings, by one matrix product; approximate by a graph of neighbours"
    return None


@dataclass(frozen=True)
class Index:
    """Candidates that are embedded once and searched often: `embeddings` (m, k) of their `side`.

    `graph` finds the nearest approximately, without looking at all; None: a matrix product finds them exactly.
    """

    embeddings: Float[np.ndarray, "m k"]
    side: int
    temperature: float
    graph: Any = None

    def __len__(self) -> int:
        return len(self.embeddings)

    def nearest(
        self, u: Float[np.ndarray, "n k"], k: int
    ) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
        """The `k` candidates of least energy for each embedding, and their energies in nats, the lowest first."""
        if self.graph is not None:
            cosines, found = self.graph.search(np.ascontiguousarray(u, np.float32), k)
        else:
            parts = [_nearest(u[i : i + AT_ONCE] @ self.embeddings.T, k) for i in range(0, len(u), AT_ONCE)]
            found, cosines = (np.concatenate(part) for part in zip(*parts, strict=True))
        return found, np.maximum(1 - cosines.astype(np.float64), 0) / self.temperature


def _nearest(
    cosines: Float[np.ndarray, "n m"], k: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """The `k` largest of each line, the largest first; of equals the first."""
    chosen = np.arange(cosines.shape[1])[None].repeat(len(cosines), 0)
    if k < cosines.shape[1]:
        chosen = np.sort(np.argpartition(-cosines, k - 1, axis=1)[:, :k], axis=1)
    values = np.take_along_axis(cosines, chosen, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1), np.take_along_axis(values, order, axis=1)


def index(F: AbstractEnergy, rows: Rows, side: int, how: Method = "exact") -> Index:
    """The rows as candidates, embedded as of this side.

    Raises `NotAnswered` for an energy without embeddings, `SettingsError` for another method and where the library of
    the graph is not installed.
    """
    F = embedded(F)
    if how not in ("exact", "hnsw"):
        raise SettingsError(f"the nearest are found by exact or hnsw, not {how!r}")
    u = embeddings(F, rows, side)
    return Index(u, side, float(F.temperature), _graph(u) if how == "hnsw" else None)


def retrieve(F: AbstractEnergy, rows: Rows, candidates: Index, k: int, *, apart: bool = False) -> Ranking:
    """The `k` candidates of least energy for each row, fewer where there are fewer.

    `apart`: the candidates are the rows themselves, and none is its own partner.
    """
    if k < 1:
        raise SettingsError(f"retrieve finds at least one candidate a row, not {k}")
    u = embeddings(embedded(F), rows, 1 - candidates.side)
    found, energies = candidates.nearest(u, min(k + apart, len(candidates)))
    if apart:
        found, energies = _without_itself(found, energies)
    return Ranking(found, energies)


def _without_itself(
    found: Int[np.ndarray, "n k"], energies: Float[np.ndarray, "n k"]
) -> tuple[np.ndarray, np.ndarray]:
    """All but each row's own number; where equals have crowded it out, all but the last."""
    n, k = found.shape
    own = found == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True
    return found[~own].reshape(n, k - 1), energies[~own].reshape(n, k - 1)


def embedded(F: AbstractEnergy) -> AbstractEmbedded:
    """The energy; raises `NotAnswered` where it is not one of pairs."""
    if not isinstance(F, AbstractEmbedded):
        raise NotAnswered(
            f"{type(F).__name__} has no embedding in which partners are near: fit siamese (rows of one class belong "
            "together) or two-tower (the two sides of a row do), or ask rank"
        )
    return F


def side_of(F: AbstractEmbedded, rows: Rows, known: int | None = None) -> int:
    """Which side of a pair the rows are: the first that they say something about.

    `known`: of the rows that they are to be partners of. Raises `SchemaError` where they say nothing about the other.
    """
    first, second = F.sides
    if first == second:
        return 0 if known is None else 1 - known
    says = [bool(rows.observed[:, list(side)].any()) for side in F.sides]
    wanted = (0 if says[0] else 1) if known is None else 1 - known
    if not says[wanted]:
        names = ", ".join(repr(F.space.columns[i].name) for i in F.sides[wanted][:3])  # type: ignore[attr-defined]
        raise SchemaError(
            f"the candidates say nothing about the other side of a pair: they have none of {names}, …; give the rows "
            "among which partners are looked for (AMONG, among=)"
        )
    return wanted


def embeddings(F: AbstractEmbedded, rows: Rows, side: int) -> Float[np.ndarray, "n k"]:
    """The embedding of each row as of this side."""
    chosen = _first if side == 0 or F.sides[0] == F.sides[1] else _second
    return in_batches(chosen, F, rows.values, rows.observed)


@eqx.filter_jit
def _first(F, y, observed):
    return by_row(lambda y, o: F.embed(y, o, 0), y, observed)


@eqx.filter_jit
def _second(F, y, observed):
    return by_row(lambda y, o: F.embed(y, o, 1), y, observed)


def _graph(u: Float[np.ndarray, "m k"]) -> Any:
    """A hierarchical graph of neighbours: Malkov & Yashunin (2020), *Efficient and robust approximate nearest neighbor
    search using hierarchical navigable small world graphs*."""
    try:
        import faiss
    except ImportError:
        raise SettingsError(
            "the approximate index needs faiss-cpu: pip install thalweg[retrieval], or take the exact search"
        ) from None
    graph = faiss.IndexHNSWFlat(u.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = BUILT, SEARCHED
    graph.add(np.ascontiguousarray(u, np.float32))
    return graph
