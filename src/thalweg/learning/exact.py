"""Maximum likelihood with the partition function itself: what every approximation is measured against."""

import jax
import jax.numpy as jnp

from thalweg.evaluate.partition import exact_log_partition
from thalweg.learning.objective import AbstractObjective
from thalweg.learning.rows import whole


class ExactLikelihood(AbstractObjective):
    r"""\(L = \frac1n\sum_i F(y_i) + \log Z\), in nats a row: C1, energies pushed up everywhere.

    \(\log Z\) by the energy's own sum, by enumeration of a finite space, or by quadrature in one to three bounded real
    dimensions with `nodes` a dimension. Raises `SettingsError` where none of them can be had.
    """

    nodes: int = 64

    def __call__(self, energy, batch, memory, *, key):
        values = whole(batch, "maximum likelihood")
        log_z = exact_log_partition(energy, nodes=self.nodes)
        return jnp.mean(jax.vmap(energy)(values)) + log_z, (memory, {"log_partition": log_z})
