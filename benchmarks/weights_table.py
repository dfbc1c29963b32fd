"""Writes the tables of docs/weights.md from the catalogue; a test says whether they are up to date.

python benchmarks/weights_table.py
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rcnn.weights.catalogue.entry import Entry
from rcnn.weights.catalogue.names import entries

PAGE = Path(__file__).resolve().parents[1] / "docs" / "weights.md"
BEGIN, END = "<!-- tables: written by benchmarks/weights_table.py -->\n", "<!-- end of the tables -->\n"


def tables() -> str:
    """A table per publisher: name, link, training data, AP; its licence and the source of the facts above it."""
    publishers: dict[tuple[str, str, str, str], list[Entry]] = {}
    for entry in entries().values():
        publishers.setdefault((entry.system, entry.kind, entry.licence, entry.seen), []).append(entry)
    return "\n".join(_table(*key, found) for key, found in publishers.items())


def _table(system: str, kind: str, licence: str, seen: str, found: list[Entry]) -> str:
    title = f"### {system}{', ImageNet backbones' if kind == 'backbone' else ''}"
    head = [title, "", f"Licence of the files: {licence}. Facts from {seen}.", ""]
    if kind == "backbone":
        rows = ["| name | digest |", "|---|---|"]
        rows += [f"| {_link(entry)} | {entry.digest or '-'} |" for entry in found]
    else:
        rows = ["| name | trained on | box | mask | keypoints | digest |", "|---|---|---|---|---|---|"]
        for entry in found:
            scores = " | ".join("-" if ap is None else f"{ap}" for ap in (entry.box, entry.mask, entry.keypoints))
            rows.append(f"| {_link(entry)} | {entry.data} | {scores} | {entry.digest or '-'} |")
    return "\n".join([*head, *rows, ""])


def _link(entry: Entry) -> str:
    return f"`{entry.name}`" if entry.package else f"[`{entry.name}`]({entry.url})"


def updated(text: str) -> str:
    """`text` of the page with the current tables."""
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: BEGIN + tables() + END, text, flags=re.DOTALL)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
