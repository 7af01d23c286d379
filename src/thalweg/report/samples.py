"""The parts about what the model makes: new rows, and guesses of hidden cells."""

from typing import Any

import numpy as np
import pyarrow as pa

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractDensity
from thalweg.energy.capabilities import AbstractConditional
from thalweg.errors import ThalwegError
from thalweg.report import figures, pictures
from thalweg.report.html import LeftOut, Section, figure, number, table
from thalweg.report.judge import most_related
from thalweg.report.rows import Look, column_named, for_the_eye, hide, standardised
from thalweg.report.style import svg

IMAGES, ROWS, COMPLETED, SEED = 36, 400, 6, 0
#: Rows that are the ends of chains, each of hundreds of steps.
CHAINED = 128


def samples(model: Any, look: Look | None) -> Section | LeftOut:
    """Rows drawn from the model: as images, or beside the data."""
    if isinstance(model.F, AbstractConditional):
        return LeftOut("Samples", "the model draws answers to what it is given, and no whole rows")
    if model.schema.grid:
        return _image_samples(model)
    if look is None:
        return LeftOut("Samples", "there are no rows to set the draws beside; `thalweg sample` prints them")
    drawn = model.sample(ROWS if isinstance(model.F, AbstractDensity) else CHAINED, seed=SEED)
    return _table_samples(model, look.thinned(1000), drawn)


def _image_samples(model: Any) -> Section:
    drawn = model.sample(IMAGES, seed=SEED)
    images = pictures.intensities(drawn, model.schema)
    names = _captions(model.schema, drawn)
    tiles = [pictures.tile(image, name, "a drawn image") for image, name in zip(images, names, strict=True)]
    reading = "Each is drawn anew. Look for what is drawn well, and for what never appears."
    return Section(
        "samples", "Samples", f"{IMAGES} images drawn from exp(−F)", reading, pictures.gallery(tiles)
    )


def _captions(schema: Any, rows: pa.Table) -> list[str]:
    """What stands beside the pixels, such as a label."""
    beside = [c.name for c in schema.columns[int(np.prod(schema.grid)) :] if c.kind != "constant"]
    if not beside:
        return [""] * rows.num_rows
    return ["–" if cell is None else str(cell) for cell in rows.column(beside[0]).to_pylist()]


def _table_samples(model: Any, look: Look, drawn: pa.Table) -> Section:
    schema = model.schema
    real_rows, drawn_rows = schema.encode(look.table), schema.encode(drawn)
    complete = real_rows.complete
    order = most_related(
        real_rows.values[complete] if complete.sum() > 2 else real_rows.values, len(schema.space.names)
    )
    real = [for_the_eye(schema, real_rows, look.table, i) for i in order[:6]]
    new = [for_the_eye(schema, drawn_rows, drawn, i) for i in order[:6]]
    shown = [i for i, values in enumerate(real) if len(values) and len(new[i])]
    columns = [column_named(schema, schema.space.names[order[i]]) for i in shown]
    small = [figure(svg(figures.marginal(column, real[i], new[i]), f"marginal{i}", f"{column.name}"))
             for i, column in zip(shown, columns, strict=True)]  # fmt: skip
    reading = (
        f"{ROWS} drawn rows (orange) and {len(look):,} {look.title} (blue). The columns "
        "shown are those "
        "most related to another one, the hardest for a model."
    )
    pair = [i for i in order if column_named(schema, schema.space.names[i]).kind != "categorical"][:2]
    beside = (
        figure(_scatter(schema, pair, (real_rows, look.table), (drawn_rows, drawn))) if len(pair) == 2 else ""
    )
    body = f'<div class="small">{"".join(small)}</div>'
    return Section("samples", "Samples", "Drawn rows should look like the data", reading, "", beside, body)


def _scatter(schema: Any, pair: list[int], real: tuple, drawn: tuple) -> str:
    points = []
    for rows, source in (real, drawn):
        both = rows.observed[:, pair].all(axis=1)
        kept = type(rows)(rows.values[both], rows.observed[both], rows.unseen[both])
        part = source.filter(both.tolist())
        points.append(np.stack([for_the_eye(schema, kept, part, i) for i in pair], axis=1)[:400])
    names = tuple(schema.space.names[i] for i in pair)
    return svg(figures.scatter(names, *points), "scatter", "Two columns against each other, data and drawn")


def completions(model: Any, look: Look | None) -> Section | LeftOut:
    """Hidden cells and the model's guesses."""
    if isinstance(model.F, AbstractConditional):
        return LeftOut("Completions", "the model fills nothing but its answers, which are its predictions")
    if look is None:
        return LeftOut("Completions", "there are no rows to hide cells of")
    return (
        _image_completions(model, look.thinned(COMPLETED))
        if model.schema.grid
        else _table_completions(model, look)
    )


def _image_completions(model: Any, look: Look) -> Section:
    schema = model.schema
    names = schema.space.names
    lower = _lower_half(schema)
    hidden = np.tile([name in lower for name in names], (len(look), 1))
    open_ = hide(look.table, hidden, names)
    versions = {"the row": look.table, "given": open_, "best guess": model.complete(open_)}
    drawn = _draws(model, open_, 3)
    if drawn is not None:
        versions |= {f"draw {i + 1}": drawn.take(np.arange(i, drawn.num_rows, 3)) for i in range(3)}
    blank = np.tile(_lower_mask(schema), (len(look), 1, 1, 1))
    columns = []
    for name, version in versions.items():
        images = pictures.intensities(version, schema)
        columns.append(np.where(blank, np.nan, images) if name == "given" else images)
    rows = [[pictures.tile(images[i], alt=name) for name, images in zip(versions, columns, strict=True)]
            for i in range(len(look))]  # fmt: skip
    return Section(
        "completions",
        "Completions",
        "The lower half was hidden and is guessed from the upper",
        f"From {look.title}. The best guess is the mean of all that could stand there, so it blurs; "
        "each draw is "
        "one of the possibilities.",
        pictures.strips(list(versions), rows),
    )


def _lower_mask(schema: Any) -> np.ndarray:
    """Which pixels are hidden, as an image of one channel."""
    images = pictures.shaped(np.zeros((1, int(np.prod(schema.grid)))), schema.grid)
    mask = np.zeros((1, images.shape[1], images.shape[2], 1), bool)
    mask[:, images.shape[1] // 2 :] = True
    return mask


def _lower_half(schema: Any) -> set[str]:
    """The names of the hidden columns: the lower half of the pixels, and what stands beside them."""
    count = int(np.prod(schema.grid))
    image = pictures.shaped(np.arange(count)[None], schema.grid)[0]
    hidden = set(image[image.shape[0] // 2 :].ravel().tolist())
    return {column.name for i, column in enumerate(schema.columns) if i >= count or i in hidden}


def _draws(model: Any, rows: pa.Table, n: int) -> pa.Table | None:
    """Joint draws of the hidden cells; None for a model that cannot draw."""
    try:
        return model.complete(rows, n=n, seed=SEED)
    except ThalwegError:
        return None


def _table_completions(model: Any, look: Look) -> Section | LeftOut:
    schema = model.schema
    look = look.thinned(200)
    truth = schema.encode(look.table)
    hidden = truth.observed & (np.random.default_rng(SEED).random(truth.observed.shape) < 0.3)
    if not hidden.any():
        return LeftOut("Completions", "the rows have no cells to hide")
    filled = schema.encode(model.complete(hide(look.table, hidden, schema.space.names)))
    judged = [_judged(schema, i, truth.values[hidden[:, i], i], filled.values[hidden[:, i], i])
              for i in range(hidden.shape[1]) if hidden[:, i].any()]  # fmt: skip
    judged.sort(key=lambda row: -row[-1])
    headings = ("column", "guess", "mean or mode", "saved")
    cells = [(*row[:-1], f"{100 * row[-1]:.0f} %") for row in judged[:12]]
    body = table(headings, cells, numeric=headings[1:])
    saved = float(np.mean([row[-1] for row in judged]))
    title = f"Guesses save {100 * saved:.0f} % of the error that the column's mean or mode makes"
    reading = (
        f"{number(int(hidden.sum()))} cells of {look.title}, 30 % of each column, were hidden and guessed "
        "from what "
        "was left of their rows. Errors of numbers are in the column's standard deviations (root mean "
        "square), "
        "those of categories the share that is wrong."
    )
    beside = _guesses(schema, truth, filled, hidden)
    return Section("completions", "Completions", title, reading, "", beside, body)


def _guesses(schema: Any, truth: Rows, filled: Rows, hidden: np.ndarray) -> str:
    """Truth against guess of the numbers, standardised; nothing where no number was hidden."""
    shown = hidden & np.array([column.kind != "categorical" for column in schema.space.columns])
    z, guess = standardised(schema, truth)[shown], standardised(schema, filled)[shown]
    known = np.isfinite(z) & np.isfinite(guess)
    if known.sum() < 3:
        return ""
    return figure(
        svg(figures.guesses(z[known], guess[known]), "guesses", "Truth against guess of hidden cells")
    )


def _judged(schema: Any, i: int, truth: np.ndarray, guess: np.ndarray) -> tuple:
    """One column: name, error of the guess, error of the mean or mode, share saved."""
    column = schema.space.columns[i]
    if column.kind == "categorical":
        unit, error = " wrong", float(np.mean(truth != guess))
        plain = 1 - np.bincount(truth.astype(int)).max() / len(truth)
    else:
        unit, error = " sd", float(np.sqrt(np.mean((truth - guess) ** 2)) / column.spread)
        plain = float(np.sqrt(np.mean((truth - column.center) ** 2)) / column.spread)
    saved = 1 - error / plain if plain > 0 else 0.0
    return column.name, f"{error:.2f}{unit}", f"{plain:.2f}{unit}", max(saved, -1.0)
