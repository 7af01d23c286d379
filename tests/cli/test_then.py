"""The next command that is named: one that the model answers."""

import shlex
from types import SimpleNamespace

import pytest

from thalweg.cli.main import main
from thalweg.cli.then import FOLLOWS, after
from thalweg.models import RECIPES
from thalweg.questions import methods

FIRST = {
    "ranker": "rank m d.csv",
    "siamese": "retrieve m d.csv",
    "two-tower": "retrieve m d.csv",
    "crf": "label m d.csv",
    "detector": "detect m PICTURES",
    "implicit": "predict m d.csv",
    "classifier": "predict m d.csv",
    "latent-regression": "predict m d.csv",
}


def unfitted(recipe: str) -> SimpleNamespace:
    """A model of which nothing is known but the class of its energy."""
    return SimpleNamespace(F=object.__new__(RECIPES[recipe].energy))


@pytest.mark.parametrize("recipe", RECIPES)
def test_after_a_fit_comes_what_the_model_is_for(recipe):
    assert after("fit", unfitted(recipe), "m", "d.csv") == f"thalweg {FIRST.get(recipe, 'score m d.csv')}"


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("done", ["energy", "report", *FOLLOWS])
def test_what_follows_is_answered_and_new(done, recipe):
    _, question, *_ = after(done, unfitted(recipe), "m", "d.csv").split()
    assert question != done
    assert question == "report" or methods(RECIPES[recipe].energy)[question]


def test_a_name_with_a_blank_can_be_pasted():
    line = after("score", unfitted("gmm"), "my model", "my data.csv")
    assert shlex.split(line) == ["thalweg", "explain", "my model", "my data.csv", "--top", "3"]


def test_nothing_follows_where_nothing_was_asked():
    assert after("score", None, "m", "d") is None


@pytest.mark.usefixtures("compile_once")
@pytest.mark.parametrize(
    "fit",
    [
        "fit wine -r siamese --target target -s steps=5 -s width=8 --out m",
        "fit wine -r two-tower -s first=a*,m* -s steps=5 -s width=8 --out m",
    ],
)
def test_what_is_named_after_a_fit_runs(fit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(fit.split()) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "next: thalweg retrieve m wine"
    assert main(line.split()[2:]) == 0
    assert "candidate" in capsys.readouterr().out
