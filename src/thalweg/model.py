"""`Model`: a fitted energy with its schema and calibration, and one method a question."""

import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

import equinox as eqx
import jax
import numpy as np
import pyarrow as pa

from thalweg import data
from thalweg.data.boxes import Boxes
from thalweg.data.dataset import Dataset
from thalweg.data.pictures import open_pictures
from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.energy.base import AbstractDensity, AbstractEnergy
from thalweg.energy.capabilities import AbstractConditional, AbstractScored, AbstractSequential
from thalweg.errors import SchemaError
from thalweg.questions import chains
from thalweg.questions import complete as completing
from thalweg.questions import denoise as denoising
from thalweg.questions import detect as finding
from thalweg.questions import encode as encoding
from thalweg.questions import energy as measuring
from thalweg.questions import explain as explaining
from thalweg.questions import given as conditioning
from thalweg.questions import label as labelling
from thalweg.questions import modes as all_modes
from thalweg.questions import predict as predicting
from thalweg.questions import rank as ranking
from thalweg.questions import retrieve as retrieving
from thalweg.questions import sample as sampling
from thalweg.questions import score as scoring
from thalweg.questions import walk as walking
from thalweg.questions.records import Codes, Explanation, Labels, Order, Prediction, Ranking, Scores


@dataclass(frozen=True)
class Calibration:
    """Rows that training never saw, their energies in codes and how odd they are, in terms of what is `usual`."""

    rows: Rows
    energies: np.ndarray
    surprises: np.ndarray
    usual: np.ndarray


@dataclass(frozen=True)
class Model:
    """A fitted energy that answers questions about rows.

    `F` is the energy over `schema.space`; `card` says where it came from; `history` is the curve of its training;
    `evidence` holds energies of train, held-out and noise rows for the report. `rows` in every question is
    anything that `thalweg.data.load` reads; answers that are rows come back as the same kind of thing.
    """

    F: AbstractEnergy
    recipe: str
    settings: dict[str, Any]
    schema: Schema
    calibration: Calibration
    card: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    evidence: dict[str, Any] = field(default_factory=dict)

    # --- how well do rows fit -----------------------------------------------------------------------------------

    def energy(self, rows: Any) -> np.ndarray:
        r"""\(F\) of each row, float64 (n,): \(-\log p\) in nats and the data's own units for a normalised model.

        A row with missing cells has the energy of its observed part.
        """
        return self._energies(self._encode(rows)[1])

    def score(self, rows: Any, alpha: float = 0.01) -> Scores:
        """How anomalous each row is: energy, surprise, its conformal p-value, a flag at false-alarm rate `alpha`."""
        conditioning.check_usual(self.F)
        _, encoded = self._encode(rows)
        scoring.check_alpha(alpha, len(self.calibration.energies))
        energies = self._code_energies(encoded)
        surprise = scoring.surprises(self.F, energies, encoded, self.calibration.usual)
        p_values, limits = scoring.judge(surprise, encoded, self._surprises, self.calibration, alpha)
        return Scores(self._in_units(energies, encoded), surprise, p_values, p_values <= alpha, alpha, limits)

    def compare(self, a: Any, b: Any) -> np.ndarray:
        r"""\(\log p(a_i)/p(b_i) = F(b_i) - F(a_i)\) for each pair of rows, in nats; no partition function needed."""
        left, right = self.energy(a), self.energy(b)
        if len(left) != len(right):
            raise SchemaError(f"compare needs rows in pairs: {len(left)} and {len(right)} were given")
        return right - left

    # --- what is missing, what is right -------------------------------------------------------------------------

    def complete(self, rows: Any, n: int = 1, *, seed: int = 0, steps: int | None = None) -> Any:
        """The rows with their missing cells filled: the best guess (n=1), or `n` joint draws of each row in turn.

        The best guess of a number is its conditional mean, of a category its most probable value. Where chains
        answer, each takes so many `steps` (None: what is usual), and `ChainWarning` says when they were too few.
        """
        dataset, encoded = self._encode(rows)
        conditioning.check_inputs(self.F, encoded, dataset.first_row)
        if n == 1:
            filled = completing.best_guess(self.F, encoded, self._walker, steps)
            filled = conditioning.emptied(self.F, filled, encoded.observed)
            return dataset.restore(self.schema.decode(filled, observed=encoded.observed, like=dataset.table))
        drawn = completing.draws(self.F, encoded, n, seed, self._walker, steps)
        repeated = np.repeat(np.arange(len(encoded)), n)
        observed = encoded.observed[repeated]
        drawn = conditioning.emptied(self.F, drawn, observed)
        table = self.schema.decode(drawn, observed=observed, like=dataset.table.take(repeated))
        return dataset.restore(table)

    def denoise(self, rows: Any, noise: float | Mapping[str, float] = 0.1) -> Any:
        r"""The rows that best explain noisy ones: \(\arg\min_{y'} F(y') - \log p(y \mid y')\).

        `noise` is the deviation of the noise as a share of each column's own deviation, for all columns or by
        column name; for a category it is the probability that it was replaced by another. Missing cells stay missing.
        """
        conditioning.check_whole(self.F, "denoise")
        dataset, encoded = self._encode(rows)
        levels = denoising.noise_levels(self.schema, noise)
        clean = denoising.denoise(self.F, encoded, levels, self.schema, self._start)
        return dataset.restore(self.schema.decode(np.where(encoded.observed, clean, np.nan)))

    def sample(
        self,
        n: int = 1,
        given: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        steps: int | None = None,
    ) -> Any:
        """`n` new rows, as a `pyarrow.Table`; conditionally where `given` maps columns to values.

        Where chains answer, each row is the end of one of so many `steps` (None: what is usual), and `ChainWarning`
        says when they were too few.
        """
        context = None
        if given:
            for name in given:
                self.schema.index(name)
            dataset = data.load({name: [value] for name, value in given.items()})
            context = self.schema.encode(dataset.table, partial=True)
        conditioning.check_inputs(self.F, context)
        return self.schema.decode(sampling.draw(self.F, n, context, seed, self._walker, steps))

    def predict(
        self,
        rows: Any,
        target: str | None = None,
        *,
        draws: int = 0,
        modes: bool = False,
        seed: int = 0,
        steps: int | None = None,
    ) -> Prediction:
        """The value of least energy of one column, given the others, with probabilities or quantiles.

        Any column can be the target; by default the one named when fitting. What the rows say there is not read. With
        `modes` also all other minima, with their energies and probabilities. `steps` are those of the chains that draw
        what is missing elsewhere, where the energy needs whole rows.
        """
        encoded, index = self._without_target(rows, target)
        answer = predicting.predict(
            self.F, encoded, index, self.schema, draws, seed, self._candidates, self._walker, steps
        )
        if not modes:
            return answer
        found = all_modes.modes(
            self.F, encoded, index, self.schema, self._candidates, self._walker, self._energies, steps
        )
        return replace(answer, modes=found)

    def label(self, rows: Any, *, k: int = 1, anew: bool = False) -> Labels:
        """The labels of sequences of rows: the `k` labellings of least energy of each, and every label's probability.

        Labels that the rows have already are held, and the answer says which; with `anew` none is read.
        """
        _, encoded = self._encode(rows)
        return labelling.label(self.F, encoded, self.schema, k, anew)

    def mean(self, rows: Any, target: str | None = None, *, steps: int | None = None) -> np.ndarray:
        """The mean of a column of numbers given the others, float64 (n,): `predict(…).mean` and no more work.

        Raises `SettingsError` for a category.
        """
        encoded, index = self._without_target(rows, target)
        return predicting.mean(self.F, encoded, index, self.schema, self._candidates, self._walker, steps)

    @overload
    def rank(self, rows: Any, candidates: None = None) -> Order: ...
    @overload
    def rank(self, rows: Any, candidates: Any) -> Ranking: ...
    def rank(self, rows: Any, candidates: Any = None) -> Ranking | Order:
        """For each row, the candidates from lowest to highest energy when their cells are put into it.

        `rows=None` ranks the candidates by themselves. Without `candidates` the rows are put in order: those of each
        query where the model knows the column of queries and the rows have it, else all.
        """
        if candidates is None:
            dataset, encoded = self._encode(rows, partial=True)
            query = dataset.table[self._query] if self._query in dataset.table.column_names else None
            return ranking.order(self._energies(encoded), query)
        _, options = self._encode(candidates, partial=True)
        context = None if rows is None else self._encode(rows, partial=True)[1]
        return ranking.rank(context, options, self._energies)

    def retrieve(
        self,
        rows: Any,
        among: Any = None,
        k: int = 10,
        *,
        method: retrieving.Method = "exact",
    ) -> Ranking:
        """For each row, the `k` of `among` that belong to it best, from lowest to highest energy of the pair.

        `among` are rows, or an `index` of them. Of a model of two sides they are of the side that `rows` are not of;
        None: the rows themselves, without each row itself where like is compared with like. `method` "hnsw" looks at
        few of many (`pip install thalweg[retrieval]`), and may miss some.
        """
        F = retrieving.embedded(self.F)
        _, encoded = self._encode(rows, partial=True)
        side = retrieving.side_of(F, encoded)
        if isinstance(among, retrieving.Index):
            return retrieving.retrieve(F, encoded, among, k)
        others = encoded if among is None else self._encode(among, partial=True)[1]
        candidates = retrieving.index(F, others, retrieving.side_of(F, others, side), method)
        apart = among is None and F.sides[0] == F.sides[1]
        return retrieving.retrieve(F, encoded, candidates, k, apart=apart)

    def index(
        self, among: Any, *, side: int = 1, partners_of: Any = None, method: retrieving.Method = "exact"
    ) -> retrieving.Index:
        """The candidates of `retrieve`, embedded once for many calls.

        Of two sides they are the second, or `side` 0, or the one that the rows `partners_of` are not of.
        """
        F = retrieving.embedded(self.F)
        _, encoded = self._encode(among, partial=True)
        if partners_of is not None:
            side = 1 - retrieving.side_of(F, self._encode(partners_of, partial=True)[1])
        return retrieving.index(F, encoded, retrieving.side_of(F, encoded, 1 - side), method)

    def explain(self, rows: Any, *, pairs: bool = False) -> Explanation:
        """Which cell is wrong and what it should be: the energy that each would release if it were re-inferred.

        `pairs` adds the same for pairs among each row's eight worst cells.
        """
        _, encoded = self._encode(rows)
        energies = self._energies(encoded)
        return explaining.explain(
            self.F, encoded, energies, self.schema, self._candidates, self._start, pairs
        )

    def encode(self, rows: Any) -> Codes:
        """The latent z of each row, for a model that has one."""
        return encoding.encode(self.F, self._encode(rows)[1])

    def walk(self, rows: Any, n: int = 9) -> pa.Table:
        """The answers that the latent of a conditional model gives as it goes through its range, `n` values along each
        coordinate of z (all of a discrete one): which `row`, z, and the predicted columns.

        Raises `NotAnswered` for a model without such a latent.
        """
        _, encoded = self._encode(rows, partial=True)
        row, codes, z = walking.walk(self.F, encoded, n)
        table = self.schema.decode(codes)
        latent = {f"z{k}": column for k, column in enumerate(z.T)}
        assert isinstance(self.F, AbstractConditional)
        names = [self.schema.space.names[i] for i in self.F.answers]
        return pa.table({"row": row} | latent | {name: table[name] for name in names})

    def detect(self, pictures: Any, **search: Any) -> Boxes:
        """What is where in pictures of any size: boxes with a label, an energy and a probability, for a `detector`.

        `pictures` are a folder, a file, an array (n, height, width) or (n, height, width, channels), or a list of
        arrays; the keywords are those of `thalweg.questions.detect.WindowSearch`: `threshold`, `overlap`, `smallest`,
        `largest`, `step`. Raises `NotAnswered` for another energy, `DataError` for pictures that cannot be searched.
        """
        finding.check(self.F)
        shown = open_pictures(pictures, self.channels)
        labels, shades = finding.labels_of(self.F, self.schema), finding.shades_of(self.schema)
        return finding.detect(self.F, shown, labels, finding.WindowSearch(**search), shades)

    @property
    def channels(self) -> int | None:
        """The channels of the pictures that the model looks at; None for a table."""
        return (*self.schema.grid, 1)[2] if self.schema.grid else None

    # --- keeping and showing ------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write a model directory; refuses an existing one unless `force`."""
        from thalweg.persist import save

        return save(self, path, force=force)

    def report(self, path: str | Path = "report.html", data: Any = None, *, force: bool = False) -> Path:
        """Write one self-contained HTML page about this model and, if given, about `data`."""
        from thalweg.report.page import write_report

        return write_report(self, Path(path), None if data is None else load_rows(data), force=force)

    def __repr__(self) -> str:
        rows = f"{self.schema.rows:,} rows × {len(self.schema.columns)} columns"
        return f"Model({self.recipe!r}, {self.card.get('data', 'data')!r}: {rows})"

    # --- rows and codes -----------------------------------------------------------------------------------------

    @property
    def _query(self) -> str | None:
        """The column that says which rows are ranked together, where the energy compares no others."""
        place = self.F.query if isinstance(self.F, AbstractScored) else None
        return None if place is None else self.schema.space.names[place]

    def _encode(
        self, rows: Any, *, partial: bool | Collection[str] = False, without: str | None = None
    ) -> tuple[Dataset, Rows]:
        dataset = load_rows(rows)
        table = dataset.table
        if without in table.column_names:
            table = table.drop_columns([without])
        sequence = self.schema.sequence
        if isinstance(self.F, AbstractSequential) and sequence not in table.column_names:
            raise SchemaError(
                f"{dataset.where} has no column {sequence!r}, which says which rows belong together: add it (one value "
                "for all rows of one sequence)"
            )
        # What an energy given the inputs says nothing about costs nothing: an unknown category among them is missing.
        counted = self.F.answers if isinstance(self.F, AbstractConditional) else None
        # New queries have new names.
        unread = () if self._query is None else (self._query,)
        rows = self.schema.encode(
            table,
            first_row=dataset.first_row,
            partial=partial,
            name=dataset.where,
            counted=counted,
            unread=unread,
        )
        return dataset, rows

    def _without_target(self, rows: Any, target: str | None) -> tuple[Rows, int]:
        """The rows without their target, and its place in the space."""
        name = target or self.schema.target
        if name is None:
            raise SchemaError(
                "predict needs a target: name one of " + ", ".join(self.schema.space.names[:20])
            )
        index = self.schema.index(name)
        conditioning.check_answer(self.F, index)
        others = self.F.answers if isinstance(self.F, AbstractConditional) else ()
        unasked = {name, *(self.schema.space.names[i] for i in others)}
        return self._encode(rows, partial=unasked, without=name)[1], index

    def _energies(self, rows: Rows) -> np.ndarray:
        """Energies in the user's units."""
        return self._in_units(self._code_energies(rows), rows)

    def _in_units(self, energies: np.ndarray, rows: Rows) -> np.ndarray:
        """Energies in codes as energies in the user's units."""
        if isinstance(self.F, AbstractConditional):
            answered = np.isin(np.arange(rows.observed.shape[1]), self.F.answers)
            return energies + self.schema.log_units(rows.observed & answered)
        is_density = isinstance(self.F, AbstractDensity)
        return energies + self.schema.log_units(rows.observed) if is_density else energies

    def _code_energies(self, rows: Rows) -> np.ndarray:
        """Energies in codes; a category never seen costs what the rule of succession says, log(n + 1)."""
        surprise = np.log(self.schema.rows + 1.0)
        return measuring.energies(self.F, rows, self._candidates, self._start) + surprise * rows.unseen

    def _surprises(self, rows: Rows) -> np.ndarray:
        """How odd rows are, as `score` sees it."""
        return scoring.surprises(self.F, self._code_energies(rows), rows, self.calibration.usual)

    def _candidates(self, index: int) -> np.ndarray:
        return self.schema.candidates(index)

    @cached_property
    def _walker(self) -> chains.Walker:
        """How chains go that answer for an energy which cannot draw from itself; tuned when first used."""
        return chains.Walker(self.F, self.calibration.rows)

    @property
    def _start(self) -> np.ndarray:
        """A typical row, from which missing cells are inferred."""
        columns = self.schema.space.columns
        return np.array([0.0 if c.kind == "categorical" else c.center for c in columns], np.float32)


def load_rows(rows: Any) -> Dataset:
    return rows if isinstance(rows, Dataset) else data.load(rows)


def origin(energies: Any) -> dict[str, Any]:
    """What every card says of how a model came to be: versions, time, and how many parameters the energies have."""
    packages = ("thalweg", "jax", "jaxlib", "equinox", "optax", "numpy")
    arrays = jax.tree.leaves(eqx.filter(energies, eqx.is_inexact_array))
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": sum(leaf.size for leaf in arrays),
    }
