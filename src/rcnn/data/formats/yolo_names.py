"""The names of the classes in YOLO's data.yaml: a list, a mapping {number: name}, or only their number, `nc`.

Without `names`, the classes are called class_0, class_1, ..., as in Ultralytics (data/utils.py, check_det_dataset).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcnn.data.checks.ids import as_id, as_whole
from rcnn.data.messages import excerpt

# Limits `nc` without names, and the keys of a mapping, which may have gaps: {0: fig, 99999: date}. No list or mapping
# can have that many names: see yolo_yaml.MAX_VALUES.
MAX_NAMES = 100_000


@dataclass(frozen=True, kw_only=True)
class ConfigNames:
    """The names of the classes in the order of their numbers."""

    names: list[str]
    unnamed: tuple[int, ...] = ()  # numbers of the classes that a mapping of names does not have: see `_filled`
    repeated: tuple[str, ...] = ()  # keys of a mapping that mean the same number, e.g. 1 and "1": "names: 1"
    numbered: bool = False  # there is no `names`, only `nc`


def config_names(config: Mapping[Any, Any], file: Path) -> ConfigNames:
    """The names of the classes in the content of a data.yaml. Raises ValueError if there are none, or not all text."""
    value, count = config.get("names"), config.get("nc")
    if value is None and type(count) is int and 0 < count <= MAX_NAMES:
        return ConfigNames(names=[_name_of(number) for number in range(count)], numbered=True)
    keys = [_number(key) for key in value] if isinstance(value, Mapping) else []
    numbers = [number for number in keys if number is not None]
    if isinstance(value, Mapping) and numbers and len(numbers) == len(keys):
        named = dict(zip(numbers, value.values(), strict=True))
        return ConfigNames(
            names=_texts(_filled(named), file),
            unnamed=tuple(number for number in range(max(named)) if number not in named),
            repeated=tuple(f"names: {number}" for number, uses in Counter(numbers).items() if uses > 1),
        )
    if not isinstance(value, list) or not value:
        given = f"names is {excerpt(value)}"
        given += f", nc is {excerpt(count)}" if value is None and count is not None else ""
        raise ValueError(
            f"{file}: {given}; expected a list of names, or a mapping {{0: name, ...}}, or nc, the number of classes, "
            "without names"
        )
    return ConfigNames(names=_texts(value, file))


def _texts(names: Sequence[object], file: Path) -> list[str]:
    """The names as text. Raises ValueError for a value that is neither text nor a finite number."""
    for number, one in enumerate(names):
        is_finite = not isinstance(one, float) or math.isfinite(one)
        if isinstance(one, bool) or not isinstance(one, (str, int, float)) or not is_finite:
            raise ValueError(
                f"{file}: name {number} is {excerpt(one)}; expected text. Put it in quotes, because YAML reads true, "
                "yes, on, null, ~, .nan and .inf as other values"
            )
    return [str(one) for one in names]


def _filled(named: Mapping[int, object]) -> list[object]:
    """The names by number, with names for the numbers without one: class_1, or class_1_ if that is a name already."""
    used = {str(name) for name in named.values()}
    filled: list[object] = []
    for number in range(max(named) + 1):
        free = _name_of(number)
        while free in used:
            free += "_"
        filled.append(named.get(number, free))
    return filled


def _name_of(number: int) -> str:
    """The name of a class without one."""
    return f"class_{number}"


def _number(key: object) -> int | None:
    """The number of a class that a key of `names` means, which may be text ("0"); None if it is not one."""
    found = as_id(key)
    number = None if found is None else as_whole(found)
    return number if number is not None and 0 <= number < MAX_NAMES else None
