"""The training loop, whole in `train`. There are no hooks: for another loop, copy this one."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rcnn.data.loading import TrainingBatch
from rcnn.data.messages import few
from rcnn.models import Detector
from rcnn.training.log import RunLog
from rcnn.training.run_folder import RunFolder
from rcnn.training.schedule import learning_rate
from rcnn.training.settings import TrainConfig
from rcnn.training.signals import StopRequested, stop_requests
from rcnn.training.state import TrainState
from rcnn.training.validation import Metrics, choose, describe, flatten


class DivergedError(ValueError):
    """A loss is not finite. The message says at which step, on which images, and what to try."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    output: Path  # the folder of the run
    step: int  # steps done
    finished: bool  # False: a signal stopped it, and it can be resumed
    best: float | None  # best value of the metric that best/ is chosen by; None: never evaluated
    metrics: Metrics | None  # of the last evaluation
    signal: int | None = None  # the number of the signal that stopped it


def train(
    state: TrainState,
    batches: Callable[[int], Generator[TrainingBatch, None, None]],
    settings: TrainConfig,
    run: RunFolder,
    log: RunLog,
    *,
    evaluate: Callable[[Detector], Metrics] | None = None,
    world: int = 1,
) -> Outcome:
    """Train from `state.step` to `settings.steps`, changing `state` in place, on the device of its detector.

    `batches(first)` is an endless stream from batch `first` on. The gradients of `accumulate` batches are averaged.
    `last/` is saved every `checkpoint_every` steps, before each evaluation, and when the run is stopped or the stream
    fails; `best/` is the best of the evaluations. A stop signal ends the run after the current step, or at once in a
    wait for data or an evaluation. A run that is resumed equals an uninterrupted one bit for bit. Raises DivergedError
    if a loss is not finite.
    """
    detector, optimizer, device = state.detector, state.optimizer, state.detector.pixel_mean.device
    metrics, saved, in_step = None, state.step, False

    def save_last() -> None:
        nonlocal saved
        log.sync()
        run.save("last", detector, state)
        saved = state.step

    def evaluate_now() -> Metrics | None:
        if evaluate is None or not state.evaluation_due:
            return metrics
        with stop.interrupting():  # last/ is saved: the evaluation is repeated when the run is resumed
            measured = evaluate(state.evaluated)
        value = choose(measured, settings.best)
        if value is not None and (state.best is None or value > state.best):
            state.best = value
            run.save("best", state.evaluated)
        log.write(step=state.step - 1, **flatten(measured))
        log.log(f"step {state.step}: {describe(measured)}")
        state.evaluation_due = False
        save_last()
        return measured

    def outcome() -> Outcome:
        return Outcome(output=run.path, step=state.step, finished=True, best=state.best, metrics=metrics)

    detector.train()
    with stop_requests() as stop, closing(batches(state.step * settings.accumulate)) as stream:
        try:
            metrics = evaluate_now()
            for step in range(state.step, settings.steps):
                rate = learning_rate(step, settings, world)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                with stop.interrupting():  # all data of the step is fetched before anything changes
                    fetched = [next(stream) for _ in range(settings.accumulate)]
                in_step = True
                sums: dict[str, Tensor] = {}
                for number, batch in enumerate(fetched, start=step * settings.accumulate):
                    batch = batch.to(device)
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
                if state.ema is not None:
                    state.ema.update(detector, step)

                in_step, done = False, step + 1
                state.step = done
                if step % settings.log_every == 0 or done == settings.steps:
                    values = {name: value.item() for name, value in sums.items()}
                    log.write(step=step, loss=sum(values.values()), lr=rate, **values)
                log.advance(step)
                due = done == settings.steps or (settings.evaluate_every > 0 and done % settings.evaluate_every == 0)
                state.evaluation_due = due and evaluate is not None
                if due or done % settings.checkpoint_every == 0:
                    save_last()
                metrics = evaluate_now()
        except (Exception, StopRequested) as error:  # a stop request, an unreadable image, a dead worker
            if state.step > saved and not in_step:  # within a step, the statistics of batch norm are already changed
                save_last()
            if not isinstance(error, StopRequested):
                raise
            log.log(f"stopped after step {state.step} of {settings.steps}; continue with resume=True (--resume)")
            return replace(outcome(), finished=False, signal=stop.signal)
    if state.ema is not None and evaluate is None:
        run.save("averaged", state.evaluated)  # without evaluations there is no best/ to hold it
    return outcome()


def require_finite(loss: Tensor, losses: dict[str, Tensor], step: int, image_ids: tuple[int | str, ...]) -> None:
    """DivergedError unless `loss` is finite; before the optimizer step that would spoil the weights."""
    if not torch.isfinite(loss):
        wrong = ", ".join(f"{name} is {value.item()}" for name, value in losses.items() if not torch.isfinite(value))
        raise DivergedError(
            f"step {step}: {wrong or 'the sum of the losses is infinite'}, on "
            f"{'image' if len(image_ids) == 1 else 'images'} {few(image_ids)}. Check the annotations of these images; "
            "if they are right, try a lower train.lr, more train.warmup_steps or train.clip_norm=10. --resume "
            "continues from the last checkpoint that was saved"
        )
