r"""How far chains can be trusted: R-hat and effective sample sizes.

Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), *Rank-normalization, folding, and localization: an improved
R-hat for assessing convergence of MCMC*; the sum of autocorrelations is cut off by Geyer (1992), *Practical Markov
chain Monte Carlo*.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri
from scipy.stats import rankdata

Draws = Float[np.ndarray, "chains draws d"]


def split_r_hat(draws: Draws) -> Float[np.ndarray, "d"]:
    r"""Rank-normalised split \(\hat R\) of each coordinate: 1 where chains agree, with each other and with themselves
    earlier; the greater of the draws' own and that of their distance from the median.

    NaN for a coordinate that never changes, or with fewer than four draws a chain.
    """
    halves = _split(np.asarray(draws, np.float64))
    if halves.shape[1] < 2:
        return np.full(halves.shape[2], np.nan)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.fmax(_r_hat(_normal_scores(halves)), _r_hat(_normal_scores(folded)))


def bulk_ess(draws: Draws) -> Float[np.ndarray, "d"]:
    """How many independent draws the chains are worth for the centre of each coordinate (rank-normalised, split)."""
    return ess(_normal_scores(_split(np.asarray(draws, np.float64))))


def tail_ess(draws: Draws) -> Float[np.ndarray, "d"]:
    """The lesser effective sample size of the 5 % and the 95 % quantile."""
    halves = _split(np.asarray(draws, np.float64))
    low, high = np.quantile(halves, [0.05, 0.95], axis=(0, 1))
    with np.errstate(invalid="ignore"):
        return np.fmin(ess((halves <= low).astype(float)), ess((halves <= high).astype(float)))


def mean_ess(draws: Draws) -> Float[np.ndarray, "d"]:
    """The effective sample size of the mean, without ranks: what divides the variance in its standard error."""
    return ess(_split(np.asarray(draws, np.float64)))


def ess(draws: Draws) -> Float[np.ndarray, "d"]:
    r"""\(mn / \tau\), \(\tau = -1 + 2\sum_t P_t\) over Geyer's initial monotone sequence of pairs of autocorrelations.

    Of the chains as they are, neither split nor ranked; NaN for a coordinate that never changes.
    """
    m, n, _ = draws.shape
    if n < 4:
        return np.full(draws.shape[2], np.nan)
    covariance = _autocovariance(draws)
    within = np.mean(covariance[:, 0], axis=0) * n / (n - 1)
    total = within * (n - 1) / n
    if m > 1:
        total = total + np.var(np.mean(draws, axis=1), axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = 1 - (within - np.mean(covariance, axis=0)) / total
        correlation[0] = 1.0
        pairs = correlation[: n - n % 2].reshape(-1, 2, draws.shape[2]).sum(axis=1)
        kept = np.cumprod(pairs > 0, axis=0)
        monotone = np.minimum.accumulate(pairs, axis=0)
        # Of the first pair that is left out, the even one where it is above 0, as Stan and ArviZ do.
        last = np.minimum(2 * np.sum(kept, axis=0), n - 1)
        rest = np.maximum(np.take_along_axis(correlation, last[None], axis=0)[0], 0)
        tau = np.maximum(-1 + 2 * np.sum(monotone * kept, axis=0) + rest, 1 / math.log10(m * n))
        return np.where(total > 0, m * n / tau, np.nan)


def _split(draws: Draws) -> Draws:
    """Each chain as two: its first and its last half."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, draws.shape[1] - half :]])


def _normal_scores(draws: Draws) -> Draws:
    ranks = rankdata(draws.reshape(-1, draws.shape[2]), axis=0)
    return ndtri((ranks - 0.375) / (len(ranks) + 0.25)).reshape(draws.shape)


def _r_hat(draws: Draws) -> Float[np.ndarray, "d"]:
    n = draws.shape[1]
    within = np.mean(np.var(draws, axis=1, ddof=1), axis=0)
    between = n * np.var(np.mean(draws, axis=1), axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(
            within > 0, np.sqrt((between / within + n - 1) / n), np.where(between > 0, np.inf, np.nan)
        )


def _autocovariance(draws: Draws) -> Draws:
    n = draws.shape[1]
    apart = draws - np.mean(draws, axis=1, keepdims=True)
    padded = 1 << (2 * n - 1).bit_length()
    power = np.abs(np.fft.rfft(apart, padded, axis=1)) ** 2
    return np.fft.irfft(power, padded, axis=1)[:, :n] / n
