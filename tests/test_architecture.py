"""The floors of docs/design.md: imports point down, nothing unpickles or evaluates, and a bare import is
light."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "thalweg"
MODULES = sorted(SOURCE.rglob("*.py"))
UNSAFE_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}


def floors() -> dict[str, int]:
    """The floor of each part of the package, read from the table of the design."""
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", design, re.M)
    return {
        part.rstrip("/"): int(floor) for floor, parts in rows for part in re.findall(r"`([\w/]+)`", parts)
    }


FLOORS = floors()
# The package itself gathers everything, so only the faces may import it.
TOP = max(FLOORS.values())


def part_of(path: Path) -> str:
    """The first name below `thalweg`; '' for the package's own `__init__`."""
    first = path.relative_to(SOURCE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """Each import of the package, anywhere in a module: the line, and the part that it reaches into."""
    package = ["thalweg", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, _, rest = name.partition(".")
            part = rest.partition(".")[0]
            if root == "thalweg" and part != "__version__":
                yield node.lineno, part


def violations(path: Path, source: str) -> list[str]:
    own = FLOORS.get(part_of(path), TOP)
    found = []
    for line, part in imported(ast.parse(source), path):
        reached = FLOORS.get(part, TOP)
        if reached > own:
            found.append(f"{path.name}:{line} (floor {own}) imports thalweg.{part} (floor {reached})")
    return found


def unsafe(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None) or alias.name for alias in node.names]
            found += [f"line {node.lineno}: {m}" for m in modules if m.split(".")[0] in UNSAFE_MODULES]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
            found.append(f"line {node.lineno}: {node.func.id}()")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not _is_false(node.value):
            found.append(f"line {node.value.lineno}: allow_pickle")
    return found


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_the_table_of_floors_is_read():
    assert FLOORS["errors"] == FLOORS["energy"] == FLOORS["data"] == 0
    assert FLOORS["inference"] == 1
    assert FLOORS["learning"] < FLOORS["models"] < FLOORS["cli"]


def test_every_part_of_the_package_has_a_floor():
    missing = {part_of(path) for path in MODULES} - set(FLOORS) - {""}
    assert not missing, f"no floor in docs/design.md for {sorted(missing)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_down(path):
    assert violations(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_nothing_unpickles_or_evaluates(path):
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from thalweg.models import recipe",
        "import thalweg.inference",
        "import thalweg",
        "from thalweg import learning",
        "from thalweg import Model",
        "from ..inference import minimise",
        "def f():\n    from thalweg.cli.main import main",
        "if TYPE_CHECKING:\n    from thalweg.learning.run import Run",
    ],
)
def test_an_import_that_points_up_is_seen(source):
    assert violations(SOURCE / "energy" / "base.py", source)


@pytest.mark.parametrize(
    "source",
    ["from thalweg import errors", "from . import spaces", "import jax", "from ..data import rows"],
)
def test_an_import_that_points_down_is_allowed(source):
    assert violations(SOURCE / "energy" / "base.py", source) == []


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from joblib import load", "eval('1')", "exec('1')", "np.load(f, allow_pickle=True)"],
)
def test_what_is_unsafe_is_seen(source):
    assert unsafe(source)
    assert not unsafe("model.eval()\nnp.load(f, allow_pickle=False)")


def test_importing_the_package_does_not_import_jax():
    check = "import sys, thalweg\nprint(*{'jax', 'equinox', 'sklearn', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
