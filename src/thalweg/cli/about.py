"""What there is: the catalogue of models, the installation, and the demonstration."""

import dataclasses
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
from thalweg.cli.output import Output, facts

PACKAGES = ("thalweg", "jax", "jaxlib", "equinox", "optax", "optimistix", "numpy", "scikit-learn", "pyarrow")


@app.command(epilog="Example:  [bold]thalweg models orderless[/bold]")
def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One recipe, in full.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The catalogue: every recipe, its place in the taxonomy, and the questions it answers."""
    from thalweg.models import RECIPES

    output = Output("models", json=json, quiet=quiet)
    if name is None:
        output.show(_catalogue(RECIPES.values()))
        record = {"recipes": [_described(recipe) for recipe in RECIPES.values()]}
        output.finish(record, command("models", next(iter(RECIPES))))
        return
    if name not in RECIPES:
        raise typer.BadParameter(nearest("recipe", name, RECIPES))
    _show(output, _described(RECIPES[name]))
    output.finish({"recipe": _described(RECIPES[name])}, f"thalweg fit DATA --recipe {name}")


def _described(recipe: Any) -> dict[str, Any]:
    """A recipe as plain values."""
    from thalweg.questions import methods

    settings = [
        {"name": item.name, "default": item.default, "help": item.metadata.get("help", "")}
        for item in dataclasses.fields(recipe.settings)
    ]
    words = {key: getattr(recipe, key) for key in ("name", "code", "title", "about", "formula", "paper")}
    return {**words, "settings": settings, "questions": methods(recipe.energy)}


def _catalogue(recipes: Iterable[Any]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", "code", "title", "answers"):
        grid.add_column(heading, no_wrap=heading == "name")
    for recipe in recipes:
        about = _described(recipe)
        answered = Text(", ".join(question for question, how in about["questions"].items() if how))
        grid.add_row(Text(recipe.name, style="bold"), recipe.code, Text(recipe.title), answered)
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
