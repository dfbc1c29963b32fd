"""Writes an rcnn checkpoint as a file of another system, and reads it back to compare."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcnn.data.messages import counted, few
from rcnn.models.own import own_factories
from rcnn.outputs import OutputFolder
from rcnn.weights.checkpoint import Checkpoint, read_checkpoint
from rcnn.weights.setting_texts import setting_values
from rcnn.weights.systems.known import EXPORTS, convert
from rcnn.weights.systems.system import Export, System

Log = Callable[[str], object]


def default_file(target: str) -> str:
    """The file name of an export to `target` when no --output is given, e.g. `model.pth`."""
    return f"model{_export_to(target)[1].suffixes[0]}"


def export_checkpoint(checkpoint_folder: str | Path, output: str | Path, target: str, log: Log = print) -> None:
    """Write the checkpoint in `checkpoint_folder` as the file `output` of the system `target`.

    Raises ValueError if that system has no such network, or the file read back gives other numbers; FileExistsError if
    `output`, or the settings file beside it, exists and rcnn did not write it. Then nothing is written.
    """
    (system, export), output = _export_to(target), Path(output)
    if output.suffix not in export.suffixes:
        raise ValueError(
            f"{output}: expected a file name that ends in {' or '.join(export.suffixes)}, for {system.name}"
        )
    beside = output.with_suffix(export.settings_suffix)
    names = [output.name, *([beside.name] if export.settings is not None else [])]
    with OutputFolder(output.parent) as folder, folder.writing_together(*names) as new:
        checkpoint = read_checkpoint(checkpoint_folder)
        if own := own_factories(checkpoint.config):
            raise ValueError(f"{checkpoint_folder} has {', '.join(own)}; only modules of rcnn can be exported")
        if checkpoint.kind != "detector":
            raise ValueError(f"{checkpoint_folder} contains only a backbone; only detectors can be exported")
        state, config = export.prepare(checkpoint.state, checkpoint.config)
        checkpoint = replace(checkpoint, state=state, config=config)
        theirs = export.state(checkpoint.state, checkpoint.config)
        _write(new / output.name, export.content(theirs, checkpoint.classes))
        if export.settings is not None:
            (new / beside.name).write_text(export.settings(checkpoint.config, checkpoint.classes), encoding="utf-8")
        lines = _compare(new / output.name, checkpoint, new / beside.name if export.settings is not None else None)
    written = f"wrote {output}: {system.name}, {counted(len(theirs), 'tensor')}"
    log(written + (f", and {beside}" if export.settings is not None else ""))
    for line in lines:
        log(line)


def _export_to(target: str) -> tuple[System, Export]:
    if target not in EXPORTS:
        raise ValueError(f"--to {target}: expected one of {', '.join(EXPORTS)}")
    return EXPORTS[target]


def _write(path: Path, content: Any) -> None:
    if path.suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in content["model"].items()}
        with path.open("wb") as file:
            pickle.dump({**content, "model": arrays}, file, protocol=4)
    elif path.suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, **{name: value.numpy() for name, value in content.items()})
    else:
        try:
            torch.save(content, path)
        except RuntimeError as error:  # what torch raises for a disk error
            reason = str(error).splitlines()[0]
            raise OSError(f"{path} cannot be written ({reason}); check that the disk has free space") from error


def _compare(path: Path, checkpoint: Checkpoint, settings: Path | None) -> list[str]:
    """Raise ValueError unless converting `path` gives the same numbers; returns lines about settings that differ."""
    back = convert(path, settings)
    # step counters of batch norm change no result, and not every system stores them
    names = {name for name in set(back.state) ^ set(checkpoint.state) if not name.endswith("num_batches_tracked")}
    eps = [getattr(config.backbone, "norm_eps", 0.0) for config in (back.config, checkpoint.config)]
    other = [
        name
        for name in sorted(set(back.state) & set(checkpoint.state))
        if not _same(back.state[name], checkpoint.state[name])
        and not (eps[0] != eps[1] and _same_but_for_eps(name, back.state[name], checkpoint.state[name], eps))
    ]
    if names or other:
        changed = few(sorted(names) + other)
        raise ValueError(
            f"{path.name} was not written: reading it back gave other values of {changed}. This is a fault of rcnn: "
            "please report it with the config.json of the checkpoint"
        )
    adjusted = eps[0] != eps[1] and any(name.endswith("running_var") for name in checkpoint.state)
    kept = {"name", "backbone.norm_eps"} if adjusted else {"name"}
    ours, theirs = setting_values(checkpoint.config), setting_values(back.config)
    differ = [
        f"  {key}={ours.get(key)} here, {theirs.get(key)} in the file"
        for key in sorted(ours.keys() | theirs.keys())
        if key not in kept and ours.get(key) != theirs.get(key)
    ]
    same = "equal, with variances adjusted to the eps of its norms" if adjusted else "equal bit for bit"
    lines = [f"self-check: read back, all {counted(len(back.state), 'tensor')} are {same}"]
    if differ:
        lines += ["settings that the file cannot contain; set them where you use it:", *differ]
    return lines


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _same_but_for_eps(name: str, a: Tensor, b: Tensor, eps: list[float]) -> bool:
    """Whether two running variances are equal after the eps of their norms is added."""
    return name.endswith("running_var") and torch.allclose(
        a.double() + eps[0], b.double() + eps[1], rtol=1e-6, atol=1e-12
    )
