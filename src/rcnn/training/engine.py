"""The training loop, whole in `train`. There are no hooks: another loop is a copy of this one.

Built on plain torch. The losses are the detector's `forward`, which is what DistributedDataParallel calls; `world`
processes scale the learning rate, and their batches come from loaders that were told their rank.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from rcnn.data.loading import TrainingBatch
from rcnn.models import Detector
from rcnn.training.ema import Average
from rcnn.training.log import RunLog
from rcnn.training.schedule import learning_rate
from rcnn.training.settings import TrainConfig
from rcnn.training.state import TrainingState, read_state, recover_folder, replace_folder, write_state
from rcnn.weights.checkpoint import load_checkpoint, load_state, save_checkpoint

KINDS = ("bbox", "segm", "keypoints")
Metrics = dict[str, Any]  # {"bbox": {"AP": .., "AP50": ..}, "segm": {..}, ...}
NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d, nn.GroupNorm, nn.LayerNorm)


class DivergedError(ValueError):
    """A loss is no longer a number. The message says at which step, on which images, and what to try."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    step: int  # steps done
    finished: bool  # False: it was asked to stop, and can be resumed
    best: float | None  # best value of what best/ is chosen by; None: never evaluated
    metrics: Metrics | None  # of the last evaluation


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run writes, and what its checkpoints carry beside the weights."""

    folder: Path
    classes: tuple[str, ...]
    provenance: dict[str, Any]

    def save(self, name: str, detector: Detector, state: TrainingState | None = None) -> None:
        """`folder/name`: a checkpoint of `detector`, with `state` one to resume from."""

        def write(folder: Path) -> None:
            save_checkpoint(folder, detector, detector.config, self.classes, self.provenance)
            if state is not None:
                write_state(folder, state)

        replace_folder(self.folder / name, write)

    def resume(
        self, detector: Detector, optimizer: torch.optim.Optimizer, average: Average | None
    ) -> tuple[int, float | None]:
        """Put all three where `last/` left them; the steps done, and the best value so far."""
        last = self.folder / "last"
        recover_folder(last)
        if not last.exists():
            raise FileNotFoundError(f"{last} does not exist: {self.folder} holds nothing to resume; leave --resume out")
        load_state(detector, load_checkpoint(last).state, str(last))
        state = read_state(last)
        if average is not None:
            average.detector.load_state_dict(detector.state_dict())
        state.restore(optimizer, average)
        return state.step, state.best


def train(
    detector: Detector,
    batches: Callable[[int], Iterator[TrainingBatch]],
    settings: TrainConfig,
    run: Run,
    *,
    evaluate: Callable[[Detector], Metrics] | None = None,
    resume: bool = False,
    world: int = 1,
) -> Outcome:
    """Train `detector` in place, on the device where it is.

    `batches(first)` is an endless stream from batch `first` on. Gradients of `accumulate` batches are averaged: each is
    that of its own losses, so the step equals one of a larger batch as far as these divide by counts that do not depend
    on the images (the mask loss divides by the objects sampled in a batch). `evaluate` measures the detector now and
    then; `best/` is the best of those. SIGINT and SIGTERM end the run after the step that is going on, in a state that
    `resume` continues bit for bit. Raises DivergedError where a loss is no longer a number.
    """
    device = detector.pixel_mean.device
    if settings.channels_last:
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(detector, settings)
    average = Average(detector, settings.ema) if settings.ema else None
    final = detector if average is None else average.detector  # what is evaluated, and may be best
    first, best = run.resume(detector, optimizer, average) if resume else (0, None)

    def keep(done: int) -> None:
        state = TrainingState.capture(step=done, optimizer=optimizer, best=best, average=average)
        run.save("last", detector, state)

    metrics, key = None, settings.best or ("segm.AP" if detector.config.has_masks else "bbox.AP")
    detector.train()
    with stop_requests() as stop, RunLog(run.folder / "log.jsonl", steps=settings.steps, first_step=first) as log:
        stream = batches(first * settings.accumulate)
        for step in range(first, settings.steps):
            rate = learning_rate(step, settings, world)
            for group in optimizer.param_groups:
                group["lr"] = rate
            sums: dict[str, Tensor] = {}
            for number in range(step * settings.accumulate, (step + 1) * settings.accumulate):
                try:
                    batch = next(stream).to(device)
                except (ValueError, OSError):  # a file that cannot be read: what was learnt so far is kept
                    if step > first:
                        keep(step)
                    raise
                seed = torch.tensor((settings.seed << 32) + number, device=device)
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
                    losses = detector(batch.images, batch.targets, seed)
                loss = torch.stack(list(losses.values())).sum() / settings.accumulate
                loss.backward()
                require_finite(loss, losses, step, batch.image_ids)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0) + value.detach() / settings.accumulate
            if settings.clip_norm:
                nn.utils.clip_grad_norm_(detector.parameters(), settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update(detector, step)

            done = step + 1
            log.advance(step)
            if step % settings.log_every == 0 or done == settings.steps:
                values = {name: value.item() for name, value in sums.items()}
                log.write(step=step, loss=sum(values.values()), lr=rate, **values)
            due = done == settings.steps or (settings.evaluate_every > 0 and done % settings.evaluate_every == 0)
            if due or stop.is_set() or done % settings.checkpoint_every == 0:
                keep(done)
            if evaluate is not None and due:  # last/ is written: breaking off a long evaluation loses no step
                metrics = evaluate(final)
                log.write(step=step, **flatten(metrics))
                log.say(f"step {done}: {describe(metrics)}")
                value = choose(metrics, key)
                if value is not None and (best is None or value > best):
                    best = value
                    run.save("best", final)
                    keep(done)
            if stop.is_set() and done < settings.steps:
                log.say(f"stopped after step {done} of {settings.steps}; --resume goes on from there")
                return Outcome(step=done, finished=False, best=best, metrics=metrics)
    if average is not None and evaluate is None:
        run.save("averaged", final)  # with nothing to evaluate on there is no best/ that would hold it
    return Outcome(step=settings.steps, finished=True, best=best, metrics=metrics)


def build_optimizer(detector: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of what is to be trained; norm layers decay by their own setting."""
    norms = {id(p) for module in detector.modules() if isinstance(module, NORMS) for p in module.parameters()}
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in norms], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if id(p) in norms], "weight_decay": settings.norm_weight_decay},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999))
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)


def require_finite(loss: Tensor, losses: dict[str, Tensor], step: int, image_ids: tuple[int | str, ...]) -> None:
    """A DivergedError unless `loss` is a number: before the step that would spoil the weights."""
    if not torch.isfinite(loss):
        wrong = ", ".join(f"{name} is {value.item()}" for name, value in losses.items() if not torch.isfinite(value))
        raise DivergedError(
            f"step {step}: {wrong or 'the sum of the losses is infinite'}, on images {', '.join(map(str, image_ids))}. "
            "Look at these images and their objects; else a lower train.lr, a longer train.warmup_steps or "
            "train.clip_norm=10 may cure it. last/ is from before: --resume goes on from it"
        )


def choose(metrics: Metrics, key: str) -> float | None:
    """The value at `key`, as in "segm.AP"; None where the truth holds nothing to measure it on."""
    kind, _, name = key.partition(".")
    if name not in metrics.get(kind, {}):
        there = [f"{k}.{n}" for k in KINDS if k in metrics for n in metrics[k]]
        raise ValueError(f"train.best is {key!r}, which is not measured; there are {', '.join(there)}")
    return metrics[kind][name]


def flatten(metrics: Metrics) -> dict[str, float | None]:
    """{"bbox_AP": .., "segm_AP50": ..}: what the log keeps of an evaluation."""
    return {f"{kind}_{name}": value for kind in KINDS for name, value in metrics.get(kind, {}).items()}


def describe(metrics: Metrics) -> str:
    """The main figures on one line; a dash where there was nothing to measure."""
    written = {key: "-" if value is None else f"{value:.3f}" for key, value in flatten(metrics).items()}
    return ", ".join(
        f"{kind} AP {written[f'{kind}_AP']} AP50 {written[f'{kind}_AP50']}" for kind in KINDS if kind in metrics
    )


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second one ends the process as it would have. Only in the main thread."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    numbers = (int(signal.SIGINT), int(signal.SIGTERM))
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}

    def ask(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
