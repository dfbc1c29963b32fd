"""Settings of other systems: a file or KEY=VALUE text, read as data and never run, then checked against typed fields.

A system lists its settings as a frozen dataclass; `MODEL.RPN.NMS_THRESH` is its field `model_rpn_nms_thresh`.
"""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from rcnn.models import DetectorConfig
from rcnn.text_files import read_text, yaml_value
from rcnn.weights.setting_texts import setting_values

SettingsSource = str | Path | None  # a system's own settings: a file, a name that the system knows, or KEY=VALUE text
T = TypeVar("T")
Three = tuple[float, float, float]
Four = tuple[float, float, float, float]
# a key starts the text, or follows a space or a quote
KEY = re.compile(r"(?:(?<=\s)|(?<=^)|(?<=[\"']))(?:--)?([A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*)=")
FLAG = re.compile(r"(?:^|\s)(--?)([A-Za-z][\w-]*)(?:(?:=|[ \t]+(?!-{1,2}[A-Za-z]))(\S+))?")
EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")  # 1e-4, which YAML reads as text
PYTHON = "tag:yaml.org,2002:python/"


@dataclass(frozen=True)
class Unread:
    """A Python object in a YAML file; nothing was imported or called for it."""

    tag: str


@dataclass(frozen=True)
class Typed(Generic[T]):
    """Settings of a system, checked."""

    values: T  # defaults where nothing is given
    given: frozenset[str]  # keys that were given
    others: tuple[str, ...]  # given keys that `values` does not have

    def require_default(self, *keys: str, source: str) -> None:
        """Raise ValueError that names `source` and the first of `keys` with another value than the default."""
        for key in keys:
            value, default = (getattr(settings, field_of(key)) for settings in (self.values, type(self.values)))
            if value != default:
                raise ValueError(f"{source}: {key}={value!r} is not supported; expected {default!r}")

    def notes(self, training: str = "") -> tuple[str, ...]:
        """Sentences about the settings that are not used; `training` is a pattern of those that only training has."""
        known = [key for key in self.others if training and re.fullmatch(training, key)]
        unknown = [key for key in self.others if key not in known]
        lists = (("training settings, not used", known), ("unknown settings, ignored", unknown))
        return tuple(f"{what}: {', '.join(keys)}" for what, keys in lists if keys)


class PlainLoader(yaml.SafeLoader):
    """YAML of plain values: tuples are lists, other Python objects are `Unread`."""


def python_object(loader: PlainLoader, suffix: str, node: yaml.Node) -> object:
    """The value of a YAML node with a Python tag: plain values are read, other objects become `Unread`."""
    if suffix == "tuple" and isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.ScalarNode) and suffix in ("unicode", "str", "long"):
        text = str(loader.construct_scalar(node))
        return int(text) if suffix == "long" else text
    if suffix.startswith(("object", "name:")):
        return Unread(suffix)
    raise yaml.constructor.ConstructorError(None, None, f"the tag python/{suffix} is not read", node.start_mark)


PlainLoader.add_multi_constructor(PYTHON, python_object)


def existing_file(given: str | Path) -> Path | None:
    """The file that `given` names; None if it is text (which may be too long for the name of a file)."""
    try:
        return Path(given) if Path(given).is_file() else None
    except (OSError, ValueError):
        return None


def read_settings(given: str | Path, switches: Mapping[str, bool] | None = None) -> dict[str, Any]:
    """Settings by dotted key, from a file or from KEY=VALUE text.

    Supported are KEY=VALUE (in lines or side by side), flags (`--bn2affine`), YAML, and the trees and tables that
    programs print: tensorpack's `{'MODE_FPN': True}`, matterport's `IMAGE_MIN_DIM    800`. `switches` gives values for
    flags without one. Raises FileNotFoundError, or ValueError that names the file.
    """
    path = existing_file(given)
    if path is None and isinstance(given, Path):
        raise FileNotFoundError(f"{given} does not exist; expected a file of settings")
    text, source = (read_text(path), str(path)) if path else (str(given), f"{str(given)[:80]!r}")
    found = parse_settings(text, source, switches)
    if not found:
        what = "has no settings" if path else "is neither a file nor settings"
        raise ValueError(f"{source} {what}; expected KEY=VALUE, such as min_size=800")
    return found


def parse_settings(text: str, source: str, switches: Mapping[str, bool] | None = None) -> dict[str, Any]:
    """Like `read_settings`, for a text; returns an empty dict if it contains no settings."""
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    text = re.sub(r"(?m)^([A-Z][A-Z0-9_]+)[ \t]{2,}(?=[^=\s:])", r"\1=", text)  # a printed table
    if "=" not in text:  # KEY VALUE, as yacs takes settings
        text = re.sub(r"(?m)(^|[ \t])([A-Z][A-Z0-9_]*\.[A-Z0-9_.]+)[ \t]+(?=[^\s:])", r"\1\2=", text)
    if re.match(r"\s*--?(?!config\b)[A-Za-z]", text):  # flags; a dash and a space start a YAML list
        words = ((found[2].replace("-", "_") if found[1] == "--" else f"-{found[2]}", found[3])
                 for found in FLAG.finditer(text))  # fmt: skip
        return {name: _value(word) if word else (switches or {}).get(name, True) for name, word in words}
    tree = re.search(r"\{\s*['\"]", text)  # a printed dict
    keys = list(KEY.finditer(text))
    if tree and not any(key.start() < tree.start() for key in keys):
        try:
            return flat(ast.literal_eval(text[tree.start() : text.rindex("}") + 1]))
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"{source}: the tree of settings cannot be read ({error})") from error
    if keys and not re.match(r"\s*[\w.]+:[ \t]+\S", text):  # KEY=VALUE, unless YAML comes first
        if flags := re.search(r"\s--(?!config\b)[A-Za-z]", text[keys[0].end() :]):  # KEY=VALUE first, then flags
            position = keys[0].end() + flags.start()
            return parse_settings(text[:position], source) | parse_settings(text[position:], source, switches)
        ends = [key.start() for key in keys[1:]] + [len(text)]
        return flat({key[1]: _value(text[key.end() : end]) for key, end in zip(keys, ends, strict=True)})
    return plain_yaml(text, source)


def plain_yaml(text: str, source: str, loader: type[yaml.SafeLoader] = PlainLoader) -> dict[str, Any]:
    """Settings by dotted key of a YAML text; empty if it has none. Raises ValueError that names `source`."""
    try:
        content = yaml_value(text, loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{source} is not plain YAML ({' '.join(str(error).split())[:300]})") from error
    return flat(content) if isinstance(content, dict) else {}


def flat(content: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key. Text such as "(1, 2)" becomes a tuple, and text such as "1e-4" a number."""
    settings: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            settings |= flat(value, f"{name}.")
        elif isinstance(value, str) and value[:1] in ("(", "["):
            try:
                settings[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
                raise ValueError(f"{name}={value!r} cannot be read as a list of values") from error
        else:
            settings[name] = float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value
    return settings


def _value(text: str) -> object:
    """The value of a text: a Python literal, a YAML value, numpy's [0.1 0.2], else the text itself."""
    text = re.sub(r"--config\s*[\"']?\s*$", "", text).strip().rstrip("\\").strip()
    while text[-1:] in ("'", '"') and text.count(text[-1]) % 2:  # a quote of the shell that opens before a key
        text = text[:-1].strip()
    if re.fullmatch(r"\[[\d.eE+\-\s]+\]", text) and len(text.split()) > 1:
        return [float(number) for number in text[1:-1].split()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        pass
    try:
        return yaml_value(text, PlainLoader)
    except (yaml.YAMLError, RecursionError):
        return text


def listed(value: Any) -> Any:
    """Tuples as lists, at every depth."""
    return [listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def require_only(settings: Mapping[str, object], only: Mapping[str, object], source: str) -> None:
    """Raise ValueError that names `source` and the first of `settings` with another value than the one in `only`."""
    for key, value in settings.items():
        if key in only and listed(value) != only[key] and not isinstance(value, Unread):
            raise ValueError(f"{source}: {key}={value!r} is not supported; expected {only[key]!r}")


def field_of(key: str) -> str:
    """The field for setting `key`: model_rpn_nms_thresh for MODEL.RPN.NMS_THRESH."""
    return key.lower().replace(".", "_")


def same(ours: str, default: T) -> T:
    """A field of settings that means the same as our setting `ours` (box.score_threshold)."""
    return field(default=default, metadata={"ours": ours})


def same_settings(theirs: object, config: DetectorConfig, skipped: tuple[str, ...] = ()) -> dict[str, object]:
    """Our setting -> the value of the `same` field of `theirs`, for the parts of `config` and without `skipped`."""
    return {ours: getattr(theirs, name) for name, ours in _same_names(type(theirs), config, skipped).items()}


def same_values(cls: type[object], config: DetectorConfig, skipped: tuple[str, ...] = ()) -> dict[str, object]:
    """The inverse of `same_settings`: field of `cls` -> the value of the `same` setting in `config`."""
    values = setting_values(config)
    return {name: values[ours] for name, ours in _same_names(cls, config, skipped).items()}


def _same_names(cls: type[Any], config: DetectorConfig, skipped: tuple[str, ...]) -> dict[str, str]:
    """The fields of `cls` that are `same` as a setting of a part that `config` has, and that setting."""
    known = {key for key in setting_values(config) if key not in skipped}
    if config.proposals_only:  # one class, and a box head that is not used
        known = {key for key in known if not key.startswith(("box.", "num_classes"))}
    return {item.name: item.metadata["ours"] for item in fields(cls) if item.metadata.get("ours") in known}


def typed(
    cls: type[T], values: Mapping[str, Any], source: object, renamed: Mapping[str, str] | None = None
) -> Typed[T]:
    """`values` as the dataclass `cls`. Raises ValueError that names `source` and a value of the wrong type.

    `renamed` maps other names of a key to its usual name. Python objects that were not read count as not given.
    """
    hints = get_type_hints(cls)
    found: dict[str, Any] = {}
    given: set[str] = set()
    others: list[str] = []
    for name, value in values.items():
        key = (renamed or {}).get(name, name)
        field = field_of(key)
        if field not in hints:
            others.append(key)
        elif not isinstance(value, Unread):
            try:
                found[field] = _fitted(hints[field], value)
            except (TypeError, ValueError, OverflowError) as error:
                wrong = "is not supported" if get_origin(hints[field]) is Literal else "has the wrong type"
                expected = _expected(hints[field], getattr(cls, field))
                raise ValueError(f"{str(source)[:200]}: {key}={value!r} {wrong}; expected {expected}") from error
            given.add(key)
    return Typed(cls(**found), frozenset(given), tuple(others))


def typed_settings(
    cls: type[T],
    given: SettingsSource,
    *,
    renamed: Mapping[str, str] | None = None,
    switches: Mapping[str, bool] | None = None,
) -> Typed[T]:
    """The settings in a file or KEY=VALUE text as the dataclass `cls`; for None its defaults.

    Errors are those of `read_settings` and `typed`; `switches` are values of flags that are written without one.
    """
    return typed(cls, {} if given is None else read_settings(given, switches), given, renamed)


def _expected(hint: object, default: object) -> str:
    """What a field of type `hint` accepts, as part of a message."""
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType) and get_origin(get_args(hint)[0]) is Literal:
        return _expected(get_args(hint)[0], None)
    if default is not None:
        return f"a value such as {default!r}"
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    return next((names[part] for part in get_args(hint) if part in names), "a list")


def _fitted(hint: Any, value: Any) -> Any:
    """`value` as type `hint`. Raises TypeError or ValueError if it is of another type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else _fitted(arguments[0], value)
    if origin is Literal:
        value = "None" if value is None else value
        if value not in arguments:
            raise ValueError(value)
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError(value)
        if arguments[-1] is Ellipsis:
            return tuple(_fitted(arguments[0], part) for part in value)
        while len(value) == 1 and isinstance(
            value[0], (list, tuple)
        ):  # [[[103, 116, 123]]], an array of shape (1, 1, 3)
            value = value[0]
        return tuple(_fitted(kind, part) for kind, part in zip(arguments, value, strict=True))
    if hint is str:
        if not isinstance(value, str) and value is not None:
            raise TypeError(value)
        return str(value)
    if isinstance(value, bool) != (hint is bool) or (hint is int and value != int(value)):
        raise TypeError(value)
    if isinstance(value, str) and hint is float:
        value = float(value)
    if not isinstance(value, int | float):
        raise TypeError(value)
    return hint(value)
