"""A small structured energy by brute force: a few coordinates, and a term for each and for each pair of neighbours."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg.energy import Categorical
from thalweg.energy.capabilities import AbstractStructured


class Chain(AbstractStructured):
    r"""\(\sum_i m_i (U_i \cdot x + c_i)_{y_i} + \sum_i m_i m_{i+1} V_{y_i y_{i+1}}\), with the mask m in the input."""

    unary: Float[Array, "l v f"]
    pair: Float[Array, "v v"]
    costs: Float[Array, "l v"]

    def __init__(self, unary, pair, costs=None):
        self.unary, self.pair = jnp.asarray(unary, jnp.float32), jnp.asarray(pair, jnp.float32)
        self.costs = jnp.zeros(self.unary.shape[:2]) if costs is None else costs

    @property
    def space(self):
        return Categorical(self.unary.shape[:1], self.unary.shape[1])

    def __call__(self, y, x=None):
        features, mask = x
        labels, kept = y.astype(int), mask.astype(jnp.float32)
        scores = jnp.einsum("lvf,lf->lv", self.unary, features) + self.costs
        along = self.pair[labels[:-1], labels[1:]] * kept[:-1] * kept[1:]
        return jnp.sum(kept * scores[jnp.arange(len(labels)), labels]) + jnp.sum(along)

    def _all(self, x):
        """Every answer, with its energy; infinite for those that say something where the mask is."""
        points = self.space.points()
        spoken = jnp.any((points != 0) & ~x[1][None], axis=1)
        return points, jnp.where(spoken, jnp.inf, jax.vmap(lambda y: self(y, x))(points))

    def best(self, x=None, k=1):
        points, energies = self._all(x)
        heights, index = jax.lax.top_k(-energies, k)
        return points[index], -heights

    def free_energy(self, x=None, beta=1.0):
        return -jax.nn.logsumexp(-beta * self._all(x)[1]) / beta

    def with_costs(self, costs):
        return Chain(self.unary, self.pair, self.costs + costs)

    def draw(self, x=None, beta=1.0, *, key):
        points, energies = self._all(x)
        return points[jax.random.categorical(key, -beta * energies)]
