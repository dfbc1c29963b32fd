"""The user's own modules: a backbone, or a head, that a function or class in the user's code makes.

A config names such a factory as FILE.py:NAME or PACKAGE.MODULE:NAME, with its keyword arguments. Building a detector
imports it. A config that was read from a file is therefore used only after `allow_factories`, which refuses every
factory that the user does not allow by name.

A backbone is made by `factory(**arguments)`, a head by `factory(config, maps, **arguments)`, where `config` is the
DetectorConfig and `maps` are the FeatureMaps that the head reads (models/build.py).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from rcnn.arguments import as_texts
from rcnn.commands import as_typed
from rcnn.models.config import DetectorConfig, OwnBackboneConfig
from rcnn.own_code import import_factory, path_of, same_factory

OwnModule = nn.Module | Callable[..., object]  # a module, or the function or class that makes it
PARTS = {"backbone": "backbone", "box_head": "box", "mask_head": "mask", "keypoint_head": "keypoint"}  # -> its settings
PASSED = "(a module that was passed)"  # stands for a factory where a module was passed that rcnn cannot build again


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
    """`config`, read from the file `source`, with the factories in `allow`. ValueError if it names another factory.

    A factory is allowed if its file name and its own name are the same as in `allow`: the file may have moved. The path
    in `allow` is then imported.
    """
    allowed = as_texts(allow, "allow")
    for key, path in own_factories(config).items():
        match = next((entry for entry in allowed if same_factory(entry, path)), None)
        if match is None:
            raise ValueError(
                f"{source}: {key} is {path}, code that is not part of the checkpoint and that runs when the model is "
                f"built. If you trust it, allow it: {as_typed('--allow', path)} on the command line, "
                f"allow=[{path!r}] in Python"
            )
        part = key.partition(".")[0]
        config = replace(config, **{part: replace(getattr(config, part), factory=match)})
    return config


def use_modules(
    config: DetectorConfig, given: Mapping[str, OwnModule | None]
) -> tuple[DetectorConfig, dict[str, Factory]]:
    """`config` with the names of the modules in `given`, and all factories by the names of PARTS.

    `given` maps a name of PARTS to a module, a factory or None. Factories that `config` itself names are imported.
    Raises ValueError for a part that `config` does not have, and for a module that cannot be built again.
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
            if settings.factory == PASSED:
                raise ValueError(
                    f"config.{part}.factory is {PASSED}, which cannot be built again: pass the module to "
                    f"build_detector(config, {name}=module)"
                )
            make = import_factory(settings.factory)
        else:
            continue
        make = functools.partial(make, **settings.arguments)
        factories[name] = Factory(path=settings.factory, arguments=settings.arguments, make=make)
    return config, factories


def require_named(config: DetectorConfig, built: DetectorConfig | None = None) -> None:
    """Raise ValueError if a checkpoint of `config` could not be loaded again because a module has no factory.

    `built` is the config of the detector to save; it must name the same modules.
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


def checked_head(factory: Factory, config: DetectorConfig, maps: object) -> Any:
    """The head that `factory` makes. Raises ValueError unless it has the two methods that the detector calls."""
    head = factory.build(config, maps)
    for method in ("losses", "predict"):
        if not callable(getattr(head, method, None)):
            raise ValueError(
                f"{factory.path} made a {type(head).__name__} without the method {method}(); expected a module with "
                "losses() and predict(), see docs/models/own_modules.md"
            )
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

        return (path_of(type(value)) if again else None) or PASSED, {}, passed
    arguments: Mapping[str, Any] = {}
    if isinstance(value, functools.partial):
        if value.args:
            raise ValueError(f"{name}: give functools.partial keyword arguments only; a checkpoint stores them by name")
        value, arguments = value.func, value.keywords
    if not callable(value):
        raise ValueError(
            f"{name}: expected a module, or a function or class that makes one, got {type(value).__name__}"
        )
    return path_of(value) or PASSED, arguments, value
