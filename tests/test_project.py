"""The project's files agree with one another: versions, lock, dependencies, commands."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import thalweg

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()


def distribution(requirement: str) -> str:
    """The normalised name at the head of a requirement: `jax[cuda12]>=0.7` is `jax`."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def requirements() -> set[str]:
    extras = PROJECT["optional-dependencies"].values()
    every = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return {distribution(line) for line in every} - {PROJECT["name"]}


def locked() -> dict[str, list[str]]:
    """What the lock pins: each `name==version` line with the hashes that follow it."""
    pins: dict[str, list[str]] = {}
    for line in LOCK.splitlines():
        if not line.startswith(" "):
            name = line.removesuffix("\\").strip()
            pins[name] = []
        else:
            pins[name].append(line.strip().removesuffix("\\").strip())
    return pins


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    releases = re.findall(r"^## \[?(\d[^\s\]]*)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert PROJECT["version"] == thalweg.__version__ == citation["version"] == releases[0]


def test_one_licence_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_lock_names_no_host():
    assert "http" not in LOCK
    assert "://" not in LOCK
    assert "--index-url" not in LOCK


def test_every_pin_is_exact_and_hashed():
    for pin, hashes in locked().items():
        assert re.match(r"[a-z0-9._-]+(\[[a-z0-9,-]+\])?==\d", pin), f"{pin} is not pinned exactly"
        assert hashes, f"{pin} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), pin


def test_lock_holds_every_dependency():
    pinned = {distribution(pin) for pin in locked()}
    core = {distribution(line) for line in PROJECT["dependencies"]}
    tools = {distribution(line) for line in PROJECT["optional-dependencies"]["dev"]} - {PROJECT["name"]}
    assert core | tools <= pinned


@pytest.mark.parametrize("name", sorted(requirements()))
def test_dependency_stands_in_the_docs(name):
    page = (ROOT / "docs" / "dependencies.md").read_text()
    assert re.search(rf"^\| `{re.escape(name)}", page, re.M), f"docs/dependencies.md has no row for {name}"


def test_docs_explain_no_dependency_that_is_gone():
    page = (ROOT / "docs" / "dependencies.md").read_text()
    rows = {distribution(name) for name in re.findall(r"^\| `([A-Za-z0-9._-]+)", page, re.M)}
    assert rows <= requirements()


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/getting-started.md", "docs/troubleshooting.md"]
)
def test_commands_named_in_the_docs_exist(page):
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)(?=[`\s])", code_of(ROOT / page)))
    assert named, f"{page} names no make target"
    assert named <= targets()


def code_of(page: Path) -> str:
    """The fenced blocks and inline code of a page; prose may say `make` as a verb."""
    text = page.read_text()
    fenced = re.findall(r"^```.*?^```", text, re.M | re.S)
    return "\n".join([*fenced, *(f"{code} " for code in re.findall(r"`([^`\n]+)`", text))])


def test_make_shows_every_target():
    shown = set(re.findall(r"make ([a-z-]+) ", (ROOT / "Makefile").read_text()))
    assert targets() - {"help"} <= shown


def test_continuous_integration_runs_tests_and_linters():
    script = ROOT / ".ci" / "run"
    text = script.read_text()
    assert "make test" in text
    assert "make lint" in text
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"
