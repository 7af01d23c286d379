"""What a model makes: new rows, and its report."""

from typing import Annotated

import typer

from thalweg.cli.app import Force, Json, ModelPath, Out, Quiet, Seed, Steps, app
from thalweg.cli.arguments import given_values, pairs, refuse_existing
from thalweg.cli.output import Output
from thalweg.cli.preview import preview
from thalweg.cli.stream import FIRST_ROWS, load_model
from thalweg.cli.then import after
from thalweg.there import check_data


@app.command(
    epilog="Example:  [bold]thalweg sample wine-model -n 100 --given target=class_2 --out new.csv[/bold]"
)
def sample(
    model: ModelPath,
    n: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 10,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--given", "-g", metavar="COL=VALUE", help="Hold a column at a value; as often as needed."
        ),
    ] = None,
    seed: Seed = 0,
    steps: Steps = None,
    out: Out = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """New rows, drawn from exp(-F), with some columns held if asked."""
    texts = pairs("--given", given or ())
    output = Output("sample", json=json, quiet=quiet)
    if out is not None:
        refuse_existing(out, force)
    loaded = load_model(model)
    from thalweg.data import Writer

    held = given_values(loaded.schema, texts)
    with output.working("sample"):
        table = loaded.sample(n, given=held or None, seed=seed, steps=steps)
    if out is not None:
        with Writer(out, force=force) as writer:
            writer.write(table)
        output.note(f"{n:,} rows written to {out}")
    if not json:
        head = table.slice(0, FIRST_ROWS)
        output.show(preview(head, total=n, width=output.out.width, first=tuple(held)))
    answers = {} if out else {"answers": table.to_pylist()}
    record = {"model": model, "n": n, "given": held, "seed": seed, "out": out, **answers}
    output.finish(record, after("sample", loaded, model))


@app.command(epilog="Example:  [bold]thalweg report wine-model new.csv --out new.html[/bold]")
def report(
    model: ModelPath,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Rows to look at: the worst of them are explained.")
    ] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="Where the page goes.")
    ] = "report.html",
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """One self-contained page: curves, energies, calibration, samples, guesses, the worst rows and why."""
    output = Output("report", json=json, quiet=quiet)
    refuse_existing(out, force)
    if data is not None:
        check_data(data)
    with output.working("report"):
        loaded = load_model(model)
        path = loaded.report(out, data=data, force=force)
    output.show(f"report: {path}")
    record = {"model": model, "data": data, "out": str(path)}
    output.finish(record, after("report", loaded, model, data) if data else f"open {out} in a browser")
