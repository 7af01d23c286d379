"""The catalogue: every recipe by its name."""

from thalweg.errors import SettingsError, did_you_mean
from thalweg.models.classifier import CLASSIFIER
from thalweg.models.conv_ebm import CONV_EBM
from thalweg.models.crf import CRF
from thalweg.models.detector import DETECTOR
from thalweg.models.gmm import GMM
from thalweg.models.implicit import IMPLICIT
from thalweg.models.ising import ISING
from thalweg.models.jem import JEM
from thalweg.models.kmeans import KMEANS
from thalweg.models.latent_regression import LATENT_REGRESSION
from thalweg.models.mlp_ebm import MLP_EBM
from thalweg.models.orderless import ORDERLESS
from thalweg.models.pca import PCA
from thalweg.models.products import PRODUCTS
from thalweg.models.ranker import RANKER
from thalweg.models.rbm import RESTRICTED_BOLTZMANN
from thalweg.models.recipe import Recipe
from thalweg.models.siamese import SIAMESE
from thalweg.models.two_tower import TWO_TOWER

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        PCA,
        KMEANS,
        GMM,
        ORDERLESS,
        RESTRICTED_BOLTZMANN,
        ISING,
        MLP_EBM,
        CONV_EBM,
        PRODUCTS,
        CLASSIFIER,
        CRF,
        DETECTOR,
        SIAMESE,
        TWO_TOWER,
        RANKER,
        IMPLICIT,
        LATENT_REGRESSION,
        JEM,
    )
}

#: What `fit` takes where no recipe is named.
DEFAULT = "orderless"


def recipe_named(name: str) -> Recipe:
    """The recipe of this name; raises `SettingsError` with the nearest one."""
    if name in RECIPES:
        return RECIPES[name]
    raise SettingsError(f"there is no recipe {name!r}: {did_you_mean(name, RECIPES)}")
