r"""A mixture of Gaussians: a free energy over the component z.

\[ F(y) = -\log \sum_k w_k \, \mathcal{N}(u(y); \mu_k, \Sigma_k) - \log |du/dy| \]

A normalised density (A1): whatever raises p at the data lowers it elsewhere. Fitted by EM, missing
cells included.

Dempster, Laird & Rubin (1977), *Maximum likelihood from incomplete data via the EM algorithm*.
"""

import time
from dataclasses import dataclass, replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractDensity, Scalar
from thalweg.energy.capabilities import (
    AbstractCompletion,
    AbstractConditionalSampler,
    AbstractEncoder,
    AbstractMarginal,
    AbstractTabular,
)
from thalweg.energy.spaces import Record
from thalweg.errors import SettingsError
from thalweg.learning.run import Fit
from thalweg.models import em, kmeans
from thalweg.models.embedding import Embedding
from thalweg.models.gaussian import (
    LOG_TAU,
    Conditional,
    condition,
    double_precision,
    draw,
    draw_given,
    log_normal,
)
from thalweg.models.padding import filled_up, length_for, width_for
from thalweg.models.recipe import Problem, Recipe, setting

FORMS = ("full", "diagonal", "tied")
#: A component needs about this many rows, and twice as many as a full covariance has coordinates.
ROWS_A_COMPONENT = 5


class GaussianMixture(
    AbstractDensity,
    AbstractTabular,
    AbstractMarginal,
    AbstractCompletion,
    AbstractConditionalSampler,
    AbstractEncoder,
):
    r"""\(F(y) = -\log \sum_k w_k \mathcal{N}(u(y); \mu_k, \Sigma_k)\), in nats.

    A normalised density of the codes where all columns are real. An integer column is taken as a real
    number (the density of its continuous relaxation), a category as the corner that its 0/1 block is of
    \(\mathbb{R}^{size}\): with categories F is an energy and not a normalised probability.

    `log_weights` (k) need not be normalised; `means` (k, e); `factors` are lower triangular factors of the
    covariances, (k, e, e) for `form` "full" and (e, e) for "tied", or deviations (k, e) for "diagonal".
    """

    embedding: Embedding
    log_weights: Float[Array, "k"]
    means: Float[Array, "k e"]
    factors: Float[Array, "..."]
    form: str = eqx.field(static=True, default="full")

    def __check_init__(self):
        k, e = self.means.shape
        expected = _factor_shape(k, e, self.form)
        if e != self.embedding.width or self.log_weights.shape != (k,) or self.factors.shape != expected:
            raise SettingsError(
                f"a {self.form} mixture over {self.embedding.width} coordinates needs log_weights (k,), "
                f"means (k, e) and factors {expected}, not {self.log_weights.shape}, {self.means.shape} and "
                f"{self.factors.shape}"
            )

    @property
    def space(self) -> Record:
        return self.embedding.space

    def bare(self) -> "GaussianMixture":
        return replace(self, embedding=self.embedding.bare())

    def log_prob(self, y: Array, x: PyTree = None) -> Scalar:
        u, _ = self.embedding.embed(y)
        densities = jax.vmap(partial(log_normal, u), self._axes)(self.means, self.factors)
        return jax.nn.logsumexp(self._log_prior + densities) + self.embedding.log_volume()

    def marginal(self, y: Array, observed: Array, x: PyTree = None) -> Scalar:
        joint = self._log_prior + self._given(y, observed).log_density
        return -jax.nn.logsumexp(joint) - self.embedding.log_volume(observed)

    def complete(self, y, observed, x=None):
        given = self._given(y, observed)
        mean = self._responsibilities(given) @ given.mean
        return jnp.where(observed, y, self.embedding.unembed(mean))

    def encode(self, y: Array, observed: Array, x: PyTree = None) -> Float[Array, "k"]:
        """The responsibilities: the probability of each component given the observed part."""
        return self._responsibilities(self._given(y, observed))

    def sample(self, x=None, *, key):
        """A draw from the mixture; integers are not rounded, a category is the largest of its block."""
        which, noise = jax.random.split(key)
        mean, factor = self._component(jax.random.categorical(which, self._log_prior))
        return self.embedding.unembed(draw(mean, factor, key=noise))

    def sample_given(self, y, observed, x=None, *, key):
        which, noise = jax.random.split(key)
        u, seen = self.embedding.embed(y, observed)
        joint = self._log_prior + self._given(y, observed).log_density
        mean, factor = self._component(jax.random.categorical(which, joint))
        return jnp.where(observed, y, self.embedding.unembed(draw_given(u, seen, mean, factor, key=noise)))

    @property
    def _log_prior(self) -> Float[Array, "k"]:
        return jax.nn.log_softmax(self.log_weights)

    @property
    def _axes(self) -> tuple[int, int | None]:
        return (0, None if self.form == "tied" else 0)

    def _given(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Conditional:
        """Each component conditioned on the observed part."""
        u, seen = self.embedding.embed(y, observed)
        return jax.vmap(partial(condition, u, seen), self._axes)(self.means, self.factors)

    def _responsibilities(self, given: Conditional) -> Float[Array, "k"]:
        return jax.nn.softmax(self._log_prior + given.log_density)

    def _component(self, k: Array) -> tuple[Array, Array]:
        return self.means[k], self.factors if self.form == "tied" else self.factors[k]


@dataclass(frozen=True)
class Settings:
    """What `gmm` can be told."""

    components: int = setting(10, "how many Gaussians; fewer where there are few rows for each")
    covariance: str = setting("full", "full, diagonal or tied")
    prior: str = setting(
        "evidence",
        "evidence: covariances are drawn together, as far as the rows speak for it; none: the likelihood alone",
    )
    reg: float = setting(1e-3, "added to every variance, relative to the mean variance of a coordinate")
    start: str = setting("kmeans", "kmeans, or random responsibilities")
    restarts: int = setting(1, "how many starts; the highest likelihood is kept")
    iterations: int = setting(200, "the largest number of EM iterations")
    tolerance: float = setting(1e-3, "stop when the mean log-likelihood of a row changes by fewer nats")
    scale: str = setting("auto", "auto, column, common or none: how columns are brought to one size")

    def __post_init__(self):
        if self.covariance not in FORMS:
            raise SettingsError(
                f"covariance {self.covariance!r} is not known: choose one of {', '.join(FORMS)}"
            )
        if self.start not in ("kmeans", "random"):
            raise SettingsError(f"start {self.start!r} is not known: choose kmeans or random")
        for name in ("components", "restarts", "iterations"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.prior not in ("evidence", "none"):
            raise SettingsError(f"prior {self.prior!r} is not known: choose evidence or none")
        if not self.reg >= 0:
            raise SettingsError(f"reg must be 0 or more, not {self.reg}")


def skeleton(space: Record, settings: Settings) -> GaussianMixture:
    embedding = Embedding(space, settings.scale)
    k, e = settings.components, embedding.width
    factors = jnp.ones(_factor_shape(k, e, settings.covariance))
    return GaussianMixture(embedding, jnp.zeros(k), jnp.zeros((k, e)), factors, settings.covariance)


def train(problem: Problem) -> Fit:
    """EM from k-means or random responsibilities, the best of the restarts."""
    started, settings = time.perf_counter(), problem.settings
    embedding = Embedding(problem.space, settings.scale)
    u, seen = (np.asarray(part) for part in embedding.rows(problem.rows))
    volume = embedding.mean_log_volume(problem.rows)
    needed = max(ROWS_A_COMPONENT, 2 * embedding.width if settings.covariance == "full" else 0)
    k = min(settings.components, max(1, len(u) // needed))
    if k < settings.components:
        problem.run.log(f"gmm: {k} components instead of {settings.components}, for {len(u)} rows")
    traces = [
        _fit_once(u, seen, k, settings, embedding.rounding, key)
        for key in jax.random.split(problem.key, settings.restarts)
    ]
    best = max(traces, key=lambda trace: float(trace.curve[trace.step - 1]))
    steps = int(best.step)
    history = [{"step": i + 1, "loss": -float(value) - volume} for i, value in enumerate(best.curve[:steps])]
    parameters = _filled_up(best.parameters, settings.components, settings.covariance)
    log_weights, means, factors = (jnp.asarray(part) for part in parameters)
    energy = GaussianMixture(embedding, log_weights, means, factors, settings.covariance)
    status = "converged" if best.converged else "ran all steps"
    return Fit(energy, status, steps, time.perf_counter() - started, history)


@partial(jax.jit, static_argnames=("form", "shrink"))
def initial_parameters(
    u: Float[Array, "n e"],
    shares: Float[Array, "n k"],
    *,
    form: str,
    ridge: float | Array,
    shrink: bool = False,
) -> em.Parameters:
    """The M-step from given responsibilities of complete rows, in the precision of `u`."""
    moments = em.moments_of(jnp.zeros((), u.dtype), u, shares.astype(u.dtype), form)
    return em.maximise(moments, ridge, form, shrink)


def _fit_once(
    u: np.ndarray, seen: np.ndarray, components: int, settings: Settings, floor: np.ndarray, key: PRNGKeyArray
) -> em.Trace:
    """One EM run in float64, its curve and parameters back in float32; `floor` is added to the variances."""
    form, slots = settings.covariance, settings.components
    (n, e), complete = u.shape, bool(seen.all())
    found = kmeans.cluster(u, None if complete else seen, components, key=key, slots=slots)
    filled = u if complete else np.where(seen, u, np.asarray(found.centroids)[found.labels])
    if settings.start == "random":
        shares = np.asarray(jax.random.dirichlet(key, jnp.ones(components), (n,)), np.float64)
    else:
        shares = np.eye(components)[found.labels]
    length, width = length_for(n), width_for(e, n)
    share = settings.reg * float(np.mean(np.var(filled, axis=0)))
    # A coordinate that only fills up is independent of the others, with variance 1.
    ridge = filled_up(np.asarray(share + floor, np.float64), (width,), 1)
    shrink = settings.prior == "evidence"
    cells = em.split(filled_up(u, (n, width)), filled_up(seen, (n, width), True), slots, form)
    with double_precision():
        rows = filled_up(filled.astype(np.float64), (length, width))
        initial = initial_parameters(
            rows, filled_up(shares, (length, slots)), form=form, ridge=ridge, shrink=shrink
        )
        weights = np.where(np.arange(slots) < components, initial.log_weights, -np.inf)
        initial = initial._replace(log_weights=weights)
        trace = em.expectation_maximisation(
            cells,
            initial,
            form=form,
            ridge=ridge,
            shrink=shrink,
            tolerance=settings.tolerance,
            iterations=settings.iterations,
        )
        host = jax.tree.map(np.asarray, trace)
    narrow = em.Parameters(*(part.astype(np.float32) for part in host.parameters))
    curve = host.curve + (width - e) * LOG_TAU / 2
    return host._replace(parameters=_part(narrow, components, e, form), curve=curve)


def _part(parameters: em.Parameters, components: int, width: int, form: str) -> em.Parameters:
    """The first components and coordinates."""
    log_weights, means, factors = parameters
    k, e = slice(components), slice(width)
    factors = factors[{"full": (k, e, e), "diagonal": (k, e), "tied": (e, e)}[form]]
    return em.Parameters(log_weights[k], means[k, e], factors)


def _filled_up(parameters: em.Parameters, components: int, form: str) -> em.Parameters:
    """The same mixture with more components: the last one in equal parts.

    A model's arrays have the shapes that its settings promise, however few rows it was fitted to.
    """
    k = len(parameters.means)
    copies = components - k + 1
    index = np.minimum(np.arange(components), k - 1)
    shares = np.where(np.arange(components) < k - 1, 0.0, -np.log(copies)).astype(np.float32)
    factors = parameters.factors if form == "tied" else parameters.factors[index]
    return em.Parameters(parameters.log_weights[index] + shares, parameters.means[index], factors)


def _factor_shape(k: int, e: int, form: str) -> tuple[int, ...]:
    if form not in FORMS:
        raise SettingsError(f"covariance {form!r} is not known: choose one of {', '.join(FORMS)}")
    return {"full": (k, e, e), "diagonal": (k, e), "tied": (e, e)}[form]


GMM = Recipe(
    name="gmm",
    title="Mixture of Gaussians",
    code="A1",
    paper="Dempster, Laird & Rubin (1977); Ghahramani & Jordan (1994)",
    formula="F(y) = -log Σ_k w_k N(y; μ_k, Σ_k)",
    about="A normalised density with exact marginals, conditionals and draws; missing cells by exact EM.",
    energy=GaussianMixture,
    settings=Settings,
    skeleton=skeleton,
    train=train,
)
