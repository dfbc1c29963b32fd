"""Converts a file of another system to an rcnn checkpoint folder, and runs the result once to check it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rcnn.commands import as_typed
from rcnn.data.messages import counted, few
from rcnn.data.output_place import beside_data, require_no_data_set
from rcnn.models import build_detector
from rcnn.outputs import sha256_of
from rcnn.weights.catalogue.names import is_weight_name, suggestion
from rcnn.weights.checkpoint import write_checkpoint, writing_checkpoint
from rcnn.weights.class_names import read_classes, require_class_names
from rcnn.weights.files import CONFIG_FILE
from rcnn.weights.readers.state_dict import Found, find_weights
from rcnn.weights.readers.stored import LazyState
from rcnn.weights.selfcheck import check_backbone, check_detector, require_same
from rcnn.weights.systems.converted import Converted, expected_state
from rcnn.weights.systems.known import EXPORTS, SYSTEMS, convert_found
from rcnn.weights.systems.settings import SettingsSource

Log = Callable[[str], object]
MAX_LINES = 40  # names listed on separate lines before the rest are counted


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """The options of a conversion."""

    settings: SettingsSource = None  # settings of the other system: a file, a name or KEY=VALUE text
    # names, one text with commas between the names, or a file with one name per line; empty: the names in `file`
    classes: str | tuple[str, ...] = ""
    allow_missing: Sequence[str] = ()  # patterns of our tensors that may be missing; they get initial values
    allow_unused: Sequence[str] = ()  # patterns of their tensors to skip
    allow_nonfinite: bool = False
    overrides: Sequence[str] = ()  # KEY=VALUE of our config; they win over the file and the settings
    command: str = ""  # as typed by the user; written to config.json
    require: Callable[[Converted], None] | None = None  # raises a ValueError to refuse what the file contains


def convert_to_folder(file: str | Path, output: str | Path, options: ConvertOptions, log: Log = print) -> None:
    """Convert `file` into the checkpoint folder `output`, log what was found, and run the result once.

    Files in `output` that rcnn did not write are never touched. Raises FileNotFoundError, FileExistsError, ImportError
    or ValueError that says what is wrong and what to do; then nothing is written.
    """
    _require_file(file)
    with writing_checkpoint(output) as folder:
        kind = _write(Path(file), folder, options, log)
        result = check_backbone(folder) if kind == "backbone" else check_detector(folder)
    log(f"wrote {output}")
    log(result)


def checkpoint_place(output: Path) -> str:
    """A warning if the folder `output` is inside that of a data set; empty if not. ValueError if it is a data set."""
    require_no_data_set(output, own=CONFIG_FILE)
    return beside_data(output)


def _require_file(file: str | Path) -> None:
    """Raise FileNotFoundError if `file` does not exist; for a name of published weights, the message says so."""
    name = str(file)
    if Path(name).exists():
        return
    if is_weight_name(name):
        raise FileNotFoundError(
            f"{name} is the name of published weights, which need no conversion: other commands take the name, e.g. "
            f"{as_typed('rcnn', 'predict', name, 'photo.jpg')}"
        )
    raise FileNotFoundError(f"{name} does not exist{suggestion(name)}; expected a weight file of another framework")


def _write(file: Path, folder: Path, options: ConvertOptions, log: Log) -> str:
    """Convert and write; the weights are out of memory when this returns. Returns the kind of checkpoint."""
    whole = find_weights(file)
    found = _without(whole, options.allow_unused)
    converted = _with_classes(
        convert_found(found, options.settings, overrides=options.overrides, allow_missing=options.allow_missing),
        options.classes,
    )
    if converted.kind == "detector":
        require_class_names(converted.classes, converted.config.num_classes, str(file))
    if options.require is not None:
        options.require(converted)
    state = _complete(converted)
    unmatched = [
        *_unmatched(options.allow_unused, whole.state, "--allow-unused"),
        *_unmatched(options.allow_missing, expected_state(converted.config), "--allow-missing"),
    ]
    for line in report_lines(converted, state, file, found.kind, options.overrides, unmatched):
        log(line)
    require_sound(state, str(file), options.allow_nonfinite)
    provenance = {
        "converted_from": file.name,
        "sha256": sha256_of(file),
        "system": converted.system,
        "format": found.kind,
        "summary": converted.summary,
        "assumed": list(converted.assumed),
        "notes": list(converted.notes),
        "skipped": list(converted.skipped),
        "settings": options.settings.name if isinstance(options.settings, Path) else options.settings or "",
        "overrides": list(options.overrides),
        "command": options.command,
        "torch": torch.__version__,
    }
    write_checkpoint(folder, state, converted.config, converted.classes, provenance, kind=converted.kind)
    require_same(folder, state)
    return converted.kind


def list_systems() -> list[str]:
    """The lines of `rcnn convert --list`, one per system."""
    lines = [
        f"{system.name}: {system.files}" + (f"; --config takes {system.settings}" if system.settings else "")
        for system in SYSTEMS
    ]
    return [*lines, f"--to: {', '.join(EXPORTS)}"]


def _with_classes(converted: Converted, classes: str | tuple[str, ...]) -> Converted:
    if not classes:
        return converted
    if converted.kind == "backbone":
        raise ValueError(f"classes (--classes) {classes}: the file is a backbone, which has no classes; remove it")
    names = read_classes(classes) if isinstance(classes, str) else classes
    require_class_names(names, converted.config.num_classes, f"classes (--classes) {classes}")
    return replace(converted, classes=names)


def _complete(converted: Converted) -> dict[str, Tensor]:
    """The state to write: tensors that may be missing and are missing get initial values."""
    part = "backbone." if converted.kind == "backbone" else ""
    expected = [name for name in expected_state(converted.config) if name.startswith(part)]
    missing = [name for name in expected if name not in converted.state]
    if not missing:
        return converted.state
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initial = build_detector(converted.config).state_dict()
    return converted.state | {name: initial[name] for name in missing}


def report_lines(
    converted: Converted,
    state: Mapping[str, Tensor],
    file: Path,
    kind: str,
    overrides: Sequence[str] = (),
    unmatched: Sequence[str] = (),
) -> list[str]:
    """The lines of the report: what was found, assumed and skipped; `unmatched` are patterns that match no tensor."""
    numbers = sum(value.numel() for value in state.values())
    names = converted.classes
    shown = f", {counted(len(names), 'class')} ({few(names, 5)})" if names else ""
    lines = [
        f"{file}: {converted.system}, {kind}",
        f"  {converted.summary}",
        f"  {converted.config.name}: {counted(len(state), 'tensor')}, {numbers / 1e6:.1f} million parameters{shown}",
    ]
    lists = (
        ("not in the file, assumed", converted.assumed),
        ("notes", converted.notes),
        ("set on the command line", overrides),
        ("skipped", converted.skipped),
        ("patterns that match no tensor", unmatched),
        ("missing, initial values are used", [name for name in state if name not in converted.state]),
    )
    for title, items in lists:
        items = _grouped(items)
        if items:
            lines.append(f"  {title}:")
            lines += [f"    {item}" for item in items[:MAX_LINES]]
            lines += [f"    and {len(items) - MAX_LINES} more"] if len(items) > MAX_LINES else []
    return lines


def _grouped(names: Sequence[str]) -> list[str]:
    """`names`, where four or more that differ only in their numbers become one line with * for the numbers."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name if " " in name or "=" in name else re.sub(r"\d+", "*", name), []).append(name)
    grouped: list[str] = []
    for pattern, same in groups.items():
        grouped += same if len(same) < 4 else [f"{pattern} ({len(same)} of them)"]
    return grouped


def require_sound(state: Mapping[str, Tensor], source: str, allow_nonfinite: bool = False) -> None:
    """Raise ValueError that names tensors with integers instead of weights, or with NaN or infinity."""
    integers = [
        name
        for name, value in state.items()
        if not value.is_floating_point() and not name.endswith("num_batches_tracked")
    ]
    if integers:
        raise ValueError(
            f"{source} holds integers where weights are expected, as quantized models do: {few(integers)} "
            "(rcnn's names); convert the checkpoint from before quantization"
        )
    wrong = [name for name, value in state.items() if value.is_floating_point() and not _finite(value)]
    if wrong and not allow_nonfinite:
        raise ValueError(
            f"{source} holds NaN or infinity in {counted(len(wrong), 'tensor')}: {few(wrong)} (rcnn's names). "
            "The training probably diverged: use an earlier checkpoint, or inspect this one with allow_nonfinite=True "
            "(--allow-nonfinite)"
        )


def _finite(value: Tensor) -> bool:
    """Whether all numbers are finite; checked in parts, because the check needs as much memory as the tensor."""
    return all(bool(part.isfinite().all()) for part in value.reshape(-1).split(1 << 22))


def _without(found: Found, patterns: Sequence[str]) -> Found:
    """`found` without the tensors that match one of `patterns`."""
    unused = tuple(name for name in found.state if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
    if not unused or not isinstance(found.state, LazyState):
        return found
    if len(unused) == len(found.state):
        raise ValueError(
            f"{found.source}: allow_unused (--allow-unused) {' '.join(patterns)} matches all of its "
            f"{counted(len(unused), 'tensor')}; expected patterns of the tensors to skip"
        )
    return replace(found, state=found.state.without(unused), skipped=(*found.skipped, *unused))


def _unmatched(patterns: Sequence[str], names: Iterable[str], option: str) -> list[str]:
    """Those of `patterns` that match none of `names`, with the option that they were given with."""
    return [
        f"{pattern} ({option})" for pattern in patterns if not any(fnmatch.fnmatchcase(name, pattern) for name in names)
    ]
