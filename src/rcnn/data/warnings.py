"""What is wrong in a data set without being worth refusing it: counted, and told in one line a kind."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

SHOWN = 5


def few(values: Sequence[object], shown: int = SHOWN) -> str:
    """The first of `values`, and how many more there are."""
    text = ", ".join(str(value) for value in values[:shown])
    return text if len(values) <= shown else f"{text} and {len(values) - shown} more"


def close_to(name: str, names: Sequence[str]) -> str:
    """A question that names what `name` may have been meant to be; empty where nothing is near."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6) or [n for n in names if n.lower() == name.lower()]
    return f" (did you mean {near[0]!r}?)" if near else ""


class Findings:
    """Warnings about one annotation file, each kind with the ids it concerns, in the order of their first mention."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._ids: dict[tuple[str, str], list[object]] = {}

    def add(self, what: str, done: str, ids: Sequence[object]) -> None:
        """Note that the annotations `ids` have `what` ("a box of no size"), and what was `done` about it."""
        if ids:
            self._ids.setdefault((what, done), []).extend(ids)

    def lines(self) -> tuple[str, ...]:
        """One line a kind: the file, the count, the first ids, what was done."""
        return tuple(
            f"{self.file}: {len(ids)} annotation{'s have' if len(ids) > 1 else ' has'} {what} (id {few(ids)}): {done}"
            for (what, done), ids in self._ids.items()
        )
