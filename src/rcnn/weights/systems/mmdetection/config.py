"""Reads the plain values of an MMDetection config: its Python is parsed, never run.

Such a file consists of assignments of dicts, lists and numbers, and extends other files with `_base_`. Everything else
(an import, a call other than `dict`, an environment variable) is skipped and reported.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rcnn.text_files import read_text
from rcnn.weights.systems.settings import existing_file

MAX_DEPTH = 20  # levels of files that extend each other, and of nested values
NUMBERS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class _NotPlain(ValueError):
    """An expression that would have to be run."""


def read_config(given: str | Path) -> tuple[dict[str, Any], list[str]]:
    """The values of a config file and of the files it extends, and descriptions of what was skipped.

    Raises FileNotFoundError, or ValueError that names the file and line.
    """
    path = existing_file(given)
    if path is None:
        raise FileNotFoundError(f"{str(given)[:200]} does not exist; expected MMDetection's config, a .py file")
    return _read(path, 0)


def parse_config(text: str, source: str) -> tuple[dict[str, Any], list[str]]:
    """Like `read_config`, for the complete text of a config, which checkpoints contain."""
    values, skipped = _assignments(text, source)
    values.pop("_base_", None)
    return values, skipped


def _read(path: Path, depth: int) -> tuple[dict[str, Any], list[str]]:
    if depth > MAX_DEPTH:
        raise ValueError(f"{path}: more than {MAX_DEPTH} files build on each other; is one its own _base_?")
    values, skipped = _assignments(read_text(path), str(path))
    bases = values.pop("_base_", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        file = path.parent / str(base)
        if not file.is_file():
            raise FileNotFoundError(
                f"{path} builds on {base}, and {file} does not exist: put it there, or give the whole config that "
                "training wrote to its work_dir"
            )
        below, also_skipped = _read(file, depth + 1)
        merged, skipped = _merge(merged, below), also_skipped + skipped
    return _merge(merged, values), skipped


def _assignments(text: str, source: str) -> tuple[dict[str, Any], list[str]]:
    """Top-level `name = value` assignments of plain values, and a description of everything else."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{source} cannot be read as a config ({error}); expected MMDetection's .py file") from error
    values: dict[str, Any] = {}
    skipped: list[str] = []
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    values[name] = _plain(value, values, 0)
                except _NotPlain as error:
                    skipped.append(f"{source}:{statement.lineno} {name}, which {error}")
            case ast.Expr(value=ast.Constant()):
                pass  # a docstring
            case _:
                skipped.append(
                    f"{source}:{statement.lineno} {type(statement).__name__.lower()}, which is not an assignment"
                )
    return values, skipped


def _plain(node: ast.expr, names: Mapping[str, Any], depth: int) -> Any:
    """The value of an expression of plain values; `names` are the values assigned before. Raises _NotPlain."""
    if depth > MAX_DEPTH:
        raise _NotPlain("is nested too deeply")
    deeper = depth + 1
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            if name not in names:
                raise _NotPlain(f"uses {name}, which is not a plain value")
            return names[name]
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_plain(part, names, deeper) for part in parts]
        case ast.Dict(keys=keys, values=values) if all(key is not None for key in keys):
            pairs = zip(keys, values, strict=True)
            return {_plain(key, names, deeper): _plain(value, names, deeper) for key, value in pairs if key is not None}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=words):
            made: dict[Any, Any] = {}
            for word in words:
                value = _plain(word.value, names, deeper)
                made |= value if word.arg is None and isinstance(value, dict) else {word.arg: value}
            return made
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _plain(operand, names, deeper)
            if isinstance(value, int | float):
                return -value
        case ast.BinOp(left=first, op=kind, right=second) if type(kind) in NUMBERS:
            numbers = _plain(first, names, deeper), _plain(second, names, deeper)
            if all(isinstance(number, int | float) for number in numbers) and not (
                isinstance(kind, ast.Div) and numbers[1] == 0
            ):
                return NUMBERS[type(kind)](*numbers)
    raise _NotPlain(f"holds `{ast.unparse(node)[:60]}`, which would have to be run")


def _merge(base: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated with `above`, nested dicts too; a dict with `_delete_` replaces the one in `base`."""
    merged = dict(base)
    for key, value in above.items():
        if isinstance(value, dict):
            value = dict(value)
            below = None if value.pop("_delete_", False) else merged.get(key)
            merged[key] = _merge(below, value) if isinstance(below, dict) else _merge({}, value)
        else:
            merged[key] = value
    return merged
