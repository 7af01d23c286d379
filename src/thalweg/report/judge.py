"""The small statistics that the page reports."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def p_values(surprises: ArrayLike, calibration: ArrayLike) -> Float[np.ndarray, "n"]:
    r"""Split conformal p-values \((1 + \#\{c_i \ge s\}) / (m + 1)\) against `m` sorted held-out surprises.

    Vovk, Gammerman & Shafer (2005), *Algorithmic learning in a random world*.
    """
    calibration = np.asarray(calibration)
    above = len(calibration) - np.searchsorted(calibration, np.asarray(surprises), side="left")
    return (1 + above) / (len(calibration) + 1)


def flag_band(
    rates: ArrayLike, calibrated: int, tested: int, mass: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    r"""Between which shares of `tested` fresh rows lie at p ≤ rate, with probability `mass` for each rate.

    Of rows exchangeable with the \(m\) calibration rows, the number flagged is beta-binomial with
    \(a = \lfloor\alpha(m+1)\rfloor\), \(b = m + 1 - a\): the binomial, widened because calibration is itself
    a sample.
    """
    ranks = np.floor(np.asarray(rates) * (calibrated + 1) + 1e-9).astype(int)
    bounds = [_beta_binomial_interval(tested, rank, calibrated + 1 - rank, mass) for rank in ranks]
    low, high = np.array(bounds, float).T / tested
    return low, high


def _beta_binomial_interval(n: int, a: int, b: int, mass: float) -> tuple[int, int]:
    if a == 0 or b == 0:
        return (0, 0) if a == 0 else (n, n)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + a + b + 1)))])
    k = np.arange(n + 1)
    choose = logs[n] - logs[k] - logs[n - k]
    ratio = logs[k + a - 1] + logs[n - k + b - 1] - logs[n + a + b - 1]
    whole = logs[a - 1] + logs[b - 1] - logs[a + b - 1]
    cumulative = np.cumsum(np.exp(choose + ratio - whole))
    tail = (1 - mass) / 2
    low, high = np.searchsorted(cumulative, [tail, 1 - tail])
    return int(low), int(min(high, n))


def most_related(codes: Float[np.ndarray, "n d"], count: int) -> list[int]:
    """The `count` columns most correlated with another one, most first: the hardest for a model."""
    if codes.shape[1] <= 1 or len(codes) < 3:
        return list(range(min(count, codes.shape[1])))
    with np.errstate(invalid="ignore", divide="ignore"):
        strength = np.abs(np.nan_to_num(np.corrcoef(codes, rowvar=False)))
    np.fill_diagonal(strength, 0)
    return [int(i) for i in np.argsort(-strength.max(axis=1), kind="stable")[:count]]
