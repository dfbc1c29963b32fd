"""What a run shows while it trains, as text: progress, speed, memory, losses and the last evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from rcnn.runtime.memory import most_memory

# metrics of the last evaluation that are always shown
MAIN = ("bbox_AP", "segm_AP", "keypoints_AP", "validation_loss")


@dataclass(frozen=True, kw_only=True)
class RunSize:
    """The size of a run, from which its speed and the epoch are computed."""

    steps: int
    images_per_step: int  # over all processes
    images: int  # of the training set
    device: torch.device
    extra_images: int = 0  # that steps of other sizes, before the run was resumed, had in addition


def speed(size: RunSize, steps: int, seconds: float, waiting: float) -> str:
    """Images per second over `steps` steps in `seconds`, and the percentage of the time spent waiting for images."""
    if steps < 1 or seconds <= 0:
        return ""
    return f"{steps * size.images_per_step / seconds:.1f} images/s, {100 * waiting / seconds:.0f} % waiting for images"


def details(
    size: RunSize, step: int, pace: str, losses: Mapping[str, float], metrics: Mapping[str, float], *, parts: bool
) -> list[str]:
    """The lines under the progress bar, after `step` steps; with `parts`, one has the parts of the loss.

    `losses` also contains `lr`.
    """
    seen = step * size.images_per_step + size.extra_images
    progress = [f"epoch {seen / max(1, size.images):.1f}", pace]
    if (most := most_memory(size.device)) is not None:
        progress.append(f"peak memory {most / 2**30:.1f} GiB")
    progress += [f"learning rate {losses['lr']:.3g}"] if "lr" in losses else []
    lines = [", ".join(part for part in progress if part)]
    named = [f"{name} {value:.3f}" for name, value in losses.items() if name not in ("lr", "loss") and "/" not in name]
    if named and parts:
        lines.append(f"loss {losses.get('loss', 0.0):.3f} = {' + '.join(named)}")
    if shown := [f"{name.replace('_', ' ')} {metrics[name]:.3f}" for name in MAIN if name in metrics]:
        lines.append(f"last evaluation: {', '.join(shown)}")
    return lines
