"""Writes the table of docs/recipes.md from the recipes; a test says whether it is up to date.

python benchmarks/recipes_table.py
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rcnn.training.recipes import RECIPES, Recipe

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"
BEGIN, END = "<!-- table: written by benchmarks/recipes_table.py -->\n", "<!-- end of the table -->\n"


def table() -> str:
    """A table per system, with the published results, and below it the sources."""
    systems: dict[str, list[Recipe]] = {}
    for recipe in RECIPES.values():
        systems.setdefault(recipe.name.partition("/")[0], []).append(recipe)
    return "\n".join(_table(system, recipes) for system, recipes in systems.items())


def _table(system: str, recipes: list[Recipe]) -> str:
    lines = [
        f"### {system}",
        "",
        "| recipe | model | box | mask | keypoints | AR | hours | hardware |",
        "|---" * 8 + "|",
    ]
    for recipe in recipes:
        scores = [str(score or "-") for score in (recipe.box, recipe.mask, recipe.keypoints, recipe.recall)]
        cells = (
            f"`{recipe.name}`",
            f"`{' '.join(recipe.network)}`",
            *scores,
            f"{recipe.hours or '-'}",
            recipe.hardware or "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"Source: {source}." for source in dict.fromkeys(recipe.source for recipe in recipes))]
    lines += ["", "Where rcnn differs:", "", *differences] if (differences := list(_differences(recipes))) else []
    return "\n".join([*lines, ""])


def _differences(recipes: Sequence[Recipe]) -> Iterator[str]:
    """A list item for each difference, with the recipes that have it. One text may begin with that of other recipes."""
    names: dict[str, list[str]] = {}
    texts = sorted({recipe.differs for recipe in recipes if recipe.differs})
    for recipe in recipes:
        start = next((text for text in texts if recipe.differs.startswith(f"{text}; ")), "")
        for part in filter(None, (start, recipe.differs.removeprefix(f"{start}; "))):
            names.setdefault(part, []).append(f"`{recipe.name.partition('/')[2]}`")
    for part, those in names.items():
        who = "All" if len(those) == len(recipes) > 1 else ", ".join(those)
        yield f"- {who}: {part}."


def updated(text: str) -> str:
    """`text` of the page with the current table."""
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: BEGIN + table() + END, text, flags=re.DOTALL)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
