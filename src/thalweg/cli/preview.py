"""The first rows of an answer as a table that fits the terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from thalweg.cli.output import printable

#: Column name -> for each row, whether the model wrote its cell.
Marks = Mapping[str, Sequence[bool]]
WIDEST_CELL = 28
#: Room that a column takes besides its text.
_GAP = 2


def cell(value: Any) -> str:
    """One cell in few characters."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        text = " ".join(cell(item) for item in value)
    else:
        text = printable(str(value))
    return text if len(text) <= WIDEST_CELL else text[: WIDEST_CELL - 1] + "…"


def preview(
    table: Any, *, total: int, width: int, filled: Marks | None = None, first: Sequence[str] = ()
) -> Group:
    """A `pyarrow.Table` of first rows as a rich table no wider than `width`.

    `total` is the number of rows there are in all. `filled` (column name -> booleans) marks cells that the
    model wrote: green and in brackets. Where not all columns fit, those named in `first` come before the others, in
    that order, then those with such cells.
    """
    texts = {
        name: [cell(v) for v in table.column(i).to_pylist()] for i, name in enumerate(table.column_names)
    }
    for name, marks in (filled or {}).items():
        if name in texts:
            texts[name] = [f"[{t}]" if mark else t for t, mark in zip(texts[name], marks, strict=True)]
    shown = _columns_that_fit(texts, width, first, filled or {})
    left_out = len(texts) - len(shown)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP, 0, 0))
    for name in shown:
        numeric = table.schema.field(name).type in _numeric()
        grid.add_column(Text(cell(name)), justify="right" if numeric else "left", no_wrap=True)
    if left_out:
        grid.add_column(Text(f"+{left_out}", style="dim"))
    for row in range(table.num_rows):
        cells = [_marked(texts[name][row], (filled or {}).get(name), row) for name in shown]
        grid.add_row(*cells, *([Text("…", style="dim")] if left_out else []))
    if total <= table.num_rows:
        return Group(grid)
    return Group(grid, Text(f"the first {table.num_rows} of {total:,} rows", style="dim"))


def _marked(text: str, marks: Sequence[bool] | None, row: int) -> Text:
    return Text(text, style="bold green" if marks is not None and marks[row] else "")


def _columns_that_fit(
    texts: dict[str, list[str]], width: int, first: Sequence[str], filled: Marks
) -> list[str]:
    """The names to show, in the table's own order."""
    order = {name: i for i, name in enumerate(first)}
    wanted = sorted(texts, key=lambda name: (order.get(name, len(order)), not any(filled.get(name, ()))))
    room = width - 8
    shown: set[str] = set()
    for name in wanted:
        room -= max(map(len, [cell(name), *texts[name]])) + _GAP
        if room < 0 and shown:
            break
        shown.add(name)
    return [name for name in texts if name in shown]


def _numeric() -> set[Any]:
    import pyarrow as pa

    return {pa.int64(), pa.int32(), pa.int16(), pa.int8(), pa.uint8(), pa.float64(), pa.float32()}
