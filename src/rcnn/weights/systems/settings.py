"""Settings of other systems: a file or KEY=VALUE text, read as data and never run, then checked against typed fields.

A system lists its settings as a frozen dataclass; `MODEL.RPN.NMS_THRESH` is its field `model_rpn_nms_thresh`.
"""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

SettingsSource = str | Path | None  # a system's own settings: a file, a name that the system knows, or KEY=VALUE text
T = TypeVar("T")
# a key starts the text, or follows a space or a quote
KEY = re.compile(r"(?:(?<=\s)|(?<=^)|(?<=[\"']))(?:--)?([A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*)=")
FLAG = re.compile(r"(?:^|\s)(--?)([A-Za-z]\w*)(?:[ \t]+(?!-{1,2}[A-Za-z])(\S+))?")
EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")  # 1e-4, which YAML takes for a word
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
    unknown: tuple[str, ...]  # keys that the fields do not have


class PlainLoader(yaml.SafeLoader):
    """YAML of plain values: tuples are lists, other Python objects are `Unread`."""


def python_object(loader: PlainLoader, suffix: str, node: yaml.Node) -> object:
    """What a YAML tag of a Python object stands for: plain values are read, other objects are not."""
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
    """The file that `given` names; None where it is text (which may be too long for the name of a file)."""
    try:
        return Path(given) if Path(given).is_file() else None
    except (OSError, ValueError):
        return None


def read_text(path: Path) -> str:
    """The text of file `path`; a ValueError names a file that holds no text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file ({error}); expected settings") from error


def read_settings(given: str | Path) -> dict[str, Any]:
    """Settings by dotted key, from a file or from KEY=VALUE text.

    Read are KEY=VALUE (in lines or side by side), flags (`--bn2affine`), YAML, and the trees and tables that programs
    print: tensorpack's `{'MODE_FPN': True}`, matterport's `IMAGE_MIN_DIM    800`. ValueErrors name the file.
    """
    path = existing_file(given)
    if path is None and isinstance(given, Path):
        raise FileNotFoundError(f"{given} does not exist; expected a file of settings")
    text, source = (read_text(path), str(path)) if path else (str(given), f"{str(given)[:80]!r}")
    found = parse_settings(text, source)
    if not found:
        what = "no settings" if path else "neither a file nor settings"
        raise ValueError(f"{source} has {what}; expected KEY=VALUE, such as min_size=800" if path else
                         f"{source} is {what}; expected KEY=VALUE, such as min_size=800")  # fmt: skip
    return found


def parse_settings(text: str, source: str) -> dict[str, Any]:
    """As `read_settings`, of a text that is at hand; empty where it holds no settings."""
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    text = re.sub(r"(?m)^([A-Z][A-Z0-9_]+)[ \t]{2,}(?=[^=\s:])", r"\1=", text)  # a printed table
    if "=" not in text:  # KEY VALUE, as yacs takes settings
        text = re.sub(r"(?m)(^|[ \t])([A-Z][A-Z0-9_]*\.[A-Z0-9_.]+)[ \t]+(?=[^\s:])", r"\1\2=", text)
    tree = re.search(r"\{\s*['\"]", text)
    keys = list(KEY.finditer(text))
    if tree and not any(key.start() < tree.start() for key in keys):
        try:
            return flat(ast.literal_eval(text[tree.start() : text.rindex("}") + 1]))
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"{source}: the tree of settings cannot be read ({error})") from error
    if keys and not re.match(r"\s*[\w.]+:[ \t]+\S", text):
        ends = [key.start() for key in keys[1:]] + [len(text)]
        return flat({key[1]: _value(text[key.end() : end]) for key, end in zip(keys, ends, strict=True)})
    if re.match(r"\s*--?[A-Za-z]", text):
        return {found[2] if found[1] == "--" else f"-{found[2]}": _value(found[3]) if found[3] else True
                for found in FLAG.finditer(text)}  # fmt: skip
    return plain_yaml(text, source)


def plain_yaml(text: str, source: str, loader: type[yaml.SafeLoader] = PlainLoader) -> dict[str, Any]:
    """Settings by dotted key of a YAML text; empty where it holds none. Raises ValueError that names `source`."""
    try:
        content = loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{source} is not plain YAML ({' '.join(str(error).split())[:300]})") from error
    return flat(content) if isinstance(content, dict) else {}


def flat(content: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key. Tuples that are written as text are read, and numbers such as 1e-4."""
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
    """The value that a text writes down: a Python literal, a YAML value, numpy's [0.1 0.2], else the text itself."""
    text = re.sub(r"--config\s*[\"']?\s*$", "", text).strip().rstrip("\\").strip()
    while text[-1:] in ("'", '"') and text.count(text[-1]) % 2:  # the shell's quote, opened before a key
        text = text[:-1].strip()
    if re.fullmatch(r"\[[\d.eE+\-\s]+\]", text) and len(text.split()) > 1:
        return [float(number) for number in text[1:-1].split()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        pass
    try:
        return PlainLoader(text).get_single_data()
    except (yaml.YAMLError, RecursionError):
        return text


def key_of(name: str, known: Mapping[str, str]) -> str:
    """The field for setting `name`: MODEL.RPN.NMS_THRESH is model_rpn_nms_thresh."""
    return known.get(name, name.lower().replace(".", "_"))


def typed(cls: type[T], values: Mapping[str, Any], source: str, renamed: Mapping[str, str] | None = None) -> Typed[T]:
    """`values` as the dataclass `cls`; a ValueError names `source` and a value of another type.

    `renamed` gives the field for keys that have another name. Objects that were not read count as not given.
    """
    hints = get_type_hints(cls)
    defaults = cls()
    found: dict[str, Any] = {}
    given: set[str] = set()
    unknown: list[str] = []
    for name, value in values.items():
        field = key_of(name, renamed or {})
        if field not in hints:
            unknown.append(name)
        elif not isinstance(value, Unread):
            try:
                found[field] = _fitted(hints[field], value)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{source}: {name}={value!r} has the wrong type; expected a value such as "
                    f"{getattr(defaults, field)!r}"
                ) from error
            given.add(name)
    return Typed(cls(**found), frozenset(given), tuple(unknown))


def plain_values(settings: object) -> Iterator[tuple[str, Any]]:
    """Names and values of the fields of a settings dataclass."""
    for field in fields(settings):  # pyrefly: ignore[bad-argument-type]
        yield field.name, getattr(settings, field.name)


def _fitted(hint: Any, value: Any) -> Any:
    """`value` as type `hint`; TypeError or ValueError where it is something else."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _fitted(next(part for part in arguments if part is not type(None)), value)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(value)
        if arguments[-1] is Ellipsis:
            return tuple(_fitted(arguments[0], part) for part in value)
        return tuple(_fitted(kind, part) for kind, part in zip(arguments, value, strict=True))
    if hint is Any:
        return value
    if hint is str:
        if not isinstance(value, str) and value is not None:
            raise TypeError(value)
        return str(value)
    if isinstance(value, bool) != (hint is bool) or (hint is int and value != int(value)):
        raise TypeError(value)
    if not isinstance(value, int | float):
        value = float(value) if isinstance(value, str) and hint is float else None
    return hint(value)
