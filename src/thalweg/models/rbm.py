r"""Restricted Boltzmann machine: hidden units that each veto or favour a pattern of the visible ones.

\[ F(y) = \sum_e \left(\tfrac{q_e}{2} u_e^2 - b_e u_e\right) - \sum_j \log\left(1 + e^{c_j + W_j u(y)}\right) \]

the free energy of \(E(y, h) = \sum_e (\tfrac{q_e}{2}u_e^2 - b_e u_e) - h^\top(c + Wu)\), \(h \in \{0, 1\}^H\); \(u\)
are the visible units (`thalweg.models.visible`), with \(q_e > 0\) for numbers and 0 for all others. Contrastive (C2):
pushed down at the data and up at the ends of Gibbs chains.

Smolensky (1986), *Information processing in dynamical systems*; Hinton (2002), *Training products of experts by
minimizing contrastive divergence*; persistent chains: Tieleman (2008), *Training restricted Boltzmann machines using
approximations to the likelihood gradient*; numbers and categories: Welling, Rosen-Zvi & Hinton (2005), *Exponential
family harmoniums*.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.energy.base import Scalar
from thalweg.energy.capabilities import (
    AbstractEncoder,
    AbstractGibbs,
    AbstractNeighbours,
    AbstractPartition,
    AbstractTempered,
)
from thalweg.energy.spaces import AbstractSpace, Record
from thalweg.errors import SettingsError
from thalweg.inference.neighbours import finite_coordinates
from thalweg.learning.fit import fit
from thalweg.learning.run import Fit
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.models.visible import Independent, base_rates, drawn, log_normaliser, seen, units_of
from thalweg.sampling.gibbs import Gibbs, one_by_one
from thalweg.sampling.target import Target

#: The most units that are summed over one by one.
LARGEST_SUM = 20
#: States of the hidden units that are summed over at once.
CHUNK = 4096


class RBM(AbstractGibbs, AbstractTempered, AbstractPartition, AbstractNeighbours, AbstractEncoder):
    r"""\(F(y) = \sum_e (\tfrac{q_e}{2}u_e^2 - b_e u_e) - \sum_j \mathrm{softplus}(c_j + W_j u)\), in nats, not
    normalised.

    `weights` (h, e), `hidden` c (h,), `visible` b (e,), `log_precision` (e,) of numbers, \(q = e^{log\_precision}\);
    `base` (e,) are the fields of independent units from which annealing starts.
    """

    space: AbstractSpace = eqx.field(static=True)
    weights: Float[Array, "h e"]
    hidden: Float[Array, "h"]
    visible: Float[Array, "e"]
    log_precision: Float[Array, "e"]
    base: Float[Array, "e"]

    #: Annealed precisions of numbers start at that of the data.
    start_precision: ClassVar[float] = 1.0

    @property
    def precision(self) -> Float[Array, "e"]:
        """q by unit: 0 for units that are no numbers."""
        return jnp.where(units_of(self.space).numeric, jnp.exp(self.log_precision), 0.0)

    def __call__(self, y, x=None):
        u = seen(self.space, y)
        own = jnp.sum(self.precision * u**2 / 2 - self.visible * u)
        return own - jnp.sum(jax.nn.softplus(self.hidden + self.weights @ u))

    def encode(self, y, observed, x=None):
        r"""\(p(h_j = 1 \mid y)\); missing cells are left out of the sum."""
        u = jnp.where(observed.reshape(-1)[units_of(self.space).coordinate], seen(self.space, y), 0.0)
        return jax.nn.sigmoid(self.hidden + self.weights @ u)

    def gibbs(self, y, observed, x=None, *, beta, key, backwards=False):
        """Hidden units given the visible ones, and those given the hidden ones: its own reverse."""
        if not (isinstance(beta, int | float) and beta == 1):
            target = Target(self, x, beta, held=y, observed=observed)
            return target.point(one_by_one(target, target.coordinates(y), key=key, backwards=backwards))
        up, down = jax.random.split(key)
        chance = jax.nn.sigmoid(self.hidden + self.weights @ seen(self.space, y))
        h = (jax.random.uniform(up, chance.shape) < chance).astype(chance.dtype)
        new = drawn(self.space, self.visible + h @ self.weights, self.precision, key=down)
        return jnp.where(observed, y, new)

    def tempered(self, beta):
        r"""The weights times beta; biases and precisions on their way from those of independent units.

        Hidden units begin about as often on as the visible ones of the start would have them,
        \(E[\sigma(a)] \approx \sigma(m / \sqrt{1 + \pi s^2 / 8})\) where \(a = c + Wu\) has mean m and deviation s
        (MacKay 1992, *The evidence framework applied to classification networks*). With half of them on, as without
        biases, large machines are drawn to few patterns on the way, where chains stay.
        """
        numeric = units_of(self.space).numeric
        mean, variance = self.start().moments()
        begin = (self.hidden + self.weights @ mean) / jnp.sqrt(1 + math.pi / 8 * (self.weights**2 @ variance))
        precision = (1 - beta) * self.start_precision + beta * self.precision
        return RBM(
            self.space,
            beta * self.weights,
            (1 - beta) * begin + beta * self.hidden,
            (1 - beta) * self.base + beta * self.visible,
            jnp.where(numeric, jnp.log(precision), 0.0),
            self.base,
        )

    def start(self):
        numeric = units_of(self.space).numeric
        return Independent(self.space, self.base, jnp.where(numeric, self.start_precision, 0.0))

    def neighbour_energies(self, y, x=None):
        k = units_of(self.space)
        u = seen(self.space, y)
        field = self.hidden + self.weights @ u
        sizes, index = finite_coordinates(self.space)
        values = np.arange(sizes.max(), dtype=np.float32)
        position, block = k.position[index], k.block[index]
        own = self.visible[position]
        # A number or a bit changes its one unit; a category moves its indicator.
        units = (values[None] - k.center[index, None]) / k.spread[index, None]
        change = units - u[position][:, None]
        now = position + jnp.where(block, jnp.ravel(y)[index].astype(jnp.int32), 0)
        then = np.minimum(position[:, None] + np.arange(len(values)), k.width - 1)
        columns = self.weights.T
        moved = jnp.where(
            block[:, None, None],
            columns[then] - columns[now][:, None],
            change[:, :, None] * columns[position][:, None],
        )
        q = self.precision[position][:, None]
        alone = q * (units**2 - u[position][:, None] ** 2) / 2 - own[:, None] * change
        alone = jnp.where(block[:, None], self.visible[now][:, None] - self.visible[then], alone)
        total = jnp.sum(self.precision * u**2 / 2 - self.visible * u)
        return total + alone - jnp.sum(jax.nn.softplus(field[None, None] + moved), axis=-1)

    def log_partition(self, x=None):
        """By summing over the hidden units, of which there may be `LARGEST_SUM`; visible ones in closed form."""
        count = len(self.hidden)
        if count > LARGEST_SUM:
            raise SettingsError(
                f"a sum over {count} hidden units has 2^{count} terms, and 2^{LARGEST_SUM} are summed at most: use "
                "annealed importance sampling (thalweg.evaluate.annealing.log_partition)"
            )
        total = 1 << count
        chunk = min(CHUNK, total)

        def of_chunk(first: Array) -> Scalar:
            rank = first + jnp.arange(chunk, dtype=jnp.int32)
            h = ((rank[:, None] >> jnp.arange(count, dtype=jnp.int32)[None]) & 1).astype(jnp.float32)
            fields = self.visible[None] + h @ self.weights
            sums = jax.vmap(lambda field: log_normaliser(self.space, field, self.precision))(fields)
            return jax.nn.logsumexp(sums + h @ self.hidden)

        firsts = jnp.arange(0, total, chunk, dtype=jnp.int32)
        return jax.nn.logsumexp(jax.lax.map(jax.checkpoint(of_chunk), firsts))


def rbm(
    space: AbstractSpace,
    hidden: int,
    *,
    key: PRNGKeyArray,
    rows: Float[np.ndarray, "n ..."] | None = None,
    scale: float = 0.01,
) -> RBM:
    """A machine with small random weights, whose visible units have the base rates of `rows` (else none)."""
    if hidden < 1:
        raise SettingsError(f"a restricted Boltzmann machine needs at least one hidden unit, not {hidden}")
    width = units_of(space).width
    base = jnp.zeros(width) if rows is None else jnp.asarray(base_rates(space, np.asarray(rows)))
    return RBM(
        space,
        scale * jax.random.normal(key, (hidden, width)),
        jnp.zeros(hidden),
        base,
        jnp.zeros(width),
        base,
    )


@dataclass(frozen=True)
class Settings:
    """Settings of the restricted Boltzmann machine."""

    hidden: int = setting(0, "hidden units (0: as many as visible ones, 16 to 500)")
    steps: int = setting(5000, "training steps")
    batch: int = setting(128, "rows a step, and chains")
    learning_rate: float = setting(5e-3, "largest step of Adam, falling to 0")
    gibbs: int = setting(1, "Gibbs sweeps of the chains a step")
    start: str = setting("persistent", "where chains start: persistent, data (CD) or noise")
    decay: float = setting(1e-4, "weight decay")


def skeleton(space: Record, settings: Settings) -> RBM:
    """A machine of the right shapes."""
    return rbm(space, hidden_for(space, settings), key=jax.random.key(0))


def hidden_for(space: AbstractSpace, settings: Settings) -> int:
    """The number of hidden units."""
    return settings.hidden or int(np.clip(units_of(space).width, 16, 500))


def train(problem: Problem) -> Fit:
    """Persistent contrastive divergence with Adam; the parameters are averaged over steps."""
    settings = problem.settings
    init_key, fit_key = jax.random.split(problem.key)
    rows = problem.rows
    start = rbm(problem.space, hidden_for(problem.space, settings), key=init_key, rows=rows.patched())
    data = rows.values if rows.complete.all() else (rows.values, rows.observed)
    objective = ContrastiveDivergence(Gibbs(), settings.gibbs, settings.start, chains=settings.batch)
    schedule = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    return fit(
        start,
        data,
        objective,
        optimiser=optax.adamw(schedule, weight_decay=settings.decay, mask=_weights_only),
        steps=settings.steps,
        batch=settings.batch,
        averaging=0.999,
        measure_every=max(1, settings.steps // 100),
        key=fit_key,
        run=problem.run,
    )


def _weights_only(tree: RBM) -> RBM:
    """Only couplings decay: biases say how frequent things are."""
    nothing = jax.tree.map(lambda _: False, tree)
    return eqx.tree_at(lambda m: m.weights, nothing, True)


RESTRICTED_BOLTZMANN = Recipe(
    name="rbm",
    title="Restricted Boltzmann machine",
    code="C2",
    paper="Hinton (2002), Training products of experts by minimizing contrastive divergence",
    formula="F(y) = Σ (q u²/2 − b u) − Σⱼ log(1 + exp(cⱼ + Wⱼ u))",
    about="Hidden units that veto or favour patterns of bits, categories and numbers; sampled by block Gibbs.",
    energy=RBM,
    settings=Settings,
    skeleton=skeleton,
    train=train,
)
