r"""Exact answers, marginals and draws of structured energies: chains, trees, small loops and lattices.

Compiled, unbatched: batch them with `jax.vmap`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from thalweg.energy.base import Scalar
from thalweg.energy.capabilities import AbstractStructured
from thalweg.energy.factors import FactorGraph
from thalweg.errors import NotAnswered, SettingsError

_FORBIDDEN = "every answer is forbidden (its energy is infinite): allow more values, labels or arcs"


class Answers(eqx.Module):
    """The lowest answers in order: `values` (k, ...) and their `energies` (k,), infinite where there are fewer."""

    values: Float[Array, "k ..."]
    energies: Float[Array, "k"]


def lowest(energy: AbstractStructured, x: PyTree = None, *, k: int = 1) -> Answers:
    r"""The `k` answers of least \(F(y, x)\); of answers alike each once, in an order that is always the same.

    Raises `NotAnswered` where every answer is forbidden (inside jit and vmap: energies are infinite), `SettingsError`
    where exact answers cost too much.
    """
    _check(energy)
    found = _lowest(energy, x, k)
    _allowed(found.energies[0])
    return found


def marginals(
    energy: AbstractStructured, x: PyTree = None, *, beta: float | Scalar = 1.0
) -> Float[Array, "... v"]:
    r"""\(p(y_i = v) \propto \sum_{y: y_i = v} e^{-\beta F(y, x)}\) of each value of each coordinate: the derivatives of
    the free energy by a cost for each.

    Raises as `lowest`; inside jit and vmap they are 0 where every answer is forbidden.
    """
    _check(energy)
    free, found = _marginals(energy, x, jnp.asarray(beta, jnp.float32))
    _allowed(free)
    return found


def factor_marginals(
    graph: FactorGraph, x: PyTree = None, *, beta: float | Scalar = 1.0
) -> tuple[Float[Array, "m ..."], ...]:
    r"""The joint probabilities of the variables of each factor: the derivatives of the free energy by its tables.

    Raises as `lowest`.
    """
    _check(graph)
    free, found = _factor_marginals(graph, x, jnp.asarray(beta, jnp.float32))
    _allowed(free)
    return found


def draws(
    energy: AbstractStructured, x: PyTree = None, *, n: int, beta: float | Scalar = 1.0, key: PRNGKeyArray
) -> Float[Array, "n ..."]:
    r"""`n` independent exact draws from \(e^{-\beta F(\cdot, x)}\). Raises as `lowest`."""
    _check(energy)
    free, found = _draws(energy, x, jax.random.split(key, n), jnp.asarray(beta, jnp.float32))
    _allowed(free)
    return found


@eqx.filter_jit
def _lowest(energy: AbstractStructured, x: PyTree, k: int) -> Answers:
    return Answers(*energy.best(x, k))


@eqx.filter_jit
def _marginals(energy: AbstractStructured, x: PyTree, beta: Scalar) -> tuple[Scalar, Array]:
    most = max(level or 1 for level in energy.space.levels())
    none = jnp.zeros((*energy.space.shape, most))
    return jax.value_and_grad(lambda costs: energy.with_costs(costs).free_energy(x, beta))(none)


@eqx.filter_jit
def _factor_marginals(graph: FactorGraph, x: PyTree, beta: Scalar) -> tuple[Scalar, tuple[Array, ...]]:
    free, by = eqx.filter_value_and_grad(lambda g: g.free_energy(beta=beta))(graph.tabulated(x))
    return free, tuple(factor.table for factor in by.factors)


@eqx.filter_jit
def _draws(energy: AbstractStructured, x: PyTree, keys: PRNGKeyArray, beta: Scalar) -> tuple[Scalar, Array]:
    return energy.free_energy(x, beta), jax.vmap(lambda key: energy.draw(x, beta, key=key))(keys)


def _check(energy: AbstractStructured) -> None:
    if not isinstance(energy, AbstractStructured):
        raise SettingsError(
            f"{type(energy).__name__} has no exact structured answers: enumerate it (thalweg.inference.argmin), or "
            "write it as a factor graph or a lattice"
        )


def _allowed(energy: Scalar) -> None:
    if not isinstance(energy, jax.core.Tracer) and jnp.isposinf(energy):
        raise NotAnswered(_FORBIDDEN)
