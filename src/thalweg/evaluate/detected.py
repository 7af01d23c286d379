"""How well boxes that were found agree with those that are there: matching, average precision, FROC."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from thalweg.data.boxes import Boxes, overlaps
from thalweg.errors import DataError

#: False positives a picture at which sensitivities are usually read.
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
#: What a found box is matched with: no true box, or one that does not count.
NOTHING, LEFT_OUT = -1, -2


class Curve(NamedTuple):
    """What is reached when boxes are taken from the most probable on: the share of the true ones that were found
    (`recall`), the share of those taken that are true (`precision`), and false ones a picture (`false_rate`)."""

    recall: Float[np.ndarray, "n"]
    precision: Float[np.ndarray, "n"]
    false_rate: Float[np.ndarray, "n"]
    probability: Float[np.ndarray, "n"]

    def sensitivity(self, rates: tuple[float, ...] = RATES) -> Float[np.ndarray, "r"]:
        """The largest recall with at most so many false positives a picture: the free-response ROC.

        Bunch, Hamilton, Sanderson & Simmons (1977), *A free response approach to the measurement and characterization
        of radiographic observer performance*.
        """
        allowed = np.asarray(self.false_rate)[None] <= np.asarray(rates, float)[:, None]
        return np.max(np.where(allowed, np.asarray(self.recall)[None], 0.0), axis=1, initial=0.0)

    @property
    def area(self) -> float:
        r"""\(\int_0^1 \max_{r' \ge r} p(r')\,dr\): average precision over all points."""
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        return float(np.sum(np.diff(self.recall, prepend=0.0) * best))


def match(
    found: Boxes,
    truth: Boxes,
    overlap: float = 0.5,
    *,
    labelled: bool = True,
    areas: tuple[float, float] = (0.0, np.inf),
) -> Int[np.ndarray, "n"]:
    """The number of the true box that each found one is matched with; `NOTHING`, or `LEFT_OUT` where it does not count.

    From the most probable on, each takes the free true box of the largest intersection over union, at least `overlap`,
    in its picture (and of its label, unless `labelled` is False). A true box is taken once: what finds it again matches
    nothing. Only true boxes with an area in [low, high) of `areas` count; found ones that match another, or nothing and
    have another area themselves, are left out. Raises `DataError` for found boxes without probabilities.
    """
    if found.probability is None:
        raise DataError("boxes that were found need probabilities, by which they are ordered")
    inside = _inside(truth, areas)
    matched = np.where(_inside(found, areas), NOTHING, LEFT_OUT)
    free = np.ones(len(truth), bool)
    for i in np.argsort(-found.probability, kind="stable"):
        near = np.flatnonzero(free & (truth.picture == found.picture[i]))
        if labelled and truth.label is not None and found.label is not None:
            near = near[truth.label[near] == found.label[i]]
        if not len(near):
            continue
        common = overlaps(truth.place[near], found.place[i])
        # Of two that overlap enough the one that counts.
        best = int(np.lexsort((common, inside[near], common >= overlap))[-1])
        if common[best] >= overlap:
            free[near[best]] = False
            matched[i] = near[best] if inside[near[best]] else LEFT_OUT
    return matched


def curve(
    found: Boxes,
    truth: Boxes,
    pictures: int,
    overlap: float = 0.5,
    *,
    labelled: bool = True,
    areas: tuple[float, float] = (0.0, np.inf),
) -> Curve:
    """The curve over all boxes together, of so many `pictures`; for the other arguments see `match`."""
    matched = match(found, truth, overlap, labelled=labelled, areas=areas)
    assert found.probability is not None
    order = np.argsort(-found.probability, kind="stable")
    order = order[matched[order] != LEFT_OUT]
    hits = np.cumsum(matched[order] >= 0)
    misses = np.cumsum(matched[order] == NOTHING)
    there = max(int(_inside(truth, areas).sum()), 1)
    return Curve(
        hits / there, hits / np.maximum(hits + misses, 1), misses / pictures, found.probability[order]
    )


def average_precision(
    found: Boxes,
    truth: Boxes,
    overlap: float = 0.5,
    *,
    labelled: bool = True,
    areas: tuple[float, float] = (0.0, np.inf),
) -> float:
    """Average precision at an intersection over union of `overlap`, by all points; the mean over the labels that there
    are, or of all boxes together without `labelled`. nan where no true box counts.

    Everingham, Van Gool, Williams, Winn & Zisserman (2010), *The PASCAL visual object classes challenge*; areas: Lin et
    al. (2014), *Microsoft COCO: common objects in context*.
    """
    if not _inside(truth, areas).any():
        return float("nan")
    if not labelled or truth.label is None or found.label is None:
        return curve(found, truth, 1, overlap, labelled=False, areas=areas).area
    labels = np.unique(truth.label[_inside(truth, areas)])
    return float(
        np.mean(
            [
                curve(found[found.label == one], truth[truth.label == one], 1, overlap, areas=areas).area
                for one in labels
            ]
        )
    )


def _inside(boxes: Boxes, areas: tuple[float, float]) -> np.ndarray:
    size = boxes.place[:, 2] * boxes.place[:, 3]
    return (areas[0] <= size) & (size < areas[1])
