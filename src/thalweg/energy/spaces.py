r"""Where `y` lives: real boxes, binary and categorical lattices, and the mixed columns of a table's row.

A space knows its shape, how to project onto itself, how to enumerate itself when it is finite, and a
reference point drawn over it. Every point is one float32 array: a category is its index, a binary value 0
or 1.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from thalweg.errors import SettingsError

#: The largest space that is enumerated without being asked twice.
LARGEST_ENUMERATION = 1 << 20


class AbstractSpace(eqx.Module):
    """A set of arrays of one shape."""

    # To a type checker a read-only property, which a subclass may define as a field or as a property.
    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[int, ...]:
            """The shape of a point."""

    else:
        shape: eqx.AbstractVar[tuple[int, ...]]

    @property
    @abstractmethod
    def cardinality(self) -> int | None:
        """How many points the space has; None where it is not finite."""

    @abstractmethod
    def project(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """The nearest point of the space, in Euclidean distance."""

    @abstractmethod
    def draw(self, *, key: PRNGKeyArray) -> Float[Array, "..."]:
        """A reference point: uniform where the space is bounded, standard normal where it is not."""

    @abstractmethod
    def levels(self) -> Sequence[int | None]:
        """The number of values of each coordinate in C order; None for a real one."""

    @property
    def real(self) -> np.ndarray:
        """Which coordinates are real, bool of the shape of a point; known outside compiled code."""
        return np.array([level is None for level in self.levels()], bool).reshape(self.shape)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest value of each coordinate, infinite where there is none; known outside compiled
        code. Of a space that is a product of intervals and lattices, so not of a `Simplex`."""
        with jax.ensure_compile_time_eval():
            infinite = jnp.full(self.shape, jnp.inf)
            return np.asarray(self.project(-infinite)), np.asarray(self.project(infinite))

    def contains(self, y: Float[Array, "..."], tolerance: float = 1e-6) -> Bool[Array, ""]:
        """Whether `y` lies in the space."""
        return jnp.all(jnp.abs(self.project(y) - y) <= tolerance)

    def points(self) -> Float[Array, "n ..."]:
        """Every point of a finite space, in lexicographic order.

        Raises `SettingsError` where the space is infinite or has more than `LARGEST_ENUMERATION` points.
        """
        if self.cardinality is None:
            raise SettingsError(f"{self} is not finite and cannot be enumerated: use a gradient solver")
        if self.cardinality > LARGEST_ENUMERATION:
            raise SettingsError(
                f"{self} has {self.cardinality:,} points, more than the {LARGEST_ENUMERATION:,} that are "
                "enumerated: use alternating minimisation"
            )
        sizes = [size for size in self.levels() if size is not None]
        codes = jnp.stack(jnp.unravel_index(jnp.arange(self.cardinality), sizes or (1,)), axis=-1)
        return codes.astype(jnp.float32).reshape(self.cardinality, *self.shape)


class Real(AbstractSpace):
    r"""The box \([l, u]^{shape}\); all of \(\mathbb{R}^{shape}\) by default."""

    shape: tuple[int, ...] = eqx.field(static=True)
    lower: float = eqx.field(static=True, default=-math.inf)
    upper: float = eqx.field(static=True, default=math.inf)

    def __check_init__(self):
        if not self.lower < self.upper:
            raise SettingsError(f"an empty box: lower {self.lower} is not below upper {self.upper}")

    @property
    def cardinality(self) -> int | None:
        return None

    def project(self, y):
        return jnp.clip(y, self.lower, self.upper)

    def draw(self, *, key):
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            return jax.random.uniform(key, self.shape, minval=self.lower, maxval=self.upper)
        return self.project(jax.random.normal(key, self.shape))

    def levels(self):
        return (None,) * math.prod(self.shape)


class Categorical(AbstractSpace):
    r"""Indices \(\{0, …, k-1\}^{shape}\)."""

    shape: tuple[int, ...] = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __check_init__(self):
        if self.size < 1:
            raise SettingsError(f"a category needs at least one value, not {self.size}")

    @property
    def cardinality(self) -> int | None:
        return self.size ** math.prod(self.shape)

    def project(self, y):
        return jnp.clip(jnp.round(y), 0, self.size - 1)

    def draw(self, *, key):
        return jax.random.randint(key, self.shape, 0, self.size).astype(jnp.float32)

    def levels(self):
        return (self.size,) * math.prod(self.shape)


def Binary(shape: tuple[int, ...]) -> Categorical:
    r"""The hypercube \(\{0, 1\}^{shape}\): a category of two values."""
    return Categorical(shape, 2)


class Simplex(AbstractSpace):
    r"""Shares that are positive and sum to 1, \(\{y \in [0, 1]^k: \sum_i y_i = 1\}\); densities are those of the first
    \(k - 1\)."""

    size: int = eqx.field(static=True)

    def __check_init__(self):
        if self.size < 2:
            raise SettingsError(f"a simplex has at least two shares, not {self.size}")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    @property
    def cardinality(self) -> int | None:
        return None

    def project(self, y):
        # Held & Wolfe's threshold: Duchi, Shalev-Shwartz, Singer & Chandra (2008), figure 1.
        falling = jnp.sort(y)[::-1]
        excess = (jnp.cumsum(falling) - 1) / jnp.arange(1, self.size + 1, dtype=y.dtype)
        last = jnp.sum(falling > excess) - 1
        return jnp.maximum(y - excess[last], 0)

    def draw(self, *, key):
        return jax.random.dirichlet(key, jnp.ones(self.size))

    def levels(self):
        return (None,) * self.size


@dataclass(frozen=True)
class Column:
    """One column of a `Record`, in the codes that energies see.

    `real`: a standardised number. `integer`: a count from 0, of `size` values in training (larger and
    negative codes are outside the training range). `categorical`: an index below `size`.
    A code is brought to mean 0 and deviation 1 by `(code - center) / spread`; in the user's own units a number, or a
    pixel of two values, is `origin + unit * code` (of other categories these are 0 and 1). A `pixel` shares its scale
    with the others, and its `place` is where it lies in the image: row, column and, where there are several, channel.
    """

    name: str
    kind: Literal["real", "integer", "categorical"]
    size: int = 0
    lower: float = -math.inf
    upper: float = math.inf
    center: float = 0.0
    spread: float = 1.0
    origin: float = 0.0
    unit: float = 1.0
    pixel: bool = False
    place: tuple[int, ...] = ()

    @property
    def finite(self) -> bool:
        return self.kind != "real"

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.lower) and math.isfinite(self.upper)


class Record(AbstractSpace):
    """One row of a table: a vector with one code per column, each column of its own kind."""

    columns: tuple[Column, ...] = eqx.field(static=True)

    def __check_init__(self):
        if not self.columns:
            raise SettingsError("a record needs at least one column")

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.columns),)

    @property
    def cardinality(self) -> int | None:
        return math.prod(column.size for column in self.columns) if self.is_finite else None

    @property
    def is_finite(self) -> bool:
        return all(column.finite for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def where(self, *kinds: str) -> tuple[int, ...]:
        """The positions of the columns of these kinds."""
        return tuple(i for i, column in enumerate(self.columns) if column.kind in kinds)

    def project(self, y):
        finite = jnp.array([column.finite for column in self.columns])
        lower = jnp.array([0.0 if c.finite else c.lower for c in self.columns])
        upper = jnp.array([c.size - 1.0 if c.finite else c.upper for c in self.columns])
        return jnp.clip(jnp.where(finite, jnp.round(y), y), lower, upper)

    def draw(self, *, key):
        finite = jnp.array([column.finite for column in self.columns])
        bounded = jnp.array([column.bounded for column in self.columns])
        size = jnp.array([max(column.size, 1) for column in self.columns], jnp.float32)
        lower = jnp.array([c.lower if math.isfinite(c.lower) else -1.0 for c in self.columns])
        upper = jnp.array([c.upper if math.isfinite(c.upper) else 1.0 for c in self.columns])
        uniform_key, normal_key = jax.random.split(key)
        u = jax.random.uniform(uniform_key, self.shape)
        real = jnp.where(bounded, lower + (upper - lower) * u, jax.random.normal(normal_key, self.shape))
        return self.project(jnp.where(finite, jnp.minimum(jnp.floor(u * size), size - 1), real))

    def levels(self):
        return tuple(column.size if column.finite else None for column in self.columns)
