r"""A density of mixed rows that is known, drawn from and fitted in closed form: what a neural energy starts from.

\[ q(y) = \sum_k w_k\, \mathcal{N}(u_n(y); \mu_k, \Sigma_k) \prod_{c} \pi_{kc}(y_c), \]

\(u_n\) the numbers of the row and \(y_c\) its categories, independent given the component. Counts are numbers
(`thalweg.models.relaxation`). It is the mixture that `gmm` fits, with a table of frequencies for each category in
place of the corners; so it is normalised whatever the columns are.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractDensity
from thalweg.models import gmm
from thalweg.models.embedding import Embedding
from thalweg.models.gaussian import LOG_TAU
from thalweg.models.recipe import Problem
from thalweg.triangular import invert, product

#: Rows of each value that every component is taken to have seen besides its own.
SMOOTHING = 0.5


class Background(AbstractDensity):
    r"""\(-\log \sum_k w_k \mathcal{N}(u_n; \mu_k, L_k L_k^\top) \prod_c \pi_{kc}(y_c) - \log |du/dy|\), in nats.

    `log_weights` (k); `means` (k, n) of the numbers and `inverses` \(L_k^{-1}\) (k, n, n), lower triangular; `tables`
    (k, m) the log probabilities of the categories' indicators.
    """

    embedding: Embedding
    log_weights: Float[Array, "k"]
    means: Float[Array, "k n"]
    inverses: Float[Array, "k n n"]
    tables: Float[Array, "k m"]

    @property
    def space(self):
        return self.embedding.space

    def log_prob(self, y, x=None):
        u, _ = self.embedding.embed(y)
        numeric = numbers(self.embedding)
        joint = self.log_weights + self.tables @ u[~numeric]
        if numeric.any():
            whitened = jax.vmap(product)(self.inverses, u[numeric][None] - self.means)
            volumes = jnp.sum(jnp.log(jnp.diagonal(self.inverses, axis1=1, axis2=2)), axis=1)
            joint = joint + volumes - jnp.sum(whitened**2 + LOG_TAU, axis=1) / 2
        return jax.nn.logsumexp(joint) + self.embedding.log_volume()

    def sample(self, x=None, *, key):
        which, normal, gumbel = jax.random.split(key, 3)
        k = jax.random.categorical(which, self.log_weights)
        noise = jax.random.normal(normal, self.means.shape[1:])
        numeric = numbers(self.embedding)
        u = jnp.zeros(len(numeric)).at[numeric].set(self.means[k] + product(invert(self.inverses[k]), noise))
        # The largest of logits with Gumbel noise is a draw of their softmax.
        values = self.tables[k] + jax.random.gumbel(gumbel, self.tables.shape[1:])
        return self.embedding.unembed(u.at[~numeric].set(values))

    def over(self, embedding: Embedding) -> "Background":
        """The same density over a space with the same coordinates."""
        return replace(self, embedding=embedding)


def numbers(embedding: Embedding) -> np.ndarray:
    """Which coordinates are numbers."""
    layout = embedding.layout
    return layout.numeric[layout.column]


def empty(embedding: Embedding, components: int) -> Background:
    """A background of the right shapes."""
    numeric = numbers(embedding)
    n, k = int(numeric.sum()), components
    shapes = ((k,), (k, n), (k, n, n), (k, len(numeric) - n))
    return Background(embedding, *(jnp.zeros(shape) for shape in shapes))


def fitted(problem: Problem, components: int) -> Background:
    """The background of a table's rows, missing cells included: `gmm`'s EM, then one count of the categories."""
    settings = gmm.GMM.configure({"components": components})
    mixture = gmm.train(replace(problem, settings=settings)).energy
    assert isinstance(mixture, gmm.GaussianMixture)
    embedding = mixture.embedding
    numeric = numbers(embedding)
    factors = np.asarray(mixture.factors, np.float64)
    covariances = (factors @ factors.transpose(0, 2, 1))[:, numeric][:, :, numeric]
    arrays = (
        jax.nn.log_softmax(mixture.log_weights),
        mixture.means[:, numeric],
        np.linalg.inv(np.linalg.cholesky(covariances)).astype(np.float32),
        _tables(mixture, problem.rows)[:, ~numeric],
    )
    return Background(embedding, *map(jnp.asarray, arrays))


def _tables(mixture: gmm.GaussianMixture, rows: Rows) -> Float[np.ndarray, "k e"]:
    """Log frequencies of every indicator among the values of its category, by component."""
    embedding = mixture.embedding
    u, seen = (np.asarray(part) for part in embedding.rows(rows))
    shares = np.asarray(jax.jit(jax.vmap(mixture.encode))(rows.values, rows.observed), np.float64)
    counts = shares.T @ np.where(seen, u, 0.0) + SMOOTHING
    column = embedding.layout.column
    totals = np.stack([counts[:, column == c].sum(axis=1) for c in column], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(counts / totals).astype(np.float32)
