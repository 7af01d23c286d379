r"""Regression with a latent: what the inputs do not say about the answer is said by z.

\[ E(y, x, z) = \sum_a \Big( \frac{(y_a - g_a(x, z))^2}{2 \sigma_a^2} + \log \sigma_a \Big) + R(z), \qquad
   F(y, x) = -\log \int e^{-E(y, x, z)}\,dz = -\log p(y \mid x) \]

g a network. As z goes through its range, g(x, z) goes through all answers to x. A z that can say anything says the
answer itself, g(x, z) = y whatever x is, and nothing was learnt; so its capacity is limited (A2): it has few values
(`discrete`), it lies in a box (`box`), its norm costs (`ridge`, `sparse`), or it is a ball of noise (`noise`). Trained
on the free energy where z is discrete or noise, else on the energy at the best z.

\(e^{-R}\) is the prior of z, normalised. F is a sum over points spread by it, a mixture of as many normal densities.

LeCun, Chopra, Hadsell, Ranzato & Huang (2006), *A tutorial on energy-based learning*, section 2.3; LeCun (2022), *A
path towards autonomous machine intelligence*, section 4.3, for limits on a latent; a mixture: Bishop (1994), *Mixture
density networks*.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from scipy import stats
from scipy.stats import qmc

from thalweg.energy.base import AbstractEnergy, Scalar
from thalweg.energy.capabilities import (
    AbstractColumnConditional,
    AbstractCompletion,
    AbstractConditionalSampler,
    AbstractDecoder,
    AbstractJointAnswers,
)
from thalweg.energy.importance import ImportanceSampled
from thalweg.energy.latent import AbstractLatentEnergy, Enumerate, FreeEnergy, Minimised, Quadrature
from thalweg.energy.spaces import AbstractSpace, Categorical, Real, Record
from thalweg.errors import SettingsError
from thalweg.inference.descend import Descend
from thalweg.inference.gradient import Gradient
from thalweg.learning.objective import EnergyLoss
from thalweg.learning.run import Fit
from thalweg.models.answerbox import AnswerBox
from thalweg.models.answered import Noisy, answered, number_places, numbers_of
from thalweg.models.descent import by_adam
from thalweg.models.inputs import Inputs, Seen
from thalweg.models.networks import Network, NetworkSettings, network_of
from thalweg.models.recipe import Problem, Recipe, setting
from thalweg.models.relaxation import Blurred
from thalweg.nn.initial import OUTLINE, Initial, drawn
from thalweg.nn.mlp import Trunk

LATENTS = ("discrete", "noise", "box", "ridge", "sparse")
#: Points that the prior of a real latent is spread over, of one dimension and of more.
LINE, POINTS = 128, 512
#: How far a ball of noise reaches in a sum by quadrature, and points of that, of one dimension and of two.
REACH, QUADRATURE = 4.0, {1: 48, 2: 16}
#: The least deviation of an answer, in deviations of its column.
FLOOR = 1e-2
#: How the best z is sought: so many draws, then so many steps from the lowest.
SEEK = Descend(Gradient(optax.adam(0.05), steps=15), throw=False, screened=32)


class Limit(eqx.Module):
    """What z may be and what it costs: `size` values of a discrete one, else its dimension."""

    kind: str = eqx.field(static=True)
    size: int = eqx.field(static=True)
    strength: float = eqx.field(static=True)

    @property
    def discrete(self) -> bool:
        return self.kind == "discrete"

    @property
    def space(self) -> AbstractSpace:
        """Where z lies."""
        if self.discrete:
            return Categorical((1,), self.size)
        if self.kind == "box":
            return Real((self.size,), -1.0, 1.0)
        if self.kind == "noise" and self.size in QUADRATURE:
            return Real((self.size,), -REACH, REACH)
        return Real((self.size,))

    def cost(self, z: Float[Array, "k"]) -> Scalar:
        """R(z), -log of the prior."""
        match self.kind:
            case "discrete":
                return jnp.float32(math.log(self.size))
            case "box":
                return jnp.float32(self.size * math.log(2.0))
            case "sparse":
                return self.strength * jnp.sum(jnp.abs(z)) - self.size * math.log(self.strength / 2)
        rate = 1.0 if self.kind == "noise" else self.strength
        return rate * jnp.sum(z**2) / 2 - self.size / 2 * math.log(rate / (2 * math.pi))

    @property
    def nodes(self) -> Float[Array, "n k"]:
        """Values of z spread by the prior, each as probable."""
        return jnp.asarray(_spread(self))

    def seen(self, z: Float[Array, "k"]) -> Float[Array, "w"]:
        """What the network sees of z: a 1 at the place of a discrete one."""
        return (z[0] == jnp.arange(self.size, dtype=z.dtype)).astype(z.dtype) if self.discrete else z


@lru_cache(maxsize=64)
def _spread(limit: Limit) -> Float[np.ndarray, "n k"]:
    if limit.discrete:
        return np.arange(limit.size, dtype=np.float32)[:, None]
    if limit.size == 1:
        shares = ((np.arange(LINE) + 0.5) / LINE)[:, None]
    else:
        shares = np.clip(qmc.Sobol(limit.size, seed=0).random(POINTS), 1e-6, 1 - 1e-6)
    prior = {
        "box": stats.uniform(-1, 2),
        "sparse": stats.laplace(0, 1 / limit.strength),
        "ridge": stats.norm(0, limit.strength**-0.5),
        "noise": stats.norm(0, 1),
    }[limit.kind]
    return prior.ppf(shares).astype(np.float32)


class LatentRegression(
    AbstractDecoder,
    AbstractJointAnswers,
    AbstractColumnConditional,
    AbstractCompletion,
    AbstractConditionalSampler,
):
    r"""\(F(y, x) = -\log \frac1n \sum_i \prod_a N(y_a; g_a(x, z_i), \sigma_a^2)\) in nats and codes, over points
    \(z_i\) of the prior.

    `reader` reads x; `entry` (w, h) and `bias` (h,) are of z, `trunk` makes the last hidden layer, `last` (h, a) and
    `middle` (a,) the answers, in deviations of their columns, and `log_deviation` (a,) their noise.
    """

    reader: Network
    limit: Limit
    entry: Float[Array, "w h"]
    bias: Float[Array, "h"]
    trunk: Trunk
    last: Float[Array, "h a"]
    middle: Float[Array, "a"]
    log_deviation: Float[Array, "a"]

    @property
    def space(self) -> Record:
        return self.reader.inputs.space

    @property
    def answers(self) -> tuple[int, ...]:
        return self.reader.inputs.answers

    @property
    def box(self) -> AnswerBox:
        """Where answers lie."""
        return AnswerBox(Record(tuple(self.space.columns[i] for i in self.answers)))

    @property
    def deviation(self) -> Float[Array, "a"]:
        return FLOOR + jnp.exp(self.log_deviation)

    def decoded(self, z: Float[Array, "k"], context: Float[Array, "h"]) -> Float[Array, "a"]:
        """g(x, z), in deviations of the columns."""
        return self.trunk(context + self.limit.seen(z) @ self.entry + self.bias) @ self.last + self.middle

    def errors(self, v: Float[Array, "a"], guess: Float[Array, "a"]) -> Float[Array, "a"]:
        """-log of the density of each answer around a guess."""
        center, spread = self._scale
        t = ((v - center) / spread - guess) / self.deviation
        return t**2 / 2 + jnp.log(self.deviation * spread) + 0.5 * math.log(2 * math.pi)

    @property
    def _scale(self) -> tuple[Float[np.ndarray, "a"], Float[np.ndarray, "a"]]:
        columns = [self.space.columns[i] for i in self.answers]
        return (
            np.array([column.center for column in columns], np.float32),
            np.array([column.spread or 1.0 for column in columns], np.float32),
        )

    def context(self, y: Float[Array, "d"], observed: Array, key: PRNGKeyArray | None = None) -> Array:
        """What the network reads of the inputs."""
        inputs = ~jnp.isin(jnp.arange(len(observed)), jnp.array(self.answers))
        return self.reader(y, observed & inputs, key=key)

    def guesses(self, context: Float[Array, "h"]) -> Float[Array, "n a"]:
        """g(x, z) for each point of the prior."""
        return jax.vmap(lambda z: self.decoded(z, context))(self.limit.nodes)

    def _each(self, v: Float[Array, "a"], seen: Bool[Array, "a"], guesses: Array) -> Float[Array, "n"]:
        """The energy of the answers that are seen, at each point of the prior."""
        v = jnp.where(seen, v, 0.0)
        return jax.vmap(lambda g: jnp.sum(jnp.where(seen, self.errors(v, g), 0.0)))(guesses)

    def of_values(self, v: Float[Array, "a"], seen: Bool[Array, "a"], guesses: Array) -> Scalar:
        """F of the answers that are seen."""
        return math.log(len(guesses)) - jax.nn.logsumexp(-self._each(v, seen, guesses))

    def __call__(self, y, x=None):
        return self.marginal(y, jnp.ones(y.shape, bool))

    def marginal(self, y, observed, x=None):
        places = jnp.array(self.answers)
        return self.of_values(y[places], observed[places], self.guesses(self.context(y, observed)))

    def column_energies(self, y, index, values, observed, x=None):
        places, known = jnp.array(self.answers), observed.at[index].set(True)

        def of_answer():
            guesses = self.guesses(self.context(y, observed))

            def energy(value):
                return self.of_values(jnp.where(places == index, value, y[places]), known[places], guesses)

            return jax.vmap(energy)(values)

        def of_input():
            return jax.lax.map(
                lambda value: self.marginal(y.at[index].set(value), known), values, batch_size=16
            )

        return jax.lax.cond(jnp.any(places == index), of_answer, of_input)

    def _posterior(self, y: Float[Array, "d"], observed: Array) -> tuple[Array, Array]:
        """g at each point of the prior, and the log of the point's probability given the answers that are seen."""
        places, guesses = jnp.array(self.answers), self.guesses(self.context(y, observed))
        return guesses, jax.nn.log_softmax(-self._each(y[places], observed[places], guesses))

    def _put(self, y: Array, observed: Array, guess: Float[Array, "a"]) -> Array:
        center, spread = self._scale
        return jnp.where(observed, y, y.at[jnp.array(self.answers)].set(center + spread * guess))

    def complete(self, y, observed, x=None):
        guesses, log_shares = self._posterior(y, observed)
        return self._put(y, observed, jnp.exp(log_shares) @ guesses)

    def sample_given(self, y, observed, x=None, *, key):
        guesses, log_shares = self._posterior(y, observed)
        pick_key, noise_key = jax.random.split(key)
        guess = guesses[jax.random.categorical(pick_key, log_shares)]
        drawn = self._put(y, observed, guess + self.deviation * jax.random.normal(noise_key, guess.shape))
        counts = np.array([column.kind == "integer" for column in self.space.columns])
        sizes = np.array([max(column.size, 1) for column in self.space.columns], np.float32)
        return jnp.where(counts & ~observed, jnp.clip(jnp.round(drawn), 0.0, sizes - 1), drawn)

    def of_answers(self, y, observed):
        return OfAnswers(self, self.guesses(self.context(jnp.asarray(y), jnp.asarray(observed))))

    def encode(self, y, observed, x=None):
        """The probability of each value of a discrete z, the mean of a real one."""
        _, log_shares = self._posterior(y, observed)
        return jnp.exp(log_shares) if self.limit.discrete else jnp.exp(log_shares) @ self.limit.nodes

    def latents(self, n):
        if self.limit.discrete:
            return self.limit.nodes
        ends = np.quantile(_spread(self.limit), [0.02, 0.98], axis=0)
        middle = ends.mean(axis=0)
        walked = np.tile(middle, (self.limit.size, n, 1))
        for k in range(self.limit.size):
            walked[k, :, k] = np.linspace(ends[0, k], ends[1, k], n)
        return jnp.asarray(walked.reshape(-1, self.limit.size), jnp.float32)

    def decode(self, y, observed, z):
        inputs = ~jnp.isin(jnp.arange(len(observed)), jnp.array(self.answers))
        return self._put(y, observed & inputs, self.decoded(z, self.context(y, observed)))

    def infer(self, y, observed):
        how = Enumerate() if self.limit.discrete else SEEK
        return Minimised(Decoded(self), how).z_of(y[jnp.array(self.answers)], self.context(y, observed))

    def draw_latent(self, *, key):
        nodes = self.limit.nodes
        return nodes[jax.random.randint(key, (), 0, len(nodes))]


class OfAnswers(AbstractEnergy):
    """F of the answers alone (a,), at one input."""

    energy: LatentRegression
    guesses: Float[Array, "n a"]

    @property
    def space(self) -> Record:
        return self.energy.box.relaxed

    def __call__(self, y, x=None):
        return self.energy.of_values(y, jnp.ones(y.shape, bool), self.guesses)


class Decoded(AbstractLatentEnergy):
    """E(y, x, z), of answers (a,); the input is what the network read of x."""

    energy: LatentRegression

    @property
    def space(self) -> Record:
        return self.energy.box.relaxed

    @property
    def latent(self) -> AbstractSpace:
        return self.energy.limit.space

    def __call__(self, pair, x=None):
        y, z = pair
        return jnp.sum(self.energy.errors(y, self.energy.decoded(z, x))) + self.energy.limit.cost(z)


class Trained(AbstractEnergy):
    """E with z eliminated, of an input that is a row: what is pushed down."""

    energy: LatentRegression

    @property
    def space(self) -> Record:
        return self.energy.box.relaxed

    def __call__(self, y, x=None):
        assert isinstance(x, Seen)
        context = self.energy.context(x.values, x.observed, x.key)
        return eliminated(self.energy)(y, context)


def eliminated(energy: LatentRegression) -> Minimised | FreeEnergy:
    """The joint energy without its z: summed over where z is discrete or noise, else at the best z."""
    joint, limit = Decoded(energy), energy.limit
    match limit.kind:
        case "discrete":
            return FreeEnergy(joint, 1.0, Enumerate())
        case "noise" if limit.size in QUADRATURE:
            return FreeEnergy(joint, 1.0, Quadrature(QUADRATURE[limit.size]))
        case "noise":
            return FreeEnergy(joint, 1.0, ImportanceSampled(samples=64, rounds=2))
    return Minimised(joint, SEEK)


@dataclass(frozen=True)
class Settings(NetworkSettings):
    """Settings of `latent-regression`."""

    target: str = setting("", "the column to predict, a number (--target)")
    also: str = setting("", "more columns to predict together with it, separated by commas")
    latent: str = setting("discrete", f"what z is, and what limits it: {', '.join(LATENTS)}")
    size: int = setting(8, "values of a discrete z, dimensions of another")
    strength: float = setting(1.0, "ridge, sparse: what the norm of z costs")
    steps: int = setting(3000, "training steps at most")
    batch: int = setting(128, "rows a step")
    learning_rate: float = setting(5e-3, "largest step of Adam, falling to 0")
    decay: float = setting(1e-2, "weight decay")
    patience: int = setting(12, "measurements without a lower held-out loss before stopping")

    def __post_init__(self):
        NetworkSettings.__post_init__(self)
        if self.latent not in LATENTS:
            raise SettingsError(f"latent {self.latent!r} is not known: choose one of {', '.join(LATENTS)}")
        if self.size < 1:
            raise SettingsError(f"size must be at least 1, not {self.size}")
        if not self.strength > 0:
            raise SettingsError(
                f"strength must be more than 0, not {self.strength:g}: a latent that costs nothing says the "
                "answer itself"
            )


def build(space: Record, settings: Settings, initial: Initial) -> LatentRegression:
    """The network before training."""
    answers = number_places(space, settings.target, settings.also, "latent-regression")
    inputs, width = Inputs(space, answers), settings.width
    limit = Limit(settings.latent, settings.size, settings.strength)
    return LatentRegression(
        network_of(inputs, width, settings, initial, spread=1.0),
        limit,
        initial.normal((settings.size, width), 1.0),
        initial.zeros(width),
        Trunk(width, settings.layers, initial=initial),
        initial.normal((width, len(answers)), width**-0.5),
        initial.zeros(len(answers)),
        initial.constant((len(answers),), lambda: math.log(0.2)),
    )


def skeleton(space: Record, settings: Settings) -> LatentRegression:
    """An energy of the right shapes."""
    return build(space, settings, OUTLINE)


def train(problem: Problem) -> Fit:
    """Push down what is left of E without its z."""
    settings, space = problem.settings, problem.space
    init_key, fit_key = jax.random.split(problem.key)
    start = Trained(build(space, settings, drawn(init_key)))
    answers = start.energy.answers
    known = np.flatnonzero(problem.validation.observed[:, list(answers)].all(axis=1))
    held_out = numbers_of(problem.validation[known], answers) if len(known) else None
    result = by_adam(
        problem,
        start,
        numbers_of(answered(problem.rows, answers, space.names), answers),
        Noisy(Blurred(EnergyLoss(), start.energy.box.bins)),
        key=fit_key,
        held_out=held_out,
        patience=settings.patience,
        warm=False,
        decay=settings.decay,
    )
    assert isinstance(result.energy, Trained)
    return replace(result, energy=result.energy.energy)


LATENT_REGRESSION = Recipe(
    name="latent-regression",
    title="Regression with a latent",
    code="A2",
    paper="LeCun, Chopra, Hadsell, Ranzato & Huang (2006), A tutorial on energy-based learning",
    formula="F(y, x) = −log ∫ exp(−|y − g(x, z)|²/2σ² − R(z)) dz",
    about="Numbers from the other columns and a latent of limited capacity, which goes through all answers.",
    energy=LatentRegression,
    settings=Settings,
    skeleton=skeleton,
    train=train,
    validates=True,
)
