"""The catalogue: every recipe by its name."""

import difflib

from thalweg.errors import SettingsError
from thalweg.models.gmm import GMM
from thalweg.models.kmeans import KMEANS
from thalweg.models.orderless import ORDERLESS
from thalweg.models.pca import PCA
from thalweg.models.recipe import Recipe

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (PCA, KMEANS, GMM, ORDERLESS)}

#: What `fit` takes where no recipe is named.
DEFAULT = "orderless"


def recipe_named(name: str) -> Recipe:
    """The recipe of this name; raises `SettingsError` with the nearest one."""
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, 1)
    hint = f"did you mean {near[0]!r}?" if near else ""
    raise SettingsError(f"there is no recipe {name!r}; {hint} the recipes are {', '.join(RECIPES)}")
