"""The part about the chains that draw from a model: how they mixed, and whether to trust them."""

from typing import Any

import numpy as np

from thalweg.energy.base import AbstractDensity
from thalweg.energy.capabilities import AbstractBlurred, AbstractConditional
from thalweg.questions.chains import Mixing, mixing
from thalweg.report import figures
from thalweg.report.html import LeftOut, Section, escape, facts, figure, number, table
from thalweg.report.style import svg

#: How many columns are listed, those first on which chains agree least.
LISTED = 5


def chains(model: Any) -> Section | LeftOut:
    """The energies of a few chains, R-hat and effective sample sizes, and what they say about draws."""
    if isinstance(model.F, AbstractDensity):
        return LeftOut("Chains", "its draws are exact and need none")
    if isinstance(model.F, AbstractConditional):
        return LeftOut("Chains", "its draws, of answers to what it is given, need none")
    found = mixing(model._walker)
    count = len(found.chains.energies)
    reading = f"{count} chains of {number(found.steps)} steps, as every draw is the end of one; " + (
        "each starts where the energy led it, from noise, and stays near: R-hat, which compares chains, says nothing "
        "of them."
        if found.led
        else "each starts at cells of held-out rows, each column's from a row of its own. Chains that mix lie on one "
        "another, and none keeps to a level of its own."
    )
    body = _complaints(found) + _columns(model, found) + facts(_facts(found))
    return Section("chains", "Chains", verdict(found), reading, body, figure(_traces(model, found)))


def verdict(found: Mixing) -> str:
    """One sentence: whether draws can be trusted, and means over them."""
    if found.complaints:
        return "Do not trust these draws yet"
    if found.led:
        return "Each chain was led to a place of its own: look at the draws, for nothing here tells how good they are"
    if found.settled.complaints():
        return "Each draw can be trusted, means over the steps of so few chains not yet"
    return "The chains agree: draws can be trusted, and means over them"


def _facts(found: Mixing) -> dict[str, Any]:
    settled = found.settled
    pairs = {
        "R-hat": f"{np.nanmax(settled.r_hat):.2f} at most" if np.isfinite(settled.r_hat).any() else None,
        "bulk ESS": f"{np.nanmin(settled.bulk_ess):.0f} of {settled.energies.size} draws at least",
        "acceptance": f"{100 * np.nanmean(settled.acceptance):.0f} %",
        "flew apart": f"{int(found.chains.divergences.sum())} steps",
    }
    return {name: value for name, value in pairs.items() if value is not None}


def _complaints(found: Mixing) -> str:
    """What is wrong, and what would help: about draws, or where those are well about means."""
    lines = found.complaints or ([] if found.led else found.settled.complaints())
    return "".join(f'<p class="reading">{escape(line)}</p>' for line in lines)


def _columns(model: Any, found: Mixing) -> str:
    """The columns on which the chains agree least."""
    settled, names = found.settled, model.schema.space.names
    order = np.argsort(-np.nan_to_num(settled.r_hat, nan=0.0), kind="stable")[:LISTED]
    headings = ("column", "R-hat", "bulk ESS", "tail ESS")
    rows = [
        (names[i], f"{settled.r_hat[i]:.3f}", f"{settled.bulk_ess[i]:.0f}", f"{settled.tail_ess[i]:.0f}")
        for i in order
    ]
    return table(headings, rows, numeric=headings[1:])


def _traces(model: Any, found: Mixing) -> str:
    steps = found.chains.thin * np.arange(1, found.chains.energies.shape[1] + 1)
    forgotten = int(steps[-1]) - found.settled.thin * found.settled.energies.shape[1]
    drawn = figures.energy_traces(steps, found.chains.energies, forgotten, _usual(model))
    return svg(drawn, "chains", "Energy of each chain against its steps")


def _usual(model: Any) -> tuple[float, float] | None:
    """Between which energies 90 % of the held-out rows lie; of noisy rows, as these chains are, it is not known."""
    energies = np.asarray(model.evidence.get("energies", {}).get("held-out", ()), float)
    if isinstance(model.F, AbstractBlurred) or not np.isfinite(energies).any():
        return None
    low, high = np.quantile(energies[np.isfinite(energies)], [0.05, 0.95])
    return float(low), float(high)
