"""Every example of README.md and docs/ runs, the site builds, and no page reaches outside."""

import os
import re
import shlex
import subprocess
import sys
import warnings
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import thalweg.questions
from thalweg.errors import DataWarning
from thalweg.models import RECIPES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

#: Hosts that a page may link to: where papers and the sources of packages live.
HOSTS = {"doi.org", "arxiv.org", "github.com", "jmlr.org", "proceedings.mlr.press", "openreview.net"}

BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>no-test|warns)[^\n]*-->\n)?"
    r"```(?P<language>python|console)\n(?P<code>.*?)^```$",
    re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int
    warns: bool


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """The examples of a page that are to be run, in order."""
    text = page.read_text()
    return [
        Block(
            found["language"],
            found["code"],
            text.count("\n", 0, found.start("code")),
            found["mark"] == "warns",
        )
        for found in BLOCK.finditer(text)
        if found["mark"] != "no-test"
    ]


def commands(code: str) -> list[str]:
    """The `$ thalweg …` lines of a console block, with continued lines joined; the rest is not run."""
    return re.findall(r"^\$ (thalweg .*)$", code.replace("\\\n", " "), re.M)


def run_python(block: Block, page: Path, namespace: dict) -> None:
    # The blank lines make a traceback name the line of the page.
    with warnings.catch_warnings():
        if block.warns:
            warnings.simplefilter("ignore", DataWarning)
        exec(compile("\n" * block.line + block.code, relative(page), "exec"), namespace)


def run_command(command: str, page: Path, monkeypatch) -> None:
    """The command line in this process, which has paid for importing JAX already."""
    from thalweg.cli.main import main

    monkeypatch.setattr(sys, "argv", shlex.split(command))
    try:
        status = main()
    except SystemExit as exit:
        status = exit.code
    assert not status, f"{relative(page)}: `{command}` returned {status}"


# Pages fit the same shapes; what one has compiled, the others read, the command line included.
pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=relative)
def test_examples_run(page, tmp_path, monkeypatch):
    namespace = {"__name__": "__main__"}
    with chdir(tmp_path):
        for block in blocks(page):
            if block.language == "python":
                run_python(block, page, namespace)
            else:
                for command in commands(block.code):
                    run_command(command, page, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_page_reaches_nowhere_else(page):
    text = page.read_text()
    for host in re.findall(r"\bhttps?://([^/\s)>\"'`]+)", text):
        assert host.removeprefix("www.") in HOSTS, f"{relative(page)} names the host {host}"
    machine = re.search(r"(?<![\w.~}])/(home|root|work|usr|tmp|opt|mnt|Users|private)/\S*", text)
    assert not machine, f"{relative(page)} names a path of one machine: {machine[0]}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_pictures_exist(page):
    for picture in re.findall(r"!\[[^\]]*\]\(([^)\s]+)", page.read_text()):
        assert (page.parent / picture).is_file(), f"{relative(page)} shows {picture}, which is not there"


def leaves(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for item in (nav.values() if isinstance(nav, dict) else nav) for page in leaves(item)]


def configuration() -> dict:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def test_nav_lists_every_page_once():
    pages = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert sorted(leaves(configuration()["nav"])) == pages


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_has_a_page(name):
    page = DOCS / "models" / f"{name}.md"
    assert page.is_file()
    assert name in (DOCS / "choosing.md").read_text()


def test_site_builds_and_requests_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    # Not --quiet: it silences the warnings before --strict can count them.
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert built.returncode == 0, built.stdout + built.stderr
    for page in tmp_path.rglob("*.html"):
        text = page.read_text()
        requested = re.findall(r"<(?:script|img|iframe)[^>]+src=[\"']?(?:https?:)?//[^>]*>", text)
        requested += re.findall(
            r"<link[^>]+rel=[\"']?(?:stylesheet|preconnect|icon)[^>]+href=[\"']?(?:https?:)?//[^>]*>", text
        )
        assert not requested, f"{page.relative_to(tmp_path)}: {requested}"


#: The rows of the README's table: each question, as the method is called, and what it asks.
QUESTIONS = {
    "energy": "how well does this row fit?",
    "score": "is this row normal?",
    "complete": "what is missing?",
    "denoise": "what was it before the noise?",
    "sample": "what else could there be?",
    "predict": "which value has this column?",
    "label": "which labels has this sequence?",
    "rank": "which of these is best? (`compare`: which of two?)",
    "explain": "which cell is wrong?",
    "encode": "what is it made of?",
    "retrieve": "which of many belongs to it?",
    "detect": "where in the picture is it?",
}
#: The recipes of the README's two tables: those of whole rows, and those of answers, pairs and orders.
JOINT = ("pca", "kmeans", "gmm", "orderless", "rbm", "jem")
OTHERS = ("classifier", "implicit", "latent-regression", "crf", "detector", "siamese", "two-tower", "ranker")


def question_table(recipes: tuple[str, ...], own: bool) -> str:
    """A question × model table of the README, from `thalweg.questions.methods`."""
    from thalweg.energy.base import FunctionEnergy

    energies = {name: RECIPES[name].energy for name in recipes}
    if own:
        energies["your own energy"] = FunctionEnergy
    methods = [thalweg.questions.methods(energy) for energy in energies.values()]
    header = ["question", *(f"`{name}`" if name in RECIPES else name for name in energies)]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for question, asks in QUESTIONS.items():
        cells = [cell(method[question]) for method in methods]
        if set(cells) != {"–"}:
            lines.append(f"| `{question}`: {asks} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(method: str | None) -> str:
    return "–" if method is None else method.split(":")[0]


@pytest.mark.parametrize(("name", "recipes", "own"), [("questions", JOINT, True), ("answers", OTHERS, False)])
def test_readme_shows_the_question_tables(name, recipes, own):
    """Prints the table that is due, to be pasted between the markers."""
    text = (ROOT / "README.md").read_text()
    shown = re.search(rf"<!-- {name}:begin -->(.*?)<!-- {name}:end -->", text, re.S)
    due = question_table(recipes, own)
    assert shown, f"README.md has no {name}:begin and {name}:end"
    assert shown[1].strip() == due, f"README.md should show\n\n{due}\n"


def test_every_recipe_that_is_not_of_whole_rows_is_in_the_tables():
    assert {name for name, recipe in RECIPES.items() if recipe.conditional} <= {*JOINT, *OTHERS}
