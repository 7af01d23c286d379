r"""`orderless`: a neural autoregressive density over the columns of a table, and every conditional of it.

\[ F(y) = -\log \frac1M \sum_{m=1}^{M} \prod_{i=1}^{D} p_m\big(y_{\sigma_m(i)} \mid y_{\sigma_m(1)}, …,
   y_{\sigma_m(i-1)}\big) \]

The energy is that of a mixture of \(M\) fixed orderings \(\sigma\). In a table each has a masked network, one pass
of which gives all its conditionals. One more network predicts every column from any subset of the others: it answers
the conditionals that F has no closed form for, and in an image it goes along the orderings itself.

Beside the networks lies a mixture of factor analysers (`factors.py`), fitted first. It says in closed form, for any
known part, where each other column should be and how sure that is: for an image the network starts from there, for a
table of other columns from nothing, which was measured to be better. And it is a second, smoother energy.

Uria, Murray & Larochelle (2014), *A deep and tractable density estimator*; Larochelle & Murray (2011), *The neural
autoregressive distribution estimator*; Germain, Gregor, Murray & Larochelle (2015), *MADE*; Uria, Murray & Larochelle
(2013), *RNADE*.
"""

import math
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from thalweg.data.schema import Schema
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
from thalweg.learning.objective import AbstractObjective, OrderAgnostic
from thalweg.learning.run import Fit
from thalweg.learning.trainer import CHUNK
from thalweg.models import factors
from thalweg.models.factors import Belief, FactorMixture
from thalweg.models.layout import Heads, Layout, Outputs
from thalweg.models.masked import Masked
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.nn.initial import OUTLINE, Initial, drawn
from thalweg.nn.mlp import Trunk, linear_weights

#: Training rows of a table from which on one ordering is as good as four.
MANY_ROWS = 10_000


class Orderless(
    AbstractDensity,
    AbstractMarginal,
    AbstractCompletion,
    AbstractConditionalSampler,
    AbstractColumnConditional,
    AbstractMasked,
    AbstractSmoothed,
):
    r"""A mixture of \(M\) orderings, normalised, in nats, and a network that knows any subset of the columns.

    The first layer of the latter is a sum over the known columns, so that going along an ordering adds one term a
    step (Larochelle & Murray 2011). In an image \(\sum_k p(k \mid y_o)\, c_k\) of the mixture is added, and the
    logistic components of a pixel lie around the mixture's mean of it given \(y_o\), in units of its deviation.
    """

    space: Record
    mixture: FactorMixture
    component: Float[Array, "k h"]
    first: Float[Array, "f h"]
    bias: Float[Array, "h"]
    trunk: Trunk
    heads: Heads
    orders: Int[Array, "m d"]
    ordered: Masked | None

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
        order_width: int = 256,
        initial: Initial,
    ):
        layout = Layout(space)
        d = layout.columns
        self.space = space
        self.mixture = mixture
        self.component = linear_weights(initial, rows=len(mixture.log_weights), columns=width, fan_in=d)
        self.first = linear_weights(initial, rows=layout.features, columns=width, fan_in=d)
        self.bias = initial.zeros(width)
        self.trunk = Trunk(width, layers, dropout=dropout, initial=initial)
        self.heads = Heads(layout, width, components, initial=initial)
        self.orders = initial.permutations(orderings, d)
        self.ordered = None
        if not layout.is_image:
            self.ordered = Masked(
                layout,
                orderings,
                width=order_width,
                layers=layers,
                components=components,
                dropout=dropout,
                initial=initial,
            )

    # --- the network of any subset ----------------------------------------------------------------------------

    @property
    def _context(self) -> FactorMixture:
        """The mixture, which training the network leaves as it is."""
        return jax.lax.stop_gradient(self.mixture)

    def _first(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Float[Array, "h"]:
        """The part of the first pre-activation that all known columns add up to."""
        return self.bias + Layout(self.space).read(y, observed) @ self.first

    def _hidden(
        self, a: Float[Array, "h"], belief: Belief, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "h"]:
        """The last hidden layer."""
        told = belief.responsibilities @ self.component if Layout(self.space).is_image else 0.0
        return self.trunk(a + told, key=key)

    def _read(
        self, y: Float[Array, "d"], observed: Bool[Array, "d"], *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "h"], Belief]:
        """The last hidden layer and the belief, given the known columns."""
        belief = self._context.belief(y, observed)
        return self._hidden(self._first(y, observed), belief, key=key), belief

    def _grown(
        self, a: Float[Array, "h"], belief: Belief, d: Int[Array, ""], value: Float[Array, ""]
    ) -> tuple[Float[Array, "h"], Belief]:
        """The first pre-activation and the belief once column `d` is known too."""
        layout = Layout(self.space)
        told = self._context.update(belief, d, value) if layout.is_image else belief
        return a + layout.read_one(self.first, value, d), told

    def _outputs(self, h: Float[Array, "h"], belief: Belief) -> Outputs:
        """The distributions of all columns."""
        layout = Layout(self.space)
        raw, logits = self.heads(h, layout)
        if layout.is_image and layout.numbers:
            means, deviations = (m[layout.number_coordinate] for m in self._context.moments(belief))
            raw = jax.vmap(layout.expected)(raw, means, deviations, jnp.arange(layout.numbers))
        return raw, logits

    def _output(
        self, h: Float[Array, "h"], belief: Belief, d: Int[Array, ""]
    ) -> tuple[Float[Array, "3 k"] | None, Float[Array, "s"] | None]:
        """The distribution of column `d` as a number and as a category, each where there are such columns."""
        layout = Layout(self.space)
        raw = logits = None
        if layout.numbers:
            i = jnp.clip(layout.slot[d], 0, layout.numbers - 1)
            raw = self.heads.number(h, i)
            if layout.is_image:
                mean, deviation = self._context.moment(belief, layout.number_coordinate[i])
                raw = layout.expected(raw, mean, deviation, i)
        if layout.categories:
            i = jnp.clip(layout.slot[d], 0, layout.categories - 1)
            logits = self.heads.category(h, layout, i)
        return raw, logits

    def _column_log_probs(
        self, h: Float[Array, "h"], belief: Belief, d: Int[Array, ""], values: Float[Array, "v"]
    ) -> Float[Array, "v"]:
        """log p(y_d = v) for each of `values`, from the last hidden layer."""
        layout = Layout(self.space)
        raw, logits = self._output(h, belief, d)
        out = jnp.zeros(values.shape)
        if raw is not None:
            i = jnp.clip(layout.slot[d], 0, layout.numbers - 1)
            out = jax.vmap(lambda v: layout.number_log_prob(raw, v, i))(values)
        if logits is not None:
            codes = jnp.clip(values.astype(jnp.int32), 0, layout.widest - 1)
            out = jnp.where(layout.is_number[d], out, jax.nn.log_softmax(logits)[codes])
        return out

    def masked_log_probs(self, y, observed, x=None, *, key=None):
        h, belief = self._read(y, observed, key=key)
        return Layout(self.space).log_probs(self._outputs(h, belief), y)

    def _chain_log_prob(self, order, y, observed):
        """log p of the known cells along one ordering by the network of any subset, a pass a column."""

        def step(state, d):
            a, belief = state
            log_prob = self._column_log_probs(self._hidden(a, belief), belief, d, y[d][None])[0]
            grown = self._grown(a, belief, d, y[d])
            state = jax.tree.map(lambda new, old: jnp.where(observed[d], new, old), grown, state)
            return state, jnp.where(observed[d], log_prob, 0.0)

        _, log_probs = jax.lax.scan(step, (self.bias, self._context.prior), order)
        return jnp.sum(log_probs)

    # --- densities --------------------------------------------------------------------------------------------

    def ordered_log_probs(
        self, y: Float[Array, "d"], observed: Bool[Array, "d"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "m"]:
        """log p of the known cells along each ordering, in nats."""
        y = jnp.where(observed, y, 0.0)
        if self.ordered is None:
            return jax.lax.map(lambda order: self._chain_log_prob(order, y, observed), self.orders)
        layout = Layout(self.space)
        arrays, static = eqx.partition(self.ordered, eqx.is_array)

        def along(each):
            arrays, order, key = each
            return eqx.combine(arrays, static).log_prob(layout, order, y, observed, key=key)

        keys = None if key is None else jax.random.split(key, len(self.orders))
        return jax.lax.map(along, (arrays, self.orders, keys))

    def marginal(self, y, observed, x=None):
        return jnp.log(len(self.orders)) - jax.nn.logsumexp(self.ordered_log_probs(y, observed))

    def log_prob(self, y, x=None):
        return -self.marginal(y, jnp.ones(self.space.shape, bool))

    def smooth(self, y, observed, x=None):
        return self._context.energy(y, observed)

    # --- answers ----------------------------------------------------------------------------------------------

    def sample(self, x=None, *, key):
        if self.ordered is None:
            return self.sample_given(jnp.zeros(self.space.shape), jnp.zeros(self.space.shape, bool), key=key)
        order_key, draw_key = jax.random.split(key)
        chosen = jax.random.randint(order_key, (), 0, len(self.orders))
        arrays, static = eqx.partition(self.ordered, eqx.is_array)
        network = eqx.combine(jax.tree.map(lambda leaf: leaf[chosen], arrays), static)
        return network.sample(Layout(self.space), self.orders[chosen], key=draw_key)

    def sample_given(self, y, observed, x=None, *, key):
        layout = Layout(self.space)
        order_key, draw_key = jax.random.split(key)
        order = self.orders[jax.random.randint(order_key, (), 0, len(self.orders))]
        y = jnp.where(observed, y, 0.0)

        def step(carry, inputs):
            a, belief, y = carry
            d, k = inputs
            raw, logits = self._output(self._hidden(a, belief), belief, d)
            value = jnp.where(observed[d], y[d], layout.draw(raw, logits, d, key=k))
            grown = self._grown(a, belief, d, value)
            a, belief = jax.tree.map(lambda new, old: jnp.where(observed[d], old, new), grown, (a, belief))
            return (a, belief, y.at[d].set(value)), None

        keys = jax.random.split(draw_key, len(order))
        start = self._first(y, observed), self._context.belief(y, observed), y
        (_, _, y), _ = jax.lax.scan(step, start, (order, keys))
        return y

    def complete(self, y, observed, x=None):
        y = jnp.where(observed, y, 0.0)
        h, belief = self._read(y, observed)
        return jnp.where(observed, y, Layout(self.space).guesses(self._outputs(h, belief)))

    def column_energies(self, y, index, values, observed, x=None):
        others = observed & (jnp.arange(len(self.space.columns)) != index)
        y = jnp.where(others, y, 0.0)
        h, belief = self._read(y, others)
        return -self._column_log_probs(h, belief, index, values)


class Objective(AbstractObjective):
    r"""What trains both networks: the order-agnostic likelihood of the one that knows any subset, plus

    \[ L = -\frac1M \sum_m \log p_m(y_o), \]

    that of the networks of one ordering, each on its own; half of the rows lose a random share of their cells o, so
    that parts of rows are known too.
    """

    def __call__(self, energy, batch, memory, *, key):
        any_key, hide_key, dropout_key = jax.random.split(key, 3)
        loss, _ = OrderAgnostic()(energy, batch, memory, key=any_key)
        if energy.ordered is not None:
            values, observed = batch
            observed = observed & ~_hidden_cells(observed.shape, key=hide_key)
            keys = jax.random.split(dropout_key, len(values))
            log_probs = jax.vmap(lambda y, o, k: energy.ordered_log_probs(y, o, key=k))(
                values, observed, keys
            )
            loss = loss - jnp.mean(log_probs)
        return loss, (memory, {})


def _hidden_cells(shape: tuple[int, int], *, key: PRNGKeyArray) -> Bool[Array, "n d"]:
    """Of every second row a share of the cells, itself uniform."""
    n, _ = shape
    share_key, cell_key = jax.random.split(key)
    share = jnp.where(jnp.arange(n) % 2 == 0, 0.0, jax.random.uniform(share_key, (n,)))
    return jax.random.uniform(cell_key, shape) < share[:, None]


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
    orderings: int = setting(
        0,
        "orderings in the mixture that is the energy; 0: 4, or 1 for a table of 10,000 training rows or more",
    )
    order_width: int = setting(256, "units of each layer of an ordering's own network; not of images")
    dropout: float = setting(
        -1.0, "share of hidden units dropped in training; -1: 0.3, or less for tables of more rows"
    )
    learning_rate: float = setting(2e-3, "largest step of Adam")
    weight_decay: float = setting(1e-2, "decoupled weight decay")
    steps: int = setting(0, "training steps at most; 0: 3,000, or 1,000 for images, or ten epochs if more")
    batch: int = setting(128, "rows a step")
    patience: int = setting(10, "measurements without a lower held-out loss before stopping")


def settle(settings: Settings, schema: Schema, rows: int) -> Settings:
    """What was left open, by the number of training rows.

    An image's network starts from what the mixture expects and is there sooner. Few rows ask for dropout, which costs
    more than a nat where there are many (casp), and for several networks to average, which then gain nothing.
    """
    image = Layout(schema.space).is_image
    least = 1000 if image else 3000
    return replace(
        settings,
        steps=settings.steps or max(least, math.ceil(10 * rows / settings.batch)),
        orderings=settings.orderings or (1 if rows >= MANY_ROWS and not image else 4),
        dropout=settings.dropout if settings.dropout >= 0 else 0.3 if image else min(0.3, 100 / max(rows, 1)),
    )


def skeleton(space: Record, settings: Settings) -> Orderless:
    mixture = factors.empty(space, settings.context, settings.factors)
    return build(space, mixture, settings, OUTLINE)


def build(space: Record, mixture: FactorMixture, settings: Settings, initial: Initial) -> Orderless:
    """The networks before training, around a mixture."""
    return Orderless(
        space,
        mixture,
        width=settings.width,
        layers=settings.layers,
        components=settings.components,
        orderings=settings.orderings,
        dropout=settings.dropout,
        order_width=settings.order_width,
        initial=initial,
    )


def train(problem: Problem) -> Fit:
    """The mixture by EM, then the network around it."""
    settings = problem.settings
    init_key, fit_key, mixture_key = jax.random.split(problem.key, 3)
    mixture = factors.empty(problem.space, settings.context, settings.factors)
    mixture = factors.fit(mixture, problem.rows, key=mixture_key)
    steps = settings.steps
    schedule = optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, min(100, steps // 10), steps)
    optimiser = optax.chain(
        optax.clip_by_global_norm(10.0),
        optax.adamw(schedule, weight_decay=settings.weight_decay, mask=_learned),
    )
    validation = None
    if len(problem.validation):
        # Few rows several times, for each time another part of them is hidden; whole chunks, compiled for once.
        n = len(problem.validation)
        index = np.arange(CHUNK * max(2, math.ceil(n / CHUNK))) % n
        validation = problem.validation.values[index], problem.validation.observed[index]
    return fit(
        build(problem.space, mixture, settings, drawn(init_key)),
        (problem.rows.values, problem.rows.observed),
        Objective(),
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


def _learned(energy: Orderless) -> Orderless:
    """True for every array but those of the mixture: what weight decay may shrink."""
    learned = jax.tree.map(lambda _: True, energy)
    return eqx.tree_at(lambda e: e.mixture, learned, jax.tree.map(lambda _: False, energy.mixture))


ORDERLESS = Recipe(
    name="orderless",
    title="Neural autoregressive density, and every conditional",
    code="A1",
    paper="Uria, Murray & Larochelle (2014), A deep and tractable density estimator",
    formula="F(y) = -log mean_m ∏_i p_m(y_σm(i) | y_σm(1), …, y_σm(i−1))",
    about="The default for tables: mixed columns, missing cells, every conditional.",
    energy=Orderless,
    settings=Settings,
    skeleton=skeleton,
    train=train,
    validates=True,
    settle=settle,
)
