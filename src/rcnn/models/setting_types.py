"""Values of settings, checked against the types of the fields of their dataclasses; the errors name the setting.

The same rule and messages for a KEY=VALUE setting, a config in JSON, and a dataclass that was made in Python.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from rcnn.arguments import shown
from rcnn.models.setting_tables import alternatives, field_types, form_to_type, kind_of, part_classes, type_name
from rcnn.models.suggestions import near_settings

T = TypeVar("T")
LARGEST_INT = 2**63  # torch has integers of 64 bits


def with_types(settings: T, prefix: str = "") -> T:
    """`settings` (any dataclass of settings), or a copy, with each value as the type of its field, see `checked`.

    Raises ValueError, with `prefix` and the name of the field, for a value of another type.
    """
    values = typed_values(settings, prefix)
    if all(_is_same(value, getattr(settings, name)) for name, value in values.items()):
        return settings  # without `__post_init__`, which takes most of the time
    return dataclasses.replace(settings, **values)  # type: ignore[type-var]


def _is_same(value: Any, before: Any) -> bool:
    """Whether `value`, of `checked`, is the same object as `before`, or a dictionary of the same objects."""
    if isinstance(value, dict) and type(before) is dict:
        return all(one is before[key] for key, one in value.items())
    return value is before


def set_types(settings: Any, prefix: str = "") -> None:
    """Like `with_types`, for `__post_init__` of a frozen dataclass: it sets the values of `settings` itself."""
    for name, value in typed_values(settings, prefix).items():
        object.__setattr__(settings, name, value)


def typed_values(settings: Any, prefix: str = "") -> dict[str, Any]:
    """The values of `settings` as the types of their fields. Fields with metadata {"saved": False} are skipped."""
    hints = field_types(type(settings))
    return {
        field.name: checked(hints[field.name], getattr(settings, field.name), f"{prefix}{field.name}")
        for field in dataclasses.fields(settings)
        if field.metadata.get("saved", True)
    }


def checked(hint: Any, value: Any, path: str, default: Any = None) -> Any:
    """`value` as the type `hint`: lists become tuples, and integers become floats where a float is expected.

    Numbers and arrays of numpy become those of Python. If `value` has only some settings of a part, the others are
    those of `default`, if that is of the same class.
    """
    options = alternatives(hint)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None and type(None) in options:
        return None
    parts = part_classes(hint)
    if isinstance(value, parts):  # made in Python
        return with_types(value, f"{path}.")
    if len(parts) > 1 and isinstance(value, str):  # a kind alone: that part with its defaults
        value = {"kind": value}
    if parts and isinstance(value, Mapping):
        part = _class_of_kind(parts, value, path)
        return build(part, value, path, default if type(default) is part else None)
    origin = get_origin(hint)
    if origin is Literal and any(type(value) is type(known) and value == known for known in get_args(hint)):
        return value
    if origin is Mapping and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: one.tolist() if hasattr(one, "tolist") else one for key, one in value.items()}
    if origin is tuple and isinstance(value, (list, tuple)):
        return _checked_tuple(hint, value, path)
    for option in options:
        if option is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:  # not NaN, not inf
            return float(value)
        if option is int and type(value) is int and abs(value) < LARGEST_INT:
            return value
        if option in (bool, str) and type(value) is option:
            return value
    choices = [str(known) for known in get_args(hint)] if origin is Literal else []
    given = value if isinstance(value, str) else shown(value)
    near = [one for one in difflib.get_close_matches(given, choices, n=1) if not _other_number(one, given)]
    expected = f"one of {type_name(hint)}" if choices else form_to_type(hint)
    if len(parts) > 1:
        expected = f"one of {', '.join(kind_of(part) for part in parts)}"
    if type(value) is int and int in options:
        expected = "a number of 64 bits, below 2**63"
    elif float in options and given.strip("+-.").lower() in ("inf", "infinity", "nan"):
        expected = "a finite number"
    suggestion = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"{path}: expected {expected}, got {shown(value)}{suggestion}")


def _other_number(choice: str, value: str) -> bool:
    """Whether `value` differs from `choice` only in a number, e.g. 10x and 1x: probably not a typing error."""
    return choice != value and re.sub(r"\d", "", choice) == re.sub(r"\d", "", value)


def _checked_tuple(hint: Any, value: Sequence[Any], path: str) -> tuple[Any, ...]:
    kinds = get_args(hint)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{path}: expected {form_to_type(hint)}, got {len(value)}: {shown(list(value))}")
    items = tuple(checked(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))
    is_same = type(value) is tuple and all(one is other for one, other in zip(items, value, strict=True))
    return value if is_same else items


def _class_of_kind(parts: Sequence[type[Any]], value: Mapping[str, Any], path: str) -> type[Any]:
    """The member of a union that `value["kind"]` names."""
    if len(parts) == 1:
        return parts[0]
    kinds = {kind_of(part): part for part in parts}
    if "kind" not in value:
        hint = " (a colon in YAML needs a space after it)" if any(":" in str(name) for name in value) else ""
        example = f"{{kind: {next(iter(kinds))}, ...}}"
        raise ValueError(
            f"{path}: `kind` is missing in {shown(dict(value))}{hint}; expected {example}, with one of "
            f"{', '.join(kinds)}"
        )
    kind = value["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        near = difflib.get_close_matches(str(kind), kinds, n=1)
        suggestion = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{path}.kind: expected one of {', '.join(kinds)}, got {shown(kind)}{suggestion}")
    return kinds[kind]


def build(config_class: type[Any], value: Any, path: str, base: Any = None) -> Any:
    """The dataclass with the settings of `value`; the others are those of `base`, or the defaults of the class."""
    dot = f"{path}." if path else ""
    hints = field_types(config_class)
    if not isinstance(value, Mapping):
        raise ValueError(f"{path or 'config'}: expected the settings of {config_class.__name__}, got {shown(value)}")
    for name in value:
        if name not in hints:
            near = near_settings(str(name), list(hints)) or sorted(hints)
            choice = " or ".join(dot + known for known in near)
            raise ValueError(f"no setting {f'{dot}{name}'!r}; did you mean {choice}?")
    fields = {
        name: checked(hints[name], given, f"{dot}{name}", default_of(config_class, name))
        for name, given in value.items()
    }
    if base is not None:
        return dataclasses.replace(base, **fields)
    for field in dataclasses.fields(config_class):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in fields:
            raise ValueError(
                f"{dot}{field.name} is missing and has no default; expected {type_name(hints[field.name])}"
            )
    return config_class(**fields)


def default_of(config_class: type[Any], name: str) -> Any:
    """The default of a field; dataclasses.MISSING if it has none."""
    [field] = [field for field in dataclasses.fields(config_class) if field.name == name]
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
