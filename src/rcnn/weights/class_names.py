"""Class names that a user or a file gives: read, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rcnn.data.messages import counted, few
from rcnn.text_files import read_text
from rcnn.weights.systems.settings import existing_file


def read_classes(text: str) -> tuple[str, ...]:
    """Class names from `a,b,c`, or from a file with one name per line.

    Raises FileNotFoundError if `text` looks like the name of a file that does not exist.
    """
    path = None if "," in text else existing_file(text)
    if path is not None:
        return tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    if "," not in text and Path(text).suffix.lower() in (".txt", ".names", ".csv"):
        raise FileNotFoundError(f"{text} does not exist; expected class names a,b,c or a file with one name per line")
    return tuple(word.strip() for word in text.split(","))


def require_class_names(classes: Sequence[str], count: int, source: str) -> None:
    """Raise ValueError unless `classes` are `count` different, non-empty names."""
    if isinstance(classes, str):
        raise ValueError(f"{source}: classes is the text {classes!r}; expected a list of names")
    if wrong := [repr(name) for name in classes if not isinstance(name, str)]:
        raise ValueError(f"{source}: expected class names as text, got {few(wrong, 3)}")
    if len(classes) != count:
        raise ValueError(f"{source}: got {counted(len(classes), 'class name')}, expected {count} (num_classes)")
    repeated = sorted({name for name in classes if list(classes).count(name) > 1})
    if repeated or not all(classes):
        found = f"{few(repeated)} twice or more" if any(repeated) else "an empty one"
        raise ValueError(f"{source}: expected different class names that are not empty, got {found}")
