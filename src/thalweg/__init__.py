"""Thalweg: fit one energy on your data, ask it anything.

>>> import thalweg
>>> model = thalweg.fit("wine")
>>> model.score("wine")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are imported when they are first used: `import thalweg` and `thalweg --help` do not pay for JAX.
_WHERE = {
    "AbstractDensity": "thalweg.energy.base",
    "AbstractEnergy": "thalweg.energy.base",
    "Model": "thalweg.model",
    "ThalwegError": "thalweg.errors",
    "answer_batches": "thalweg.asking",
    "answer_folder": "thalweg.folders",
    "combine": "thalweg.combining",
    "energy_of": "thalweg.energy.base",
    "fit": "thalweg.fitting",
    "load": "thalweg.persist",
    "minimise": "thalweg.inference",
    "score_batches": "thalweg.asking",
}
_PACKAGES = (
    "data",
    "distributed",
    "energy",
    "errors",
    "evaluate",
    "inference",
    "learning",
    "models",
    "questions",
    "sampling",
    "sklearn",
)

__all__ = [
    "AbstractDensity",
    "AbstractEnergy",
    "Model",
    "ThalwegError",
    "__version__",
    "answer_batches",
    "answer_folder",
    "combine",
    "data",
    "distributed",
    "energy",
    "energy_of",
    "errors",
    "evaluate",
    "fit",
    "inference",
    "learning",
    "load",
    "minimise",
    "models",
    "questions",
    "sampling",
    "score_batches",
    "sklearn",
]

if TYPE_CHECKING:
    from thalweg.asking import answer_batches, score_batches
    from thalweg.combining import combine
    from thalweg.energy.base import AbstractDensity, AbstractEnergy, energy_of
    from thalweg.errors import ThalwegError
    from thalweg.fitting import fit
    from thalweg.folders import answer_folder
    from thalweg.inference import minimise
    from thalweg.model import Model
    from thalweg.persist import load


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(import_module(_WHERE[name]), name)
        globals()[name] = value
        return value
    if name in _PACKAGES:
        return import_module(f"thalweg.{name}")
    raise AttributeError(f"module 'thalweg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
