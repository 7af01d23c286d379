"""What objectives are fed: whole rows, values with what is observed of them, or inputs with their answers."""

import equinox as eqx
from jaxtyping import Array, Bool, Float, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.spaces import AbstractSpace
from thalweg.errors import SettingsError


class Pairs(eqx.Module):
    """Inputs with their answers, for the objectives of conditional energies: `F(y[i], x[i])` should be low."""

    x: PyTree
    y: Float[Array, "n ..."]


def split_batch(batch: PyTree) -> tuple[Float[Array, "n ..."], Bool[Array, "n ..."] | None]:
    """The values, and what is observed of them (None: everything)."""
    return batch if isinstance(batch, tuple) else (batch, None)


def whole(batch: PyTree, objective: str) -> Float[Array, "n ..."]:
    """The rows of a batch that has no mask. Raises `SettingsError` for one that has."""
    values, observed = split_batch(batch)
    if observed is not None:
        raise SettingsError(
            f"{objective} needs every cell of a row: complete the rows first, or leave them out"
        )
    return values


def require(kind: str, objective: str, energy: AbstractEnergy) -> None:
    """Raise `SettingsError` unless all coordinates of the energy's space are `real` or `finite`."""
    if not suits(kind, energy.space):
        other = {"real": "finite", "finite": "real"}[kind]
        raise SettingsError(
            f"{objective} is for {kind} coordinates, and {type(energy).__name__} has {other} ones: "
            + (
                "use pseudo-likelihood or contrastive divergence"
                if kind == "real"
                else "use score matching or NCE"
            )
        )


def suits(kind: str, space: AbstractSpace) -> bool:
    return all((level is None) == (kind == "real") for level in space.levels())
