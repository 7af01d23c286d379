"""The part about embeddings: how often the nearest of the other rows belongs to a row."""

from typing import Any

import numpy as np

from thalweg.data.rows import Rows
from thalweg.energy.capabilities import AbstractEmbedded
from thalweg.evaluate.retrieval import recall_at
from thalweg.questions.retrieve import index, retrieve
from thalweg.report.html import LeftOut, Section, facts, number
from thalweg.report.rows import Look

NAME = "Retrieval"
#: Rows among which partners are looked for.
MOST = 2000


def retrieval(model: Any, look: Look | None) -> Section | LeftOut | None:
    """The nearest of other rows that did not train: of the same class, or the other side of the row itself; nothing
    where a model has no embedding."""
    if not isinstance(model.F, AbstractEmbedded):
        return None
    if look is None:
        return LeftOut(NAME, "there are no rows among which to look for partners")
    look = look.thinned(MOST)
    rows = model.schema.encode(look.table)
    first, second = model.F.sides
    return _classes(model, look, rows) if first == second else _sides(model.F, look, rows)


def _classes(model: Any, look: Look, rows: Rows) -> Section | LeftOut:
    """Whether the nearest other row is of the same class, of rows that have another one."""
    target = model.schema.index(model.schema.target)
    rows = rows[rows.observed[:, target]]
    label = rows.values[:, target]
    others = np.sum(label[:, None] == label, axis=1) - 1
    asked = others > 0
    if not asked.any():
        return LeftOut(NAME, "no two rows are of one class")
    found = retrieve(model.F, rows, index(model.F, rows, 1), 1, apart=True).order[:, 0]
    recall = float(np.mean((label[found] == label)[asked]))
    chance = float(np.mean(others[asked] / (len(rows) - 1)))
    title = f"The nearest other row has the same {model.schema.target} for {100 * recall:.1f} %"
    reading = (
        f"Each of {number(int(asked.sum()))} {look.title} looks for its nearest among the other "
        f"{number(len(rows) - 1)}. A row taken at random is right for {100 * chance:.1f} %."
    )
    pairs = {"recall@1": f"{100 * recall:.1f} %", "at random": f"{100 * chance:.1f} %"}
    tiles = {
        "recall@1": (
            f"{100 * recall:.1f} %",
            f"of {look.title}: the nearest has the same {model.schema.target}",
        )
    }
    return Section("retrieval", NAME, title, reading, facts(pairs), tiles=tiles)


def _sides(F: AbstractEmbedded, look: Look, rows: Rows) -> Section | LeftOut:
    """Whether the partner of one side is the other side of the same row."""
    rows = rows[np.all([rows.observed[:, list(side)].any(axis=1) for side in F.sides], axis=0)]
    if len(rows) < 2:
        return LeftOut(NAME, "fewer than two rows have both sides")
    right, ways = np.arange(len(rows)), {}
    for side, name in ((1, "second for first"), (0, "first for second")):
        order = retrieve(F, rows, index(F, rows, side), 10).order
        ways[name] = (recall_at(order, right, 1), recall_at(order, right, 10))
    nearest, among = np.mean(list(ways.values()), axis=0)
    title = f"The nearest of {number(len(rows))} is the partner for {100 * nearest:.1f} %"
    reading = (
        f"Each side of {number(len(rows))} {look.title} looks for its partner among the other sides of all. One taken "
        f"at random is right for {100 / len(rows):.2g} %."
    )
    pairs = {
        f"recall@{k}, {name}": f"{100 * ways[name][i]:.1f} %" for name in ways for i, k in enumerate((1, 10))
    }
    tiles = {
        "recall@1": (f"{100 * nearest:.1f} %", f"of {look.title}: the nearest is the partner"),
        "recall@10": (f"{100 * among:.1f} %", f"among {number(len(rows))}"),
    }
    return Section("retrieval", NAME, title, reading, facts(pairs), tiles=tiles)
