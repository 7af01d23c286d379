"""The application and the options that several commands share; the commands register themselves on `app`."""

from typing import Annotated

import typer

app = typer.Typer(
    name="thalweg",
    help="Fit one energy on your data, then ask it anything: which rows are odd and why, what a missing cell "
    "should be, what the next row looks like.",
    epilog="Start here:  [bold]thalweg fit wine --out wine-model[/bold]\n\n"
    "then:  [bold]thalweg score wine-model wine[/bold]",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: The order of the help page: first what one does first.
_FIT, _ASK, _LOOK = "Fit and look", "Ask", "What there is"
_PANELS = {
    _FIT: ("fit", "report", "combine", "windows"),
    _ASK: (
        "energy",
        "score",
        "explain",
        "complete",
        "predict",
        "label",
        "sample",
        "denoise",
        "rank",
        "retrieve",
        "encode",
        "detect",
    ),
    _LOOK: ("models", "info", "demo"),
}

ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help="The model's directory, as `fit` wrote it.")]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="CSV, TSV, Parquet, Arrow, .npy, .npz (file.npz::key), idx, a folder of images, or a "
        "built-in name such as digits, wine, two_moons.",
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out", "-o", metavar="FILE", help="Write every answer here: .csv, .tsv, .parquet, .arrow."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The seed of everything random.")]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        min=1,
        help="Steps of each chain, where chains answer (`thalweg models NAME` says where); a warning asks for more.",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object on standard output, everything else on standard error. It holds every answer, "
        "unless --out takes them.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only the answer: no progress, no notes, no next step.")
]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"thalweg {version('thalweg')}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


def in_order(application: typer.Typer) -> typer.Typer:
    """The application with its commands in the order of the help page, each in its panel."""
    place = {name: (i, panel) for i, (panel, name) in enumerate((p, n) for p in _PANELS for n in _PANELS[p])}
    for entry in application.registered_commands:
        entry.name = entry.name or getattr(entry.callback, "__name__", "")
        entry.rich_help_panel = place[str(entry.name)][1]
    application.registered_commands.sort(key=lambda entry: place[str(entry.name)][0])
    return application
