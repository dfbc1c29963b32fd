"""A few steps of a planned run, for its time and memory (`rcnn train --dry-run --measure N`). Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor

from rcnn.data.loading import TrainingBatch
from rcnn.data.messages import counted, named_images
from rcnn.runtime.memory import most_memory
from rcnn.training.batch_size import chosen_batch_size, with_batch_size
from rcnn.training.determinism import deterministic
from rcnn.training.engine import optimize
from rcnn.training.finite import NonFiniteError
from rcnn.training.log import duration
from rcnn.training.plan import RunPlan
from rcnn.training.run import batches_of, start_state
from rcnn.training.schedule import learning_rate
from rcnn.training.settings import TrainConfig
from rcnn.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Time and memory of some steps. The first step is not counted, because it includes the warm-up of kernels."""

    steps: int
    seconds: float  # per step
    waiting: float  # seconds per step in which the model waits for images
    images: int  # per step
    run: int  # steps of the whole run
    memory: int | None  # peak, bytes: of the GPU, or of this process on the CPU; None: not known

    def __str__(self) -> str:
        """The line for the user."""
        memory = "" if self.memory is None else f"peak memory {self.memory / 2**30:.1f} GiB; "
        return (
            f"measured {counted(self.steps, 'step')} of {counted(self.images, 'image')}: {self.seconds:.2f} s per step "
            f"({self.images / self.seconds:.1f} images/s), including {self.waiting:.2f} s of waiting for images; "
            f"{memory}{counted(self.run, 'step')} take about {duration(self.seconds * self.run)}, without evaluations"
        )


def _optimize(
    state: TrainState, batches: Sequence[TrainingBatch], settings: TrainConfig, step: int
) -> dict[str, Tensor]:
    """`optimize` in `step`. ValueError if a loss or the gradient is not finite."""
    try:
        return optimize(state, batches, settings, learning_rate(step, settings))
    except NonFiniteError as error:
        names = named_images(name for batch in batches for name in batch.image_ids)
        raise ValueError(
            f"step {step}: {error}, on {names}. A run (without --dry-run) names the first tensor that is not finite. "
            "Check the annotations of these images; if they are right, try a lower train.lr"
        ) from error


def measure(plan: RunPlan, steps: int) -> Measurement:
    """Run `steps` steps of a new run as planned, after one that is not measured, in this process.

    ValueError for less than one step, and for a plan with several processes, which are not connected.
    """
    if steps < 1:
        raise ValueError(f"the number of steps to measure is {steps}; expected 1 or more, e.g. 5")
    if plan.processes.count > 1:
        raise ValueError(
            f"only a plan for one process can be measured, and this one is for {plan.processes.count} (devices, or a "
            "launcher such as torchrun): plan it for one"
        )
    with deterministic(plan.settings.deterministic):
        if plan.auto_batch_size:
            plan, _ = with_batch_size(plan, chosen_batch_size(plan), plan.processes)
        return _measured(plan, steps)


def _measured(plan: RunPlan, steps: int) -> Measurement:
    settings = plan.settings
    state = start_state(plan, plan.processes, lambda line: None)
    state.detector.train()
    seconds = waiting = 0.0
    with closing(batches_of(plan)(0)) as stream:
        for step in range(steps + 1):
            start = time.perf_counter()
            fetched = [next(stream) for _ in range(settings.accumulate)]
            ready = time.perf_counter()
            losses = _optimize(state, fetched, settings, step)
            sum(value.item() for value in losses.values())  # waits for the device
            if step:
                seconds += time.perf_counter() - start
                waiting += ready - start
    return Measurement(
        steps=steps,
        seconds=seconds / steps,
        waiting=waiting / steps,
        images=settings.images_per_step(),
        run=settings.steps,
        memory=most_memory(plan.device),
    )
