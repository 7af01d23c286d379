"""What a command line costs before it works: nothing heavy is imported for help, and help teaches."""

import json
import os
import subprocess
import sys
from importlib.resources import files

import pytest

import thalweg
from thalweg.cli.app import app, in_order
from thalweg.cli.catalogue import text
from thalweg.cli.fitting import DEFAULT_RECIPE
from thalweg.cli.main import main

COMMANDS = [entry.name for entry in in_order(app).registered_commands]
HEAVY = {"jax", "equinox", "sklearn", "pyarrow", "numpy", "matplotlib", "pandas", "polars", "scipy"}


def test_every_question_has_its_command():
    from thalweg.questions import QUESTIONS

    assert set(QUESTIONS) | {"fit", "report", "combine", "windows", "models", "info", "demo"} == set(COMMANDS)


def test_the_default_recipe_is_the_library_s():
    from thalweg.models import DEFAULT

    assert DEFAULT_RECIPE == DEFAULT


def test_the_catalogue_is_that_of_the_recipes():
    written = (files("thalweg.cli") / "catalogue.json").read_text(encoding="utf-8")
    assert written == text(), "recipes have changed: python -m thalweg.cli.catalogue"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("", 0),
        ("--help", 0),
        ("fit --help", 0),
        ("explain -h", 0),
        ("--version", 0),
        ("models", 0),
        ("models crf --json", 0),
        ("fti", 2),
        ("fit wine --recipe gmn", 2),
        ("fit wine --recipe gmm --set components=many", 2),
        ("fit nowhere.csv", 1),
        ("fit wnie", 1),
        ("score nowhere wine", 1),
        ("score . nowhere.csv", 1),
        ("report . nowhere.csv", 1),
        ("sample nowhere", 1),
        ("detect nowhere photos", 1),
    ],
)
def test_what_needs_no_model_imports_nothing_heavy(line, status):
    words = line.split()
    code = (
        "import sys, json\nfrom thalweg.cli.main import main\n"
        f"status = main({words!r})\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)\nsys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    loaded = {name.split(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}
    assert loaded & HEAVY == set()
    assert done.returncode == status


def test_the_entry_point_runs_as_a_module():
    command = [sys.executable, "-m", "thalweg.cli.main", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"thalweg {thalweg.__version__}\n"


@pytest.mark.parametrize("line", ["fit --help", "models"])
def test_help_answers_in_half_a_second(line, tmp_path):
    """In processor time, which other work stretches little; the best of five, modules compiled as installed ones."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    command = [sys.executable, "-m", "thalweg", *line.split()]
    taken = []
    for _ in range(5):
        before = os.times()
        subprocess.run(command, capture_output=True, check=True, env=environment)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        taken.append(spent)
        if spent < 0.5:
            break
    assert min(taken) < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_a_meaning_and_an_example(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Usage: thalweg {command}" in text
    assert f"Example: thalweg {command}" in text
    assert "--json" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scroe", "m", "d"], "Did you mean 'score'"),
        (["score", "m"], "Missing argument 'DATA'"),
        (["score", "m", "d", "--aplha", "1"], "--alpha"),
        (["score", "m", "d", "--alpha", "two"], "--alpha"),
        (["fit", "wine", "--recipe", "gmn"], "no recipe 'gmn'; did you mean 'gmm'?"),
        (["fit", "wine", "--recipe", "gmm", "--set", "compnents=3"], "did you mean 'components'?"),
        (["fit", "wine", "--recipe", "gmm", "--set", "components=many"], "needs a value of type int"),
        (["fit", "wine", "--set", "components"], "--set needs name=value, not 'components'"),
        (["fit", "wine", "--kind", "=integer"], "--kind needs name=value"),
        (["fit", "wine", "--coordinator", "host:1"], "belong together: give all three"),
        (
            ["fit", "wine", "--coordinator", "host:1", "--num-processes", "2", "--process-id", "2"],
            "--process-id counts from 0 to 1, so it cannot be 2",
        ),
        (["sample", "m", "--given", "a=1", "--given", "a=2"], "--given a=… is given twice"),
        (["combine", "a", "b", "--weights", "1;2"], "--weights needs numbers with commas between"),
        (["models", "orderles"], "did you mean 'orderless'?"),
        (["models", "xyz"], "there are classifier, conv-ebm, crf"),
    ],
)
def test_a_mistyped_line_is_named_and_ends_with_2(words, said, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert err.splitlines()[-1].startswith("see: thalweg")


def test_what_was_compiled_before_is_read_without_a_word(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    model = str(tmp_path / "model")
    fitted = ["fit", "wine", "--recipe", "pca", "--quiet", "--force", "--out", model]
    asked = ["energy", model, "wine"]
    for command in (fitted, fitted, asked, asked):
        done = subprocess.run(
            [sys.executable, "-m", "thalweg", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
