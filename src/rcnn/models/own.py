"""The user's own modules: a backbone, or a head, that a function or class in the user's code makes.

A config names such a factory as FILE.py:NAME or PACKAGE.MODULE:NAME, with its keyword arguments. Building a detector
imports it. A config that was read from a file is therefore used only after `allow_factories`, which refuses every
factory that the user does not allow by name.

A backbone is made by `factory(**arguments)`, a head by `factory(config, maps, **arguments)`, where `config` is the
DetectorConfig and `maps` are the FeatureMaps that the head reads (models/build.py).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import nn

from rcnn.models.config import DetectorConfig, OwnBackboneConfig
from rcnn.models.overrides import as_strings

OwnModule = nn.Module | Callable[..., object]  # a module, or the function or class that makes it
PARTS = {"backbone": "backbone", "box_head": "box", "mask_head": "mask", "keypoint_head": "keypoint"}  # -> its settings
PASSED = "(a module that was passed)"  # stands for a factory where a module was passed that rcnn cannot build again
OWN_PACKAGE = "rcnn_own."  # in sys.modules, before the name of a file that was imported as a factory
EXPECTED = "expected FILE.py:NAME or PACKAGE.MODULE:NAME, e.g. my_backbone.py:make_backbone"


@dataclass(frozen=True, kw_only=True)
class Factory:
    """What makes one of the user's modules."""

    path: str  # FILE.py:NAME or PACKAGE.MODULE:NAME
    arguments: Mapping[str, Any]
    make: Callable[..., object]

    def build(self, *inputs: object) -> nn.Module:
        """The module. ValueError, with the path, if the user's code fails or returns something else."""
        try:
            module = self.make(*inputs)
        except Exception as error:
            given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
            raise ValueError(f"{self.path}({given}) failed: {type(error).__name__}: {error}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"{self.path} returned {type(module).__name__}; expected a torch.nn.Module")
        return module


def own_factories(config: DetectorConfig) -> dict[str, str]:
    """{"backbone.factory": "my_backbone.py:make_backbone", ...}: the user's code that builds a detector of `config`."""
    return {f"{part}.factory": path for part, (path, _) in _modules_of(config).items()}


def allow_factories(config: DetectorConfig, allow: str | Sequence[str], source: str | Path) -> DetectorConfig:
    """`config`, read from the file `source`, if the user allows all code that it names; else a ValueError.

    A file may have moved: its name and the name of the factory decide, and the path in `allow` is the one to import.
    """
    allowed = as_strings(allow)
    for key, path in own_factories(config).items():
        match = next((entry for entry in allowed if _same_factory(entry, path)), None)
        if match is None:
            raise ValueError(
                f"{source}: {key} is {path}, code that is not part of the checkpoint and that runs when the model is "
                f"built. If you trust it, allow it: --allow {path} on the command line, allow=[{path!r}] in Python"
            )
        part = key.partition(".")[0]
        config = replace(config, **{part: replace(getattr(config, part), factory=match)})
    return config


def use_modules(
    config: DetectorConfig, given: Mapping[str, OwnModule | None]
) -> tuple[DetectorConfig, dict[str, Factory]]:
    """`config` that names the modules in `given` (a name of PARTS -> module or factory), and all factories by name.

    Factories that `config` itself names are imported.
    """
    factories: dict[str, Factory] = {}
    for name, part in PARTS.items():
        value, settings = given.get(name), getattr(config, part)
        if value is not None:
            if settings is None:
                raise ValueError(
                    f"{name} was passed, but config.{part} is None: set it, override(config, ['{part}={{}}'])"
                )
            path, arguments, make = _named(name, value)
            start: Any = OwnBackboneConfig(factory=path) if part == "backbone" else settings
            settings = replace(start, factory=path, arguments=arguments)
            config = replace(config, **{part: settings})
        elif getattr(settings, "factory", ""):
            make = import_factory(settings.factory)
        else:
            continue
        make = functools.partial(make, **settings.arguments)
        factories[name] = Factory(path=settings.factory, arguments=settings.arguments, make=make)
    return config, factories


def require_named(config: DetectorConfig, built: DetectorConfig | None = None) -> None:
    """ValueError if a checkpoint of `config` could not be loaded again, because it has a module without a factory.

    `built` is the config of the detector to save, which has to name the same modules.
    """
    if built is not None and _modules_of(built) != _modules_of(config):
        raise ValueError("the config does not name the detector's own modules: pass detector.config")
    for key, path in own_factories(config).items():
        if path == PASSED:
            name = next(name for name, part in PARTS.items() if key == f"{part}.factory")
            raise ValueError(
                f"{name} was passed to build_detector as a module, so the checkpoint cannot say how to build it again. "
                f"Pass the class or function that makes it, from a file: build_detector(config, {name}=make), or with "
                f"arguments {name}=functools.partial(make, width=32)"
            )


def import_factory(path: str) -> Callable[..., object]:
    """The function or class that `path` names. Runs the user's code. ValueError if there is no such thing."""
    source, _, name = path.rpartition(":")
    if path == PASSED:
        raise ValueError("this config is of a detector that was built from a module: pass the module again")
    if not source or not name:
        raise ValueError(f"{path!r} is not the import path of a factory; {EXPECTED}")
    if source.endswith(".py") and not Path(source).is_file():
        raise ValueError(
            f"{path}: {source} does not exist in {Path.cwd()}. If it moved, give its path: --allow "
            f"PATH/{Path(source).name}:{name}, or allow= in Python"
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
        near = difflib.get_close_matches(name, known, n=3) or known[:8]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"{path}: {source} defines no {name}{hint}") from error
    if not callable(factory):
        raise ValueError(
            f"{path} is of type {type(factory).__name__}; expected a function or class that returns a module"
        )
    return factory


def checked_head(factory: Factory, config: DetectorConfig, maps: object) -> Any:
    """The head that `factory` makes, of any class with the two methods that the detector calls. ValueError if not."""
    head = factory.build(config, maps)
    for method in ("losses", "predict"):
        if not callable(getattr(head, method, None)):
            raise ValueError(f"{factory.path} made a {type(head).__name__} without the method {method}()")
    return head


def _modules_of(config: DetectorConfig) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Part of the config -> path and keyword arguments of its factory, where it has one."""
    parts = {part: getattr(config, part) for part in PARTS.values()}
    with_factory = {part: settings for part, settings in parts.items() if getattr(settings, "factory", "")}
    return {part: (settings.factory, settings.arguments) for part, settings in with_factory.items()}


def _named(name: str, value: OwnModule) -> tuple[str, Mapping[str, Any], Callable[..., object]]:
    """The path, the keyword arguments and the factory of what the user passed as the module `name`."""
    if isinstance(value, nn.Module):
        # only a class without parameters says how to make the same module again
        again = name == "backbone" and not inspect.signature(type(value)).parameters

        def passed(*_: object) -> object:
            return value

        return (_path_of(type(value)) if again else None) or PASSED, {}, passed
    arguments: Mapping[str, Any] = {}
    if isinstance(value, functools.partial):
        if value.args:
            raise ValueError(f"{name}: give functools.partial keyword arguments only; a checkpoint stores them by name")
        value, arguments = value.func, value.keywords
    if not callable(value):
        raise ValueError(
            f"{name}: expected a module, or a function or class that makes one, got {type(value).__name__}"
        )
    return _path_of(value) or PASSED, arguments, value


def _path_of(value: object) -> str | None:
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


def _import_file(path: Path) -> ModuleType:
    """The module of a file; files beside it can be imported by it."""
    path = path.resolve()
    for name, known in list(sys.modules.items()):  # the script that is running, or a module that it imports
        file = getattr(known, "__file__", None)
        imported_here = name.startswith(OWN_PACKAGE)  # and perhaps edited since
        if file is not None and Path(file).name == path.name and not imported_here and Path(file).resolve() == path:
            return known
    name = OWN_PACKAGE + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def _same_factory(allowed: str, path: str) -> bool:
    """Whether the user's `allowed` is the factory `path`, in a file of the same name."""
    if allowed == path:
        return True
    (mine, _, my_name), (theirs, _, their_name) = allowed.rpartition(":"), path.rpartition(":")
    files = mine.endswith(".py") and theirs.endswith(".py")
    return files and my_name == their_name and _file_name(mine) == _file_name(theirs)


def _file_name(path: str) -> str:
    return re.split(r"[\\/]", path)[-1]
