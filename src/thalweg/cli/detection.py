"""Objects in pictures: windows to learn from, and finding them."""

import re
from typing import Annotated, Any

import typer

from thalweg.cli.app import Force, Json, ModelPath, Out, Quiet, Seed, app
from thalweg.cli.arguments import command, refuse_existing
from thalweg.cli.output import Output
from thalweg.cli.preview import preview
from thalweg.cli.stream import FIRST_ROWS, load_model
from thalweg.errors import SettingsError

PicturesPath = Annotated[
    str,
    typer.Argument(
        metavar="PICTURES", help="A folder of PNG or JPEG pictures, one picture, .npy, .npz or idx."
    ),
]
_BOXES = "a table with image, x, y, width, height and label, or a COCO .json file"


@app.command(epilog="Example:  [bold]thalweg windows photos boxes.csv --size 32x32 --out windows.npz[/bold]")
def windows(
    pictures: PicturesPath,
    boxes: Annotated[str, typer.Argument(metavar="BOXES", help=f"What is where: {_BOXES}.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE.npz", help="Where the windows go.")],
    size: Annotated[
        str, typer.Option("--size", metavar="WxH", help="The size of a window, in pixels.")
    ] = "28x28",
    hard: Annotated[
        str | None,
        typer.Option(
            "--hard", metavar="FILE", help="Boxes that a model found here: false ones become background."
        ),
    ] = None,
    copies: Annotated[int, typer.Option("--copies", min=1, help="Windows on each box.")] = 3,
    negatives: Annotated[int, typer.Option("--negatives", min=0, help="Windows beside, a picture.")] = 20,
    background: Annotated[
        str, typer.Option("--background", help="The label of windows with nothing in them.")
    ] = "background",
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """From pictures with boxes to windows with labels, which `fit` takes with the recipe detector."""
    from collections import Counter

    from thalweg.data.crops import windows as cut

    output = Output("windows", json=json, quiet=quiet)
    refuse_existing(out, force)
    with output.working("windows"):
        found = cut(
            pictures,
            boxes,
            _size(size),
            background=background,
            copies=copies,
            negatives=negatives,
            hard=hard,
            seed=seed,
        )
        found.save(out, force=force)
    counts = dict(sorted(Counter(found.labels.tolist()).items()))
    output.show(
        f"{len(found.labels):,} windows: " + ", ".join(f"{n:,} {label}" for label, n in counts.items())
    )
    record = {"pictures": pictures, "boxes": boxes, "out": out, "windows": counts}
    then = command(
        "fit", out, "--recipe", "detector", "--target", "label", "--set", f"background={background}"
    )
    output.finish(record, then)


@app.command(epilog="Example:  [bold]thalweg detect faces-model photos --out boxes.csv[/bold]")
def detect(
    model: ModelPath,
    pictures: PicturesPath,
    threshold: Annotated[
        float, typer.Option("--threshold", help="The least probability of what is reported.")
    ] = 0.5,
    overlap: Annotated[
        float, typer.Option("--overlap", help="How much two boxes may overlap: a share of their union.")
    ] = 0.3,
    smallest: Annotated[
        float, typer.Option("--smallest", help="The smallest objects, in sizes of the model's window.")
    ] = 1.0,
    largest: Annotated[
        float | None, typer.Option("--largest", help="The largest ones; as large as the picture by default.")
    ] = None,
    step: Annotated[float, typer.Option("--step", help="The factor from one scale to the next.")] = 1.2,
    truth: Annotated[
        str | None,
        typer.Option("--truth", metavar="FILE", help=f"Boxes to compare with, {_BOXES}: average precision."),
    ] = None,
    drawn: Annotated[
        str | None, typer.Option("--pictures", metavar="DIR", help="Draw the boxes into copies here.")
    ] = None,
    out: Out = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What is where in pictures: a box, a label, an energy and a probability for each thing found."""
    output = Output("detect", json=json, quiet=quiet)
    for path in (out, drawn):
        if path is not None:
            refuse_existing(path, force)
    loaded = load_model(model)
    from thalweg.data import Writer
    from thalweg.data.boxes import read_boxes
    from thalweg.data.pictures import open_pictures
    from thalweg.questions.detect import check
    from thalweg.report.boxes import draw_all

    check(loaded.F)
    shown = open_pictures(pictures, loaded.channels)
    known = None if truth is None else read_boxes(truth, shown.names or ())
    limits = {} if largest is None else {"largest": largest}
    with output.working(f"detect: {pictures}"):
        found = loaded.detect(
            shown, threshold=threshold, overlap=overlap, smallest=smallest, step=step, **limits
        )
    table = found.to_table()
    if out is not None:
        with Writer(out, force=force) as writer:
            writer.write(table)
        output.note(f"{len(found):,} boxes written to {out}")
    if drawn is not None:
        draw_all(drawn, shown, found, force=force)
        output.note(f"{len(shown):,} pictures with their boxes in {drawn}")
    if len(found) and not json:
        output.show(preview(table.slice(0, FIRST_ROWS), total=len(found), width=output.out.width))
    output.note(f"{len(found):,} found in {len(shown):,} pictures")
    judged = {} if known is None else _judged(found, known, len(shown))
    for name, value in judged.items():
        output.show(f"{name}: {value:.4g}")
    answers = {} if out else {"answers": table.to_pylist()}
    record = {"model": model, "pictures": pictures, "count": len(shown), "found": len(found), "out": out}
    again = command("detect", model, pictures, "--pictures", "drawn")
    output.finish({**record, **judged, **answers}, None if drawn else again)


def _size(text: str) -> tuple[int, int]:
    """`32x24`, width by height, as (height, width)."""
    found = re.fullmatch(r"([1-9][0-9]{0,4})[x×]([1-9][0-9]{0,4})", text.strip())
    if not found:
        raise SettingsError(f"--size needs WIDTHxHEIGHT in pixels, such as 28x28, not {text!r}")
    return int(found[2]), int(found[1])


def _judged(found: Any, known: Any, pictures: int) -> dict[str, float]:
    from thalweg.evaluate.detected import average_precision, curve

    reached = curve(found, known, pictures, labelled=known.label is not None)
    return {
        "average precision": average_precision(found, known),
        "found with one false box a picture": float(reached.sensitivity((1.0,))[0]),
    }
