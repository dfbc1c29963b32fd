"""Numbers and flags as annotation files have them, many at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np

# Coordinates beyond this are treated as damage: no image that can be decoded has such sides, and rasterising a polygon
# takes memory in proportion to its length.
MAX_COORDINATE = 100_000.0
TRUE_WORDS = ("1", "true", "yes")
FALSE_WORDS = ("", "0", "false", "no")


def as_number(value: object) -> float:
    """A number, or text that is one, as float; NaN for anything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return math.nan


def number_rows(values: Sequence[object], count: int) -> tuple[np.ndarray, np.ndarray]:
    """(A, count) float64, NaN where a value is not a list of `count` numbers; and (A,) bool: some number was text."""
    text = np.zeros(len(values), dtype=bool)
    lists = [value for value in values if isinstance(value, list)]
    plain = len(lists) == len(values) and all(len(value) == count for value in lists)
    if plain and set(map(type, chain.from_iterable(lists))) <= {int, float}:
        try:
            return np.array(lists, dtype=np.float64).reshape(-1, count), text
        except OverflowError:  # an integer beyond float64: read one by one
            pass
    rows = np.full((len(values), count), np.nan)
    for place, value in enumerate(values):
        if isinstance(value, list) and len(value) == count:
            rows[place] = [as_number(item) for item in value]
            text[place] = any(isinstance(item, str) for item in value)
    return rows, text


def numbers(values: Sequence[object]) -> np.ndarray:
    """(A,) float64, NaN where a value is not a number."""
    if set(map(type, values)) <= {int, float}:
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            pass
    return np.array([as_number(value) for value in values], dtype=np.float64)


def flags(values: Sequence[object]) -> tuple[np.ndarray, np.ndarray]:
    """(A,) int64 0 or 1; and (A,) bool: the value is not the number 0 or 1 or a boolean, so that the flag is a guess.

    Text counts by its meaning ("1", "true"), any number other than 0 as 1, and everything else (null, lists) as 0.
    """
    if set(map(type, values)) <= {int, bool} and set(values) <= {0, 1}:
        return np.array(values, dtype=np.int64), np.zeros(len(values), dtype=bool)
    read = [_flag(value) for value in values]
    return (
        np.array([flag for flag, _ in read], dtype=np.int64),
        np.array([odd for _, odd in read], dtype=bool),
    )


def as_flag(text: str) -> bool | None:
    """Whether a flag that is text is set ("1", "true", "1.0"), or not ("", "0", "no"); None if it is neither."""
    number = as_number(text)
    if not math.isnan(number):
        return number != 0
    word = text.strip().lower()
    return True if word in TRUE_WORDS else False if word in FALSE_WORDS else None


def _flag(value: object) -> tuple[int, bool]:
    if isinstance(value, str):
        return int(as_flag(value) or False), True
    if isinstance(value, (bool, int, float)) and not (isinstance(value, float) and math.isnan(value)):
        return int(value != 0), value not in (0, 1)
    return 0, True
