"""The interface of a system: how its files are recognized and read, and whether they can be written.

A new system is a module (or a folder with system.py) that ends with `SYSTEM = System(...)`, and an entry of SYSTEMS in
known.py. In this package, "ours" are the names, layout and settings of rcnn, "theirs" those of the other system.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from rcnn.data.messages import counted
from rcnn.models import DetectorConfig
from rcnn.models.unused_settings import override_used
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.readers.stored import NamedFileError
from rcnn.weights.systems.converted import Assumption, Converted, Kind, expected_state, require_fit
from rcnn.weights.systems.renaming import Placed
from rcnn.weights.systems.settings import SettingsSource

# what a setting without meaning or a tensor of another shape raises in the code of a system
WRONG = (AttributeError, TypeError, IndexError, ZeroDivisionError, RuntimeError)
COUNTER = ".num_batches_tracked"  # end of the name of a step counter of batch norm


def all_of(*patterns: str) -> Callable[[Collection[str]], bool]:
    """A function that returns whether each of `patterns` matches at least one whole name of a collection."""
    return lambda names: all(any(re.fullmatch(pattern, name) for name in names) for pattern in patterns)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The network in a file, and how its tensors become ours; no tensor is read yet."""

    config: DetectorConfig  # from names, shapes and the system's settings
    placed: Placed  # our name of each tensor, and the tensors that are skipped
    # (our name, value, config) -> the value in our layout
    tensor: Callable[[str, Tensor, DetectorConfig], Tensor] = lambda name, value, config: value
    # (state, config) -> the state with tensors that are made from several in the file, or that the file does not have
    complete: Callable[[dict[str, Tensor], DetectorConfig], dict[str, Tensor]] = lambda state, config: state
    classes: tuple[str, ...] = ()
    summary: str = ""  # where the settings come from
    assumed: tuple[Assumption, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Export:
    """How files of a system are written."""

    option: str  # its name for --to
    suffixes: tuple[str, ...]  # allowed endings of the file name
    state: Callable[[Mapping[str, Tensor], DetectorConfig], dict[str, Tensor]]  # names and layout of the system
    content: Callable[[dict[str, Tensor], tuple[str, ...]], object]  # (state, class names) -> the content of the file
    # (config, class names) -> the text of its own settings file
    settings: Callable[[DetectorConfig, tuple[str, ...]], str] | None = None
    settings_suffix: str = ".yaml"  # ending of the name of the settings file, which is beside the weights
    # (state, config) -> the same network in the form that the system supports, e.g. for BGR images; the file that is
    # read back is compared with this
    prepare: Callable[[Mapping[str, Tensor], DetectorConfig], tuple[dict[str, Tensor], DetectorConfig]] = (
        lambda state, config: (dict(state), config)
    )


@dataclass(frozen=True, kw_only=True)
class System:
    """A framework, and how its files are imported and exported."""

    name: str
    files: str  # which files: ".pkl, .pth"
    recognises: Callable[[Collection[str]], bool]  # (names of the tensors) -> whether the file is of this system
    read: Callable[[Found, SettingsSource], Plan]
    settings: str = ""  # what --config accepts, for messages; empty: the system has no settings
    kind: Kind = "detector"
    export: Export | None = None

    def convert(
        self,
        found: Found,
        settings: SettingsSource = None,
        *,
        overrides: Sequence[str] = (),
        allow_missing: Sequence[str] = (),
    ) -> Converted:
        """The weights in `found` in our format; `settings` are those of the system, `overrides` KEY=VALUE of rcnn.

        Our tensors that match a pattern of `allow_missing` may be missing. Raises ValueError that names the file
        and the tensors or settings that are wrong.
        """
        if settings is not None and not self.settings:
            raise ValueError(
                f"config (--config) {settings}: {found.source} is a file of {self.name}, which has no settings file; "
                "remove config"
            )
        with self._named_errors(found, settings):
            plan = self.read(found, settings)
        config = override_used(plan.config, overrides)
        expected = expected_state(config)
        # frozen norms have no step counter in rcnn; in the file they may have one
        unused = [name for name, ours in plan.placed.ours.items() if ours.endswith(COUNTER) and ours not in expected]
        names = {name: ours for name, ours in plan.placed.ours.items() if name not in unused}
        try:
            with self._named_errors(found, settings):
                state = {ours: plan.tensor(ours, found.state[name], config) for name, ours in names.items()}
                state = plan.complete(state, config)
        except NamedFileError:
            raise
        except ValueError as error:
            raise ValueError(f"{found.source}: {error}") from error
        part = "backbone." if self.kind == "backbone" else ""
        require_fit(config, expected, state, found.source, part=part, allow_missing=allow_missing)
        given = [word.partition("=")[0] for word in overrides]
        sentences = (assumption.sentence(config, given) for assumption in plan.assumed)
        what = (
            f"the backbone {config.name}"
            if self.kind == "backbone"
            else f"{config.name}, {counted(config.num_classes, 'class')}"
        )
        return Converted(
            config=config,
            state=state,
            classes=plan.classes,
            system=self.name,
            summary=f"{self.name} {what}, {counted(len(state), 'tensor')}"
            + (f"; {plan.summary}" if plan.summary else ""),
            kind=self.kind,
            assumed=tuple(sentence for sentence in sentences if sentence),
            notes=plan.notes,
            skipped=(*plan.placed.skipped, *unused, *found.skipped),
        )

    @contextmanager
    def _named_errors(self, found: Found, settings: SettingsSource) -> Iterator[None]:
        """Errors of the code that reads a file, as a NamedFileError that also names the file and its settings."""
        try:
            yield
        except KeyError as error:
            raise NamedFileError(
                f"{found.source} looks like a file of {self.name}, but has no tensor {error}"
            ) from error
        except WRONG as error:
            if _lacks_memory(error):
                raise
            given = "" if settings is None else f" with config (--config) {str(settings)[:200]}"
            raise NamedFileError(
                f"{found.source} cannot be read as a file of {self.name}{given}: its settings, or the shapes of its "
                f"tensors, are not those of such a network ({type(error).__name__}: {error})"
            ) from error


def _lacks_memory(error: Exception) -> bool:
    """Whether torch says so; it also writes of memory elsewhere, e.g. of tensors that share a memory location."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "allocate memory" in text)
