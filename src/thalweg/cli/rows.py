"""What all commands about rows have in common: MODEL, DATA, and the options that say where answers go."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from thalweg.cli.app import Force, Json, ModelPath, Quiet, app
from thalweg.cli.arguments import check_model, refuse_existing, shard_of
from thalweg.cli.output import Output
from thalweg.cli.stream import Asked
from thalweg.there import check_data

Rows = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="CSV, TSV, Parquet, Arrow, .npy, .npz (file.npz::key), idx, a folder of Parquet files or of images, "
        "or a built-in name such as digits, wine, two_moons.",
    ),
]
Answers = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="Write every answer here: .csv, .tsv, .parquet, .arrow; a folder if DATA is a folder of Parquet "
        "files, which is answered file by file: finished files are skipped when it is run again.",
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep", metavar="COL", help="A column of DATA to put beside the answers; as often as needed."
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Of a folder, only the files I, I+N, … of the sorted list, counted from 0: 0/4 to 3/4 share the "
        "work among four machines with the same --out.",
    ),
]


def about_rows(epilog: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register `function(asked, …)` as the command of its name.

    Its own parameters follow MODEL and DATA on the command line; the shared options become `asked`.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function).parameters.values())[1:]

        def run(
            model: ModelPath,
            data: Rows,
            keep: Keep = None,
            out: Answers = None,
            shard: Shard = None,
            force: Force = False,
            json: Json = False,
            quiet: Quiet = False,
            **options: Any,
        ) -> None:
            output = Output(function.__name__, json=json, quiet=quiet)
            place = None if shard is None else shard_of(shard)
            if out is not None:
                refuse_existing(out, force, unless_folder_for=data)
            check_model(model)
            check_data(data)
            function(Asked(output, model, data, out, force, tuple(keep or ()), place), **options)

        shared = list(inspect.signature(run).parameters.values())[:-1]
        run.__signature__ = inspect.Signature([*shared[:2], *own, *shared[2:]])  # type: ignore[attr-defined]
        hints = {**get_type_hints(function, include_extras=True), **get_type_hints(run, include_extras=True)}
        run.__annotations__ = hints
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        app.command(epilog=epilog)(run)
        return function

    return register
