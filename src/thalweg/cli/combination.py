"""`thalweg combine`: fitted models into one whose energy is their weighted sum."""

from typing import Annotated

import typer

from thalweg.cli.app import Force, Json, Quiet, app
from thalweg.cli.output import Output, facts
from thalweg.cli.stream import load_model
from thalweg.cli.then import after


@app.command(
    epilog="Example:  [bold]thalweg combine wine-gmm wine-rbm --weights 1,0.5 --out both[/bold]\n\n"
    "A row is likely where all models find it likely: each adds its weight times its energy. The models must have "
    "the same columns, kinds and levels; ranges and units may differ, and those of the first are used. The result is "
    "a model like any other: sample, complete, denoise and score it."
)
def combine(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Model directories; the first says what a row looks like."),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="W,W,…",
            help="A factor for each energy, 1 by default; below 1 flattens its veto, a negative one subtracts.",
        ),
    ] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="DIR", help="The directory of the combination.")
    ] = "combined",
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="DATA",
            help="Rows that no model has seen, for the p-values of `score`; by default the first model's own, "
            "which the others may have been fitted to.",
        ),
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add the energies of fitted models: what is likely is what all of them find likely."""
    factors = None if weights is None else _numbers(weights)
    output = Output("combine", json=json, quiet=quiet)
    with output.working("combine"):
        loaded = [load_model(path) for path in models]
        import thalweg
        from thalweg.persist import check_destination

        check_destination(out, force=force)
        model = thalweg.combine(loaded, factors, data=calibrate)
        model.save(out, force=force)
    card = model.card
    lines = {name: card[name] for name in ("formula", "members", "calibrated on")}
    output.show(facts({**lines, "model": out}))
    output.finish({"model": out, "card": card}, after("combine", model, out))


def _numbers(text: str) -> list[float]:
    """`1,0.5` as numbers; a usage error for anything else."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"--weights needs numbers with commas between, such as 1,0.5, not {text!r}"
        ) from None
