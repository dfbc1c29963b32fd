"""Factories: functions and classes of the user's code that a setting names, FILE.py:NAME or PACKAGE.MODULE:NAME.

Importing a factory runs the code. If its name was read from a file, the user must allow it first (`same_factory`).
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, cast

OWN_PACKAGE = "rcnn_own."  # prefix in sys.modules of the files that were imported for a factory
EXPECTED = "expected FILE.py:NAME or PACKAGE.MODULE:NAME, e.g. my_backbone.py:make_backbone"


def import_factory(path: str) -> Callable[..., object]:
    """The function or class that `path` names. Runs the user's code. Raises ValueError if it cannot be imported."""
    source, _, name = path.rpartition(":")
    if not source or not name:
        raise ValueError(f"{path!r} is not the import path of a factory; {EXPECTED}")
    if source.endswith(".py") and not Path(source).is_file():
        raise ValueError(
            f"{path}: {source} does not exist in {Path.cwd()}. If it moved since the checkpoint or run was "
            f"written, give its path: --allow PATH/{Path(source).name}:{name}, or allow= in Python"
        )
    try:
        module = _import_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except Exception as error:
        hint = "" if source.endswith(".py") else "; a module must be installed, a file is written FILE.py:NAME"
        raise ValueError(f"{path}: importing {source} failed: {type(error).__name__}: {error}{hint}") from error
    try:
        factory = functools.reduce(getattr, name.split("."), cast(Any, module))
    except AttributeError as error:
        known = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; it has {', '.join(known[:8])}" if known else ""
        raise ValueError(f"{path}: {source} defines no {name}{hint}") from error
    if not callable(factory):
        raise ValueError(f"{path} is of type {type(factory).__name__}; expected a function or class")
    return factory


def require_file(typed: str) -> None:
    """Raise ValueError if the file of the factory `typed` does not exist."""
    source, _, _ = typed.rpartition(":")
    if source.endswith(".py") and not Path(source).is_file():
        raise ValueError(f"{typed}: {source} does not exist in {Path.cwd()}; {EXPECTED}")


def path_of(value: object) -> str | None:
    """FILE.py:NAME or PACKAGE.MODULE:NAME of a function or class; None if it cannot be imported (in a notebook)."""
    name, module = getattr(value, "__qualname__", ""), sys.modules.get(getattr(value, "__module__", ""))
    if not name or "<" in name or module is None:  # <locals>, <lambda>
        return None
    spec, file = getattr(module, "__spec__", None), Path(getattr(module, "__file__", None) or "").resolve()
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    packaged = spec is not None and "." in spec.name and not spec.name.startswith(OWN_PACKAGE)
    if packaged or installed or file.suffix != ".py":
        return f"{spec.name}:{name}" if spec is not None else None
    here = Path.cwd().resolve()
    return f"{(file.relative_to(here) if file.is_relative_to(here) else file).as_posix()}:{name}"


def same_factory(allowed: str, path: str) -> bool:
    """Whether `allowed`, given by the user, is the factory `path`; its file can be in another folder."""
    if allowed == path:
        return True
    (mine, _, my_name), (theirs, _, their_name) = allowed.rpartition(":"), path.rpartition(":")
    files = mine.endswith(".py") and theirs.endswith(".py")
    return files and my_name == their_name and _file_name(mine) == _file_name(theirs)


def _import_file(path: Path) -> ModuleType:
    """The module of a file; the file can import other files of its folder.

    Each of these is imported once per process, except those with the name of a file that an earlier factory in another
    folder imported: sys.modules keeps the earlier one. They are imported again with each factory, and `path_of` gives
    the earlier file for their functions: give such files different names.
    """
    path = path.resolve()
    for name, known in list(sys.modules.items()):  # the script that is running, or a module that it imports
        file = getattr(known, "__file__", None)
        imported_here = name.startswith(OWN_PACKAGE)  # import again: the file may have been edited
        if file is not None and Path(file).name == path.name and not imported_here and Path(file).resolve() == path:
            return known
    name = f"{OWN_PACKAGE}{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"  # unique
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _imports_from(path.parent):
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


@contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Import the files of `folder`, also if another user's file has imported others with the same names."""
    modules = list(sys.modules.items())
    others = {_place(module) for name, module in modules if name.startswith(OWN_PACKAGE)} - {folder}
    names = {name for name, module in modules if others and _has(folder, name) and _place(module) in others}
    hidden = {name: module for name, module in modules if name.partition(".")[0] in names}
    for name in hidden:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):  # the file has changed sys.path
            sys.path.remove(str(folder))
        sys.modules.update(hidden)


def _place(module: ModuleType) -> Path | None:
    """The folder that contains the file or the folder of a module; None if it has no file."""
    file = getattr(module, "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    return path.parent.parent if path.name == "__init__.py" else path.parent


def _has(folder: Path, name: str) -> bool:
    """Whether a folder contains the module or package `name`."""
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


def _file_name(path: str) -> str:
    return re.split(r"[\\/]", path)[-1]
