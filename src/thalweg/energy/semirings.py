r"""How the energies of alternatives become one: the lowest, the k lowest, the free energy, or that of a draw.

Energies of parts are added; those of alternatives are brought together by \(\oplus\). One recursion with another
\(\oplus\) answers another question, and its derivative with respect to the energies of the parts says which of them the
answer is made of: each lowest energy hands its whole derivative to one alternative, so that ties have one answer, and
the free energy shares it out by probability. An infinite energy forbids; no derivative is NaN for it.

Aji & McEliece (2000), *The generalized distributive law*; Goodman (1999), *Semiring parsing*; Eisner (2016),
*Inside-outside and forward-backward algorithms are just backprop*.
"""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from thalweg.energy.base import Scalar


class AbstractSemiring(eqx.Module):
    """Energies have a last axis more, a list for each cell: of one energy, or of the k lowest ones in order."""

    def lifted(self, energies: Float[Array, "..."]) -> Float[Array, "... k"]:
        """Each energy as a list."""
        return energies[..., None]

    @abstractmethod
    def either(self, energies: Float[Array, "... n j"], turn: int | Int[Array, ""]) -> Float[Array, "... k"]:
        r"""\(\bigoplus_n\): n alternatives as one. `turn` counts the calls of a recursion; draws are new at each."""

    def both(self, a: Float[Array, "... i"], b: Float[Array, "... j"]) -> Float[Array, "... k"]:
        """The energies of two parts that go together; the axes before the lists broadcast."""
        return a + b


class Lowest(AbstractSemiring):
    """The `k` lowest energies in order, of equal ones the first first; infinite where there are fewer."""

    k: int = eqx.field(static=True, default=1)

    def lifted(self, energies):
        return jnp.pad(
            energies[..., None], [(0, 0)] * energies.ndim + [(0, self.k - 1)], constant_values=jnp.inf
        )

    def either(self, energies, turn):
        return self._of(energies.reshape(*energies.shape[:-2], -1))

    def both(self, a, b):
        if min(a.shape[-1], b.shape[-1]) == 1:
            return a + b
        # Of two lists in order, only the first i of one and k/i of the other can be among the k lowest sums.
        pairs = [(i, j) for i in range(self.k) for j in range(self.k // (i + 1))]
        first, second = (jnp.asarray(index) for index in zip(*pairs, strict=True))
        return self._of(a[..., first] + b[..., second])

    def _of(self, energies: Float[Array, "... n"]) -> Float[Array, "... k"]:
        if self.k == 1:
            return _at(energies, jnp.argmin(energies, axis=-1))[..., None]
        lacking = max(self.k - energies.shape[-1], 0)
        whole = jnp.pad(energies, [(0, 0)] * (energies.ndim - 1) + [(0, lacking)], constant_values=jnp.inf)
        return -jax.lax.top_k(-whole, self.k)[0]


class Soft(AbstractSemiring):
    r"""\(-\frac1\beta \log \sum_n e^{-\beta E_n}\)."""

    beta: float | Scalar

    def either(self, energies, turn):
        return soft_minimum(energies[..., 0], self.beta)[..., None]


class Drawn(AbstractSemiring):
    r"""The same value, whose derivative is all with one alternative, drawn from \(e^{-\beta E_n}\).

    The derivative of a recursion is then an exact draw: each choice is drawn given those that were made after it.
    """

    beta: float | Scalar
    key: PRNGKeyArray

    def either(self, energies, turn):
        energies = energies[..., 0]
        value = jax.lax.stop_gradient(soft_minimum(energies, self.beta))
        ends = jnp.cumsum(_weights(energies, self.beta)[0], axis=-1)
        # In (0, 1], so that what has no weight is never met.
        u = 1 - jax.random.uniform(jax.random.fold_in(self.key, turn), value.shape)
        drawn = _at(energies, jnp.sum(ends < u[..., None] * ends[..., -1:], axis=-1))
        apart = jnp.where(jnp.isfinite(value), value - drawn, 0)
        return (drawn + jax.lax.stop_gradient(apart))[..., None]


def soft_minimum(energies: Float[Array, "... n"], beta: float | Scalar) -> Float[Array, "..."]:
    r"""\(-\frac1\beta \log \sum_n e^{-\beta E_n}\) over the last axis; infinite, with derivatives 0, where all are."""
    weights, least = _weights(energies, beta)
    total = jnp.sum(weights, axis=-1)
    some = total > 0
    value = least - jnp.log(jnp.where(some, total, 1)) / beta
    return jnp.where(some, value, jnp.inf)


def _weights(
    energies: Float[Array, "... n"], beta: float | Scalar
) -> tuple[Float[Array, "... n"], Float[Array, "..."]]:
    r"""\(e^{-\beta (E_n - \min E)}\), 0 where \(E_n\) is infinite, and the least energy, 0 where all are."""
    allowed = energies < jnp.inf
    least = jax.lax.stop_gradient(jnp.min(energies, axis=-1))
    least = jnp.where(least < jnp.inf, least, 0)
    # Twice `where`: a derivative is also taken of what is not chosen, and there infinity times 0 is no number.
    above = jnp.where(allowed, energies, least[..., None]) - least[..., None]
    return jnp.where(allowed, jnp.exp(-beta * above), 0), least


def _at(energies: Float[Array, "... n"], index: Int[Array, "..."]) -> Float[Array, "..."]:
    return jnp.take_along_axis(energies, index[..., None], axis=-1)[..., 0]
