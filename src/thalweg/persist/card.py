"""`README.md`: the model card, for people who open the directory."""

import re
from typing import Any

from thalweg.model import Model
from thalweg.models import RECIPES
from thalweg.models.combined import COMBINED, read_parts
from thalweg.questions import methods

#: Columns and settings that the card lists one by one.
MOST_LISTED = 60


def write_card(model: Model) -> bytes:
    """What the model is, how to ask it, and what each question's method is; UTF-8."""
    parts = (_title, _facts, _usage, _questions, _settings, _columns)
    return ("\n\n".join(part(model) for part in parts) + "\n").encode("utf-8", errors="replace")


def _title(model: Model) -> str:
    return (
        f"# {_cell(model.card.get('data', 'data'))}: {_cell(model.recipe)}\n\n"
        "One energy F(y), low for rows like those it was fitted to, written by Thalweg."
    )


def _facts(model: Model) -> str:
    card, schema = model.card, model.schema
    energies = model.calibration.energies
    recipe, members = RECIPES.get(model.recipe), model.card.get("members")
    facts = {
        "data": card.get("data"),
        "rows": f"{schema.rows:,}",
        "columns": f"{len(schema.columns):,}",
        "target": schema.target,
        "recipe": f"{recipe.name}: {recipe.title} ({recipe.code})" if recipe else _unnamed(model),
        "members": members,
        "energy": f"`{_formula(model)}`",
        "paper": recipe.paper if recipe else card.get("paper") if members else None,
        "fit": card.get("status"),
        "seed": card.get("seed"),
        "seconds": card.get("seconds"),
        "created": card.get("created"),
        "held-out rows": f"{len(energies):,}",
        "their mean energy, in codes": f"{energies.mean():.4g}" if len(energies) else None,
    }
    return _table(("fact", "value"), {key: value for key, value in facts.items() if value is not None})


def _usage(model: Model) -> str:
    own = ", energy=…" if has_own_energy(model) else ""
    lines = [
        "## How to ask it",
        "",
        "```python",
        "import thalweg",
        "",
        f'model = thalweg.load("this-directory"{own})',
        'model.score("rows.csv")',
        "```",
    ]
    if not own:
        lines += ["", "```console", "$ thalweg score this-directory rows.csv", "```"]
    return "\n".join(lines)


def _questions(model: Model) -> str:
    answers = {name: how or "not answered" for name, how in methods(type(model.F)).items()}
    return "## Questions\n\n" + _table(("question", "method"), answers)


def has_own_energy(model: Model) -> bool:
    """Whether loading the model takes code that is not in its directory."""
    if model.recipe != COMBINED:
        return model.recipe not in RECIPES
    return any(part.recipe not in RECIPES for part in read_parts(model.settings))


def _formula(model: Model) -> str:
    recipe = RECIPES.get(model.recipe)
    if recipe is not None:
        return recipe.formula
    return str(model.card.get("formula")) if model.recipe == COMBINED else type(model.F).__qualname__


def _unnamed(model: Model) -> str:
    return "a sum of energies" if model.recipe == COMBINED else "a user's own energy"


def _settings(model: Model) -> str:
    if model.recipe == COMBINED:
        parts = read_parts(model.settings)
        return "## Parts\n\n" + _table(
            ("part", "weight and settings"),
            {f"{i}: {part.recipe}": f"{part.weight:g}; {part.settings}" for i, part in enumerate(parts)},
        )
    return "## Settings\n\n" + (_table(("setting", "value"), model.settings) if model.settings else "none")


def _columns(model: Model) -> str:
    columns = model.schema.columns
    listed = {column.name: column.kind for column in columns[:MOST_LISTED]}
    more = f"\n\nand {len(columns) - MOST_LISTED:,} more" if len(columns) > MOST_LISTED else ""
    return "## Columns\n\n" + _table(("column", "kind"), listed) + more


def _table(heads: tuple[str, str], rows: dict[str, Any]) -> str:
    body = [f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join([f"| {heads[0]} | {heads[1]} |", "|---|---|", *body])


def _cell(value: Any) -> str:
    """Text that cannot break out of its line or its cell, nor become markup."""
    text = re.sub(r"\s+", " ", str(value))[:300]
    return re.sub(r"([|<>])", r"\\\1", text)
