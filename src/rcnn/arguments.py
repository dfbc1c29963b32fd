"""Checks of the types of what callers give to public functions: paths, names, models, data sets.

The rule: a value of another type is an `ArgumentTypeError` that says what was given, for what, and what is expected.
A path is a str or any os.PathLike; an empty one is refused, because it would be the current folder.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OUTPUT = "the output folder"
CHECKPOINT = "a checkpoint, a run folder or a name of published weights, as str or Path"
MODEL = "a checkpoint, a run folder, an exported file or a name of published weights, as str or Path"
DATA = "the folder of a data set or its annotation file, as str or Path"
SPLIT = 'the name of a split, or several joined by +, e.g. "train+val"'


class ArgumentTypeError(TypeError, ValueError):
    """An argument of a type that the function does not take; it is a ValueError, as for all refused arguments."""


def wrong_type(value: object, what: str, expected: str) -> ArgumentTypeError:
    """The error for `value`, given for `what` ("the model"), where `expected` is needed."""
    kind = "" if value is None else f" ({type(value).__name__})"
    return ArgumentTypeError(f"got {' '.join(reprlib.repr(value).split())}{kind} for {what}; expected {expected}")


def as_path(value: object, what: str, expected: str = "a str or Path") -> Path:
    """`value` as a path. Raises ArgumentTypeError, or ValueError if it is empty."""
    return Path(as_text(value, what, expected, empty=False))


def as_text(value: Any, what: str, expected: str = "a str or Path", *, empty: bool = True) -> str:
    """A name or a path as text. Raises ArgumentTypeError, or ValueError if it is empty and `empty` is False."""
    if not isinstance(value, (str, os.PathLike)):
        raise wrong_type(value, what, expected)
    text = os.fsdecode(value)  # a path of os.scandir may be bytes
    if not text and not empty:
        raise ValueError(f"got an empty text for {what}; expected {expected}")
    return text


def as_optional_text(value: Any, what: str) -> str:
    """As `as_text` for an argument that may be left out: None is the empty text."""
    return "" if value is None else as_text(value, what)


def as_texts(value: object, what: str) -> tuple[str, ...]:
    """One text or several as a tuple. Raises ArgumentTypeError for anything else, e.g. numbers."""
    if isinstance(value, str):
        return (value,)
    several = tuple(value) if isinstance(value, Iterable) else (value,)
    texts = tuple(str(one) for one in several if isinstance(one, str))  # str: of numpy's texts
    if len(texts) < len(several):
        raise wrong_type(value, what, "a text or a list of texts")
    return texts
