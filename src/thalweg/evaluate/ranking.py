r"""How good an order is: NDCG and average precision of one list, where scores that are equal have no order.

Equal scores share the places that they take, so that no order of the rows is lucky. A list without anything relevant
says nothing about an order: both measures are `nan` there, and a mean over lists has to say what it counts them as.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from thalweg.errors import SettingsError

Gain = Literal["exponential", "linear"]


def gains(relevance: Float[np.ndarray, "m"], gain: Gain = "exponential") -> Float[np.ndarray, "m"]:
    r"""What a row of each relevance is worth: \(2^r - 1\), or \(r\). Raises `SettingsError` for a negative one."""
    relevance = np.asarray(relevance, np.float64)
    if gain not in ("exponential", "linear"):
        raise SettingsError(f"the gain is exponential or linear, not {gain!r}")
    if relevance.size and not relevance.min() >= 0:
        raise SettingsError(
            f"relevance counts from 0, and the least here is {relevance.min():g}: subtract the least of all"
        )
    return np.exp2(relevance) - 1 if gain == "exponential" else relevance


def ndcg(
    scores: Float[np.ndarray, "m"],
    relevance: Float[np.ndarray, "m"],
    k: int | None = None,
    *,
    gain: Gain = "exponential",
) -> float:
    r"""\(\mathrm{DCG}@k = \sum_{i \le k} g(r_{\pi(i)}) / \log_2(1 + i)\) in the order of falling scores, over the
    largest that there can be; nan where nothing is relevant.

    Exponential gains are those of Burges et al. (2005) and LightGBM; scikit-learn's `ndcg_score` takes gains as they
    are given. Järvelin & Kekäläinen (2002), *Cumulated gain-based evaluation of IR techniques*; ties: McSherry &
    Najork (2008), *Computing information retrieval performance measures efficiently in the presence of tied scores*.
    """
    if k is not None and k < 1:
        raise SettingsError(f"NDCG is of at least one place, not {k}")
    worth = gains(relevance, gain)
    places = np.arange(len(worth))
    discount = np.where(places < (len(worth) if k is None else k), 1 / np.log2(places + 2), 0.0)
    ideal = float(np.sort(worth)[::-1] @ discount)
    return float(worth @ _shared(scores, discount)) / ideal if ideal > 0 else float("nan")


def average_precision(scores: Float[np.ndarray, "m"], relevant: Bool[np.ndarray, "m"]) -> float:
    r"""\(\frac1R \sum_{i\ relevant} \mathrm{precision}\) down to the place of i and those that tie with it; nan where
    nothing is relevant. MAP is its mean over lists."""
    relevant = np.asarray(relevant, bool)
    if not relevant.any():
        return float("nan")
    group = _falling(scores)
    hits, rows = np.cumsum(np.bincount(group, relevant)), np.cumsum(np.bincount(group))
    return float(np.mean((hits / rows)[group[relevant]]))


def mean_over_lists(values: Float[np.ndarray, "q"], empty: float | None = None) -> float:
    """The mean over lists; one that says nothing (nan) is left out, or counts as `empty`. LightGBM counts it as 1."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)] if empty is None else np.where(np.isnan(values), empty, values)
    return float(values.mean()) if len(values) else float("nan")


def _falling(scores: Float[np.ndarray, "m"]) -> np.ndarray:
    """Which of the different scores each is, the largest first."""
    return np.unique(-np.asarray(scores, np.float64), return_inverse=True)[1].reshape(-1)


def _shared(scores: Float[np.ndarray, "m"], discount: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
    """The discount of each row: the mean over the places that its score takes."""
    group = _falling(scores)
    return (np.bincount(group, discount[np.argsort(np.argsort(group, kind="stable"))]) / np.bincount(group))[
        group
    ]
