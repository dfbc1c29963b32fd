"""The rule for numbers in settings: each is in a range; the message names the setting, its value and the range."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

LARGEST = 1_000_000  # of any number in a model's settings: pixels, channels, regions, weights of losses


def require_range(path: str, value: object, least: float, most: float = math.inf) -> None:
    """Raise ValueError if `value`, the setting `path`, is outside `least` to `most`, or has a number that is.

    NaN is outside every range. Values without numbers, e.g. None, are accepted.
    """
    if all(least <= number <= most for _, number in numbers_of(value)):
        return
    expected = f"{least:g} or more" if math.isinf(most) else f"{least:g} to {most:,.12g}"
    raise ValueError(f"{path} is {value}; expected {expected}")


def numbers_of(value: object, path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in a config, part or setting, each with its path; those of a list have the path of the list."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield path, value
    elif isinstance(value, tuple):
        for item in value:
            yield from numbers_of(item, path)
    elif is_dataclass(value):
        for field in fields(value):
            yield from numbers_of(getattr(value, field.name), f"{path}.{field.name}".lstrip("."))
