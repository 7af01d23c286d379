"""encode: the latent z of a row."""

import equinox as eqx

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractEncoder
from thalweg.errors import NotAnswered
from thalweg.questions.batches import by_row, in_batches
from thalweg.questions.records import Codes


def method(kind: type[AbstractEnergy]) -> str | None:
    return "exact: closed form" if issubclass(kind, AbstractEncoder) else None


def encode(F: AbstractEnergy, rows: Rows) -> Codes:
    """z of each row, (n, k); raises `NotAnswered` for an energy without a latent."""
    if not isinstance(F, AbstractEncoder):
        raise NotAnswered(f"{type(F).__name__} has no latent z to encode into: fit pca, gmm, kmeans or rbm")
    return Codes(in_batches(_encode, F, rows.values, rows.observed))


@eqx.filter_jit
def _encode(F, y, observed):
    return by_row(F.encode, y, observed)
