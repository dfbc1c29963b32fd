"""`train.batch_size=auto`: the largest number of images per process with which a step fits in the memory.

On a GPU, batch sizes are tried. On a CPU, the number is computed from the memory of steps with 1 and 3 images. The
images are those that need the most memory: copies of the one with the most objects, padded to the largest shape. The
record of the run contains the number, so that a run that is resumed keeps it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch

from rcnn.data.loading import Batches, numbered_batches
from rcnn.data.messages import counted
from rcnn.models import build_detector
from rcnn.runtime.memory import free_memory, held_memory, is_out_of_memory, measures_peaks, peak_memory
from rcnn.runtime.processes import Processes
from rcnn.training.advice import WARMUP, WARMUP_REASON, is_long_warmup, rescaled
from rcnn.training.engine import optimize
from rcnn.training.finite import NonFiniteError
from rcnn.training.length import keys_of, with_length
from rcnn.training.plan import RunPlan
from rcnn.training.recipes import find_recipe
from rcnn.training.schedule import schedule_warnings
from rcnn.training.settings import PREFIX
from rcnn.training.state import TrainState
from rcnn.training.targets import target_options

MOST = 64  # images per process that are tried
SHARE = 0.75  # of the free memory that a step may take; the rest is for reading images and for variation
ALWAYS_FREE = 0.05  # of the memory of a GPU that stays free in a trial
NO_ROOM = "reduce input.max_size, or use a smaller model"  # advice where not even one image fits


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """A number of images per process, and why it was chosen."""

    images: int
    reason: str


def chosen_batch_size(plan: RunPlan) -> BatchSize:
    """The batch size of this process for a run as planned; involves no other process.

    ValueError if not even one image fits, or if the memory cannot be measured on this device.
    """
    settings = plan.settings
    most = min(MOST, max(1, len(plan.dataset) // (settings.accumulate * plan.processes.count)))
    limit = f"{MOST} is the most that is tried" if most == MOST else f"the {len(plan.dataset)} images allow no more"
    step = _Step(plan)
    if plan.device.type == "cuda":
        return _on_gpu(step, most, limit, plan.device)
    if plan.device.type == "cpu" and measures_peaks():
        return _on_cpu(step, most, limit)
    raise ValueError(f"train.batch_size=auto works on CUDA GPUs and on Linux, not on {plan.device} here: give a number")


def with_batch_size(plan: RunPlan, own: BatchSize, processes: Processes) -> tuple[RunPlan, str]:
    """The plan with the smallest number of all processes, and a line that says why. All processes call it together."""
    images = -int(processes.most(-own.images)[0])
    fewer = "" if images == own.images else f"; another process allows {images}"
    line = f"train.batch_size=auto: {counted(images, 'image')} per process ({own.reason}{fewer})"
    return _with_images(plan, images, processes.count), line


def _with_images(plan: RunPlan, images: int, processes: int) -> RunPlan:
    """The plan of a run with `images` per process; what depends on the images per step is decided again."""
    before, given = plan.settings.images_per_step(processes), keys_of(plan.request.overrides)
    settings = replace(plan.settings, batch_size=images)
    recipe = find_recipe(plan.request.recipe) if plan.request.recipe else None
    if recipe is not None:
        settings, _ = recipe.with_published_batch(settings, processes, given)
    chosen = "train.steps" in plan.advised  # for a total number of images, like the steps of a recipe
    published = before if recipe is not None or chosen else 0
    settings, lengths = with_length(
        settings, images=len(plan.dataset), processes=processes, given=given, published=published
    )
    if recipe is not None:
        settings, evaluations = recipe.with_evaluations(
            settings, images=len(plan.dataset), processes=processes, given=given
        )
        lengths |= evaluations
    advised, reasons = plan.advised, plan.reasons | {PREFIX + name: reason for name, reason in lengths.items()}
    is_advised = not plan.request.recipe and plan.request.settings is None
    if is_advised and "warmup_steps" not in given and is_long_warmup(settings):
        advised = tuple(dict.fromkeys((*advised, WARMUP)))
        reasons[WARMUP] = WARMUP_REASON
    settings = rescaled(settings, plan.settings.steps, advised)
    # the warnings of the plan were about the batch size before
    earlier = set(schedule_warnings(plan.settings, given))
    warnings = (*(one for one in plan.warnings if one not in earlier), *schedule_warnings(settings, given))
    return replace(plan, settings=settings, advised=advised, reasons=reasons, warnings=warnings)


class _Step:
    """A training step of a separate detector with random weights; it changes nothing in the run."""

    def __init__(self, plan: RunPlan) -> None:
        scales = plan.settings.drawn_scales
        widest = replace(plan.settings, scales=(max(scales),) if scales else (), scale_range=())
        self.settings = replace(widest, batch_size=1, accumulate=1, workers=0)
        self.state = TrainState.start(build_detector(plan.config).to(plan.device), self.settings)
        self.state.detector.train()
        self.batches: Batches = numbered_batches(
            plan.dataset,
            plan.config.input,
            self.settings,
            targets=target_options(plan.config),
            skip_unreadable=not plan.request.strict,
        )
        # several processes also need memory for the gradients that they exchange
        trained = sum(p.nbytes for p in self.state.detector.parameters() if p.requires_grad)
        self.exchanged = trained if plan.processes.count > 1 else 0  # bytes

    def __call__(self, images: int) -> None:
        """Run a step with this number of images."""
        with suppress(NonFiniteError):  # after the backward pass: the memory was used
            optimize(self.state, [self.batches.largest(images)], self.settings, 0.0)


def _on_cpu(step: _Step, most: int, limit: str) -> BatchSize:
    """The number of images that fit in the free memory, if each further one takes as much as the second and third."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free = free_memory() // local - step.exchanged
    room = int(SHARE * free_memory()) // local - step.exchanged
    before = held_memory()
    step(1)  # allocates the state of the optimizer
    first = max(2**20, peak_memory(partial(step, 1)) - before)
    if free < first:
        raise ValueError(
            f"train.batch_size=auto: a step with one image takes {_gb(first)}, but {_gb(max(0, free))} are free for "
            f"this process: {NO_ROOM}"
        )
    trial = min(3, most, room // first)
    if trial < 2:
        return BatchSize(images=1, reason=f"a step takes {_gb(first)} of {_gb(room)}" if most > 1 else limit)
    each = max(2**20, (peak_memory(partial(step, trial)) - before - first) // (trial - 1))
    fitting = 1 + (room - first) // each
    if fitting >= most:
        return BatchSize(images=most, reason=f"{limit}; a step takes {_gb(first + (most - 1) * each)} of {_gb(room)}")
    reason = f"a step takes {_gb(first)}, and {_gb(each)} for each further image, of {_gb(room)}"
    return BatchSize(images=fitting, reason=reason)


def _on_gpu(step: _Step, most: int, limit: str, device: torch.device) -> BatchSize:
    """The largest number of images with which a step does not run out of memory."""
    total = torch.cuda.get_device_properties(device).total_memory
    kept_free = torch.empty(step.exchanged + int(ALWAYS_FREE * total), dtype=torch.uint8, device=device)
    images, tried = largest_fitting(step, most)
    del kept_free
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)  # so that the run reports its own peak, not that of the trials
    if not images:
        raise ValueError(
            f"train.batch_size=auto: the memory of {device} has no room for a step with one image: {NO_ROOM}"
        )
    return BatchSize(images=images, reason=limit if images == most else f"tried {', '.join(map(str, tried))}")


def largest_fitting(step: Callable[[int], None], most: int) -> tuple[int, Sequence[int]]:
    """The largest number up to `most` with which `step` does not run out of memory (0: none), and those tried."""
    tried = list[int]()

    def fits(images: int) -> bool:
        tried.append(images)
        try:
            step(images)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return True

    fitting, failing = 0, most + 1
    while fitting + 1 < failing:
        images = min(max(1, 2 * fitting), most) if failing > most else (fitting + failing) // 2
        if fits(images):
            fitting = images
        else:
            failing = images
    return fitting, tried


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
