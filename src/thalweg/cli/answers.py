"""The questions about rows: energy, score, complete, denoise, predict, label, rank, retrieve, explain, encode."""

from typing import Annotated

import typer

from thalweg.cli.app import Seed, Steps
from thalweg.cli.rows import about_rows
from thalweg.cli.stream import Answered, Asked, ask, present


@about_rows(epilog="Example:  [bold]thalweg energy wine-model wine --out energies.csv[/bold]")
def energy(asked: Asked) -> None:
    """How well each row fits: F(row), low where it does; in nats where the model is normalised."""
    present(asked, ask(asked, "energy"))


@about_rows(epilog="Example:  [bold]thalweg score wine-model new.csv --alpha 0.05 --out scores.csv[/bold]")
def score(
    asked: Asked,
    alpha: Annotated[
        float,
        typer.Option("--alpha", min=0, max=1, help="The rate of false alarms: flags p-values at most this."),
    ] = 0.01,
) -> None:
    """Which rows are odd: energy, p-value against held-out rows, a flag at the false-alarm rate asked for."""
    flagged = 0

    def count(table):
        nonlocal flagged
        flagged += sum(table.column("flag").to_pylist())

    answered = ask(asked, "score", watch=count, alpha=alpha)
    if answered.rows and _can_flag(answered, alpha):
        expected = alpha * answered.rows
        asked.output.note(
            f"{flagged:,} of {answered.rows:,} rows flagged at alpha {alpha:g}; "
            f"about {expected:,.1f} would be if every row were like the training rows"
        )
    present(asked, answered, alpha=alpha, flagged=flagged)


def _can_flag(answered: Answered, alpha: float) -> bool:
    """Whether any row could be flagged; where none could, a warning has said so."""
    from thalweg.questions.score import least_p_value

    return alpha >= least_p_value(len(answered.model.calibration.energies))


@about_rows(epilog="Example:  [bold]thalweg complete wine-model holes.csv --out filled.csv[/bold]")
def complete(
    asked: Asked,
    n: Annotated[
        int, typer.Option("-n", min=1, help="1: the best guess; more: that many joint draws a row.")
    ] = 1,
    seed: Seed = 0,
    steps: Steps = None,
) -> None:
    """Fill the missing cells: the best guess, or n joint draws of each row; cells that are there stay."""
    answered = ask(asked, "complete", n=n, seed=seed, steps=steps)
    present(asked, answered, filled=_missing(answered, n), n=n)


def _missing(answered: Answered, n: int) -> dict[str, list[bool]]:
    """Which of the first answers' cells were missing, by column name."""
    if answered.head is None or not answered.head.num_rows:
        return {}
    observed = answered.model.schema.encode(answered.piece).observed
    missing = (~observed).repeat(n, axis=0)[: answered.head.num_rows]
    return {name: missing[:, i].tolist() for i, name in enumerate(answered.model.schema.space.names)}


@about_rows(
    epilog="Example:  [bold]thalweg denoise digits-model scans.csv --noise 0.2 --out clean.csv[/bold]"
)
def denoise(
    asked: Asked,
    noise: Annotated[
        float,
        typer.Option("--noise", min=0, help="The noise's deviation, as a fraction of each column's own."),
    ] = 0.1,
) -> None:
    """The cleanest row near each noisy one: argmin of F plus the noise's own energy."""
    present(asked, ask(asked, "denoise", noise=noise), noise=noise)


@about_rows(
    epilog="Example:  [bold]thalweg predict wine-model new.csv --target target --out predicted.csv[/bold]"
)
def predict(
    asked: Asked,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", metavar="COL", help="The column to predict; any column can be."),
    ] = None,
    draws: Annotated[
        int, typer.Option("--draws", min=0, metavar="N", help="Also N draws of the target.")
    ] = 0,
    modes: Annotated[
        bool,
        typer.Option("--modes", help="All answers instead, a line each: every minimum, how probable it is."),
    ] = False,
    seed: Seed = 0,
    steps: Steps = None,
) -> None:
    """One column from the others: the value of least energy, with probabilities or quantiles."""
    answered = ask(asked, "predict", target=target, draws=draws, modes=modes, seed=seed, steps=steps)
    if target is None and answered.model is not None:
        target = answered.model.schema.target
    present(asked, answered, target=target)


@about_rows(epilog="Example:  [bold]thalweg label tagger new.conll -k 3 --out labels.csv[/bold]")
def label(
    asked: Asked,
    k: Annotated[int, typer.Option("-k", min=1, help="How many labellings of each sequence.")] = 1,
    anew: Annotated[
        bool, typer.Option("--anew", help="Label every row; otherwise labels that DATA has are held.")
    ] = False,
) -> None:
    """The labels of sequences of rows: those of least energy together, with every label's probability."""
    held = 0

    def count(table):
        nonlocal held
        held += sum(table.column("held").to_pylist())

    answered = ask(asked, "label", watch=count, k=k, anew=anew)
    if held:
        asked.output.note(
            f"{held:,} of {answered.rows:,} labels were held as {asked.data} has them; --anew labels every row"
        )
    present(asked, answered, k=k, anew=anew, held=held)


@about_rows(epilog="Example:  [bold]thalweg rank wine-model open.csv candidates.csv[/bold]")
def rank(
    asked: Asked,
    candidates: Annotated[
        str | None,
        typer.Argument(
            metavar="[CANDIDATES]",
            help="A table with the columns to be tried in each row. Without it the rows are put in order.",
        ),
    ] = None,
) -> None:
    """Which candidate fits each row best, or which row comes first: by energy, of a ranker in each query."""
    from thalweg.data import load

    answered = ask(asked, "rank", candidates=None if candidates is None else load(candidates))
    present(asked, answered, candidates=candidates)


@about_rows(epilog="Example:  [bold]thalweg retrieve faces-model new.npy known.npy -k 3[/bold]")
def retrieve(
    asked: Asked,
    among: Annotated[
        str | None,
        typer.Argument(
            metavar="[AMONG]",
            help="The rows among which partners are looked for. Without it DATA itself: of siamese the other rows, of "
            "two-tower the other sides.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many partners of each row.")] = 10,
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate", help="By a graph of neighbours, which may miss some (needs faiss-cpu)."
        ),
    ] = False,
) -> None:
    """Which of many rows belong to each: the partners of least energy, for siamese and two-tower."""
    from thalweg.data import load

    answered = ask(
        asked, "retrieve", among=None if among is None else load(among), k=k, approximate=approximate
    )
    present(asked, answered, among=among, k=k, approximate=approximate)


@about_rows(epilog="Example:  [bold]thalweg explain wine-model odd.csv --top 3 --out why.csv[/bold]")
def explain(
    asked: Asked,
    top: Annotated[
        int, typer.Option("--top", min=0, metavar="N", help="The N cells of a row that release most; 0: all.")
    ] = 3,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Also pairs of cells, re-inferred together.")
    ] = False,
) -> None:
    """Which cell is wrong and what it should be: the energy each would release if it were inferred anew."""
    answered = ask(asked, "explain", top=top, pairs=pairs)
    first = ("row", "columns" if pairs else "column", "suggestion", "value", "release")
    present(asked, answered, first=first, top=top, pairs=pairs)


@about_rows(epilog="Example:  [bold]thalweg encode wine-model wine --out codes.parquet[/bold]")
def encode(asked: Asked) -> None:
    """The latent z of each row: a code, or the probabilities of a discrete one."""
    present(asked, ask(asked, "encode"))
