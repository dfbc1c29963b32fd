"""Settings as text: `box.score_threshold=0.6` on a command line; a config as JSON and back.

Works on any nested frozen dataclasses. Each value is checked against the type of its field; an error names the key,
what was expected, what was given, and similar keys. pydantic would save about 70 of these lines, but its import takes
160 ms, it accepts unknown keys in plain dataclasses, and it reports one error per member of a union; msgspec cannot
convert to a union of dataclasses.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import yaml

from rcnn.arguments import shown, wrong_type
from rcnn.models.config import DetectorConfig
from rcnn.models.setting_tables import field_types, kind_of, part_classes, setting_paths
from rcnn.models.setting_types import build, checked, default_of
from rcnn.models.suggestions import near_settings
from rcnn.text_files import yaml_value

T = TypeVar("T")
Overrides: TypeAlias = str | Sequence[str] | Mapping[str, object]  # "KEY=VALUE", several of these, or {KEY: VALUE}


def override(settings: T, overrides: Overrides) -> T:
    """A copy of `settings` (any dataclass of settings), changed by one or several `key.sub=value` strings, in order.

    A dict of Python values does the same: `{"box.score_threshold": 0.6, "mask": None}`.

    Values in strings are YAML: `0.6`, `null`, `[[32], [64]]`, `{trunk: res5}`. `mask={}` adds an optional part with its
    defaults, `mask=null` removes it. `backbone.kind=compact` replaces the backbone by one of another kind, with the
    defaults of that kind; so does a setting that only one kind has and requires
    (`backbone.factory=my_backbone.py:make_backbone`).

    Raises ValueError for an unknown key and for a value of the wrong type; it suggests similar keys.
    """
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise ValueError(f"got {shown(settings)} to change; expected a config, e.g. rcnn.model_config(NAME)")
    for text in as_overrides(overrides):
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(f"{text!r} is not a setting; expected KEY=VALUE, e.g. box.score_threshold=0.6")
        settings = _set(settings, key.split("."), parse_value(key, value), key, settings)
    return settings


def as_overrides(value: Overrides) -> tuple[str, ...]:
    """Overrides in any of their forms as KEY=VALUE strings; ValueError for anything else."""
    if isinstance(value, Mapping):
        return tuple(f"{key}={_as_yaml(item)}" for key, item in value.items())
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise wrong_type(value, "the overrides", "KEY=VALUE strings, or a dict of keys and values")
    return tuple(value)


def _as_yaml(value: object) -> str:
    """The text that `parse_value` reads as `value`. ValueError for a dict with keys that are no strings or numbers."""
    plain = _plain(value)
    if not isinstance(plain, str):
        try:
            return json.dumps(plain, default=_from_numpy, ensure_ascii=False)
        except TypeError as error:
            raise ValueError(f"cannot use {shown(value)} as the value of a setting: {error}") from error
    return quoted(plain) if plain else plain


def quoted(text: str) -> str:
    """`text`, in quotes if a setting would read it as another value, alone or in a list: yes, 1, "a, b"."""
    try:
        is_same = parse_value("", f"[{text}]") == [text]
    except ValueError:
        is_same = False
    return text if is_same else json.dumps(text, ensure_ascii=False)


def _from_numpy(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's; everything else, e.g. a path, as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def config_to_dict(config: Any) -> dict[str, Any]:
    """A dataclass of settings as JSON values: dicts, lists, strings, numbers, booleans, None.

    Fields with metadata {"saved": False} are skipped.
    """
    fields = [field for field in dataclasses.fields(config) if field.metadata.get("saved", True)]
    return {field.name: _plain(getattr(config, field.name)) for field in fields}


def config_from_dict(settings: Mapping[str, Any], config_class: type[T] = DetectorConfig) -> T:
    """The inverse of `config_to_dict`; missing fields get their defaults. Raises ValueError as `override` does."""
    return build(config_class, settings, "")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without Python objects, plus numbers such as 1e-3, which YAML 1.1 reads as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_value(key: str, value: str) -> Any:
    """The value of the setting `key` in its text, which is YAML. ValueError if it is not YAML."""
    if not value.strip():
        return ""
    try:
        return yaml_value(value, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-99-99
        reason = getattr(error, "problem", None) or (str(error).splitlines() or ["no reason given"])[0]
        raise ValueError(f"{key}: cannot read {shown(value)} as a YAML value ({reason})") from error


def _set(settings: Any, keys: list[str], value: Any, path: str, root: Any) -> Any:
    name, rest = keys[0], keys[1:]
    hints = field_types(type(settings))
    if name not in hints:
        raise ValueError(unknown_setting(path, type(root)))
    if not rest:
        return _replaced(settings, name, checked(hints[name], value, path, default_of(type(settings), name)))
    prefix = path[: len(path) - len(".".join(rest)) - 1]
    current, parts = getattr(settings, name), part_classes(hints[name])
    if rest == ["kind"] and len(parts) > 1:
        return _replaced(settings, name, checked(hints[name], {"kind": value}, prefix))
    if isinstance(current, Mapping) and len(rest) == 1:
        return _replaced(settings, name, checked(hints[name], {**current, rest[0]: value}, path))
    if dataclasses.is_dataclass(current):
        owners = [part for part in parts if rest[0] in field_types(part)]
        if owners and type(current) not in owners:
            if len(rest) == len(owners) == 1 and default_of(owners[0], rest[0]) is dataclasses.MISSING:
                chosen = {"kind": kind_of(owners[0]), rest[0]: value}
                return _replaced(settings, name, checked(hints[name], chosen, prefix))
            choice = " or ".join(_choice(part, prefix) for part in owners)
            raise ValueError(f"{path}: {prefix}.kind={kind_of(type(current))} has no such setting; set {choice} first")
        return _replaced(settings, name, _set(current, rest, value, path, root))
    if parts and path in setting_paths(type(root)):
        raise ValueError(f"{path}: {prefix} is off here (null); set {prefix}={{}} first, which turns it on")
    raise ValueError(unknown_setting(path, type(root)))


def _replaced(settings: Any, name: str, value: Any) -> Any:
    return dataclasses.replace(settings, **{name: value})


def unknown_setting(path: str, root: type) -> str:
    """The message for `path`, which is no setting of the dataclass `root`, with similar ones."""
    paths = setting_paths(root)
    near = near_settings(path, paths)
    groups = sorted({known.split(".")[0] for known in paths})
    hint = f"did you mean {' or '.join(near)}?" if near else f"the settings start with {', '.join(groups)}"
    return f"no setting {path!r}; {hint}"


def _choice(part: type, prefix: str) -> str:
    """The setting that chooses a member of a union: one that it requires, else its kind."""
    required = [name for name in field_types(part) if name != "kind" and default_of(part, name) is dataclasses.MISSING]
    return f"{prefix}.{required[0]}=..." if required else f"{prefix}.kind={kind_of(part)}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return config_to_dict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
