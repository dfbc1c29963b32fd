"""Parts of messages, and the warnings about a data set: counted, and reported in one line per kind of fault."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

SHOWN = 5  # ids in a line, before the rest are counted
PLURALS = {"category": "categories", "class": "classes", "entry": "entries"}


def few(values: Sequence[object], shown: int = SHOWN) -> str:
    """The first of `values`, and how many more there are."""
    text = ", ".join(printable(str(value)) for value in values[:shown])
    return text if len(values) <= shown else f"{text} and {len(values) - shown} more"


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`, `3 categories`."""
    return f"{count} {noun if count == 1 else PLURALS.get(noun, noun + 's')}"


def excerpt(value: object, length: int = 60) -> str:
    """The start of the repr of a value that comes from a file, safe to print whatever it is."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= length else f"{text[:length]}..."


def printable(text: str) -> str:
    """`text` with replacement characters for lone surrogates, which no terminal and no file can encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def close_to(name: str, names: Sequence[str]) -> str:
    """A suggestion of the most similar of `names`; empty if none is similar."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6) or [n for n in names if n.lower() == name.lower()]
    return f" (did you mean {near[0]!r}?)" if near else ""


class Warnings:
    """Warnings about one annotation file, each kind with the ids it concerns, in the order of their first mention."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._ids: dict[tuple[str, str, str], list[object]] = {}
        self._notes: list[str] = []

    def add(self, what: str, action: str, ids: Sequence[object], noun: str = "annotation") -> None:
        """The entries `ids` have `what` ("a box of zero size"); `action` says what was done about it."""
        if len(ids):
            self._ids.setdefault((noun, what, action), []).extend(ids)

    def note(self, line: str) -> None:
        """A decision that is not about a fault of the file."""
        self._notes.append(f"{self.file}: {line}")

    def lines(self) -> tuple[str, ...]:
        """One line per kind: file, count, what is wrong, first ids, what was done."""
        return tuple(
            f"{self.file}: {counted(len(ids), noun)} {'has' if len(ids) == 1 else 'have'} {what} "
            f"({'region' if noun == 'region' else 'id'} {few(ids)}): {action}"
            for (noun, what, action), ids in self._ids.items()
        )

    def notes(self) -> tuple[str, ...]:
        """Decisions that are not about faults, a line each."""
        return tuple(self._notes)
