"""Losses that are not finite: find the first tensor with NaN or infinity, and save the batch to repeat the step."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from rcnn.commands import as_typed
from rcnn.data.loading import TrainingBatch
from rcnn.data.messages import counted, named_images
from rcnn.models import Detector, DetectorConfig
from rcnn.models.build import build_detector
from rcnn.models.overrides import config_from_dict, config_to_dict
from rcnn.models.own import allow_factories
from rcnn.structures import ImageBatch, Targets
from rcnn.training.log import SilentLog
from rcnn.training.run_folder import RunFolder
from rcnn.training.settings import TrainConfig
from rcnn.training.sharding import whole_state
from rcnn.training.state import TrainState, save_values

REPLAY = "nonfinite.pt"  # in the folder of the run
KEYS = {"step", "seed", "bf16", "model", "weights", "images", "targets", "image_ids", "first"}


class DivergedError(ValueError):
    """A loss or a gradient is not finite. The message says at which step, where, on which images, and what to try."""


class NonFiniteError(Exception):
    """A loss or a gradient of a step is not finite, in one or more of the processes."""

    def __init__(self, batches: Sequence[tuple[TrainingBatch, Tensor]], losses: Mapping[str, Tensor]) -> None:
        """`batches`: those that may be the cause, with their seeds. `losses` are those of this process."""
        super().__init__("a loss or a gradient is not finite")
        self.batches, self.losses = batches, losses


def explain(error: NonFiniteError, state: TrainState, settings: TrainConfig, run: RunFolder) -> str:
    """What was not finite in a step, on which images; writes the batch to REPLAY. All processes call it together."""
    detector, own = state.detector, list[tuple[float, str, TrainingBatch, Tensor]]()
    values = ", ".join(f"{k} is {v.item()}" for k, v in error.losses.items() if not _finite(v))
    for batch, seed in error.batches:
        order, where = trace_nonfinite(detector, batch, seed, bf16=settings.bf16, compiled=settings.compile != "none")
        own.append((order, "; ".join(part for part in (values, where) if part), batch.to("cpu"), seed.cpu()))
    # synchronized batch norms spread NaN to all processes: those where it came first have the images that caused it
    reports = list(itertools.chain.from_iterable(state.processes.gather(own))) or own
    first = [report for report in reports if report[0] == min(order for order, *_ in reports)]
    _, text, batch, seed = first[0]
    write = partial(
        write_replay,
        config=detector.config,
        weights=whole_state(detector.state_dict()),
        batch=batch,
        seed=seed,
        step=state.step,
        bf16=settings.bf16,
    )
    try:
        run.write_file(REPLAY, write)
        again = f"`{as_typed('rcnn', 'train', '--replay', run.path / REPLAY)}` computes this step again"
    except OSError as failure:  # e.g. a full disk, which must not hide what was not finite
        again = f"The batch could not be saved to compute this step again ({failure})"
    images = named_images(name for _, _, one, _ in first for name in one.image_ids)
    what = text or "the sum of the losses, or a gradient, is not finite"
    if not text and settings.compile == "none" and not isinstance(detector, FSDPModule):  # else not all was looked at
        what = "all losses and gradients are finite, but their sum or the norm of the gradient exceeds float32"
    return state.processes.share(f"step {state.step}: {what}, on {images}. {again}")


def skip_or_stop(
    error: NonFiniteError, state: TrainState, settings: TrainConfig, run: RunFolder, log: SilentLog
) -> None:
    """With `train.nonfinite=skip`, log a warning and drop the gradients of the step; else raise DivergedError.

    Also raised if `train.nonfinite_limit` steps in a row, or all steps of a short run, were skipped.
    """
    text = explain(error, state, settings, run)
    state.optimizer.zero_grad(set_to_none=True)
    remedy = "try a lower train.lr, more train.warmup_steps or train.clip_norm=10"
    if settings.nonfinite == "stop":
        raise DivergedError(
            f"{text}. Check the annotations of these images; if they are right, {remedy}, or train.nonfinite=skip"
        ) from error
    state.skipped += 1
    if state.skipped >= min(settings.nonfinite_limit, settings.steps):
        raise DivergedError(
            f"{text}. This is the last of {counted(state.skipped, 'step')} in a row that train.nonfinite=skip skipped "
            f"(train.nonfinite_limit={settings.nonfinite_limit}), so the model no longer learns: check the annotations "
            f"of these images; if they are right, {remedy}"
        ) from error
    log.log(f"warning: {text}. The step is skipped (train.nonfinite=skip)")


@contextmanager
def unchanged_statistics(detector: nn.Module) -> Iterator[None]:
    """If the block raises NonFiniteError, restore the batch-norm statistics from before the block."""
    before = [buffer.clone() for buffer in detector.buffers()]
    try:
        yield
    except NonFiniteError:
        for buffer, value in zip(detector.buffers(), before, strict=True):
            buffer.copy_(value)
        raise


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _nonfinite_gradients(detector: nn.Module) -> list[str]:
    """The names of the parameters with a gradient that is not finite."""
    return [name for name, p in detector.named_parameters() if p.grad is not None and not _finite(p.grad)]


@contextmanager
def first_nonfinite(detector: nn.Module) -> Iterator[list[tuple[int, str]]]:
    """Within the block, forward passes of `detector` append a description of each module's output that is not finite.

    The first one is the earliest module with NaN or infinity. Each has its number among all outputs of modules.
    """
    found: list[tuple[int, str]] = []
    calls = itertools.count()
    handles = [
        module.register_forward_hook(_watching(name or "the losses", calls, found))
        for name, module in detector.named_modules()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _watching(name: str, calls: Iterator[int], found: list[tuple[int, str]]) -> Any:
    def hook(module: nn.Module, inputs: object, output: object) -> None:
        number = next(calls)
        for tensor in _tensors(output):
            if tensor.is_floating_point() and not _finite(tensor):
                wrong = int((~torch.isfinite(tensor)).sum())
                shown = f"the output of {name} ({type(module).__name__}) of shape {tuple(tensor.shape)}"
                found.append((number, f"{shown} has {wrong} values that are not finite"))

    return hook


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[str, object]", value).values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in cast("Sequence[object]", value):
            yield from _tensors(item)


def trace_nonfinite(
    detector: Detector, batch: TrainingBatch, seed: Tensor, *, bf16: bool, compiled: bool = False
) -> tuple[float, str]:
    """The first tensor of a step that is not finite: a weight, the images, the output of a module, or a gradient.

    Returns its place in this order, and a description; (inf, "") if all are finite. The batch-norm statistics do not
    change, and the gradients become those of this process's images. All processes call it together.
    """
    for name, parameter in detector.named_parameters():
        if not _finite(parameter):
            return -2, f"the weight {name} is not finite"
    buffers = {name: buffer.clone() for name, buffer in detector.named_buffers()}
    detector.zero_grad(set_to_none=True)
    # compiled code would not call the hooks
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    with eager, first_nonfinite(detector) as found:
        with torch.autocast(batch.images.pixels.device.type, torch.bfloat16, enabled=bf16):
            losses = detector(batch.images, batch.targets, seed)
        torch.stack(list(losses.values())).sum().backward()
    for name, buffer in detector.named_buffers():
        buffer.copy_(buffers[name])
    if not _finite(batch.images.pixels.float()):  # of this process only, so after the forward pass
        return -1, "the pixels of the images are not finite"
    if found:
        return found[0]
    # sharded gradients (FSDP) are sums over all processes: they do not tell which process caused NaN
    wrong = list[str]() if isinstance(detector, FSDPModule) else _nonfinite_gradients(detector)
    return (sys.maxsize, f"the gradient of {wrong[0]} is not finite") if wrong else (math.inf, "")


def write_replay(
    path: Path,
    *,
    config: DetectorConfig,
    weights: Mapping[str, Tensor],
    batch: TrainingBatch,
    seed: Tensor,
    step: int,
    bf16: bool,
) -> None:
    """Write what `replay` needs to recompute the losses of `batch`: tensors, numbers and strings only."""
    values = {
        "step": step,
        "seed": seed.tolist(),
        "bf16": bf16,
        "model": config_to_dict(config),
        "weights": {name: value.cpu() for name, value in weights.items()},
        "images": _fields(batch.images),
        "targets": _fields(batch.targets),
        "image_ids": list(batch.image_ids),
        "first": batch.first,
    }
    save_values(values, path)


def _fields(value: ImageBatch | Targets) -> dict[str, Any]:
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: item.cpu() if isinstance(item, Tensor) else item for name, item in found.items()}


def replay(path: Path, device: torch.device, allow: tuple[str, ...] = ()) -> Iterator[str]:
    """Recompute the losses and gradients of the batch that `write_replay` wrote; yields lines that describe them.

    ValueError for another file.
    """
    values = _read_replay(path)
    config = allow_factories(config_from_dict(values["model"]), allow, str(path))
    detector = build_detector(config)
    detector.load_state_dict(values["weights"])
    detector.to(device).train()
    batch = TrainingBatch(
        images=ImageBatch(**values["images"]),
        targets=Targets(**values["targets"]),
        image_ids=tuple(values["image_ids"]),
        first=values["first"],
    ).to(device)
    yield f"step {values['step']} with the images {', '.join(map(str, batch.image_ids))}"
    seed = torch.tensor(values["seed"], device=device)
    with first_nonfinite(detector) as found, torch.autocast(device.type, torch.bfloat16, enabled=values["bf16"]):
        losses = detector(batch.images, batch.targets, seed)
    yield from (f"{name} {value.item():.6g}" for name, value in losses.items())
    torch.stack(list(losses.values())).sum().backward()
    wrong = _nonfinite_gradients(detector)
    if found:
        yield f"first: {found[0][1]}"
    elif wrong:
        yield f"the gradient of {wrong[0]} is not finite"
    else:
        norm = nn.utils.get_total_norm([p.grad for p in detector.parameters() if p.grad is not None])
        yield f"all losses and gradients are finite; the norm of the gradient is {norm.item():.6g}"


def _read_replay(path: Path) -> dict[str, Any]:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError):
        raise
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder; expected the file of a batch, e.g. {path / REPLAY}") from error
    except Exception as error:
        # without torch's reason, which is advice to load the file unrestricted: that would run code of the file
        reason = "it is damaged, no file of torch, or contains more than tensors and numbers"
        raise _no_replay(path, reason) from error
    if not isinstance(values, dict) or set(values) != KEYS:
        raise _no_replay(path, f"it lacks the fields {', '.join(sorted(KEYS))}, or has others")
    return values


def _no_replay(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is not a batch that a run wrote when a loss was not finite: {reason}. Give the file RUN/{REPLAY}"
    )
