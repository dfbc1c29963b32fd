"""A whole conversion: a file of another system becomes a checkpoint folder of ours, and is tried out."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rcnn.models import build_detector
from rcnn.models.overrides import override
from rcnn.weights.checkpoint import require_class_names, require_replaceable, save_checkpoint, sha256_of
from rcnn.weights.export import TARGETS
from rcnn.weights.readers.state_dict import Found, find_weights
from rcnn.weights.selfcheck import check_backbone, check_detector, require_same
from rcnn.weights.systems.converted import Converted, few, require_fit
from rcnn.weights.systems.imagenet import KINDS, convert_backbone, is_backbone
from rcnn.weights.systems.known import SYSTEMS, Settings, convert_found

Say = Callable[[str], object]
MOST_LINES = 40  # names listed one a line before the rest are counted


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user asks of a conversion."""

    settings: Settings = None  # the other system's own configuration
    classes: str = ""  # names with commas between them, or a file of one a line; empty: those inferred
    allow_missing: Sequence[str] = ()  # patterns of our names that may be missing: they get initial values
    allow_unused: Sequence[str] = ()  # patterns of their names that are left behind
    allow_nonfinite: bool = False
    overrides: Sequence[str] = ()  # KEY=VALUE of our config, after what was inferred
    command: str = ""  # as it was typed, for the record


def convert_to_folder(file: str | Path, output: str | Path, wishes: Wishes, say: Say = print) -> None:
    """Convert `file` into the checkpoint folder `output`, telling `say` what was found, and run what was written.

    Raises FileNotFoundError, FileExistsError, ImportError or ValueError that says what is wrong and what to do; then
    nothing is written.
    """
    file, output = Path(file), Path(output)
    require_replaceable(output)
    found, unused = _without(find_weights(file), wishes.allow_unused)
    backbone = is_backbone(list(found.state))
    _write(found, unused, file, output, wishes, backbone, say)
    say(f"wrote {output}")
    say(check_backbone(output) if backbone else check_detector(output))


def _write(
    found: Found, unused: Sequence[str], file: Path, output: Path, wishes: Wishes, backbone: bool, say: Say
) -> None:
    """Convert and write; the weights are gone from memory when this is done."""
    converted = _convert(found, wishes, backbone)
    state = _complete(converted, wishes, backbone, str(file))
    left = (*converted.left, *unused)
    for line in describe(converted, state, file, found.kind, left):
        say(line)
    require_sound(state, str(file), wishes.allow_nonfinite)
    provenance = {
        "converted_from": file.name,
        "sha256": sha256_of(file),
        "system": converted.system,
        "format": found.kind,
        "report": converted.report,
        "assumed": list(converted.assumed),
        "left": list(left),
        "settings": _settings_name(wishes.settings),
        "overrides": list(wishes.overrides),
        "command": wishes.command,
        "torch": torch.__version__,
    }
    kind = "backbone" if backbone else "detector"
    save_checkpoint(output, state, converted.config, converted.classes, provenance, kind=kind)
    require_same(output, state)


def list_systems() -> list[str]:
    """What `rcnn convert --list` says: a line for each system."""
    lines = [
        f"{system.name}: {system.files}" + (f"; --config takes {system.settings}" if system.settings else "")
        for system in SYSTEMS
    ]
    kinds = ", ".join(kind.name for kind in KINDS)
    return [*lines, f"ImageNet ResNets (the backbone alone, to train from): {kinds}", f"--to: {', '.join(TARGETS)}"]


def _convert(found: Found, wishes: Wishes, backbone: bool) -> Converted:
    if backbone:
        if wishes.classes or wishes.settings is not None:
            raise ValueError(f"{found.source} is a backbone alone: it has no classes or settings; leave them out")
        converted = convert_backbone(found)
    else:
        converted = convert_found(found, wishes.settings, wishes.allow_missing)
    config = override(converted.config, wishes.overrides)
    classes = converted.classes
    if wishes.classes:
        classes = read_classes(wishes.classes)
        require_class_names(classes, config.num_classes, f"--classes {wishes.classes}")
    return replace(converted, config=config, classes=classes)


def _complete(converted: Converted, wishes: Wishes, backbone: bool, source: str) -> dict[str, Tensor]:
    """The state to be written: all of a backbone's or a detector's tensors, initial values for what may be missing."""
    if backbone:
        require_fit(converted.config, converted.state, source, part="backbone.")
        return converted.state
    state = dict(converted.state)
    with torch.device("meta"):
        wanted = build_detector(converted.config).state_dict()
    missing = [name for name in wanted if name not in state]
    if missing and all(any(fnmatch.fnmatchcase(name, p) for p in wishes.allow_missing) for name in missing):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = build_detector(converted.config).state_dict()
        state |= {name: fresh[name] for name in missing}
    require_fit(converted.config, state, source)
    return state


def describe(
    converted: Converted, state: Mapping[str, Tensor], file: Path, kind: str, left: Sequence[str]
) -> list[str]:
    """What was found, assumed and left behind, for people."""
    numbers = sum(value.numel() for value in state.values())
    names = converted.classes
    shown = few([str(name) for name in names], 5) if names else ""
    lines = [
        f"{file}: {converted.system}, {kind}",
        f"  {converted.report}",
        f"  {converted.config.name}: {len(state)} tensors, {numbers / 1e6:.1f} million numbers"
        + (f", {len(names)} classes ({shown})" if names else ""),
    ]
    fresh = [name for name in state if name not in converted.state]
    lists = (
        ("assumed, for the file cannot say", converted.assumed),
        ("left behind", left),
        ("missing, so they have initial values", fresh),
    )
    for title, items in lists:
        items = _gathered(items)
        if items:
            lines.append(f"  {title}:")
            lines += [f"    {item}" for item in items[:MOST_LINES]]
            lines += [f"    and {len(items) - MOST_LINES} more"] if len(items) > MOST_LINES else []
    return lines


def _gathered(names: Sequence[str]) -> list[str]:
    """The names; four and more that differ in their numbers alone are one, with * for these."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name if " " in name else re.sub(r"\d+", "*", name), []).append(name)
    gathered = []
    for pattern, same in groups.items():
        gathered += same if len(same) < 4 else [f"{pattern} ({len(same)} of them)"]
    return gathered


def require_sound(state: Mapping[str, Tensor], source: str, allow_nonfinite: bool = False) -> None:
    """A ValueError that names the tensors which hold integers in place of weights, or numbers that are none."""
    integers = [name for name, value in state.items() if not value.is_floating_point() and not _counts(name)]
    if integers:
        raise ValueError(
            f"{source} holds whole numbers where weights belong, as quantised models do: {few(integers)} (in our "
            "names); convert the checkpoint from before it was quantised"
        )
    wrong = [name for name, value in state.items() if value.is_floating_point() and not _finite(value)]
    if wrong and not allow_nonfinite:
        raise ValueError(
            f"{source} holds NaN or infinity in {len(wrong)} tensors: {few(wrong)} (in our names). The training "
            "diverged: take an earlier checkpoint (or --allow-nonfinite, to look at it)"
        )


def _finite(value: Tensor) -> bool:
    """Whether all numbers are; a part at a time, for the question takes as much memory again."""
    return all(bool(part.isfinite().all()) for part in value.reshape(-1).split(1 << 22))


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def read_classes(words: str) -> tuple[str, ...]:
    """Class names from `a,b,c`, or from a file that has one a line."""
    path = Path(words)
    if "," not in words and path.is_file():
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return tuple(word.strip() for word in words.split(","))


def _without(found: Found, patterns: Sequence[str]) -> tuple[Found, tuple[str, ...]]:
    """`found` without the tensors of these names, and their names."""
    if not patterns:
        return found, ()
    unused = tuple(name for name in found.state if any(fnmatch.fnmatchcase(name, p) for p in patterns))
    kept = found.state.without(unused)
    return replace(found, state=kept), unused


def _settings_name(settings: Settings) -> str:
    return Path(settings).name if isinstance(settings, Path) else str(settings or "")
