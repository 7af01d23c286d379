"""`thalweg fit`: from a file to a model directory and its report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from thalweg.cli.app import Data, Force, Json, Quiet, Seed, app
from thalweg.cli.arguments import data_name, nearest, pairs
from thalweg.cli.cache import keep_compiled
from thalweg.cli.catalogue import catalogue, defaults
from thalweg.cli.member import end_with_watcher, run_watched, watched
from thalweg.cli.output import Output, facts
from thalweg.cli.then import after
from thalweg.errors import SettingsError
from thalweg.settings import configured
from thalweg.there import check_data

#: As `thalweg.models.DEFAULT`, which costs an import of JAX; a test keeps them equal.
DEFAULT_RECIPE = "orderless"


@app.command(
    epilog="Example:  [bold]thalweg fit sales.csv --drop id --set steps=2000 --out sales-model[/bold]"
)
def fit(
    context: typer.Context,
    data: Data,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", "-r", metavar="NAME", help="The kind of energy; `thalweg models` lists them."
        ),
    ] = DEFAULT_RECIPE,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", metavar="COL", help="The column `predict` predicts by default."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="DIR", help="The model's directory; ./NAME-RECIPE by default."),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", metavar="COL", help="Leave a column out; as often as needed."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="COL=KIND",
            help="What a column is: continuous, integer, binary, categorical, datetime, "
            "sequence (which rows belong together) or word (of an open vocabulary).",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="A setting; `thalweg models NAME` lists them."),
    ] = None,
    seed: Seed = 0,
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices", min=1, metavar="N", help="Divide each batch over N devices of this machine."
        ),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            "--coordinator",
            metavar="HOST:PORT",
            help="Train with other processes: where process 0 listens. Start the same line on every machine, "
            "each with its own --process-id.",
        ),
    ] = None,
    num_processes: Annotated[
        int | None, typer.Option("--num-processes", min=1, metavar="N", help="How many processes there are.")
    ] = None,
    process_id: Annotated[
        int | None,
        typer.Option("--process-id", min=0, metavar="I", help="Which one this is, from 0; 0 alone writes."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit one energy to a table, and write the model and its report."""
    kinds = pairs("--kind", kind or ())
    settings: dict[str, Any] = pairs("--set", set_ or ())
    output = Output("fit", json=json, quiet=quiet or bool(process_id))
    group = _group(coordinator, num_processes, process_id)
    if group and not watched():
        run_watched(context.obj, group[2], group[1])
        return
    _check(recipe, settings)
    check_data(data)
    keep_compiled()
    if group:
        _join(*group)
    _check_together(recipe, settings)

    import thalweg
    from thalweg.learning.parallel import first, mesh_of

    directory = Path(out or f"{data_name(data)}-{recipe}")
    model = thalweg.fit(
        data,
        recipe,
        target=target,
        seed=seed,
        out=directory,
        resume=resume,
        force=force,
        drop=tuple(drop or ()),
        kinds=kinds or None,
        mesh=mesh_of(devices),
        progress=output.progress,
        log=output.note,
        **settings,
    )
    if not first():
        return
    page = directory / "report.html"
    output.show(facts(_card(model, directory, page)))
    record = {"model": str(directory), "report": str(page), "card": model.card}
    output.finish(record, after("fit", model, directory, data))


def _group(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> tuple[str, int, int] | None:
    """The processes that train together; None where this one is alone."""
    if coordinator is None and num_processes is None and process_id is None:
        return None
    if coordinator is None or num_processes is None or process_id is None:
        raise typer.BadParameter(
            "--coordinator, --num-processes and --process-id belong together: give all three"
        )
    if process_id >= num_processes:
        raise typer.BadParameter(
            f"--process-id counts from 0 to {num_processes - 1}, so it cannot be {process_id}"
        )
    return coordinator, num_processes, process_id


def _join(coordinator: str, processes: int, process: int) -> None:
    from thalweg.learning.parallel import join

    end_with_watcher()
    join(coordinator, processes, process)


def _check(recipe: str, settings: dict[str, str]) -> None:
    """Refuse a recipe or a setting that does not exist before anything is imported."""
    known = catalogue()
    if recipe not in known:
        raise typer.BadParameter(nearest("recipe", recipe, known))
    try:
        configured(recipe, defaults(known[recipe]), settings)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error


def _check_together(recipe: str, settings: dict[str, str]) -> None:
    """Refuse settings that cannot be, alone or together, before the data is read."""
    from thalweg.models import RECIPES

    try:
        RECIPES[recipe].configure(settings)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error


def _card(model: Any, directory: Path, page: Path) -> dict[str, Any]:
    """What the reader of a finished fit wants to know."""
    card = model.card
    return {
        "recipe": f"{model.recipe}: {card.get('title', '')}",
        "rows": f"{card['rows']:,} × {card['columns']:,} columns",
        "time": f"{card['seconds']:.1f} s, {card.get('status', 'done')}",
        "energy": _held_out(model),
        "model": directory,
        "report": page,
    }


def _held_out(model: Any) -> str:
    """The mean and the median over held-out rows: far apart where a few rows are very strange."""
    energies = sorted(model.evidence.get("energies", {}).get("held-out", ()))
    if not energies:
        return "no held-out rows"
    mean, median = sum(energies) / len(energies), energies[len(energies) // 2]
    return f"mean {mean:.4g}, median {median:.4g} over {len(energies):,} held-out rows"
