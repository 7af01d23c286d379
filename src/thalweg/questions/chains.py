r"""Draws by chains, for an energy that cannot draw from its own conditionals: each row's missing cells move, its
observed cells are held.

Every chain starts where columns are independent: at cells of held-out rows, each column's from a row of its own. In a
picture of which some pixels are known that is noise, from which chains take too long to come back: they start at the
pixels of the held-out rows that are nearest by the known ones, each chain of a row at another. Where no pixel is known
an energy that can lead its chains (`AbstractAnnealed`) says where they start. The first half of its steps is forgotten.
Chains of one row that end in different places are told by \(\hat R\), unless each was led to a place of its own.
"""

import warnings
import zlib
from dataclasses import dataclass
from functools import cached_property

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from thalweg.data.rows import Rows
from thalweg.energy.base import AbstractEnergy
from thalweg.energy.capabilities import AbstractAnnealed, AbstractBlurred, AbstractZeroTemperature
from thalweg.energy.spaces import AbstractSpace, Record
from thalweg.errors import ChainWarning, NotAnswered, SettingsError
from thalweg.questions.batches import by_row, in_batches
from thalweg.sampling import AbstractKernel, State, Target, default_kernel
from thalweg.sampling import sample as sample_chains
from thalweg.sampling.chains import Chains
from thalweg.sampling.walk import start_all
from thalweg.sampling.warmup import warm_up

#: Chains of each row at least: fewer could not disagree.
CHAINS = 4
#: States of each chain that are kept, evenly spread over the second half of its steps.
KEPT = 128
#: Steps of a chain: sweeps of Gibbs sampling, throws along a gradient, and sweeps of one that was led where it starts.
SWEEPS, THROWS, LED = 1000, 600, 256
#: Of the tuning: chains and steps.
TUNING_CHAINS, TUNING_STEPS = 16, 400
#: How many of the nearest pictures chains start at.
NEAREST = 16
#: Chains that are held in memory at once.
AT_ONCE = 512
#: R-hat of a column over all rows, above which answers are not to be trusted: means, which half of four chains worth
#: four states each must give, and ends of chains, which need only have forgotten where they started.
MEANS_LIMIT, ENDS_LIMIT = 1.1, 1.3
#: R-hat of one row by itself.
OWN_LIMIT = 1.5
#: The share of steps that may fly apart.
FLOWN_LIMIT = 0.01


@dataclass(frozen=True)
class Walked:
    """Where chains were: `points` (n, kept, d) in the second half of their steps, the `energies` (n, kept) there, and
    the share of steps that flew apart (n,)."""

    points: Float[np.ndarray, "n kept d"]
    energies: Float[np.ndarray, "n kept"]
    flown: Float[np.ndarray, "n"]


@dataclass(frozen=True)
class Walker:
    """How the chains of an energy go: the kernel, tuned once for all questions, and the cells that they start from.

    `rows` are typical ones; where there are none, chains start at reference points of the space.
    """

    F: AbstractEnergy
    rows: Rows

    @cached_property
    def pool(self) -> Float[np.ndarray, "m d"]:
        """Points whose cells chains start from."""
        space = self.F.space
        unknown = ~self.rows.observed.any(axis=0) if len(self.rows) else np.ones(space.shape, bool)
        m = max(len(self.rows), 64)
        points = (
            np.resize(self.rows.patched(), (m, *space.shape))
            if len(self.rows)
            else np.zeros((m, *space.shape))
        )
        if unknown.any():
            keys = jax.random.split(jax.random.key(0), m)
            points = np.where(unknown, np.asarray(jax.vmap(lambda k: space.draw(key=k))(keys)), points)
        return np.asarray(jax.vmap(space.project)(jnp.asarray(points, jnp.float32)))

    @cached_property
    def kernel(self) -> AbstractKernel:
        """What suits the space, its steps tuned with no cell held.

        A conditional of a Gaussian is nowhere narrower than the whole in its narrowest direction, so what is right for
        the whole does not fly apart in its parts.
        """
        kernel, target = default_kernel(self.F), Target(self.F)
        if not kernel.tunable():
            return kernel
        pick, tune = jax.random.split(jax.random.key(0))
        states = _begin(target, kernel, jnp.asarray(self.pool), key=pick)
        return warm_up(target, kernel, states, TUNING_STEPS, key=tune)[0]

    def leads(self, observed: Bool[np.ndarray, "n d"]) -> bool:
        """Whether the energy itself says where the chains of these rows start."""
        return isinstance(self.F, AbstractAnnealed) and not observed[:, _pixels(self.F.space)].any()

    def steps(self, given: int | None, observed: Bool[np.ndarray, "n d"]) -> int:
        """The steps of a chain: as many as are given, or what is usual for its kernel and its start."""
        if given is None and self.leads(observed):
            return LED
        if given is None:
            return THROWS if self.kernel.tunable() else SWEEPS
        if given < 2 * KEPT:
            raise SettingsError(f"a chain takes at least {2 * KEPT} steps, not {given}")
        return given

    def walk(
        self,
        values: Float[np.ndarray, "n d"],
        observed: Bool[np.ndarray, "n d"],
        places: Int[np.ndarray, "n 2"],
        seed: int,
        steps: int,
    ) -> Walked:
        """One chain for each line, which depends on the line, its place and the seed, and on no other line."""
        thin = steps // (2 * KEPT)
        plan = jnp.array([steps - thin * KEPT, thin], jnp.int32)
        key, pool, led = jax.random.key(seed), jnp.asarray(self.pool), self.leads(observed)
        return Walked(
            *in_batches(
                lambda F, y, o, p: _walk(F, self.kernel, pool, y, o, p, plan, key, led),
                self.F,
                np.where(observed, values, 0).astype(np.float32),
                observed,
                places.astype(np.uint32),
                largest=AT_ONCE,
            )
        )


def require_temperature(F: AbstractEnergy) -> None:
    """Raise `NotAnswered` for an energy that only orders points."""
    if isinstance(F, AbstractZeroTemperature):
        raise NotAnswered(
            f"{type(F).__name__} is a distance, of which no noise was learnt, and has no draws: "
            "fit gmm, pca or orderless"
        )


def draws(walker: Walker, rows: Rows, n: int, seed: int, steps: int | None) -> Float[np.ndarray, "rows*n d"]:
    """`n` draws of each row's missing cells, each the end of a chain of its own; the draws of one row together.

    Those of an energy of noisy rows are cleaned.
    """
    require_temperature(walker.F)
    monitor, found = Monitor(walker, walker.steps(steps, rows.observed), ENDS_LIMIT), []
    for piece, first, last in _pieces(len(rows), max(n, CHAINS)):
        places = _places(np.arange(piece.start, piece.stop), first, last)
        walked = _of_rows(walker, rows[piece], places, seed, monitor)
        found.append(walked.points[:, -1].reshape(-1, last - first, rows.values.shape[1])[:, : n - first])
    monitor.warn()
    d = rows.values.shape[1]
    # Either each piece holds whole rows, or each holds a part of one row's draws, in order.
    drawn = np.concatenate([part.reshape(-1, d) for part in found])
    if isinstance(walker.F, AbstractBlurred):
        drawn = np.asarray(jax.vmap(walker.F.space.project)(jnp.asarray(cleaned(walker.F, drawn))))
    return np.where(np.repeat(rows.observed, n, axis=0), np.repeat(rows.values, n, axis=0), drawn)


def states(walker: Walker, rows: Rows, steps: int | None) -> Float[np.ndarray, "rows states d"]:
    """States of the chains of each row, `CHAINS` times `KEPT` of them; what a row gets depends on its cells alone."""
    require_temperature(walker.F)
    monitor, found = Monitor(walker, walker.steps(steps, rows.observed), MEANS_LIMIT), []
    own = [zlib.crc32(y[o].tobytes() + o.tobytes()) for y, o in zip(rows.values, rows.observed, strict=True)]
    for piece, first, last in _pieces(len(rows), CHAINS):
        places = _places(np.array(own[piece]), first, last)
        walked = _of_rows(walker, rows[piece], places, 0, monitor)
        found.append(walked.points.reshape(-1, CHAINS * KEPT, rows.values.shape[1]))
    monitor.warn()
    return np.concatenate(found)


@dataclass(frozen=True)
class Mixing:
    """How the chains of free draws go: `chains` from where they start, `settled` their second half, which answers are
    from, the number of `steps`, whether the energy `led` them to where they start, and `complaints` about draws that
    are ends of such chains."""

    chains: Chains
    settled: Chains
    steps: int
    led: bool
    complaints: list[str]


def mixing(walker: Walker, seed: int = 0) -> Mixing:
    """`CHAINS` chains as those of `draws` with no cell known, and what there is to know about how they mix."""
    require_temperature(walker.F)
    free = np.zeros((1, *walker.F.space.shape), bool)
    kernel, steps, led = walker.kernel, walker.steps(None, free), walker.leads(free)
    start, key = jax.random.split(jax.random.key(seed))
    with warnings.catch_warnings():
        # What there is to complain about is handed back.
        warnings.simplefilter("ignore", ChainWarning)
        chains = sample_chains(
            walker.F,
            key=key,
            kernel=kernel,
            chains=CHAINS,
            steps=steps,
            warmup=0,
            thin=steps // (2 * KEPT),
            start=_starts(walker.F, jnp.asarray(walker.pool), led, jax.random.split(start, CHAINS)),
            folded=not kernel.tunable(),
            progress=False,
        )
    settled = chains.after(chains.energies.shape[1] - KEPT)
    flown = chains.divergences.sum(axis=1) / (chains.divergences.shape[1] * chains.thin)
    monitor = Monitor(walker, steps, ENDS_LIMIT)
    monitor.watch(Walked(settled.draws, settled.energies, flown), free)
    return Mixing(chains, settled, steps, led, monitor.complaints())


def cleaned(F: AbstractBlurred, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """The points without the noise that the energy was fitted with."""
    return in_batches(_cleaned, F, points)


class Monitor:
    """What there is to complain about in the chains of many rows, gathered piece by piece."""

    def __init__(self, walker: Walker, steps: int, limit: float):
        self.walker, self.steps, self.limit = walker, steps, limit
        d = walker.F.space.shape[0]
        self.within, self.between = np.zeros(d), np.zeros(d)
        self.rows = self.apart = self.chains = self.lost = 0
        self.flown = 0.0

    def watch(self, walked: Walked, observed: Bool[np.ndarray, "rows d"]) -> None:
        n, d = observed.shape
        chains = len(walked.points) // n
        # Chains first, then what was kept of them; rows and columns are all coordinates.
        points = walked.points.astype(np.float64).reshape(n, chains, -1, d).transpose(1, 2, 0, 3)
        halves = points.reshape(2 * chains, -1, n, d)
        self.kept = halves.shape[1]
        within = np.mean(np.var(halves, axis=1, ddof=1), axis=0) * ~observed
        between = self.kept * np.var(np.mean(halves, axis=1), axis=0, ddof=1) * ~observed
        # What was led to a place of its own is a draw, and does not move to the others'.
        if not self.walker.leads(observed):
            self.within += within.sum(axis=0)
            self.between += between.sum(axis=0)
            self.apart += int(
                np.sum(np.nanmax(_r_hat(within, between, self.kept), axis=1, initial=0) > OWN_LIMIT)
            )
        self.rows += n
        self.chains += len(walked.points)
        self.lost += int(np.sum(~np.isfinite(walked.energies[:, -1])))
        self.flown += float(np.sum(walked.flown))

    def warn(self) -> None:
        for line in self.complaints():
            warnings.warn(line, ChainWarning, stacklevel=5)

    def complaints(self) -> list[str]:
        """A line each for what is wrong with the chains, with the remedy."""
        if not self.rows:
            return []
        if self.lost:
            return [
                f"{self.lost:,} of {self.chains:,} chains ended where the energy is no finite number: it forbids what "
                "is held, or too much of the space to find a way in"
            ]
        found = []
        more = f"take more steps (steps={4 * self.steps}, --steps {4 * self.steps})"
        common = _r_hat(self.within, self.between, self.kept)
        worst = int(np.argmax(np.nan_to_num(common, nan=0.0, posinf=np.inf)))
        if common[worst] > self.limit:
            found.append(
                f"chains of {self.steps:,} steps do not agree yet (R-hat is {common[worst]:.2f} for "
                f"{_name(self.walker.F.space, worst)}, above {self.limit}), so this answer is not to be trusted: "
                f"{more}"
            )
        elif self.apart:
            found.append(
                f"in {self.apart:,} of {self.rows:,} rows the chains stayed in different places (R-hat above "
                f"{OWN_LIMIT}), so their answers are not to be trusted: {more}"
            )
        if self.flown > FLOWN_LIMIT * self.chains:
            found.append(
                f"{self.flown / self.chains:.1%} of the steps flew apart: the energy is too steep somewhere for chains "
                "to be trusted; give it smoother columns"
            )
        return found


def _name(space: AbstractSpace, i: int) -> str:
    return repr(space.names[i]) if isinstance(space, Record) else f"coordinate {i}"


def _r_hat(within: np.ndarray, between: np.ndarray, n: int) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt((between / within + n - 1) / n)


def _places(rows: Int[np.ndarray, "n"], first: int, last: int) -> Int[np.ndarray, "n*chains 2"]:
    """What tells each chain's random numbers from another's: its row, and its number there."""
    numbers = np.arange(first, last)
    return np.stack([np.repeat(rows, len(numbers)), np.tile(numbers, len(rows))], axis=1)


def _of_rows(walker: Walker, rows: Rows, places: np.ndarray, seed: int, monitor: Monitor) -> Walked:
    """The chains of each row, as many as it has places, watched."""
    chains = len(places) // len(rows)
    values, observed = np.repeat(rows.values, chains, axis=0), np.repeat(rows.observed, chains, axis=0)
    walked = walker.walk(values, observed, places, seed, monitor.steps)
    monitor.watch(walked, rows.observed)
    return walked


def _pieces(rows: int, chains: int) -> list[tuple[slice, int, int]]:
    """Rows and a range of their chains, so many together as are held at once."""
    size = max(1, AT_ONCE // chains)
    return [
        (slice(i, min(i + size, rows)), first, min(first + AT_ONCE, chains))
        for i in range(0, rows, size)
        for first in range(0, chains, AT_ONCE)
    ]


@eqx.filter_jit
def _cleaned(F, y):
    return by_row(F.cleaned, y)


@eqx.filter_jit
def _starts(F, pool, led, keys):
    """Where chains start of which no cell is held."""
    free = jnp.zeros(F.space.shape, bool)
    if led:
        return jax.vmap(lambda k: _led(F, jnp.zeros(F.space.shape), free, k))(keys)
    return jax.vmap(lambda k: _mixed(pool, k))(keys)


def _led(
    F: AbstractAnnealed, y: Float[Array, "d"], observed: Bool[Array, "d"], key: PRNGKeyArray
) -> Float[Array, "d"]:
    """Where the energy itself says that a chain starts."""
    return F.space.project(F.annealed(y, observed, key=key))


@eqx.filter_jit
def _begin(target: Target, kernel: AbstractKernel, pool: Array, *, key: PRNGKeyArray) -> State:
    keys = jax.random.split(key, TUNING_CHAINS)
    return start_all(target, kernel, jax.vmap(lambda k: _mixed(pool, k))(keys))


def _mixed(pool: Float[Array, "m d"], key: PRNGKeyArray) -> Float[Array, "d"]:
    """A point each of whose cells is that of another point of the pool."""
    m, d = pool.shape
    return pool[jax.random.randint(key, (d,), 0, m), jnp.arange(d)]


def _pixels(space: AbstractSpace) -> Bool[np.ndarray, "d"]:
    """Which coordinates are pixels."""
    if isinstance(space, Record):
        return np.array([column.pixel for column in space.columns])
    return np.zeros(space.shape, bool).ravel()


def _first(
    space: AbstractSpace,
    pool: Float[Array, "m d"],
    y: Float[Array, "d"],
    observed: Bool[Array, "d"],
    number: Int[Array, ""],
    key: PRNGKeyArray,
) -> Float[Array, "d"]:
    """Where the chain of this number starts: cells of the pool, or those of a row that is near in the known pixels."""
    mixed = _mixed(pool, key)
    pixels = _pixels(space)
    if not pixels.any():
        return mixed
    known = observed & pixels
    # The squared distance less that of the row itself, as products: no table of all rows beside all chains.
    apart = pool**2 @ known.astype(pool.dtype) - 2 * (pool @ jnp.where(known, y, 0.0))
    rank = number.astype(jnp.int32) % min(NEAREST, len(pool))
    near = jnp.where(jnp.asarray(pixels), pool[jnp.argsort(apart)[rank]], mixed)
    return jnp.where(jnp.any(known), near, mixed)


@eqx.filter_jit
def _walk(F, kernel, pool, y, observed, places, plan, key, led):
    """The states kept of one chain for each line, their energies, and the share of steps that flew apart."""
    burn, thin = plan[0], plan[1]

    def one(y, observed, place):
        own = jax.random.fold_in(jax.random.fold_in(key, place[0]), place[1])
        begin, walk = jax.random.split(own)
        if led:
            first = _led(F, y, observed, begin)
        else:
            first = _first(F.space, pool, y, observed, place[1], begin)
        begin = jnp.where(observed, y, first)
        target = Target(F, held=begin, observed=observed, folded=not kernel.tunable())

        def step(i, carry):
            state, flown = carry
            state, info = kernel.step(target, state, key=jax.random.fold_in(walk, i))
            return state, flown + jnp.any(info.divergent).astype(jnp.float32)

        def keep(carry, k):
            first = burn + k * thin
            carry = jax.lax.fori_loop(first, first + thin, step, carry)
            return carry, (target.point(carry[0].position), carry[0].energy)

        start = kernel.init(target, target.coordinates(begin)), jnp.zeros(())
        carry = jax.lax.fori_loop(0, burn, step, start)
        (_, flown), (points, energies) = jax.lax.scan(keep, carry, jnp.arange(KEPT, dtype=jnp.int32))
        return points, energies, flown / (burn + KEPT * thin).astype(jnp.float32)

    return by_row(one, y, observed, places)
