"""Tables of the settings in dataclasses: paths, types, defaults, and the comments beside the fields.

`rcnn models show` prints these tables, and the errors of overrides.py use their paths and types.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints


class Setting(NamedTuple):
    """One line of the table."""

    path: str  # its name on the command line: `rpn.proposals.nms_iou`
    type: str
    default: Any  # the default, or an instance's value; dataclasses.MISSING if it has no default
    comment: str


def settings_table(config: Any) -> list[Setting]:
    """Every setting of a dataclass with its default, or of an instance with its value.

    A part that can be None or of several kinds has its own line before the lines of its settings. Parts of an instance
    that are None have no further lines.
    """
    if not isinstance(config, type):
        return _settings_of_instance(config, "")
    return _settings_of_class(config, "")


def setting_paths(config_class: type) -> list[str]:
    """Every path that can be set (`rpn.proposals.nms_iou`), including optional parts and each kind of a union."""
    paths: dict[str, None] = {}
    for name, hint in field_types(config_class).items():
        parts = part_classes(hint)
        for part in parts:
            paths.update(dict.fromkeys(f"{name}.{path}" for path in setting_paths(part)))
        if not parts:
            paths[name] = None
    return list(paths)


@cache
def field_types(config_class: type) -> dict[str, Any]:
    """The type of each field, resolved."""
    hints = get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


@cache
def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; any other type alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


@cache
def part_classes(hint: Any) -> tuple[type[Any], ...]:
    """The dataclasses that a field of type `hint` can hold."""
    return tuple(part for part in alternatives(hint) if dataclasses.is_dataclass(part) and isinstance(part, type))


def kind_of(part: type) -> str:
    """The value of `kind` that chooses a dataclass in a union."""
    return get_args(field_types(part)["kind"])[0]


def type_name(hint: Any) -> str:
    """A type in the notation of the tables: `tuple[float, ...]`, `"rgb" | "bgr"`, `FPNConfig | null`."""
    if hint is type(None) or hint is None:
        return "null"
    if get_origin(hint) is Literal:
        return " | ".join(str(value) if not isinstance(value, str) else f'"{value}"' for value in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(type_name(part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        parts = part_classes(get_args(hint)[0])
        if len(parts) > 1:
            return f"list of {' | '.join(kind_of(part) for part in parts)}"
        return f"tuple[{', '.join('...' if part is Ellipsis else type_name(part) for part in get_args(hint))}]"
    if get_origin(hint) is Mapping:
        return "mapping"
    return getattr(hint, "__name__", str(hint))


def form_to_type(hint: Any) -> str:
    """How to write a value of the type `hint`: "a list of numbers, e.g. [0.5, 0.8]"; for a single value, the type."""
    options = alternatives(hint)
    if len(options) > 1:
        return " or ".join(form_to_type(option) for option in options)
    if get_origin(hint) is not tuple:
        return type_name(hint)
    items, example = _several(hint)
    return f"a list of {items}, e.g. {example}"


def _several(hint: Any) -> tuple[str, str]:
    """What a tuple of type `hint` contains, e.g. "2 numbers", and an example of it in YAML."""
    item, *more = get_args(hint)
    count, length = ("", 2) if more == [Ellipsis] else (f"{1 + len(more)} ", 1 + len(more))
    if get_origin(item) is Literal:
        names = [str(value) for value in get_args(item)]
        return " | ".join(names), f"[{names[0]}]"
    if parts := part_classes(item):
        kinds = [kind_of(part) for part in parts] if len(parts) > 1 else [parts[0].__name__]
        return " | ".join(kinds), f"[{kinds[0]}]"
    if get_origin(item) is tuple:
        inner, example = _several(item)
        return f"{count}lists of {inner}", f"[{', '.join([example] * length)}]"
    noun, examples = {
        float: ("numbers", ("0.5", "0.8", "0.9", "1.0")),
        int: ("integers", ("640", "800", "960", "1120")),
    }.get(item, ("names", ("a", "b", "c", "d")))
    return f"{count}{noun}", f"[{', '.join(examples[:length])}]"


@cache
def field_comments(config_class: type) -> dict[str, str]:
    """Field name -> the comment after the field, or in the comment lines right above it."""
    comments: dict[str, str] = {}
    for part in reversed(config_class.__mro__):  # inherited fields have their comments in the base class
        if dataclasses.is_dataclass(part):
            comments |= _own_comments(part)
    return comments


def _own_comments(config_class: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(config_class))
    comment_at: dict[int, str] = {}  # line -> its comment
    comment_lines: set[int] = set()  # lines that contain only a comment
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comment_at[token.start[0]] = token.string.lstrip("# ").rstrip()
            if not token.line[: token.start[1]].strip():
                comment_lines.add(token.start[0])
    comments: dict[str, str] = {}
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above: list[str] = []
            line = node.lineno - 1
            while line in comment_lines:
                above.insert(0, comment_at[line])
                line -= 1
            beside = comment_at.get(node.end_lineno or node.lineno, "")
            comments[node.target.id] = " ".join([*above, beside]).strip()
    return comments


def _settings_of_instance(config: Any, prefix: str) -> list[Setting]:
    rows: list[Setting] = []
    comments = field_comments(type(config))
    for name, hint in field_types(type(config)).items():
        value, path = getattr(config, name), f"{prefix}{name}"
        if dataclasses.is_dataclass(value):
            rows += _settings_of_instance(value, f"{path}.")
        else:
            rows.append(Setting(path, type_name(hint), value, comments.get(name, "")))
    return rows


def _settings_of_class(config_class: type[Any], prefix: str) -> list[Setting]:
    rows: list[Setting] = []
    comments = field_comments(config_class)
    hints = field_types(config_class)
    for field in dataclasses.fields(config_class):
        hint, path = hints[field.name], f"{prefix}{field.name}"
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        parts = part_classes(hint)
        if len(alternatives(hint)) > 1 or not parts:
            shown = type(default).__name__ if dataclasses.is_dataclass(default) else default
            rows.append(Setting(path, type_name(hint), shown, comments.get(field.name, "")))
        for part in parts:
            is_instance = type(default) is part  # a field's default may differ from the defaults of its class
            rows += _settings_of_instance(default, f"{path}.") if is_instance else _settings_of_class(part, f"{path}.")
    return rows
