r"""One masked network along one ordering of the columns: every conditional of a row in a single pass.

Each hidden unit has a degree, the number of columns that it may see: unit j reads column d only where d comes among the
first \(g_j\) of the ordering, and unit i of the layer below only where \(g_i \le g_j\); the column at place t reads
the units of degree at most t. So what is said of a column depends on those before it alone.

Germain, Gregor, Murray & Larochelle (2015), *MADE: masked autoencoder for distribution estimation*.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from thalweg.models.layout import Heads, Layout, Outputs
from thalweg.nn.initial import Initial
from thalweg.nn.mlp import Trunk, linear_weights


class Masked(eqx.Module):
    """The network of one ordering; or, with the leading axis `lead`, those of several in one."""

    first: Float[Array, "f h"]
    bias: Float[Array, "h"]
    trunk: Trunk
    heads: Heads

    def __init__(
        self,
        layout: Layout,
        *lead: int,
        width: int,
        layers: int,
        components: int,
        dropout: float,
        initial: Initial,
    ):
        self.first = linear_weights(
            initial, *lead, rows=layout.features, columns=width, fan_in=layout.columns
        )
        self.bias = initial.zeros(*lead, width)
        self.trunk = Trunk(width, layers, *lead, dropout=dropout, initial=initial)
        self.heads = Heads(layout, width, components, *lead, initial=initial)

    def outputs(
        self,
        layout: Layout,
        order: Int[Array, "d"],
        y: Float[Array, "d"],
        observed: Bool[Array, "d"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Outputs:
        """The distribution of every column given the known ones before it."""
        width = len(self.bias)
        degree = jnp.arange(width) * layout.columns // width
        place = jnp.argsort(order)
        reads = (place[layout.feature_column][:, None] < degree[None, :]).astype(jnp.float32)
        grows = (degree[:, None] <= degree[None, :]).astype(jnp.float32)
        written = (degree[None, :] <= place[:, None]).astype(jnp.float32)
        trunk = eqx.tree_at(lambda t: t.weights, self.trunk, tuple(w * grows for w in self.trunk.weights))
        a = self.bias + layout.read(y, observed) @ (self.first * reads)
        return self.heads.masked(written, layout)(trunk(a, key=key), layout)

    def log_prob(
        self,
        layout: Layout,
        order: Int[Array, "d"],
        y: Float[Array, "d"],
        observed: Bool[Array, "d"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, ""]:
        """log p of the known cells, in nats; the others are passed over."""
        log_probs = layout.log_probs(self.outputs(layout, order, y, observed, key=key), y)
        return jnp.sum(jnp.where(observed, log_probs, 0.0))

    def sample(self, layout: Layout, order: Int[Array, "d"], *, key: PRNGKeyArray) -> Float[Array, "d"]:
        """A draw, a column at a time."""
        everything = jnp.ones(layout.columns, bool)

        def step(y, inputs):
            d, k = inputs
            raw, logits = layout.of_column(self.outputs(layout, order, y, everything), d)
            return y.at[d].set(layout.draw(raw, logits, d, key=k)), None

        y, _ = jax.lax.scan(step, jnp.zeros(layout.columns), (order, jax.random.split(key, len(order))))
        return y
