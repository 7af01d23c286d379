r"""A classifier of images that is an energy of them too: the same logits as p(x).

\[ F(x, y) = -f(x)_y / \sigma, \qquad F(x) = -\log \sum_y e^{f(x)_y / \sigma}, \qquad
   p(y \mid x) = \operatorname{softmax}_y f(x) / \sigma \]

The softmax says nothing about how large all logits are together, and a classifier leaves it open; here it is the
energy of the picture. f is the network of `conv-ebm` (`thalweg.models.conv_ebm`) with logits in place of its one
output, and so is the training: score matching at every level of noise, then Langevin chains from a replay buffer, and
beside them the likelihood of the label (C2).

Grathwohl, Wang, Jacobsen, Duvenaud, Norouzi & Swersky (2020), *Your classifier is secretly an energy based model and
you should treat it like one*; score matching in place of chains alone: Li, Chen & Sommer (2019), *Learning
energy-based models in high-dimensional spaces with multi-scale denoising score matching*.
"""

from dataclasses import dataclass
from typing import ClassVar

from thalweg.energy.spaces import Record
from thalweg.errors import SettingsError
from thalweg.learning.run import Fit
from thalweg.models import conv_ebm
from thalweg.models.answered import category
from thalweg.models.canvas import canvas_of
from thalweg.models.conv_ebm import ConvEnergy
from thalweg.models.recipe import Problem, Recipe, place_of, setting


@dataclass(frozen=True)
class Settings(conv_ebm.Settings):
    """Settings of `jem`: those of `conv-ebm`, and which column is the label."""

    tied: ClassVar[bool] = True
    target: str = setting("", "the column that is the label (--target)")


def skeleton(space: Record, settings: Settings) -> ConvEnergy:
    """An energy of the right shapes."""
    _check(space, settings)
    return conv_ebm.skeleton(space, settings)


def train(problem: Problem) -> Fit:
    """As `conv-ebm` is trained."""
    _check(problem.space, problem.settings)
    return conv_ebm.train(problem)


def _check(space: Record, settings: Settings) -> None:
    """Raise `SettingsError` unless there are a picture and its label and nothing else."""
    target = place_of(space, settings.target)
    category(space, target, "jem")
    if not any(column.pixel and len(column.place) in (2, 3) for column in space.columns):
        raise SettingsError(
            "jem is for pictures with a label: for a table fit mlp-ebm, an energy of all columns with the label, "
            "which classifies, finds what is foreign and draws too"
        )
    others = [space.names[i] for i in canvas_of(space).others if i != target]
    if others:
        raise SettingsError(
            f"jem is for pictures with a label, and {others[0]!r} is neither: leave it out (--drop), or fit conv-ebm"
        )


JEM = Recipe(
    name="jem",
    title="Joint energy of images and labels",
    code="C2",
    paper="Grathwohl et al. (2020), Your classifier is secretly an energy based model",
    formula="F(x, y) = −f(x)_y / σ",
    about="A classifier of images whose logits are their energy too: it classifies, finds what is foreign, and draws.",
    energy=ConvEnergy,
    settings=Settings,
    skeleton=skeleton,
    train=train,
)
