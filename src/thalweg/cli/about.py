"""What there is: the catalogue of models, the installation, and the demonstration."""

import platform
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from thalweg.cli.app import Json, Quiet, app
from thalweg.cli.arguments import command, nearest
from thalweg.cli.cache import cache_directory, cache_size, keep_compiled
from thalweg.cli.catalogue import catalogue
from thalweg.cli.output import Output, facts

PACKAGES = ("thalweg", "jax", "jaxlib", "equinox", "optax", "optimistix", "numpy", "scikit-learn", "pyarrow")


@app.command(epilog="Example:  [bold]thalweg models orderless[/bold]")
def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One recipe, in full.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The catalogue: every recipe, its place in the taxonomy, and the questions it answers."""
    recipes = catalogue()
    output = Output("models", json=json, quiet=quiet)
    if name is None:
        output.show(_catalogue(recipes.values()))
        output.finish({"recipes": list(recipes.values())}, command("models", next(iter(recipes))))
        return
    if name not in recipes:
        raise typer.BadParameter(nearest("recipe", name, recipes))
    _show(output, recipes[name])
    output.finish({"recipe": recipes[name]}, f"thalweg fit DATA --recipe {name}")


def _catalogue(recipes: Iterable[dict[str, Any]]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", "code", "title", "answers"):
        grid.add_column(heading, no_wrap=heading == "name")
    for recipe in recipes:
        answered = Text(", ".join(question for question, how in recipe["questions"].items() if how))
        grid.add_row(Text(recipe["name"], style="bold"), recipe["code"], Text(recipe["title"]), answered)
    return grid


def _show(output: Output, recipe: dict[str, Any]) -> None:
    output.show(Text.assemble((recipe["name"], "bold"), f"  {recipe['title']}\n"))
    output.show(f"{recipe['about']}\n")
    output.show(facts({"taxonomy": recipe["code"], "energy": recipe["formula"], "paper": recipe["paper"]}))
    settings = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("setting", "default", "meaning"):
        settings.add_column(heading)
    for item in recipe["settings"]:
        settings.add_row(Text(item["name"]), Text(repr(item["default"])), Text(item["help"]))
    output.show(settings)
    questions = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("question", "method"):
        questions.add_column(heading)
    for question, how in recipe["questions"].items():
        questions.add_row(question, Text(how or "not answered", style="" if how else "dim"))
    output.show(questions)


@app.command(epilog="Example:  [bold]thalweg info --json[/bold]")
def info(json: Json = False, quiet: Quiet = False) -> None:
    """Versions, devices, and the cache of compiled programs: what a bug report needs."""
    from importlib.metadata import PackageNotFoundError, version

    output = Output("info", json=json, quiet=quiet)
    kept = keep_compiled()
    import jax

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    devices = [f"{device.platform}: {device.device_kind}" for device in jax.devices()]
    files, size = cache_size()
    cache = {"directory": str(cache_directory()), "on": kept, "files": files, "bytes": size}
    lines = {
        **versions,
        "platform": platform.platform(),
        "devices": "; ".join(devices),
        "cache": f"{cache['directory']} ({files:,} files, {size / 1e6:.1f} MB)"
        if kept
        else "off: not writable",
    }
    output.show(facts(lines))
    record = {"versions": versions, "platform": lines["platform"], "devices": devices, "cache": cache}
    output.finish(record, command("demo"))


@app.command(epilog="Example:  [bold]thalweg demo --out demo[/bold]")
def demo(
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="DIR", help="Where the model and its report go.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The main job on 1,797 handwritten digits: fit, judge against other methods, report."""
    keep_compiled()
    from thalweg.demo import run

    run(out=out, json=json)
