"""Checks of the types of what callers give to public functions: paths, names, models, data sets, numbers, switches.

The rule: a value of another type is an `ArgumentTypeError` that says what was given, for what, and what is expected.
A path is a str or any os.PathLike; an empty one is refused, because it would be the current folder.
"""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Callable, Container, Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeGuard, cast

LONGEST_NAME, LONGEST_PATH = 255, 4096  # bytes, on Linux
LARGEST = 2**63 - 1  # of whole numbers; torch and Python's sizes have 64 bits
MOST_WORKERS = 512  # processes or threads; more is a mistake on any machine
MOST_IMAGES = 65_536  # per forward pass or step
MOST_EXPORTED = 1024  # images in a run of an exported file
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
    return ArgumentTypeError(f"got {shown(value, form=reprlib.repr)}{kind} for {what}; expected {expected}")


def shown(value: object, length: int = 200, form: Callable[[object], str] = repr) -> str:
    """The `form` of any value on one line, cut to `length` characters."""
    try:
        text = " ".join(form(value).split())
    except Exception:  # a class of the user; ValueError: an integer of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= length else f"{text[:length]}..."


def as_path(value: object, what: str, expected: str = "a str or Path") -> Path:
    """`value` as a path. Raises ArgumentTypeError, or ValueError if it is empty."""
    return Path(as_text(value, what, expected, empty=False))


def as_text(value: Any, what: str, expected: str = "a str or Path", *, empty: bool = True, path: bool = True) -> str:
    """A name or a path as text. Raises ArgumentTypeError, or ValueError if it is empty and `empty` is False.

    `path`: also raise ValueError if no file can have that path.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise wrong_type(value, what, expected)
    text = os.fsdecode(value)  # a path of os.scandir may be bytes
    if not text and not empty:
        raise ValueError(f"got an empty text for {what}; expected {expected}")
    if path and (reason := why_no_path(text)):
        raise ValueError(f"got {shown(text, 60)} for {what}, which {reason}; expected {expected}")
    return text


def why_no_path(text: str) -> str:
    """Why no file can have the path `text`, or one of the names in it, joined by +; empty if one can."""
    if "\0" in text:
        return "contains a NUL character (\\x00)"
    names = re.split(r"[/+]", text)
    if len(os.fsencode(text)) > LONGEST_PATH or any(len(os.fsencode(name)) > LONGEST_NAME for name in names):
        return f"is too long for a path: names have up to {LONGEST_NAME} bytes, whole paths up to {LONGEST_PATH:,}"
    return ""


def as_optional_text(value: Any, what: str, *, path: bool = True) -> str:
    """As `as_text` for an argument that may be left out: None is the empty text."""
    return "" if value is None else as_text(value, what, path=path)


def as_texts(value: object, what: str) -> tuple[str, ...]:
    """One text or several as a tuple. Raises ArgumentTypeError for anything else, e.g. numbers."""
    if isinstance(value, str):
        return (value,)
    several = tuple(value) if isinstance(value, Iterable) else (value,)
    texts = tuple(str(one) for one in several if isinstance(one, str))  # str: of numpy's texts
    if len(texts) < len(several):
        raise wrong_type(value, what, "a text or a list of texts")
    return texts


def is_one_of(value: object, choices: Container[str]) -> bool:
    """Whether `value` is one of the texts `choices`; any other type is none of them."""
    return isinstance(value, str) and value in choices


def require_one_of(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless the argument `name` is one of the texts `choices`."""
    if not is_one_of(value, choices):
        raise ValueError(f"{name}={shown(value, 60)} is not known; expected {', '.join(choices)}")


def plain(value: Any) -> Any:
    """A number in a scalar, array or tensor of no dimensions (numpy, torch) as Python's own; others unchanged."""
    if getattr(value, "shape", None) != () or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except Exception:  # a tensor on the device meta has no value; other libraries raise what they like
        return value


def is_whole_number(value: object) -> TypeGuard[int]:
    """Whether `value` is an integer of Python, numpy or torch, see `plain`; True and False are not."""
    value = plain(value)
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole_number(name: str, value: object, expected: str, least: int = 1, most: int = LARGEST) -> int:
    """The argument `name` as an int; a ValueError, ending in `expected`, unless it is an integer from `least` on.

    Also a ValueError for more than `most`.
    """
    value = plain(value)
    if not is_whole_number(value):
        raise ArgumentTypeError(f"{name}={shown(value, 60)}; expected {expected}")
    if value < least:
        raise ValueError(f"{name}={shown(value, 60)}; expected {expected}")
    if value > most:
        raise ValueError(f"{name}={shown(value, 60)}; expected {most:,} or less")
    return int(value)


def real_number(name: str, value: object, expected: str, least: float = -math.inf, most: float = math.inf) -> float:
    """The argument `name` as a number of Python; a ValueError, ending in `expected`, unless it is from least to most.

    True and False, and NaN, are no numbers.
    """
    number = plain(value)
    if not isinstance(number, Real) or isinstance(number, bool):
        raise ArgumentTypeError(f"{name}={shown(value, 60)}; expected {expected}")
    real = cast("float", number)  # a fraction stays exact
    if not least <= real <= most:
        raise ValueError(f"{name}={shown(real, 60)}; expected {expected}")
    return real


def require_workers(workers: int) -> int:
    """`workers` as an int. Raises ValueError unless it is an integer from 0 to MOST_WORKERS."""
    return whole_number("workers", workers, "0 or more", 0, MOST_WORKERS)


def require_max_pixels(max_pixels: float) -> None:
    """Raise ValueError unless `max_pixels`, of an image, is a number of 0 or more."""
    real_number("max_pixels", max_pixels, "a number of pixels, or 0 for no limit", 0)


def require_switches(**values: object) -> None:
    """Raise ArgumentTypeError for a value that is neither True nor False: as a condition, the text "no" would be True.

    numpy's True and False are accepted, the numbers 0 and 1 are not.
    """
    for name, value in values.items():
        if not isinstance(value.tolist() if hasattr(value, "tolist") else value, bool):
            raise wrong_type(value, name, "True or False")
