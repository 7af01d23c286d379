"""What `sample` returns: the draws, and what there is to know about how far to trust them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from inspect import signature
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from thalweg.energy.spaces import AbstractSpace, Record
from thalweg.errors import SettingsError
from thalweg.evaluate import diagnostics
from thalweg.sampling.kernel import AbstractKernel

#: What a good run shows: Vehtari et al. (2021).
GOOD_R_HAT, GOOD_ESS = 1.01, 100
#: Rows of a summary.
SHOWN = 20


@dataclass(frozen=True)
class Chains:
    """Draws of several chains, with their diagnostics.

    `draws` (chains, draws, *shape); by chain and draw the `energies` \\(F\\), the mean `acceptance` of the steps
    since the last draw, how many of them were `divergences`, and their `work` in evaluations of the energy.
    Chains that hold different values (`alike` False) have different targets: each is then diagnosed alone, and what
    is reported is the worst. `kernel` is tuned and can be handed to another `sample` with `warmup=0`; `seconds` are
    those of the draws, without warm-up and compilation.
    """

    draws: Float[np.ndarray, "chains draws ..."]
    energies: Float[np.ndarray, "chains draws"]
    acceptance: Float[np.ndarray, "chains draws"]
    divergences: Int[np.ndarray, "chains draws"]
    work: Int[np.ndarray, "chains draws"]
    kernel: AbstractKernel
    space: AbstractSpace
    held: Bool[np.ndarray, "chains ..."]
    alike: bool
    seconds: float
    thin: int

    @property
    def flat(self) -> Float[np.ndarray, "n ..."]:
        """All draws in one row, chain after chain."""
        return self.draws.reshape(-1, *self.draws.shape[2:])

    @cached_property
    def r_hat(self) -> Float[np.ndarray, "..."]:
        r"""\\(\\hat R\\) of each coordinate (rank-normalised, split): below 1.01 the chains agree. NaN where held."""
        return self._of(diagnostics.split_r_hat, np.fmax)

    @cached_property
    def bulk_ess(self) -> Float[np.ndarray, "..."]:
        """Effective sample size of the centre of each coordinate; NaN where held."""
        return self._of(diagnostics.bulk_ess, np.fmin)

    @cached_property
    def tail_ess(self) -> Float[np.ndarray, "..."]:
        """Effective sample size of the 5 % and 95 % quantiles of each coordinate; NaN where held."""
        return self._of(diagnostics.tail_ess, np.fmin)

    @cached_property
    def standard_error(self) -> Float[np.ndarray, "..."]:
        """The Monte Carlo error of each coordinate's mean."""
        deviation = np.std(np.asarray(self._columns, np.float64), axis=(0, 1), ddof=1)
        return (deviation / np.sqrt(diagnostics.mean_ess(self._columns))).reshape(self.draws.shape[2:])

    @property
    def ess_per_second(self) -> float:
        """The least bulk effective sample size of a coordinate, by the seconds that the draws took."""
        return _least(self.bulk_ess) / self.seconds

    def after(self, first: int) -> "Chains":
        """The chains without their `first` draws."""
        by_draw = ("draws", "energies", "acceptance", "divergences", "work")
        left = 1 - first / self.energies.shape[1]
        kept = {name: getattr(self, name)[:, first:] for name in by_draw}
        return replace(self, **kept, seconds=left * self.seconds)

    def complaints(self) -> list[str]:
        """What is wrong with these chains and what would help, a line each; empty where all is well."""
        found = []
        chains, draws = self.energies.shape
        share = self.divergences.sum() / (self.energies.size * self.thin)
        if share > 0:
            found.append(
                f"{self.divergences.sum()} steps ({share:.1%}) flew apart: the energy is too steep somewhere for this "
                "step size; take more warm-up or a smaller step, or give the energy smoother coordinates"
            )
        accepted = float(np.nanmean(self.acceptance))
        if accepted < 0.05:
            found.append(
                f"only {accepted:.1%} of the steps were accepted: take a smaller step, or more warm-up"
            )
        worst = _worst(self.r_hat)
        if worst > GOOD_R_HAT:
            found.append(
                f"R-hat is {worst:.3f} for {self._name(np.nanargmax(self.r_hat))}, above {GOOD_R_HAT}: the chains do "
                "not agree yet; take more steps, or where there are several modes ParallelTempering"
            )
        least = min(_least(self.bulk_ess), _least(self.tail_ess))
        if least < GOOD_ESS * (chains if self.alike else 1):
            found.append(
                f"the draws of {self._name(np.nanargmin(np.fmin(self.bulk_ess, self.tail_ess)))} are worth {least:.0f} "
                f"independent ones, fewer than {GOOD_ESS} a chain: take more steps"
            )
        still = np.ptp(self._columns, axis=1).max(axis=1) == 0
        if draws > 1 and still.any():
            found.append(
                f"chains {np.flatnonzero(still).tolist()} never moved: start elsewhere, or take smaller steps"
            )
        return found

    def summary(self) -> str:
        """A table by coordinate: mean, deviation, error of the mean, quantiles, R-hat and effective sample sizes."""
        columns, head = (
            self._columns.astype(np.float64),
            ("", "mean", "sd", "mcse", "5 %", "95 %", "R-hat", "bulk", "tail"),
        )
        low, high = np.quantile(columns, [0.05, 0.95], axis=(0, 1))
        numbers = [
            np.mean(columns, axis=(0, 1)),
            np.std(columns, axis=(0, 1)),
            self.standard_error,
            low,
            high,
            self.r_hat,
            self.bulk_ess,
            self.tail_ess,
        ]
        shapes = ("10.4g", "9.3g", "9.2g", "10.4g", "10.4g", "7.3f", "8.0f", "8.0f")
        lines = [
            "  ".join(
                f"{name:>{int(float(s[:-1]))}}" for name, s in zip(head, ("14.0", *shapes), strict=True)
            )
        ]
        for i in range(min(columns.shape[2], SHOWN)):
            cells = [format(float(np.ravel(n)[i]), s) for n, s in zip(numbers, shapes, strict=True)]
            lines.append("  ".join([f"{self._name(i)[:14]:>14}", *cells]))
        if columns.shape[2] > SHOWN:
            lines.append(f"… and {columns.shape[2] - SHOWN} coordinates more")
        chains, draws = self.energies.shape
        lines.append(
            f"{chains} chains of {draws:,} draws in {self.seconds:.2f} s; "
            f"acceptance {np.nanmean(self.acceptance):.3f}, "
            f"{self.divergences.sum()} divergent steps, {self.work.sum() / self.energies.size:.1f} energies a draw"
        )
        return "\n".join([*lines, *self.complaints()])

    def __str__(self) -> str:
        return self.summary()

    def to_arviz(self) -> Any:
        """The draws `y`, of a row by the names of its columns, energies and divergences as ArviZ's `InferenceData`
        (a tree from ArviZ 1.0 on).

        Raises `SettingsError` where ArviZ is not installed.
        """
        try:
            from arviz import from_dict
        except ImportError:
            raise SettingsError("ArviZ is not installed: pip install arviz") from None
        groups: dict[str, Any] = {
            "posterior": {"y": self.draws},
            "sample_stats": {
                "energy": self.energies,
                "acceptance_rate": self.acceptance,
                "diverging": self.divergences > 0,
                "n_steps": self.work,
            },
        }
        named: dict[str, Any] = {}
        if isinstance(self.space, Record):
            names = [column.name for column in self.space.columns]
            named = {"coords": {"column": names}, "dims": {"y": ["column"]}}
        # Before 1.0 the groups were keywords.
        if "posterior" in signature(from_dict).parameters:
            return from_dict(**groups, **named)
        return from_dict(groups, **named)

    @property
    def _columns(self) -> Float[np.ndarray, "chains draws d"]:
        return self.draws.reshape(*self.draws.shape[:2], -1)

    def _of(self, measure: Callable[[np.ndarray], np.ndarray], worse: np.ufunc) -> Float[np.ndarray, "..."]:
        """A diagnosis of each coordinate: of all chains together, or the worst of them alone."""
        columns, held = self._columns, self.held.reshape(len(self.held), -1)
        groups = [slice(None)] if self.alike else [slice(i, i + 1) for i in range(len(columns))]
        found = [np.where(held[group].all(axis=0), np.nan, measure(columns[group])) for group in groups]
        return worse.reduce(found, axis=0).reshape(self.draws.shape[2:])

    def _name(self, i: Any) -> str:
        if isinstance(self.space, Record):
            return self.space.names[int(i)]
        shape = self.draws.shape[2:]
        place = np.unravel_index(int(i), shape) if shape else ()
        return f"y[{', '.join(str(int(k)) for k in place)}]"


def _least(values: np.ndarray) -> float:
    return float(np.nanmin(values)) if np.isfinite(values).any() else math.nan


def _worst(values: np.ndarray) -> float:
    return float(np.nanmax(values)) if not np.isnan(values).all() else math.nan
