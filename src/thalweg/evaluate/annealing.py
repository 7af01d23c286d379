r"""log Z from both sides: annealed importance sampling, forwards and backwards.

Along a path of energies \(E_0, …, E_T\) from a density that is known to F, a chain gathers
\(\log w = \sum_t E_{t-1}(y_{t-1}) - E_t(y_{t-1})\). Forwards, from a draw of the start, \(E[w] = Z_T / Z_0\), so
\(\log\hat Z\) is below log Z on average; backwards, from a draw of F, it is above.
Neal (2001), *Annealed importance sampling*; backwards: Burda, Grosse & Salakhutdinov (2015), *Accurate and conservative
estimates of MRF log-likelihood using reverse annealing*; Grosse, Ghahramani & Adams (2015), *Sandwiching the marginal
likelihood using bidirectional Monte Carlo*; both together: Bennett (1976), *Efficient estimation of free energy
differences from Monte Carlo data*; where the levels lie: Gelman & Meng (1998), *Simulating normalizing constants*, and
Crooks (2007), *Measuring thermodynamic length*.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree
from scipy.optimize import brentq
from scipy.special import expit, logsumexp

from thalweg.energy.base import AbstractDensity, AbstractEnergy, Scalar
from thalweg.energy.capabilities import AbstractTempered
from thalweg.energy.reference import Bridge, Reference
from thalweg.errors import SettingsError
from thalweg.evaluate.partition import LogZ, exact_log_partition, how_exact
from thalweg.sampling.hmc import HMC
from thalweg.sampling.kernel import AbstractKernel, Info, State
from thalweg.sampling.sample import default_kernel
from thalweg.sampling.target import Target
from thalweg.sampling.walk import points_of, start_all, step_all

#: How many standard errors the bracket lies beyond its two estimates.
DEVIATIONS = 3.0
#: Chains that have to carry the weight, or the standard errors are not to be trusted.
FEW = 10.0
#: How fast the pilot follows the acceptance of its steps.
FOLLOW = 0.2
#: Stretches of the path of which the pilot compares the work.
STRETCHES = 50
#: Levels that a stretch has at least, in shares of the average one.
LEAST = 0.1


def log_partition(
    energy: AbstractEnergy,
    *,
    key: PRNGKeyArray,
    x: PyTree = None,
    exact: bool = True,
    start: AbstractDensity | None = None,
    kernel: AbstractKernel | None = None,
    chains: int = 100,
    temperatures: int = 1000,
    steps: int = 1,
    points: Float[Array, "n ..."] | None = None,
) -> LogZ:
    r"""\(\log Z(x)\): exact where it can be had, else by annealing, with its error and a bracket.

    The path goes from `start` (default: the energy's own `tempered` path, or the space's reference density) by
    `temperatures` levels with `steps` steps of `kernel` each. A pilot (of a tenth of the levels, or of all where there
    is a step size to tune level by level) says where they should lie. `points` are draws of the energy for the way
    back; without them ends of the chains that went forwards are drawn by their weights, and the upper bound is only as
    good as those.

    Raises `SettingsError` for impossible numbers.
    """
    if exact and (how := how_exact(energy)) is not None:
        return LogZ.exactly(float(exact_log_partition(energy, x)), how)
    if chains < 2 or temperatures < 2 or steps < 1:
        raise SettingsError("annealing needs at least two chains, two temperatures and one step at each")
    path, base, log_z0 = _path(energy, start)
    # What moves is the path: a sum with another energy has no Gibbs sweeps of its own.
    member = path(jnp.float32(0.5))
    kernel = default_kernel(member, HMC(0.1, 5, mass="unit")) if kernel is None else kernel
    kernel.check(Target(member))
    keys = jax.random.split(key, 6)
    tunable = bool(kernel.tunable())
    even = np.linspace(0.0, 1.0, (temperatures if tunable else max(STRETCHES, temperatures // 10)) + 1)
    work, _, sizes = _anneal(
        path,
        kernel,
        _widened(kernel, len(even) - 1),
        _starts(base, chains, key=keys[0]),
        jnp.asarray(even, jnp.float32),
        steps,
        x,
        tunable,
        key=keys[1],
    )
    levels = spaced(even, np.asarray(work, np.float64), temperatures)
    betas = jnp.asarray(levels, jnp.float32)
    sizes = _between(levels[1:], even[1:], np.asarray(sizes))
    begin = _starts(base, chains, key=keys[2])
    work, ends, _ = _anneal(path, kernel, sizes, begin, betas, steps, x, False, key=keys[3])
    forwards = np.asarray(work, np.float64).sum(axis=0)
    parents = None
    if points is None:
        parents = drawn_by_weight(forwards, float(jax.random.uniform(keys[4])))
        points = ends[parents]
    work = _anneal_back(path, kernel, sizes, points, betas, steps, x, key=keys[5])
    backwards = np.asarray(work, np.float64).sum(axis=0)
    return bracket(forwards, backwards, log_z0, temperatures, parents)


def spaced(
    betas: Float[np.ndarray, "s+1"], work: Float[np.ndarray, "s n"], temperatures: int
) -> Float[np.ndarray, "t+1"]:
    """Levels of which each adds as much to the deviation of the log weights, found from the `work` of a pilot at betas.

    The work is gathered over stretches of the path, for it adds up where chains mix slowly; of levels alone, which
    forget each other, this is equal thermodynamic length.
    """
    edges = np.linspace(0, len(work), min(STRETCHES, len(work)) + 1).astype(int)
    deviations = np.std(np.add.reduceat(work, edges[:-1], axis=0), axis=1)
    if not np.isfinite(deviations).all():
        return np.linspace(0.0, 1.0, temperatures + 1)
    shares = deviations + LEAST * (deviations.mean() or 1.0)
    length = np.concatenate([[0.0], np.cumsum(shares / shares.sum())])
    levels = np.interp(np.linspace(0.0, 1.0, temperatures + 1), length, betas[edges])
    levels[-1] = 1.0
    return levels


def drawn_by_weight(logs: Float[np.ndarray, "n"], uniform: float) -> Int[np.ndarray, "n"]:
    """As many numbers of chains as there are, each by its weight (systematic resampling), from one uniform number."""
    n = len(logs)
    shares = np.cumsum(np.exp(logs - logsumexp(logs)))
    return np.minimum(np.searchsorted(shares, (uniform + np.arange(n)) / n), n - 1)


def bracket(
    forwards: Float[np.ndarray, "n"],
    backwards: Float[np.ndarray, "m"],
    log_z0: float,
    temperatures: int,
    parents: Int[np.ndarray, "m"] | None = None,
) -> LogZ:
    """The estimate of log Z from the log weights of both directions, and its bracket.

    `parents` are the chains at whose ends the way back began; None where it began at other points. Where the two sides
    contradict each other, for the way back did not begin at draws, the bracket holds them both.
    """
    low, low_error = mean_weight(forwards)
    high, high_error = mean_weight(-backwards, parents)
    value, error = bennett(forwards, backwards, parents)
    lower, upper = low - DEVIATIONS * low_error, -high + DEVIATIONS * high_error
    how = f"annealing, {len(forwards)} chains forwards and {len(backwards)} backwards, {temperatures} temperatures"
    if not lower <= value <= upper or low + high > DEVIATIONS * math.hypot(low_error, high_error):
        found = ((low, low_error), (-high, high_error), (value, error))
        lower = min(center - DEVIATIONS * width for center, width in found)
        upper = max(center + DEVIATIONS * width for center, width in found)
        how += "; the two sides contradict each other: take more steps at each, or give points that are draws"
    few = min(effective(forwards), effective(-backwards))
    if few < FEW:
        how += (
            f"; {few:.1f} chains carry all the weight, and the errors may be larger: take more temperatures"
        )
    return LogZ(value + log_z0, error, lower + log_z0, upper + log_z0, "bracket", how)


def effective(logs: Float[np.ndarray, "n"]) -> float:
    r"""How many chains the mean weight is worth, \(1 / \sum_i s_i^2\) with their shares s."""
    return float(np.exp(2 * logsumexp(logs) - logsumexp(2 * logs)))


def mean_weight(
    logs: Float[np.ndarray, "n"], parents: Int[np.ndarray, "n"] | None = None
) -> tuple[float, float]:
    r"""\(\log\frac1n\sum e^{\log w_i}\) and its standard error (by the delta method).

    Those of one of the `parents` count as one for the error, since they are alike.
    """
    weights = np.exp(logs - logs.max())
    return float(logsumexp(logs) - math.log(len(logs))), _deviation(_shares(weights, parents))


def bennett(
    forwards: Float[np.ndarray, "n"],
    backwards: Float[np.ndarray, "m"],
    parents: Int[np.ndarray, "m"] | None = None,
) -> tuple[float, float]:
    r"""The \(\log Z_T/Z_0\) at which as many chains of either direction are told apart, and its standard error.

    `parents` says at the ends of which forward chains those backwards began.
    """
    shift = math.log(len(forwards) / len(backwards))

    def surplus(value: float) -> float:
        return float(expit(forwards - value - shift).sum() - expit(value - backwards + shift).sum())

    both = np.concatenate([forwards, backwards])
    low, high = both.min() - 50.0, both.max() + 50.0
    value = float(brentq(surplus, low, high, xtol=1e-10))
    up, down = expit(forwards - value - shift), expit(value - backwards + shift)
    if parents is None:
        return value, math.hypot(_deviation(_shares(up)), _deviation(_shares(down)))
    # A chain and those that began at its end move the estimate together.
    moved = _shares(up)
    back = _shares(down, parents)
    moved[: len(back)] -= back
    return value, _deviation(moved)


def _shares(
    weights: Float[np.ndarray, "n"], parents: Int[np.ndarray, "n"] | None = None
) -> Float[np.ndarray, "k"]:
    """What each chain, or all that began at one chain's end, moves the logarithm of the mean weight by."""
    moved = (weights / max(np.mean(weights), 1e-300) - 1) / len(weights)
    return moved if parents is None else np.bincount(parents, moved)


def _deviation(moved: Float[np.ndarray, "k"]) -> float:
    return float(np.sqrt(np.sum(moved**2) * len(moved) / max(len(moved) - 1, 1)))


Path = Callable[[Scalar], AbstractEnergy]


class _Tempered(eqx.Module):
    energy: AbstractTempered

    def __call__(self, beta):
        return self.energy.tempered(beta)


class _Bridged(eqx.Module):
    start: AbstractDensity
    end: AbstractEnergy

    def __call__(self, beta):
        return Bridge(self.start, self.end, beta)


def _path(energy: AbstractEnergy, start: AbstractDensity | None) -> tuple[Path, AbstractDensity, float]:
    """The path, its start, and the log Z of the path's own member there."""
    if start is None and isinstance(energy, AbstractTempered):
        base = energy.start()
        point = base.sample(key=jax.random.key(0))
        # Of one function up to a constant: p_0 = e^{-E_0} / Z_0.
        return _Tempered(energy), base, float(base(point) - energy.tempered(0.0)(point))
    base = Reference(energy.space) if start is None else start
    return _Bridged(base, energy), base, 0.0


@eqx.filter_jit
def _starts(base: AbstractDensity, chains: int, *, key: PRNGKeyArray) -> Float[Array, "n ..."]:
    return jax.vmap(lambda k: base.sample(key=k))(jax.random.split(key, chains))


def _of(energy: AbstractEnergy, y: Float[Array, "n ..."], x: PyTree) -> Float[Array, "n"]:
    return jax.vmap(lambda y: energy(y, x))(y)


def _widened(kernel: AbstractKernel, levels: int) -> Array:
    """A log step size for each tunable part at each level (levels, parts)."""
    sizes = [jnp.log(jnp.asarray(part.step_size, jnp.float32)) for part in kernel.tunable()]
    return jnp.tile(jnp.stack(sizes), (levels, 1)) if sizes else jnp.zeros((levels, 0))


def _between(
    at: Float[np.ndarray, "t"], known: Float[np.ndarray, "s"], sizes: Float[np.ndarray, "s parts"]
) -> Float[Array, "t parts"]:
    """The log step sizes at these levels, on straight lines between those that are known."""
    columns = [np.interp(at, known, column) for column in sizes.T]
    return jnp.asarray(np.stack(columns, axis=1) if columns else np.zeros((len(at), 0)), jnp.float32)


def _with_steps(kernel: AbstractKernel, logs: Float[Array, "parts"]) -> AbstractKernel:
    parts = kernel.tunable()
    return kernel.tuned(tuple(part.with_step(jnp.exp(logs[i])) for i, part in enumerate(parts)))


def _moved(
    target: Target, kernel: AbstractKernel, y: Float[Array, "n ..."], steps: int, *, key: PRNGKeyArray
) -> tuple[State, Info, Float[Array, "n ..."]]:
    """The chains after some steps at one level: their states, how the last step went, and their points."""
    states, keys = start_all(target, kernel, y), jax.random.split(key, len(y))
    for i in range(steps):
        states, info = step_all(target, kernel, states, i, keys=keys)
    return states, info, points_of(target, states)


@eqx.filter_jit
def _anneal(
    path: Path,
    kernel: AbstractKernel,
    sizes: Float[Array, "t parts"],
    begin: Float[Array, "n ..."],
    betas: Float[Array, "t+1"],
    steps: int,
    x: PyTree,
    tune: bool,
    *,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "t n"], Float[Array, "n ..."], Float[Array, "t parts"]]:
    """The log weights that each level adds, where the chains end, and the step sizes.

    With `tune` these follow the acceptance.
    """

    def level(carry, now):
        y, following = carry
        before, beta, own, key = now
        work = _of(path(before), y, x) - _of(path(beta), y, x)
        own = following if tune else own
        current = _with_steps(kernel, own)
        states, info, y = _moved(Target(path(beta), x), current, y, steps, key=key)
        if tune:
            seen = jax.vmap(current.watched)(states, info)
            error = [
                jnp.mean(acceptance) - (part.optimal or 0.65)
                for part, (acceptance, _) in zip(current.tunable(), seen, strict=True)
            ]
            following = following + FOLLOW * jnp.stack(error)
        return (y, following), (work, own)

    keys = jax.random.split(key, len(betas) - 1)
    (ends, _), (work, used) = jax.lax.scan(level, (begin, sizes[0]), (betas[:-1], betas[1:], sizes, keys))
    return work, ends, used


@eqx.filter_jit
def _anneal_back(
    path: Path,
    kernel: AbstractKernel,
    sizes: Float[Array, "t parts"],
    begin: Float[Array, "n ..."],
    betas: Float[Array, "t+1"],
    steps: int,
    x: PyTree,
    *,
    key: PRNGKeyArray,
) -> Float[Array, "t n"]:
    """The log weights that each level of the way back adds: the same steps in reverse.

    Each level adds its own after its kernel and not before.
    """

    def level(y, now):
        before, beta, own, key = now
        back = _with_steps(kernel, own).reversed()
        *_, y = _moved(Target(path(beta), x), back, y, steps, key=key)
        return y, _of(path(before), y, x) - _of(path(beta), y, x)

    keys = jax.random.split(key, len(betas) - 1)
    now = betas[:-1], betas[1:], sizes, keys
    _, work = jax.lax.scan(level, jnp.asarray(begin), now, reverse=True)
    return work
