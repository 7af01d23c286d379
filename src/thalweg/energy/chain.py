r"""Energies of labellings of a chain, with everything about them exact.

\[ F(y) = \sum_t E_t(y_t) + \sum_t T(y_{t-o}, …, y_{t-1}, y_t) + \sum_{ends} E_{end}(y_t) \]

for transitions of order o; before a sequence begins its labels are "none". `mask` and `starts` lay several ragged
sequences into one row (`thalweg.energy.packing`): the energies of sequences in one row add up, so a loss that is not
additive needs one sequence a row.

LeCun, Chopra, Hadsell, Ranzato & Huang (2006), *A tutorial on energy-based learning*, section 7.
"""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from thalweg.energy.base import Scalar
from thalweg.energy.capabilities import AbstractStructured
from thalweg.energy.minsum import best_path, best_paths, draw_path
from thalweg.energy.packing import first_of_each, last_of_each, neighbours
from thalweg.energy.scores import Scores
from thalweg.energy.spaces import Categorical
from thalweg.energy.sumproduct import log_partition
from thalweg.errors import SettingsError


class Chain(AbstractStructured):
    r"""A chain of n places with k labels; infinite energies forbid.

    `places` (n, k); `transitions` (k+1, …, k+1, k), an axis of k+1 for each of the labels before, the nearest last,
    where index k is "none"; with a leading axis of n, of each place. `end` (k,). Labels at places where `mask` is
    False are never read and come back as 0.
    """

    places: Float[Array, "n k"]
    transitions: Float[Array, "..."]
    end: Float[Array, "k"]
    mask: Bool[Array, "n"]
    starts: Bool[Array, "n"]
    order: int = eqx.field(static=True)

    def __check_init__(self):
        n, k = self.places.shape
        table = (k + 1,) * self.order + (k,)
        if self.order < 1 or self.transitions.shape not in (table, (n, *table)):
            raise SettingsError(
                f"transitions of order {self.order} between {k} labels have the shape {table} (one more for 'none'), "
                f"after an axis of {n} where they vary by place; not {self.transitions.shape}"
            )

    @property
    def space(self) -> Categorical:
        return Categorical((self.places.shape[0],), self.places.shape[1])

    def __call__(self, y, x=None):
        labels = jnp.asarray(y).astype(jnp.int32)
        k = self.places.shape[1]
        places, there = neighbours(self.mask, self.starts, self.order)
        before = jnp.where(there, labels[places], k)[:, ::-1]
        steps = (*before.T, labels)
        index = (jnp.arange(len(labels)), *steps) if self._varying else steps
        terms = jnp.take_along_axis(self._with_end(), labels[:, None], axis=1)[:, 0] + self.transitions[index]
        return jnp.sum(jnp.where(self.mask, terms, 0))

    def best(self, x=None, k=1):
        scores = self._scores(-1.0)
        if k == 1:
            paths = best_path(scores)[None]
            return self._with_energies(paths, jnp.zeros(1))
        return self._with_energies(*best_paths(scores, k))

    def _with_energies(self, paths, found):
        energies = jax.vmap(self)(paths)
        return paths.astype(jnp.float32), jnp.where(found > -jnp.inf, energies, jnp.inf)

    def free_energy(self, x=None, beta=1.0):
        return -log_partition(self._scores(-beta)) / beta

    def with_costs(self, costs):
        return replace(self, places=self.places + costs)

    def draw(self, x=None, beta=1.0, *, key):
        return draw_path(self._scores(-beta), key=key).astype(jnp.float32)

    def marginals(self, beta: float | Scalar = 1.0) -> Float[Array, "n k"]:
        r"""\(p(y_t = v)\), the gradient of the free energy in the energies of places; 0 where there is no label."""
        return jax.grad(lambda places: replace(self, places=places).free_energy(beta=beta))(self.places)

    @property
    def _varying(self) -> bool:
        return self.transitions.ndim == self.order + 2

    def _with_end(self) -> Float[Array, "n k"]:
        last = last_of_each(self.mask, self.starts)[:, None]
        places = jnp.where(self.mask[:, None], self.places, 0)
        return places + jnp.where(last, self.end[None], 0)

    def _scores(self, factor: float | Scalar) -> Scores:
        """The energies times a negative factor; forbidden stays forbidden, whatever the derivative in the factor."""

        def scaled(energies: Float[Array, "..."]) -> Float[Array, "..."]:
            allowed = jnp.isfinite(energies)
            return jnp.where(allowed, factor * jnp.where(allowed, energies, 0), -jnp.inf)

        table = scaled(self.transitions)
        none = (..., *(-1,) * self.order, slice(None))
        return Scores(
            scaled(self._with_end()),
            table[none],
            table[..., :-1, :],
            first_of_each(self.mask, self.starts),
            self.mask,
        )
