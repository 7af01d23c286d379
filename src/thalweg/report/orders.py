"""The part about queries whose rows are put in order: how good the order is, beside chance and the best there is."""

from typing import Any

import numpy as np
import pyarrow as pa

from thalweg.energy.capabilities import AbstractScored
from thalweg.evaluate.ranking import mean_over_lists, ndcg
from thalweg.models.ranker import relevance_of
from thalweg.report import figures
from thalweg.report.html import LeftOut, Section, facts, figure, number, table
from thalweg.report.rows import Look
from thalweg.report.style import svg

NAME = "Orders"
#: Places whose NDCG is listed, and that are drawn.
PLACES, DRAWN = (1, 3, 5, 10), 20


def orders(model: Any, look: Look | None) -> Section | LeftOut:
    """NDCG over the queries of rows that did not train, and the mean relevance at each place."""
    if not isinstance(model.F, AbstractScored) or model.F.query is None:
        return LeftOut(NAME, "the model puts no rows in order")
    query, target = model.schema.space.names[model.F.query], model.schema.target
    if look is None or not {query, target} <= set(look.table.column_names):
        return LeftOut(NAME, f"there are no rows that say their {query!r} and their {target!r}")
    lists = _lists(model, look, query, target)
    if not lists:
        return LeftOut(NAME, f"no query of these rows has two that differ in {target!r}")
    gain = model.settings["gain"]
    scores = {
        "its order": [-energies for energies, _ in lists],
        "by chance": [np.zeros(len(r)) for _, r in lists],
    }
    found = {
        (name, k): mean_over_lists(
            np.array([ndcg(s, r, k, gain=gain) for s, (_, r) in zip(given, lists, strict=True)])
        )
        for name, given in scores.items()
        for k in PLACES
    }
    k = model.settings["k"] if model.settings["k"] in PLACES else PLACES[-1]
    title = f"NDCG@{k} is {found['its order', k]:.3f}, where chance has {found['by chance', k]:.3f}"
    reading = (
        f"Means over the {number(len(lists))} queries of the {look.title} that have an order. NDCG is 1 where the "
        "most relevant rows come first. The picture has the mean relevance of the row at each place."
    )
    rows = [(name, *(round(found[name, k], 4) for k in PLACES)) for name in scores]
    body = facts({"queries": len(lists), "rows": sum(len(r) for _, r in lists)}) + table(
        ("NDCG", *(f"@{k}" for k in PLACES)), rows, numeric=[f"@{k}" for k in PLACES]
    )
    curves = {
        "its order": _by_place([r[np.argsort(e, kind="stable")] for e, r in lists]),
        "the best order": _by_place([np.sort(r)[::-1] for _, r in lists]),
        "by chance": _by_place([np.full(len(r), r.mean()) for _, r in lists]),
    }
    picture = svg(figures.by_place(curves, str(target)), "orders", "Mean relevance by place")
    tile = (
        f"{found['its order', k]:.3f}",
        f"over {number(len(lists))} queries; by chance {found['by chance', k]:.3f}",
    )
    return Section("orders", NAME, title, reading, body, figure(picture), tiles={f"NDCG@{k}": tile})


def _lists(model: Any, look: Look, query: str, target: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The energies and the relevance of the rows of each query that has an order."""
    rows = model.schema.encode(look.table)
    index = model.schema.index(target)
    order = model.rank(look.table)
    known = rows.observed[order.row, index]
    names = order.query.filter(pa.array(known)).dictionary_encode(null_encoding="encode").indices
    relevance = relevance_of(rows, model.schema.space, index)[order.row][known]
    begins = np.flatnonzero(np.diff(names.to_numpy(zero_copy_only=False))) + 1
    parts = zip(np.split(order.energy[known], begins), np.split(relevance, begins), strict=True)
    return [(energies, r) for energies, r in parts if len(r) and r.max() > r.min()]


def _by_place(relevance: list[np.ndarray]) -> np.ndarray:
    """The mean over lists at each place that half of them have."""
    longest = min(DRAWN, int(np.median([len(r) for r in relevance])))
    filled = np.full((len(relevance), longest), np.nan)
    for line, r in zip(filled, relevance, strict=True):
        line[: len(r)] = r[:longest]
    return np.nanmean(filled, axis=0)
