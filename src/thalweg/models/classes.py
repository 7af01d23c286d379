"""An energy of one category given the other columns of a row, whose energies of all classes are known at once."""

from abc import abstractmethod

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from thalweg.energy.capabilities import (
    AbstractColumnConditional,
    AbstractCompletion,
    AbstractConditional,
    AbstractConditionalSampler,
)


class AbstractClasses(
    AbstractConditional, AbstractColumnConditional, AbstractCompletion, AbstractConditionalSampler
):
    r"""\(F(y, x) = E_y(x)\) in nats; where y is not known, \(-\log \sum_y e^{-E_y(x)}\)."""

    @abstractmethod
    def class_energies(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Float[Array, "c"]:
        """The energy of each class; what the row says of its class is not read."""

    def __call__(self, y, x=None):
        return self.marginal(y, jnp.ones(y.shape, bool))

    def marginal(self, y, observed, x=None):
        (target,) = self.answers
        energies, known = self.class_energies(y, observed), observed[target]
        # What stands at an unknown place may be anything.
        own = energies[jnp.where(known, y[target], 0).astype(jnp.int32)]
        return jnp.where(known, own, -jax.nn.logsumexp(-energies))

    def column_energies(self, y, index, values, observed, x=None):
        (target,) = self.answers

        def of_classes():
            return self.class_energies(y, observed)[values.astype(jnp.int32)]

        def of_inputs():
            known = observed.at[index].set(True)
            return jax.vmap(lambda v: self.marginal(y.at[index].set(v), known))(values)

        return jax.lax.cond(index == target, of_classes, of_inputs)

    def complete(self, y, observed, x=None):
        return self._answering(y, observed, jnp.argmin(self.class_energies(y, observed)))

    def sample_given(self, y, observed, x=None, *, key):
        return self._answering(y, observed, jax.random.categorical(key, -self.class_energies(y, observed)))

    def _answering(self, y: Array, observed: Array, answer: Array) -> Float[Array, "d"]:
        (target,) = self.answers
        return y.at[target].set(jnp.where(observed[target], y[target], answer.astype(y.dtype)))
