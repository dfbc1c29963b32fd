"""Settings as text: `box.score_threshold=0.6` on a command line, a config as JSON and back, a table of what can be set.

Every value is checked against the field's own type; an error names the key, what was wanted and given, and near keys.
OmegaConf reads the text (YAML values, nothing evaluated); its structured configs know neither a union of dataclasses
nor nested tuples, so the types are checked here.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import io
import math
import textwrap
import tokenize
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from yaml import YAMLError

from rcnn.models.config import DetectorConfig

T = TypeVar("T")


class Setting(NamedTuple):
    """One line of the table."""

    path: str  # what `key.sub=value` calls it
    type: str
    default: Any  # or the value, of an instance; dataclasses.MISSING where it must be given
    comment: str


def override(settings: T, overrides: Sequence[str]) -> T:
    """Any of our dataclasses of settings, changed by `key.sub=value` strings in order.

    Values are YAML: `0.6`, `null`, `[[32], [64]]`, `{trunk: res5}`. `mask={}` gives a part that is off its defaults,
    `mask=null` takes it away, `backbone.kind=compact` exchanges it for another kind with that kind's defaults.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(f"{text!r} is not a setting: want key.sub=value, e.g. box.score_threshold=0.6")
        settings = _set(settings, key.split("."), _parse(key, value), key, settings)
    return settings


def config_to_dict(config: Any) -> dict[str, Any]:
    """A dataclass of settings as what JSON can hold: dicts, lists, strings, numbers, booleans, None."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def config_from_dict(settings: Mapping[str, Any], config_class: type[T] = DetectorConfig) -> T:
    """The dataclass that `config_to_dict` wrote; fields left out take their defaults. ValueError as for overrides."""
    return _build(config_class, settings, "")


def describe(config: Any) -> list[Setting]:
    """Every setting of a dataclass of settings, or of an instance (then with its values, and only the parts it has).

    A part that can be of several kinds, or off, is one line of its own before its settings.
    """
    if not isinstance(config, type):
        return _of_instance(config, "")
    return _of_class(config, "")


def leaf_paths(config_class: type) -> list[str]:
    """Every `key.sub` that can be set, those of parts that may be off and of every kind of a union included."""
    paths: dict[str, None] = {}
    for name, hint in field_types(config_class).items():
        classes = [part for part in _alternatives(hint) if dataclasses.is_dataclass(part)]
        for part in classes:
            paths.update(dict.fromkeys(f"{name}.{path}" for path in leaf_paths(part)))
        if not classes:
            paths[name] = None
    return list(paths)


@cache
def field_types(config_class: type) -> dict[str, Any]:
    """The type of each field, resolved."""
    hints = get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def type_name(hint: Any) -> str:
    """A type as a person would say it: `tuple[float, ...]`, `"rgb" | "bgr"`, `FPNConfig | null`."""
    if hint is type(None) or hint is None:
        return "null"
    if get_origin(hint) is Literal:
        return " | ".join(str(value) if not isinstance(value, str) else f'"{value}"' for value in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(type_name(part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        return f"tuple[{', '.join('...' if part is Ellipsis else type_name(part) for part in get_args(hint))}]"
    return getattr(hint, "__name__", str(hint))


@cache
def field_comments(config_class: type) -> dict[str, str]:
    """What stands after a field or in the comment lines right above it, by the field's name."""
    source = textwrap.dedent(inspect.getsource(config_class))
    after: dict[int, str] = {}  # line -> its comment
    alone: set[int] = set()  # lines that are nothing but a comment
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            after[token.start[0]] = token.string.lstrip("# ").rstrip()
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    comments = {}
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above, line = [], node.lineno - 1
            while line in alone:
                above.insert(0, after[line])
                line -= 1
            beside = after.get(node.end_lineno or node.lineno, "")
            comments[node.target.id] = " ".join([*above, beside]).strip()
    return comments


def _parse(key: str, value: str) -> Any:
    try:
        read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]), resolve=False)
    except YAMLError as error:
        raise ValueError(f"{key}: cannot read {value!r} as a value ({str(error).splitlines()[0]})") from error
    return read["value"]


def _set(settings: Any, keys: list[str], value: Any, path: str, root: Any) -> Any:
    name, rest = keys[0], keys[1:]
    hints = field_types(type(settings))
    if name not in hints:
        raise ValueError(_unknown(path, type(root)))
    prefix = path[: len(path) - len(".".join(rest)) - 1] if rest else path
    current = getattr(settings, name)
    if not rest:
        return _replaced(settings, name, _checked(hints[name], value, path, _default(type(settings), name)))
    parts = [part for part in _alternatives(hints[name]) if dataclasses.is_dataclass(part)]
    if rest == ["kind"] and len(parts) > 1:
        return _replaced(settings, name, _checked(hints[name], {"kind": value}, prefix))
    if dataclasses.is_dataclass(current):
        if rest[0] not in field_types(type(current)) and any(rest[0] in field_types(part) for part in parts):
            owners = " or ".join(f"{prefix}.kind={_kind(part)}" for part in parts if rest[0] in field_types(part))
            raise ValueError(f"{path}: not a setting of {prefix}.kind={_kind(type(current))}; set {owners} first")
        return _replaced(settings, name, _set(current, rest, value, path, root))
    if parts and path in leaf_paths(type(root)):
        raise ValueError(f"{path}: {prefix} is off here (null); set {prefix}={{}} first, which turns it on")
    raise ValueError(_unknown(path, type(root)))


def _replaced(settings: Any, name: str, value: Any) -> Any:
    return dataclasses.replace(settings, **{name: value})


def _unknown(path: str, root: type) -> str:
    paths = leaf_paths(root)
    lowered = path.lower()
    same_leaf = [known for known in paths if known.rsplit(".", 1)[-1] == lowered.rsplit(".", 1)[-1]]
    near = difflib.get_close_matches(lowered, paths, n=3, cutoff=0.6)
    if "." not in path:  # a bare leaf, misspelt perhaps: compare with the leaves alone
        leaves = difflib.get_close_matches(lowered, {known.rsplit(".", 1)[-1] for known in paths}, n=2, cutoff=0.75)
        near = [known for leaf in leaves for known in paths if known.rsplit(".", 1)[-1] == leaf] + near
    close = list(dict.fromkeys([*same_leaf, *near]))[:4]
    parts = sorted({known.split(".")[0] for known in paths})
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(parts)}"
    return f"no setting {path!r}; {hint}"


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _kind(config_class: type) -> str:
    return get_args(field_types(config_class)["kind"])[0]


def _default(config_class: Any, name: str) -> Any:
    """The default of a field; dataclasses.MISSING if it has none."""
    [field] = [field for field in dataclasses.fields(config_class) if field.name == name]
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _checked(hint: Any, value: Any, path: str, default: Any = None) -> Any:
    """`value` as `hint` wants it: lists become tuples, whole numbers floats where a float is wanted, nothing else."""
    options = _alternatives(hint)
    if value is None and type(None) in options:
        return None
    parts = [part for part in options if dataclasses.is_dataclass(part)]
    if parts and isinstance(value, Mapping):
        kind = _of_kind(parts, value, path)
        return _build(kind, value, path, default if type(default) is kind else None)
    origin = get_origin(hint)
    if origin is Literal and any(value == known and type(value) is type(known) for known in get_args(hint)):
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return _checked_tuple(hint, value, path)
    for option in options:
        if option is float and type(value) in (int, float) and math.isfinite(value):
            return float(value)
        if option in (int, bool, str) and type(value) is option:
            return value
    near = (
        difflib.get_close_matches(str(value), [str(known) for known in get_args(hint)], n=1)
        if origin is Literal
        else []
    )
    wanted = type_name(hint) if origin is not Literal else f"one of {type_name(hint)}"
    raise ValueError(f"{path}: want {wanted}, got {value!r}" + (f"; did you mean {near[0]}?" if near else ""))


def _checked_tuple(hint: Any, value: Sequence[Any], path: str) -> tuple[Any, ...]:
    kinds = get_args(hint)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{path}: want {type_name(hint)}, {len(kinds)} values, got {len(value)}: {list(value)!r}")
    return tuple(_checked(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _of_kind(parts: list[Any], value: Mapping[str, Any], path: str) -> type:
    """Which of a union's dataclasses: the one whose `kind` is given."""
    if len(parts) == 1:
        return parts[0]
    kinds = {_kind(part): part for part in parts}
    if value.get("kind") not in kinds:
        raise ValueError(f"{path}.kind: want one of {', '.join(kinds)}, got {value.get('kind')!r}")
    return kinds[value["kind"]]


def _build(config_class: Any, value: Any, path: str, base: Any = None) -> Any:
    """The dataclass with the fields of `value`; the others are those of `base`, or the defaults of the class."""
    dot = f"{path}." if path else ""
    hints = field_types(config_class)
    if not isinstance(value, Mapping):
        raise ValueError(f"{path or 'config'}: want the settings of {config_class.__name__}, got {value!r}")
    for name in value:
        if name not in hints:
            close = difflib.get_close_matches(str(name), hints, n=3) or sorted(hints)
            raise ValueError(
                f"no setting {f'{dot}{name}'!r}; did you mean {' or '.join(dot + known for known in close)}?"
            )
    fields = {
        name: _checked(hints[name], given, f"{dot}{name}", _default(config_class, name))
        for name, given in value.items()
    }
    if base is not None:
        return dataclasses.replace(base, **fields)
    for field in dataclasses.fields(config_class):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in fields:
            raise ValueError(f"{dot}{field.name} is missing, and has no default: want {type_name(hints[field.name])}")
    return config_class(**fields)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return config_to_dict(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _of_instance(config: Any, prefix: str) -> list[Setting]:
    rows = []
    comments = field_comments(type(config))
    for name, hint in field_types(type(config)).items():
        value, path = getattr(config, name), f"{prefix}{name}"
        if dataclasses.is_dataclass(value):
            rows += _of_instance(value, f"{path}.")
        else:
            rows.append(Setting(path, type_name(hint), value, comments.get(name, "")))
    return rows


def _of_class(config_class: type, prefix: str) -> list[Setting]:
    rows = []
    comments = field_comments(config_class)
    hints = field_types(config_class)
    for field in dataclasses.fields(config_class):
        hint, path = hints[field.name], f"{prefix}{field.name}"
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        options = _alternatives(hint)
        parts = [part for part in options if dataclasses.is_dataclass(part)]
        if len(options) > 1 or not parts:
            shown = type(default).__name__ if dataclasses.is_dataclass(default) else default
            rows.append(Setting(path, type_name(hint), shown, comments.get(field.name, "")))
        for part in parts:
            rows += _of_instance(default, f"{path}.") if type(default) is part else _of_class(part, f"{path}.")
    return rows
