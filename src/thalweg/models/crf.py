r"""Labels of sequences: a linear-chain conditional random field over any network.

\[ F(y, x) = \sum_t E_t(y_t, x) + \sum_t T(y_{t-o}, …, y_t) + \sum_{ends} E_{end}(y_t), \qquad
E_t(v, x) = -\sum_{|s| \le w} f_s(x_{t+s})_v, \]

f a network over the columns of a row (linear, perceptron, convolutions over its picture), whose outputs reach w rows to
either side; or a recurrent one that reads whole sequences both ways. T are energies of neighbouring labels, of order o.
With the negative log-likelihood it is a conditional random field, with the hinge of which each wrong label costs a
margin a structural support vector machine, with the perceptron's loss the structured perceptron.

Lafferty, McCallum & Pereira (2001), *Conditional random fields*; Taskar, Guestrin & Koller (2003), *Max-margin Markov
networks*; Collins (2002), *Discriminative training methods for hidden Markov models*; LeCun, Chopra, Hadsell, Ranzato &
Huang (2006), *A tutorial on energy-based learning*, section 7.
"""

from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.optimize import minimize_scalar

from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.energy.base import Scalar
from thalweg.energy.capabilities import AbstractSequential, AbstractStructured, AbstractTabular
from thalweg.energy.chain import Chain
from thalweg.energy.packing import neighbours
from thalweg.energy.spaces import Categorical, Record
from thalweg.errors import SettingsError
from thalweg.learning.answers import LOSSES, answer_loss
from thalweg.learning.objective import AbstractAround, AbstractObjective
from thalweg.learning.penalty import Ridge
from thalweg.learning.rows import Pairs
from thalweg.learning.run import Fit
from thalweg.models.answered import category
from thalweg.models.descent import by_adam
from thalweg.models.inputs import Elements, Inputs, Seen
from thalweg.models.networks import Network, NetworkSettings, network_of
from thalweg.models.recipe import Problem, Recipe, place_of, setting
from thalweg.models.sequences import laid_out
from thalweg.nn.initial import OUTLINE, Initial, drawn
from thalweg.nn.mlp import linear_weights
from thalweg.nn.recurrent import BothWays

#: Losses that add up over sequences, so that several may lie in one row.
ADDITIVE = ("energy", "nll", "perceptron", "hinge")
#: Steps of training: so many at least, at most, and so many passes over the elements between.
LEAST_STEPS, MOST_STEPS, EPOCHS = 600, 6000, 30
#: Where the temperature is looked for, in powers of e.
TEMPERATURES = (-3.0, 3.0)
#: The least probability that is told from 0.
LEAST = 1e-30


class LabelChain(AbstractStructured):
    r"""\(F(y, x)\) of labels y (n,) of `Elements` x; y is 0 where there is no element.

    `network` gives each row `2 window + 1` times k outputs, those for itself and for its neighbours; or, where there is
    a `recurrent` one, what that reads. `after` (k + 1, …, k + 1, k) has an axis for each of the `order` labels before,
    of which the last index is "none"; `end` (k,). `costs` are those of `with_costs`. The elements are at most `length`.
    """

    network: Network
    recurrent: BothWays | None
    last: Float[Array, "h k"] | None
    after: Float[Array, "..."]
    end: Float[Array, "k"]
    window: int = eqx.field(static=True)
    length: int = eqx.field(static=True, default=0)
    costs: Float[Array, "n k"] | None = None

    @property
    def space(self) -> Categorical:
        return Categorical((self.length,), len(self.end))

    def chain(self, x: Elements) -> Chain:
        """The energy at this input, as a chain of tables."""
        return self.over(-self.outputs(x), x)

    def over(self, places: Float[Array, "n k"], x: Elements) -> Chain:
        """The chain with these energies of places."""
        if self.costs is not None:
            places = places + self.costs
        return Chain(places, self.after, self.end, x.mask, x.starts, self.after.ndim - 1)

    def outputs(self, x: Elements) -> Float[Array, "n k"]:
        """What the networks say of each label at each place."""
        read = jax.vmap(lambda seen: self.network(seen.values, seen.observed, key=seen.key))(x.seen)
        if self.recurrent is not None and self.last is not None:
            return self.recurrent(jax.nn.silu(read), x.mask, x.starts) @ self.last
        said = read.reshape(len(read), 2 * self.window + 1, -1)
        found = said[:, self.window]
        if not self.window:
            return found
        steps = jnp.arange(1, self.window + 1)
        before, there = neighbours(x.mask, x.starts, self.window)
        # The s-th element before says what it has to say of the one s after it; and the other way round.
        found = found + jnp.sum(jnp.where(there[..., None], said[before, self.window + steps], 0), axis=1)
        behind, there = neighbours(x.mask[::-1], jnp.append(x.starts[1:], True)[::-1], self.window)
        behind, there = len(read) - 1 - behind[::-1], there[::-1]
        return found + jnp.sum(jnp.where(there[..., None], said[behind, self.window - steps], 0), axis=1)

    def of_input(self, x):
        return self.chain(x), None

    def __call__(self, y, x=None):
        return self.chain(x)(y)

    def best(self, x=None, k=1):
        assert isinstance(x, Elements)
        return self.chain(x).best(k=k)

    def free_energy(self, x=None, beta=1.0):
        assert isinstance(x, Elements)
        return self.chain(x).free_energy(beta=beta)

    def with_costs(self, costs):
        return replace(self, costs=costs if self.costs is None else self.costs + costs)

    def draw(self, x=None, beta=1.0, *, key):
        assert isinstance(x, Elements)
        return self.chain(x).draw(beta=beta, key=key)


class Labeller(AbstractTabular, AbstractSequential):
    r"""\(-\log p(y \mid x)\) in nats of the labels of rows in sequences, at the `beta` that fits held-out ones; of one
    row that of a sequence of length 1."""

    energy: LabelChain
    beta: Float[Array, ""]

    @property
    def space(self) -> Record:
        return self.energy.network.inputs.space

    @property
    def answers(self):
        return self.energy.network.inputs.answers

    def chain(
        self,
        values: Float[Array, "n d"],
        observed: Bool[Array, "n d"],
        mask: Bool[Array, "n"],
        starts: Bool[Array, "n"],
        *,
        held: bool = True,
    ) -> Chain:
        """The energies of these rows' labels, infinite where they contradict one that is known (and `held`)."""
        (target,) = self.answers
        chain = self.energy.chain(Elements(Seen(values, observed), mask, starts))
        if not held:
            return chain
        codes = jnp.arange(len(self.energy.end), dtype=values.dtype)
        other = observed[:, target, None] & (values[:, target, None] != codes[None])
        return replace(chain, places=jnp.where(other, jnp.inf, chain.places))

    def labelled(self, values, observed, mask, starts):
        chain = self.chain(values, observed, mask, starts)
        return chain.best()[0][0], jnp.log(jnp.maximum(chain.marginals(self.beta), LEAST))

    def paths(self, values, observed, mask, starts, k):
        found, energies = self.chain(values, observed, mask, starts).best(k=k)
        free = self.chain(values, observed, mask, starts, held=False).free_energy(beta=self.beta)
        return found, self.beta * (energies - free)

    def drawn(self, values, observed, mask, starts, *, key):
        return self.chain(values, observed, mask, starts).draw(beta=self.beta, key=key)

    def __call__(self, y, x=None):
        return self.marginal(y, jnp.ones(y.shape, bool))

    def marginal(self, y, observed, x=None):
        one = jnp.ones(1, bool)
        arguments = (y[None], observed[None], one, one)
        free = self.chain(*arguments, held=False).free_energy(beta=self.beta)
        return self.beta * (self.chain(*arguments).free_energy(beta=self.beta) - free)

    def bare(self):
        return eqx.tree_at(lambda F: F.energy.network, self, self.energy.network.bare())


class OfElements(AbstractAround):
    """A loss of rows of sequences as a mean over their elements, whose inputs come with keys for the dropout."""

    objective: AbstractObjective

    def __call__(self, energy, batch, memory, *, key):
        drop_key, key = jax.random.split(key)
        x: Elements = batch.x
        seen = replace(x.seen, key=jax.random.split(drop_key, x.mask.shape))
        loss, rest = self.objective(energy, Pairs(replace(x, seen=seen), batch.y), memory, key=key)
        return loss * len(batch.y) / jnp.sum(x.mask, dtype=loss.dtype), rest


@dataclass(frozen=True)
class Settings(NetworkSettings):
    """Settings of `crf`."""

    target: str = setting("", "the column of labels (--target)")
    network: str = setting("auto", "what reads a row: linear, mlp, conv (auto: conv for images, else linear)")
    window: int = setting(0, "rows to either side whose columns say something of a label too")
    recurrent: int = setting(
        0, "units of a recurrent network each way (0: none), which reads whole sequences"
    )
    order: int = setting(1, "how many labels before have an energy with the next: 1 or 2")
    loss: str = setting("nll", f"the loss over labellings: {', '.join(LOSSES)}")
    margin: float = setting(1.0, "hinge: how much a wrong label costs")
    ridge: float = setting(0.0, "1/σ² of a normal prior on all weights (twice the c2 of other libraries)")
    steps: int = setting(0, "training steps at most (0: thirty passes, from 600 to 6,000)")
    batch: int = setting(16, "rows a step, each of as many sequences as have room in it")
    learning_rate: float = setting(
        0.0, "largest step of Adam, falling to 0 (0: 0.003, of a linear network 0.03)"
    )
    patience: int = setting(10, "measurements without a lower held-out loss before stopping")

    def __post_init__(self):
        NetworkSettings.__post_init__(self)
        answer_loss(self.loss)
        if self.order not in (1, 2):
            raise SettingsError(f"the order of a chain is 1 or 2, not {self.order}")
        if self.window < 0 or self.recurrent < 0:
            raise SettingsError(
                f"window and recurrent are not negative: not {self.window} and {self.recurrent}"
            )
        if self.window and self.recurrent:
            raise SettingsError(
                "a recurrent network sees all neighbours: give a window or recurrent, not both"
            )


def settle(settings: Settings, schema: Schema, rows: int) -> Settings:
    """The steps that suit so many elements, and their size that suits the network."""
    network = settings.network
    if network == "auto":
        network = "conv" if schema.grid else "linear"
    steps = int(np.clip(EPOCHS * rows // (64 * settings.batch), LEAST_STEPS, MOST_STEPS))
    rate = 0.03 if network == "linear" and not settings.recurrent else 0.003
    return replace(
        settings,
        network=network,
        steps=settings.steps or steps,
        learning_rate=settings.learning_rate or rate,
    )


def build(space: Record, settings: Settings, initial: Initial) -> Labeller:
    """The networks before training, to which every labelling is as likely."""
    target = place_of(space, settings.target)
    k = category(space, target, "crf").size
    recurrent = last = None
    inputs = Inputs(space, (target,))
    if settings.recurrent:
        network = network_of(inputs, settings.width, settings, initial, spread=1.0)
        recurrent = BothWays(settings.width, settings.recurrent, initial)
        last = linear_weights(initial, rows=2 * settings.recurrent, columns=k)
    else:
        network = network_of(inputs, (2 * settings.window + 1) * k, settings, initial)
    after = initial.zeros(*(k + 1,) * settings.order, k)
    chain = LabelChain(network, recurrent, last, after, initial.zeros(k), settings.window)
    return Labeller(chain, initial.constant((), lambda: 1.0))


def skeleton(space: Record, settings: Settings) -> Labeller:
    """An energy of the right shapes."""
    return build(space, settings, OUTLINE)


def train(problem: Problem) -> Fit:
    """The chain by the loss that is asked for, then the temperature."""
    settings = problem.settings
    init_key, fit_key = jax.random.split(problem.key)
    start = build(problem.space, settings, drawn(init_key))
    (target,) = start.answers
    together = settings.loss in ADDITIVE
    pairs = laid_out(problem.rows, target, together=together)
    objective = objective_for(settings, len(problem.rows))
    judged = len(problem.validation) > 0 and objective.measures_progress
    result = by_adam(
        problem,
        replace(start.energy, length=pairs.y.shape[1]),
        pairs,
        objective,
        key=fit_key,
        held_out=laid_out(problem.validation, target, together=together, width=pairs.y.shape[1])
        if judged
        else None,
        patience=settings.patience,
        clip=1.0,
        looks=30,
    )
    assert isinstance(result.energy, LabelChain)
    energy = replace(result.energy, length=0)
    judges = problem.validation if len(problem.validation) else problem.rows
    return replace(
        result, energy=replace(start, energy=energy, beta=jnp.float32(calibrated(energy, judges, target)))
    )


def objective_for(settings: Settings, elements: int) -> AbstractObjective:
    """The loss of this name, an element's share of it, with the prior's."""
    loss = OfElements(answer_loss(settings.loss, margin=settings.margin, augmented=settings.loss == "hinge"))
    return Ridge(loss, settings.ridge / elements) if settings.ridge else loss


def calibrated(energy: LabelChain, rows: Rows, target: int) -> float:
    r"""The \(\beta\) at which \(-\sum \log p(y \mid x) + \frac12 \log^2 \beta\) is least over these sequences."""
    pairs = laid_out(rows, target, together=True)
    places = _places(energy, pairs.x)

    def loss(log_beta: float) -> float:
        beta = jnp.float32(np.exp(log_beta))
        return (
            float(np.sum(np.asarray(_surprises(energy, pairs, places, beta), np.float64))) + log_beta**2 / 2
        )

    found: Any = minimize_scalar(loss, bounds=TEMPERATURES, method="bounded", options={"xatol": 0.01})
    return float(np.exp(found.x))


@eqx.filter_jit
def _places(energy: LabelChain, x: Elements) -> Float[Array, "b n k"]:
    return jax.lax.map(lambda x: -energy.outputs(x), x, batch_size=16)


@eqx.filter_jit
def _surprises(
    energy: LabelChain, pairs: Pairs, places: Float[Array, "b n k"], beta: Scalar
) -> Float[Array, "b"]:
    def of_row(row: tuple[Pairs, Float[Array, "n k"]]) -> Scalar:
        pair, energies = row
        chain = energy.over(energies, pair.x)
        return beta * (chain(pair.y) - chain.free_energy(beta=beta))

    return jax.lax.map(of_row, (pairs, places), batch_size=16)


CRF = Recipe(
    name="crf",
    title="Labels of sequences",
    code="C1",
    paper="Lafferty, McCallum & Pereira (2001), Conditional random fields",
    formula="F(y, x) = −Σ f(x_t)_y_t + Σ T(y_t−1, y_t)",
    about="A chain of labels over any network, exact by Viterbi and by sums over all labellings; any loss.",
    energy=Labeller,
    settings=Settings,
    skeleton=skeleton,
    train=train,
    validates=True,
    settle=settle,
)
