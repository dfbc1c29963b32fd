"""The way back: a checkpoint of ours as a file of Detectron2, torchvision or MMDetection."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.models.overrides import config_to_dict
from rcnn.weights.checkpoint import Checkpoint, load_checkpoint
from rcnn.weights.systems.converted import few
from rcnn.weights.systems.detectron2.export import settings_of
from rcnn.weights.systems.detectron2.system import to_detectron2
from rcnn.weights.systems.known import convert
from rcnn.weights.systems.mmdetection.system import to_mmdetection
from rcnn.weights.systems.torchvision import to_torchvision

Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A system whose files we write."""

    name: str
    state: Callable[[Mapping[str, Tensor], DetectorConfig], dict[str, Tensor]]  # names and shapes as it has them
    content: Callable[[dict[str, Tensor], Checkpoint], Any]  # what its file holds beside
    suffixes: tuple[str, ...]
    settings: Callable[[DetectorConfig], str] | None = None  # its own settings, as YAML


def _detectron2(state: dict[str, Tensor], checkpoint: Checkpoint) -> Any:
    return {"model": state, "__author__": "rcnn"}


def _mmdetection(state: dict[str, Tensor], checkpoint: Checkpoint) -> Any:
    classes = tuple(checkpoint.classes)
    return {"state_dict": state, "meta": {"CLASSES": classes, "dataset_meta": {"classes": classes}}}


TARGETS = {
    "detectron2": Target(
        name="Detectron2",
        state=to_detectron2,
        content=_detectron2,
        suffixes=(".pth", ".pkl"),
        settings=settings_of,
    ),
    "torchvision": Target(
        name="torchvision", state=to_torchvision, content=lambda state, checkpoint: state, suffixes=(".pth", ".pt")
    ),
    "mmdetection": Target(name="MMDetection", state=to_mmdetection, content=_mmdetection, suffixes=(".pth",)),
}


def write_foreign(checkpoint_folder: str | Path, output: str | Path, system: str, say: Say = print) -> None:
    """Write the checkpoint in `checkpoint_folder` as the file `output` of `system`, and read it back to compare.

    Raises ValueError where that system has no such network, or the file would come back with other numbers;
    FileExistsError where `output` is there. Then nothing is left behind.
    """
    if system not in TARGETS:
        raise ValueError(f"--to {system}: want {', '.join(TARGETS)}")
    target, output = TARGETS[system], Path(output)
    if output.suffix not in target.suffixes:
        raise ValueError(f"{output}: files of {target.name} end in {' or '.join(target.suffixes)}")
    beside = output.with_suffix(".yaml")
    for path in (output, beside) if target.settings is not None else (output,):
        if path.exists():
            raise FileExistsError(f"{path} exists: choose another name, or remove it")
    checkpoint = load_checkpoint(checkpoint_folder)
    if checkpoint.kind != "detector":
        raise ValueError(f"{checkpoint_folder} holds a backbone alone: only detectors are written as other systems'")
    theirs = target.state(checkpoint.state, checkpoint.config)
    settings = target.settings(checkpoint.config) if target.settings is not None else ""
    output.parent.mkdir(parents=True, exist_ok=True)
    new = output.with_name(f"{output.stem}.writing-{os.getpid()}{output.suffix}")
    try:
        _write(new, target.content(theirs, checkpoint))
        if settings:
            new.with_suffix(".yaml").write_text(settings, encoding="utf-8")
        lines = _compare(new, checkpoint, new.with_suffix(".yaml") if settings else None)
        if settings:
            os.replace(new.with_suffix(".yaml"), beside)
        os.replace(new, output)
    finally:
        new.unlink(missing_ok=True)
        new.with_suffix(".yaml").unlink(missing_ok=True)
    say(f"wrote {output}: {target.name}, {len(theirs)} tensors" + (f", and {beside}" if settings else ""))
    for line in lines:
        say(line)


def _write(path: Path, content: Any) -> None:
    if path.suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in content["model"].items()}
        with path.open("wb") as file:
            pickle.dump({**content, "model": arrays}, file, protocol=4)
    else:
        torch.save(content, path)


def _compare(path: Path, checkpoint: Checkpoint, settings: Path | None) -> list[str]:
    """What comes back when `path` is converted: the same numbers, or a ValueError; settings that differ are told."""
    back = convert(path, settings)
    # how many batches a norm has seen plays no part in what it computes, and not every system keeps it
    names = {name for name in set(back.state) ^ set(checkpoint.state) if not name.endswith("num_batches_tracked")}
    eps = [getattr(config.backbone, "norm_eps", 0.0) for config in (back.config, checkpoint.config)]
    other = [
        name
        for name in sorted(set(back.state) & set(checkpoint.state))
        if name not in names
        and not _same(back.state[name], checkpoint.state[name])
        and not (eps[0] != eps[1] and _same_but_for_eps(name, back.state[name], checkpoint.state[name], eps))
    ]
    if names or other:
        raise ValueError(f"{path.name} would come back with other tensors: {few(sorted(names) + other)}")
    ours, theirs = _flat(config_to_dict(checkpoint.config)), _flat(config_to_dict(back.config))
    differ = [
        f"  {key}={ours.get(key)} here, {theirs.get(key)} there"
        for key in sorted(ours.keys() | theirs.keys())
        if key != "name" and ours.get(key) != theirs.get(key)
    ]
    same = "the same bit for bit" if eps[0] == eps[1] else "the same, variances but for the norms' eps"
    lines = [f"self-check: read back, all {len(back.state)} tensors are {same}"]
    if differ:
        lines += ["settings that its file cannot say, and that you have to give where you use it:", *differ]
    return lines


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _same_but_for_eps(name: str, a: Tensor, b: Tensor, eps: list[float]) -> bool:
    """Whether two running variances are the same once their norms' eps is added: systems have one that is fixed."""
    return name.endswith("running_var") and torch.allclose(
        a.double() + eps[0], b.double() + eps[1], rtol=1e-6, atol=1e-12
    )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, each in value.items() for k, v in _flat(each, f"{prefix}.{key}" if prefix else key).items()}
