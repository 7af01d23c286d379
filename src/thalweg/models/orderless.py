r"""`orderless`: an order-agnostic neural autoregressive density over the columns of a table.

\[ F(y) = -\log \frac1M \sum_{m=1}^{M} \prod_{i=1}^{D} p\big(y_{\sigma_m(i)} \mid y_{\sigma_m(1)}, …,
   y_{\sigma_m(i-1)}\big) \]

One network predicts every column from any subset of the others, so it answers every conditional; an ordering
\(\sigma\) makes it a normalised density, and the energy is that of a mixture of \(M\) fixed orderings.

Beside the network lies a mixture of factor analysers (`factors.py`), fitted first. It says in closed form, for any
known part, where each other column should be and how sure that is: for an image the network starts from there, for a
table of other columns from nothing, which was measured to be better. And it is a second, smoother energy.

Uria, Murray & Larochelle (2014), *A deep and tractable density estimator*; Larochelle & Murray (2011), *The neural
autoregressive distribution estimator*; Uria, Murray & Larochelle (2013), *RNADE*.
"""

import math
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from thalweg.energy.base import AbstractDensity
from thalweg.energy.capabilities import (
    AbstractColumnConditional,
    AbstractCompletion,
    AbstractConditionalSampler,
    AbstractMarginal,
    AbstractMasked,
    AbstractSmoothed,
)
from thalweg.energy.spaces import Record
from thalweg.learning.fit import fit
from thalweg.learning.objective import OrderAgnostic
from thalweg.learning.run import Fit
from thalweg.models import columns, factors
from thalweg.models.factors import Belief, FactorMixture
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.nn.mlp import Trunk, linear_weights


class Orderless(
    AbstractDensity,
    AbstractMarginal,
    AbstractCompletion,
    AbstractConditionalSampler,
    AbstractColumnConditional,
    AbstractMasked,
    AbstractSmoothed,
):
    r"""A mixture of \(M\) orderings of one order-agnostic autoregressive network, normalised, in nats.

    The first layer is a sum over the known columns, \(a = b + \sum_{d \in o} (m_d + u_d v_d)\) with \(u_d\) the
    squashed number, or \(a = b + \sum_{d \in o} (m_d + e_{d, y_d})\) for a category: going along an ordering adds
    one term a step (Larochelle & Murray 2011). In an image \(\sum_k p(k \mid y_o)\, c_k\) of the mixture is added,
    and the logistic components of a pixel lie around the mixture's mean of it given \(y_o\), in units of its deviation.
    """

    space: Record
    mixture: FactorMixture
    component: Float[Array, "k h"]
    mask: Float[Array, "d h"]
    slope: Float[Array, "n h"]
    level: Float[Array, "l h"]
    bias: Float[Array, "h"]
    trunk: Trunk
    number_weight: Float[Array, "n 3 k h"]
    number_bias: Float[Array, "n 3 k"]
    category_weight: Float[Array, "c s h"]
    category_bias: Float[Array, "c s"]
    orders: Int[Array, "m d"]

    def __init__(
        self,
        space: Record,
        mixture: FactorMixture,
        *,
        width: int = 512,
        layers: int = 2,
        components: int = 8,
        orderings: int = 1,
        dropout: float = 0.0,
        key: PRNGKeyArray,
    ):
        layout = Layout(space)
        keys = jax.random.split(key, 8)
        d = len(space.columns)
        self.space = space
        self.mixture = mixture
        self.component = linear_weights(keys[7], len(mixture.log_weights), width, fan_in=d)
        self.mask = linear_weights(keys[0], d, width, fan_in=2 * d)
        self.slope = linear_weights(keys[1], layout.numbers, width, fan_in=d)
        self.level = linear_weights(keys[2], layout.levels, width, fan_in=d)
        self.bias = jnp.zeros(width)
        self.trunk = Trunk(width, layers, dropout=dropout, key=keys[3])
        self.number_weight = (
            0.1 * jax.random.normal(keys[4], (layout.numbers, 3, components, width)) / width**0.5
        )
        # Components start spread over a standard normal, so that they differ from the first step on.
        middles = ndtri(jnp.asarray((np.arange(components) + 0.5) / components, jnp.float32))
        start = jnp.stack([jnp.zeros(components), middles, jnp.full(components, -1.0)])
        self.number_bias = jnp.broadcast_to(start, (layout.numbers, 3, components)).astype(jnp.float32)
        self.category_weight = (
            0.1 * jax.random.normal(keys[5], (layout.categories, layout.widest, width)) / width**0.5
        )
        self.category_bias = jnp.zeros((layout.categories, layout.widest))
        order_keys = jax.random.split(keys[6], orderings)
        self.orders = jax.vmap(lambda k: jax.random.permutation(k, d))(order_keys).astype(jnp.int32)

    # --- the network ------------------------------------------------------------------------------------------

    @property
    def _context(self) -> FactorMixture:
        """The mixture, which training the network leaves as it is."""
        return jax.lax.stop_gradient(self.mixture)

    def _first(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Float[Array, "h"]:
        """The part of the first pre-activation that all known columns add up to."""
        layout = Layout(self.space)
        known = observed.astype(jnp.float32)
        numbers, cats = layout.number_index, layout.category_index
        a = self.bias + known @ self.mask
        if layout.numbers:
            u = squash((y[numbers] - layout.center) / layout.spread)
            a = a + jnp.where(observed[numbers], u, 0.0) @ self.slope
        if layout.categories:
            levels = layout.first_level + jnp.where(observed[cats], y[cats], 0.0).astype(jnp.int32)
            onehot = jnp.zeros(layout.levels).at[levels].add(known[cats])
            a = a + onehot @ self.level
        return a

    def _term(self, y_d: Float[Array, ""], d: Int[Array, ""]) -> Float[Array, "h"]:
        """What column `d` adds to the first pre-activation."""
        layout = Layout(self.space)
        term = self.mask[d]
        slot = layout.slot[d]
        if layout.numbers:
            i = jnp.clip(slot, 0, layout.numbers - 1)
            u = squash((y_d - layout.center[i]) / layout.spread[i])
            term = term + jnp.where(layout.is_number[d], u, 0.0) * self.slope[i]
        if layout.categories:
            i = jnp.clip(slot, 0, layout.categories - 1)
            row = self.level[layout.first_level[i] + y_d.astype(jnp.int32)]
            term = term + jnp.where(layout.is_number[d], 0.0, 1.0) * row
        return term

    def _hidden(
        self, a: Float[Array, "h"], belief: Belief, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "h"]:
        """The last hidden layer."""
        told = belief.responsibilities @ self.component if Layout(self.space).is_image else 0.0
        return self.trunk(a + told, key=key)

    def _told(self, belief: Belief, d: Int[Array, ""], value: Float[Array, ""]) -> Belief:
        """The belief once column `d` is known too; what nothing reads stays as it is."""
        return self._context.update(belief, d, value) if Layout(self.space).is_image else belief

    def _number(self, h: Float[Array, "h"], belief: Belief, i: Int[Array, ""]) -> Float[Array, "3 k"]:
        """The mixture's parameters of number `i`."""
        layout = Layout(self.space)
        raw = self.number_weight[i] @ h + self.number_bias[i]
        if not layout.is_image:
            return raw
        mean, deviation = self._context.moment(belief, layout.number_coordinate[i])
        return layout.expected(raw, mean, deviation, i)

    def _numbers(self, h: Float[Array, "h"], belief: Belief) -> Float[Array, "n 3 k"]:
        """The mixtures' parameters of all numbers."""
        layout = Layout(self.space)
        raw = self.number_weight @ h + self.number_bias
        if not layout.is_image:
            return raw
        means, deviations = (m[layout.number_coordinate] for m in self._context.moments(belief))
        return jax.vmap(layout.expected)(raw, means, deviations, jnp.arange(layout.numbers))

    def _category(self, h: Float[Array, "h"], i: Int[Array, ""]) -> Float[Array, "s"]:
        """The logits of category `i`, -inf beyond its levels."""
        logits = self.category_weight[i] @ h + self.category_bias[i]
        return jnp.where(Layout(self.space).exists[i], logits, -jnp.inf)

    def _categories(self, h: Float[Array, "h"]) -> Float[Array, "c s"]:
        """The logits of all categories."""
        logits = self.category_weight @ h + self.category_bias
        return jnp.where(Layout(self.space).exists, logits, -jnp.inf)

    def _column_log_probs(
        self, h: Float[Array, "h"], belief: Belief, d: Int[Array, ""], values: Float[Array, "v"]
    ) -> Float[Array, "v"]:
        """log p(y_d = v) for each of `values`, from the last hidden layer."""
        layout = Layout(self.space)
        slot = layout.slot[d]
        out = jnp.zeros(values.shape)
        if layout.numbers:
            i = jnp.clip(slot, 0, layout.numbers - 1)
            raw = self._number(h, belief, i)
            out = jax.vmap(lambda v: layout.number_log_prob(raw, v, i))(values)
        if layout.categories:
            i = jnp.clip(slot, 0, layout.categories - 1)
            codes = jnp.clip(values.astype(jnp.int32), 0, layout.widest - 1)
            log_probs = jax.nn.log_softmax(self._category(h, i))
            out = jnp.where(layout.is_number[d], out, log_probs[codes])
        return out

    # --- densities --------------------------------------------------------------------------------------------

    def masked_log_probs(self, y, observed, x=None, *, key=None):
        layout = Layout(self.space)
        belief = self._context.belief(y, observed)
        h = self._hidden(self._first(y, observed), belief, key=key)
        out = jnp.zeros(self.space.shape)
        if layout.numbers:
            index = layout.number_index
            raw = self._numbers(h, belief)
            out = out.at[index].set(
                jax.vmap(layout.number_log_prob)(raw, y[index], jnp.arange(layout.numbers))
            )
        if layout.categories:
            index = layout.category_index
            codes = jnp.where(jnp.isnan(y[index]), 0, y[index]).astype(jnp.int32)
            log_probs = jax.nn.log_softmax(self._categories(h))
            out = out.at[index].set(jnp.take_along_axis(log_probs, codes[:, None], axis=1)[:, 0])
        return out

    def _ordered_log_prob(self, order, y, observed):
        """log p of the known cells along one ordering, the missing ones passed over."""

        def step(state, d):
            a, belief = state
            log_prob = self._column_log_probs(self._hidden(a, belief), belief, d, y[d][None])[0]
            grown = a + self._term(y[d], d), self._told(belief, d, y[d])
            state = jax.tree.map(lambda new, old: jnp.where(observed[d], new, old), grown, state)
            return state, jnp.where(observed[d], log_prob, 0.0)

        _, log_probs = jax.lax.scan(step, (self.bias, self._context.prior), order)
        return jnp.sum(log_probs)

    def marginal(self, y, observed, x=None):
        y = jnp.where(observed, y, 0.0)
        log_probs = jax.lax.map(lambda order: self._ordered_log_prob(order, y, observed), self.orders)
        return jnp.log(len(self.orders)) - jax.nn.logsumexp(log_probs)

    def log_prob(self, y, x=None):
        return -self.marginal(y, jnp.ones(self.space.shape, bool))

    def smooth(self, y, observed, x=None):
        return self._context.energy(y, observed)

    # --- answers ----------------------------------------------------------------------------------------------

    def sample(self, x=None, *, key):
        return self.sample_given(jnp.zeros(self.space.shape), jnp.zeros(self.space.shape, bool), key=key)

    def sample_given(self, y, observed, x=None, *, key):
        order_key, draw_key = jax.random.split(key)
        order = self.orders[jax.random.randint(order_key, (), 0, len(self.orders))]
        y = jnp.where(observed, y, 0.0)

        def step(carry, inputs):
            a, belief, y = carry
            d, k = inputs
            value = jnp.where(observed[d], y[d], self._draw(self._hidden(a, belief), belief, d, k))
            grown = a + self._term(value, d), self._told(belief, d, value)
            a, belief = jax.tree.map(lambda new, old: jnp.where(observed[d], old, new), grown, (a, belief))
            return (a, belief, y.at[d].set(value)), None

        keys = jax.random.split(draw_key, len(order))
        start = self._first(y, observed), self._context.belief(y, observed), y
        (_, _, y), _ = jax.lax.scan(step, start, (order, keys))
        return y

    def _draw(self, h, belief, d, key):
        layout = Layout(self.space)
        slot = layout.slot[d]
        out = jnp.float32(0.0)
        if layout.numbers:
            i = jnp.clip(slot, 0, layout.numbers - 1)
            u = columns.mixture_draw(self._number(h, belief, i), layout.floor[i], key=key)
            value = layout.center[i] + layout.spread[i] * u
            count = jnp.clip(jnp.round(value), 0, layout.size[i] - 1)
            out = jnp.where(layout.size[i] > 0, count, value)
        if layout.categories:
            i = jnp.clip(slot, 0, layout.categories - 1)
            category = jax.random.categorical(key, self._category(h, i)).astype(jnp.float32)
            out = jnp.where(layout.is_number[d], out, category)
        return out

    def complete(self, y, observed, x=None):
        layout = Layout(self.space)
        y = jnp.where(observed, y, 0.0)
        belief = self._context.belief(y, observed)
        h = self._hidden(self._first(y, observed), belief)
        guess = y
        if layout.numbers:
            means = jax.vmap(layout.number_mean)(self._numbers(h, belief), jnp.arange(layout.numbers))
            guess = guess.at[layout.number_index].set(means)
        if layout.categories:
            best = jnp.argmax(self._categories(h), axis=1).astype(jnp.float32)
            guess = guess.at[layout.category_index].set(best)
        return jnp.where(observed, y, guess)

    def column_energies(self, y, index, values, observed, x=None):
        others = observed & (jnp.arange(len(self.space.columns)) != index)
        y = jnp.where(others, y, 0.0)
        belief = self._context.belief(y, others)
        h = self._hidden(self._first(y, others), belief)
        return -self._column_log_probs(h, belief, index, values)


def squash(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """Linear near 0 and logarithmic far out, so that one extreme cell cannot swamp the first layer."""
    return jnp.arcsinh(u)


class Layout:
    """Which columns are numbers and which categories, as constant arrays; a function of the space alone."""

    def __init__(self, space: Record):
        cols = space.columns
        number = [i for i, c in enumerate(cols) if c.kind != "categorical"]
        category = [i for i, c in enumerate(cols) if c.kind == "categorical"]
        sizes = [cols[i].size for i in category]
        self.number_index, self.category_index = np.array(number, int), np.array(category, int)
        self.numbers, self.categories = len(number), len(category)
        self.levels, self.widest = sum(sizes), max(sizes, default=0)
        self.first_level = jnp.asarray(np.cumsum([0, *sizes])[:-1].astype(np.int32))
        self.exists = jnp.asarray(np.arange(self.widest)[None, :] < np.array(sizes, int)[:, None])
        self.kinds = {cols[i].kind for i in number}
        slot = np.zeros(len(cols), np.int32)
        slot[number], slot[category] = np.arange(len(number)), np.arange(len(category))
        self.slot = jnp.asarray(slot)
        self.is_number = jnp.asarray(np.array([c.kind != "categorical" for c in cols]))
        self.is_image = any(c.pixel for c in cols)
        self.pixel = np.array([cols[i].pixel for i in number], bool)
        coordinates = factors.layout_of(cols)
        self.number_coordinate = jnp.asarray(coordinates.slot[number].astype(np.int32))
        self.coordinate_spread = jnp.asarray(coordinates.spread[coordinates.slot[number]])
        self.center = jnp.array([cols[i].center for i in number], jnp.float32)
        self.spread = jnp.array([cols[i].spread for i in number], jnp.float32)
        self.size = jnp.array([cols[i].size for i in number], jnp.float32)
        integer = self.size > 0
        self.floor = jnp.where(integer, columns.INTEGER_FLOOR / self.spread, columns.REAL_FLOOR)

    def expected(self, raw, mean, deviation, i):
        """The parameters of number `i` about what the mixture expects there, where it is a pixel."""
        unit = self.coordinate_spread[i]
        moved = columns.around(raw, mean / unit, deviation / unit)
        return moved if self.pixel.all() else jnp.where(jnp.asarray(self.pixel)[i], moved, raw)

    def number_log_prob(self, raw, y, i):
        """log p of a number in its codes: a mass for integers, a density for real columns."""
        center, spread, size = self.center[i], self.spread[i], self.size[i]
        return self._of_kind(
            size,
            lambda: columns.integer_log_prob(raw, y, size, center, spread),
            lambda: columns.real_log_prob(raw, (y - center) / spread) - jnp.log(spread),
        )

    def number_mean(self, raw, i):
        """The mean of a number in its codes."""
        center, spread, size = self.center[i], self.spread[i], self.size[i]
        return self._of_kind(
            size,
            lambda: columns.integer_mean(raw, size, center, spread),
            lambda: center + spread * columns.real_mean(raw),
        )

    def _of_kind(self, size, integer, real):
        """The one that fits the column; only one is computed where all number columns are of one kind."""
        if self.kinds == {"integer"}:
            return integer()
        if self.kinds == {"real"}:
            return real()
        return jnp.where(size > 0, integer(), real())


@dataclass(frozen=True)
class Settings:
    """Settings of `orderless`."""

    width: int = setting(512, "units of each hidden layer")
    layers: int = setting(2, "hidden layers")
    components: int = setting(5, "logistic components of each number column")
    context: int = setting(
        30, "components of the mixture that smooths, and tells an image's network what to expect"
    )
    factors: int = setting(6, "factors of each of them")
    orderings: int = setting(4, "orderings in the mixture that is the energy")
    dropout: float = setting(0.3, "share of hidden units dropped in training")
    learning_rate: float = setting(2e-3, "largest step of Adam")
    weight_decay: float = setting(1e-2, "decoupled weight decay")
    steps: int = setting(0, "training steps at most; 0: 3,000, or 1,000 for images, or ten epochs if more")
    batch: int = setting(128, "rows a step")
    patience: int = setting(10, "measurements without a lower held-out loss before stopping")


def skeleton(space: Record, settings: Settings) -> Orderless:
    mixture = factors.empty(space, settings.context, settings.factors)
    return build(space, mixture, settings, key=jax.random.key(0))


@eqx.filter_jit
def build(space: Record, mixture: FactorMixture, settings: Settings, *, key: PRNGKeyArray) -> Orderless:
    """A network with random weights; one compiled program instead of a dozen small ones."""
    return Orderless(
        space,
        mixture,
        width=settings.width,
        layers=settings.layers,
        components=settings.components,
        orderings=settings.orderings,
        dropout=settings.dropout,
        key=key,
    )


def train(problem: Problem) -> Fit:
    """The mixture by EM, then the network around it."""
    settings = problem.settings
    init_key, fit_key, mixture_key = jax.random.split(problem.key, 3)
    mixture = factors.empty(problem.space, settings.context, settings.factors)
    mixture = factors.fit(mixture, problem.rows, key=mixture_key)
    steps = settings.steps or _default_steps(problem)
    schedule = optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, min(100, steps // 10), steps)
    optimiser = optax.chain(
        optax.clip_by_global_norm(10.0),
        optax.adamw(schedule, weight_decay=settings.weight_decay, mask=_learned),
    )
    validation = None
    if len(problem.validation):
        # Each row several times, for each time another part of it is hidden.
        repeats = math.ceil(512 / len(problem.validation))
        validation = (
            np.repeat(problem.validation.values, repeats, axis=0),
            np.repeat(problem.validation.observed, repeats, axis=0),
        )
    return fit(
        build(problem.space, mixture, settings, key=init_key),
        (problem.rows.values, problem.rows.observed),
        OrderAgnostic(),
        optimiser=optimiser,
        steps=steps,
        batch=settings.batch,
        held_out=validation,
        measure_every=max(1, steps // 40),
        patience=settings.patience if validation is not None else None,
        averaging=0.99,
        key=fit_key,
        run=problem.run,
    )


def _default_steps(problem: Problem) -> int:
    """An image's network starts from what the mixture expects and is there sooner."""
    least = 1000 if Layout(problem.space).is_image else 3000
    return max(least, math.ceil(10 * len(problem.rows) / problem.settings.batch))


def _learned(energy: Orderless) -> Orderless:
    """True for every array but those of the mixture: what weight decay may shrink."""
    learned = jax.tree.map(lambda _: True, energy)
    return eqx.tree_at(lambda e: e.mixture, learned, jax.tree.map(lambda _: False, energy.mixture))


ORDERLESS = Recipe(
    name="orderless",
    title="Order-agnostic neural autoregressive density",
    code="A1",
    paper="Uria, Murray & Larochelle (2014), A deep and tractable density estimator",
    formula="F(y) = -log mean_m ∏_i p(y_σm(i) | y_σm(1), …, y_σm(i−1))",
    about="The default for tables: mixed columns, missing cells, every conditional.",
    energy=Orderless,
    settings=Settings,
    skeleton=skeleton,
    train=train,
    validates=True,
)
