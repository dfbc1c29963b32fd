"""The training loop: the function `train`. There are no hooks: for another loop, copy this one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import torch
from torch import Tensor, nn

from rcnn.data.loading import TrainingBatch
from rcnn.data.messages import few
from rcnn.models import Detector
from rcnn.training.log import RunLog
from rcnn.training.run_folder import RunFolder
from rcnn.training.saver import Outcome, Saver
from rcnn.training.schedule import learning_rate
from rcnn.training.settings import TrainConfig
from rcnn.training.signals import StopRequested, stop_requests
from rcnn.training.state import TrainState
from rcnn.training.validation import Metrics


class DivergedError(ValueError):
    """A loss is not finite. The message says at which step, on which images, and what to try."""


def train(
    state: TrainState,
    batches: Callable[[int], Generator[TrainingBatch, None, None]],
    settings: TrainConfig,
    run: RunFolder,
    log: RunLog,
    *,
    evaluate: Callable[[Detector], Metrics] | None = None,
) -> Outcome:
    """Train from `state.step` to `settings.steps`, changing `state` in place, on the device of its detector.

    `batches(first)` is an endless stream from batch `first` on. The gradients of `accumulate` batches are averaged.
    `last/` is saved every `checkpoint_every` steps, before each evaluation, and when the run is stopped or the stream
    fails; `best/` is the best of the evaluations. A stop signal ends the run after the current step, or at once in a
    wait for data or an evaluation. A run that is resumed equals an uninterrupted one bit for bit. Raises DivergedError
    if a loss is not finite.
    """
    saver = Saver(state, settings, run, log, evaluate)
    in_step = False
    state.detector.train()
    with stop_requests() as stop, closing(batches(state.step * settings.accumulate)) as stream:
        try:
            saver.evaluate_if_due(stop)
            for step in range(state.step, settings.steps):
                with stop.interrupting():  # all data of the step is fetched before anything changes
                    fetched = [next(stream) for _ in range(settings.accumulate)]
                in_step = True
                rate = learning_rate(step, settings)
                losses = optimize(state, fetched, settings, rate)
                in_step, state.step = False, step + 1

                last = state.step == settings.steps
                if step % settings.log_every == 0 or last:
                    values = {name: value.item() for name, value in losses.items()}
                    log.write(step=step, loss=sum(values.values()), lr=rate, **values)
                log.advance(step)
                due = last or (settings.evaluate_every > 0 and state.step % settings.evaluate_every == 0)
                state.evaluation_due = due and evaluate is not None
                if due or state.step % settings.checkpoint_every == 0:
                    saver.save_last()
                saver.evaluate_if_due(stop)
        except (Exception, StopRequested) as error:  # a stop request, an unreadable image, a dead worker
            # within a step, the statistics of batch norm are already changed
            if state.step > saver.saved and not in_step:
                saver.save_last()
            if not isinstance(error, StopRequested):
                raise
            log.log(f"stopped after step {state.step} of {settings.steps}; continue with resume=True (--resume)")
            return saver.outcome(signal=stop.signal)
    if state.ema is not None and evaluate is None:
        run.save("averaged", state.evaluated)  # without evaluations there is no best/ to hold it
    return saver.outcome()


def optimize(
    state: TrainState, batches: Sequence[TrainingBatch], settings: TrainConfig, rate: float
) -> dict[str, Tensor]:
    """One optimizer step at the learning rate `rate`, on the mean gradient of `batches`; returns the mean losses.

    DivergedError if a loss is not finite: then no weight has changed.
    """
    detector, optimizer, device = state.detector, state.optimizer, state.detector.pixel_mean.device
    for group in optimizer.param_groups:
        group["lr"] = rate
    means: dict[str, Tensor] = {}
    for number, batch in enumerate(batches, start=state.step * len(batches)):
        batch = batch.to(device)
        seed = torch.tensor((settings.seed << 32) + number, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            losses = detector(batch.images, batch.targets, seed)
        loss = torch.stack(list(losses.values())).sum() / len(batches)
        loss.backward()
        require_finite(loss, losses, state.step, batch.image_ids)
        for name, value in losses.items():
            means[name] = means.get(name, 0) + value.detach() / len(batches)
    if settings.clip_norm:
        nn.utils.clip_grad_norm_(detector.parameters(), settings.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update(detector, state.step)
    return means


def require_finite(loss: Tensor, losses: dict[str, Tensor], step: int, image_ids: tuple[int | str, ...]) -> None:
    """DivergedError unless `loss` is finite; before the optimizer step that would spoil the weights."""
    if not torch.isfinite(loss):
        wrong = ", ".join(f"{name} is {value.item()}" for name, value in losses.items() if not torch.isfinite(value))
        ids = list(dict.fromkeys(image_ids))  # an image can be in a batch twice
        raise DivergedError(
            f"step {step}: {wrong or 'the sum of the losses is infinite'}, on "
            f"{'image' if len(ids) == 1 else 'images'} {few(ids)}. Check the annotations of these images; if they are "
            "right, try a lower train.lr, more train.warmup_steps or train.clip_norm=10. resume=True (--resume) "
            "continues from the last checkpoint that was saved"
        )
