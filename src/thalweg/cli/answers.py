"""The questions about rows: energy, score, complete, denoise, predict, rank, explain, encode."""

from typing import Annotated

import typer

from thalweg.cli.app import Data, Force, Json, ModelPath, Out, Quiet, Seed, app
from thalweg.cli.arguments import command, refuse_existing
from thalweg.cli.output import Output
from thalweg.cli.stream import Answered, Asked, ask, piece_seed, present, shifted

Target = Annotated[
    str | None,
    typer.Option("--target", "-t", metavar="COL", help="The column to predict; any column can be."),
]


def _asked(name: str, model: str, data: str, out: str | None, force: bool, json: bool, quiet: bool) -> Asked:
    if out is not None:
        refuse_existing(out, force)
    return Asked(Output(name, json=json, quiet=quiet), model, data, out, force)


@app.command(epilog="Example:  [bold]thalweg energy wine-model wine --out energies.csv[/bold]")
def energy(
    model: ModelPath,
    data: Data,
    out: Out = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """How well each row fits: F(row), low where it does; in nats where the model is normalised."""
    asked = _asked("energy", model, data, out, force, json, quiet)

    def question(model, piece, start):
        import pyarrow as pa

        return pa.table({"energy": model.energy(piece)})

    present(asked, ask(asked, question), command("score", model, data))


@app.command(epilog="Example:  [bold]thalweg score wine-model new.csv --alpha 0.05 --out scores.csv[/bold]")
def score(
    model: ModelPath,
    data: Data,
    alpha: Annotated[
        float,
        typer.Option("--alpha", min=0, max=1, help="The rate of false alarms: flags p-values at most this."),
    ] = 0.01,
    out: Out = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Which rows are odd: energy, p-value against held-out rows, a flag at the false-alarm rate asked for."""
    asked = _asked("score", model, data, out, force, json, quiet)
    flagged = 0

    def question(model, piece, start):
        nonlocal flagged
        table = model.score(piece, alpha=alpha).to_table()
        flagged += sum(table.column("flag").to_pylist())
        return table

    answered = ask(asked, question)
    expected = alpha * answered.rows
    asked.output.note(
        f"{flagged:,} of {answered.rows:,} rows flagged at alpha {alpha:g}; "
        f"about {expected:,.1f} would be if every row were like the training rows"
    )
    present(asked, answered, command("explain", model, data, "--top", 3), alpha=alpha, flagged=flagged)


@app.command(epilog="Example:  [bold]thalweg complete wine-model holes.csv --out filled.csv[/bold]")
def complete(
    model: ModelPath,
    data: Data,
    n: Annotated[
        int, typer.Option("-n", min=1, help="1: the best guess; more: that many joint draws a row.")
    ] = 1,
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fill the missing cells: the best guess, or n joint draws of each row; cells that are there stay."""
    asked = _asked("complete", model, data, out, force, json, quiet)

    def question(model, piece, start):
        return model.complete(piece, n=n, seed=piece_seed(seed, start))

    answered = ask(asked, question)
    present(asked, answered, command("sample", model, "-n", 5), filled=_missing(answered, n), n=n)


def _missing(answered: Answered, n: int) -> dict[str, list[bool]]:
    """Which of the first answers' cells were missing, by column name."""
    if answered.head is None:
        return {}
    observed = answered.model.schema.encode(answered.piece).observed
    missing = (~observed).repeat(n, axis=0)[: answered.head.num_rows]
    return {name: missing[:, i].tolist() for i, name in enumerate(answered.model.schema.space.names)}


@app.command(
    epilog="Example:  [bold]thalweg denoise digits-model scans.csv --noise 0.2 --out clean.csv[/bold]"
)
def denoise(
    model: ModelPath,
    data: Data,
    noise: Annotated[
        float,
        typer.Option("--noise", min=0, help="The noise's deviation, as a fraction of each column's own."),
    ] = 0.1,
    out: Out = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The cleanest row near each noisy one: argmin of F plus the noise's own energy."""
    asked = _asked("denoise", model, data, out, force, json, quiet)
    answered = ask(asked, lambda model, piece, start: model.denoise(piece, noise=noise))
    present(asked, answered, command("explain", model, data, "--top", 3), noise=noise)


@app.command(
    epilog="Example:  [bold]thalweg predict wine-model new.csv --target class --out predicted.csv[/bold]"
)
def predict(
    model: ModelPath,
    data: Data,
    target: Target = None,
    draws: Annotated[
        int, typer.Option("--draws", min=0, metavar="N", help="Also N draws of the target.")
    ] = 0,
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """One column from the others: the value of least energy, with probabilities or quantiles."""
    asked = _asked("predict", model, data, out, force, json, quiet)

    def question(model, piece, start):
        answer = model.predict(piece, target=target, draws=draws, seed=piece_seed(seed, start))
        return answer.to_table()

    present(asked, ask(asked, question), command("explain", model, data, "--top", 3), target=target)


@app.command(epilog="Example:  [bold]thalweg rank wine-model open.csv candidates.csv[/bold]")
def rank(
    model: ModelPath,
    data: Data,
    candidates: Annotated[
        str,
        typer.Argument(metavar="CANDIDATES", help="The candidates: a table with the columns to be tried."),
    ],
    out: Out = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Which candidate fits each row best: the candidates ordered by energy."""
    asked = _asked("rank", model, data, out, force, json, quiet)
    from thalweg.data import load

    offered = load(candidates)
    answered = ask(asked, lambda model, piece, start: shifted(model.rank(piece, offered).to_table(), start))
    present(asked, answered, command("explain", model, data), candidates=candidates)


@app.command(epilog="Example:  [bold]thalweg explain wine-model odd.csv --top 3 --out why.csv[/bold]")
def explain(
    model: ModelPath,
    data: Data,
    top: Annotated[
        int, typer.Option("--top", min=0, metavar="N", help="The N cells of a row that release most; 0: all.")
    ] = 3,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Also pairs of cells, re-inferred together.")
    ] = False,
    out: Out = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Which cell is wrong and what it should be: the energy each would release if it were inferred anew."""
    asked = _asked("explain", model, data, out, force, json, quiet)

    def question(model, piece, start):
        return shifted(model.explain(piece, pairs=pairs).to_table(top=top or None), start)

    present(asked, ask(asked, question), command("complete", model, data), top=top, pairs=pairs)


@app.command(epilog="Example:  [bold]thalweg encode wine-model wine --out codes.parquet[/bold]")
def encode(
    model: ModelPath,
    data: Data,
    out: Out = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The latent z of each row: a code, or the probabilities of a discrete one."""
    asked = _asked("encode", model, data, out, force, json, quiet)
    answered = ask(asked, lambda model, piece, start: model.encode(piece).to_table())
    present(asked, answered, command("report", model, data))
