"""Parts of messages, and the warnings about a data set: counted, and reported in one line per kind of fault."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SKIPPED = "skipped"  # the usual action about an entry that cannot be used
SAVE_IMAGES = ". CVAT exports them too with the option 'Save images'"
SHOWN = 5  # ids in a line, before the rest are counted
BY_NAME = ("field", "file", "key", "label file", "line", "mask file", "split")  # entries that have names instead of ids
LONGEST = 200  # characters of a value in a message; longer ones are cut
PLURALS = {"box": "boxes", "category": "categories", "class": "classes", "entry": "entries", "process": "processes"}
CONTROLS = ("Cc", "Zl", "Zp")  # Unicode's categories of control characters, and separators of lines and paragraphs
# Unicode marks that change the text direction
DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# kind of result -> its title in tables and reports
KIND_TITLES = {
    "bbox": "box",
    "segm": "mask",
    "boundary": "boundary",
    "keypoints": "keypoints",
    "proposals": "proposals",
}


def few(values: Sequence[object], shown: int = SHOWN) -> str:
    """The first of `values`, and how many more there are."""
    text = ", ".join(brief(value) for value in values[:shown])
    return text if len(values) <= shown else f"{text} and {len(values) - shown} more"


def brief(value: object) -> str:
    """An id, a name or another value from a file, without quotation marks, printable and cut to LONGEST characters."""
    return cut(printable(str(value)), LONGEST)


def cut(text: str, length: int) -> str:
    """`text` cut to `length` characters; a text that was cut ends in "…"."""
    return text if len(text) <= length else text[: length - 1] + "…"


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`, `3 categories`."""
    return f"{count} {noun if count == 1 else PLURALS.get(noun, noun + 's')}"


def named_images(ids: Iterable[object]) -> str:
    """`image 7`, `images 7, 12 and 3 more`; an id that occurs twice is named once."""
    unique = list(dict.fromkeys(ids))
    return f"{'image' if len(unique) == 1 else 'images'} {few(unique)}"


def excerpt(value: object, length: int = 60) -> str:
    """The first `length` characters of the repr of a value from a file; safe for every value."""
    try:
        text = repr(value).replace("\n", " ")  # of an array or a tensor
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= length else f"{text[:length]}..."


def printable(text: str) -> str:
    """`text` with replacement characters for lone surrogates, which no terminal and no file can encode.

    Control characters, line separators and those that change the direction of the text become spaces: they would break
    tables.
    """
    if text.isprintable():
        return text
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(" " if unicodedata.category(one) in CONTROLS or one in DIRECTIONS else one for one in text)


def close_to(name: str, names: Sequence[str]) -> str:
    """A suggestion of the most similar of `names`; empty if none is similar."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6) or [n for n in names if n.lower() == name.lower()]
    return f" (did you mean {near[0]!r}?)" if near else ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault in one annotation file."""

    kind: str  # its id in checks/kinds.py
    file: Path
    what: str  # "a box of zero size"
    action: str  # what was done about it
    ids: tuple[object, ...]  # of the entries that have it
    noun: str = "annotation"  # what the entries are
    names: tuple[str, ...] = ()  # of the entries, where the ids are not those of the file
    split: str = ""  # where several splits have the same file

    def line(self) -> str:
        """File, count, what is wrong, first ids, what was done; without ids, `what` is the whole line."""
        if not self.ids:
            return self.what + (f" (split {self.split})" if self.split else "")
        noun = "region" if self.noun == "region" else "id"
        shown = few(self.names) or (few(self.ids) if self.noun in BY_NAME else f"{noun} {few(self.ids)}")
        where = f"split {self.split}: " if self.split else ""
        return (
            f"{self.file}: {where}{counted(len(self.ids), self.noun)} {'has' if len(self.ids) == 1 else 'have'} "
            f"{self.what} ({shown}): {self.action}"
        )


class DataError(ValueError):
    """An annotation file that is refused; `kind` is the id of the fault in checks/kinds.py.

    Without the entries at the indices `places` of `table`, the file does not have this fault; if `places` is
    empty, removing entries does not help. `example`: what is wrong with the first of them, for images that are skipped.
    """

    def __init__(self, kind: str, message: str, table: str = "", places: Sequence[int] = (), example: str = "") -> None:
        super().__init__(message)
        self.kind, self.table, self.places, self.example = kind, table, tuple(places), example


class MissingImagesError(FileNotFoundError):
    """Image files that an annotation file lists are missing; `places` are the indices of these images in its table."""

    kind, table = "missing-image", "images"

    def __init__(self, message: str, places: Sequence[int] = (), example: str = "") -> None:
        super().__init__(message)
        self.places, self.example = tuple(places), example


class Warnings:
    """Warnings about one annotation file, each kind with the ids it concerns, in the order of their first mention."""

    def __init__(self, file: Path, names: Mapping[object, str] | None = None) -> None:
        """`names`: how to name annotations (by their ids) in formats without ids, e.g. "region 3 of photo.jpg"."""
        self.file, self.names = file, names or {}
        self._ids: dict[tuple[str, str, str, str], list[object]] = {}
        self._notes: list[str] = []

    def add(
        self, what: str, action: str, ids: Sequence[object], noun: str = "annotation", *, kind: str = "format"
    ) -> None:
        """Add a fault: the entries `ids` have `what` ("a box of zero size"); `action` says what was done about it.

        `kind` is the stable id of the fault in checks/kinds.py, by which `rcnn data check` selects and skips faults.
        """
        if len(ids):
            self._ids.setdefault((kind, noun, what, action), []).extend(ids)

    def all_skipped(self, images: Sequence[object]) -> None:
        """Add a fault: all objects of the images with the ids `images` were skipped."""
        what, action = "objects in the annotations, but all of them were skipped", "used as background in training"
        self.add(what, action, images, "image", kind="all-skipped")

    def second_labels(self, other: Path, used: Path, images: Sequence[object]) -> None:
        """Add a fault: `images` have label files in the folders `other` and `used`."""
        action = f"not used, because {used} has one too"
        self.add(f"a second label file in {other}", action, images, "image", kind="two-label-files")

    def copy(self) -> Warnings:
        """The same warnings, to add others to."""
        copied = Warnings(self.file, self.names)
        copied._ids = {key: list(ids) for key, ids in self._ids.items()}
        copied._notes = list(self._notes)
        return copied

    def note(self, line: str) -> None:
        """Add a note: a decision that is not about a fault of the file."""
        self._notes.append(f"{self.file}: {line}")

    def findings(self) -> tuple[Finding, ...]:
        """One finding per kind of fault."""
        return tuple(
            Finding(
                kind=kind,
                file=self.file,
                what=what,
                action=action,
                ids=tuple(ids),
                noun=noun,
                names=tuple(self.names.get(one, f"id {one}") for one in ids)
                if self.names and noun == "annotation"
                else (),
            )
            for (kind, noun, what, action), ids in self._ids.items()
        )

    def lines(self) -> tuple[str, ...]:
        """One line per kind of fault: file, count, what is wrong, first ids, what was done."""
        return tuple(finding.line() for finding in self.findings())

    def notes(self) -> tuple[str, ...]:
        """Decisions that are not about faults, a line each."""
        return tuple(self._notes)
