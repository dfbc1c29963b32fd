"""The training loop: the function `train`. There are no hooks: for another loop, copy this one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext

import torch
from torch import Tensor, nn

from rcnn.data.loading import TrainingBatch
from rcnn.data.messages import named_images
from rcnn.models import Detector
from rcnn.training.diagnostics import diagnostics
from rcnn.training.distributed import together, without_averaging
from rcnn.training.finite import NonFiniteError, skip_or_stop, unchanged_statistics
from rcnn.training.log import SilentLog
from rcnn.training.run_folder import RunFolder
from rcnn.training.saver import Outcome, Saver
from rcnn.training.schedule import learning_rate, set_learning_rate
from rcnn.training.settings import TrainConfig
from rcnn.training.sharding import whole
from rcnn.training.signals import StopRequested, stop_requests
from rcnn.training.state import TrainState
from rcnn.training.unreadable import UnreadableImages
from rcnn.training.validation import Metrics


def train(
    state: TrainState,
    batches: Callable[[int], Generator[TrainingBatch, None, None]],
    settings: TrainConfig,
    run: RunFolder,
    log: SilentLog,
    *,
    evaluate: Callable[[Detector], Metrics] | None = None,
    after_evaluation: Callable[[], object] | None = None,
) -> Outcome:
    """Train from `state.step` to `settings.steps`, changing `state` in place, on the device of its detector.

    `batches(first)` is an endless stream from batch `first` on. The gradients of `accumulate` batches are averaged.
    `last/` is saved every `checkpoint_every` steps, before each evaluation, and when the run is stopped or the stream
    fails; `best/` is the best of the evaluations. `patience` evaluations without improvement end the run once the
    learning rate has decayed for the last time. A stop signal ends it after the current step, or at once while it waits
    for data or evaluates. A run that is resumed gives bitwise the same weights as an uninterrupted one. With several
    processes, each runs this loop; if one fails, all end. Raises DivergedError if a loss is not finite.
    `after_evaluation` is called when the metrics are logged and saved, except after the last step.
    """
    saver, processes = Saver(state, settings, run, log, evaluate, after_evaluation), state.processes
    may_save = True  # False during a step, and with several processes until all of them have completed it
    state.detector.train()
    with (
        stop_requests(settings.time_limit * 3600) as stop,
        UnreadableImages(processes, log) as unreadable,
        closing(batches(state.step * settings.accumulate)) as stream,
    ):
        try:
            processes.doing("the start")
            # a process that was killed may have written last/, but not step-N/, and not evaluated
            saver.keep_missing()
            saver.evaluate_if_due(stop)
            for step in range(state.step, settings.steps):
                if saver.ends_early():  # at once in a run that ended early and is resumed
                    break
                with together(processes, stop), log.waiting():  # all data of the step, before anything changes
                    fetched = [next(stream) for _ in range(settings.accumulate)]
                unreadable.report(fetched)
                may_save = False
                ids = [name for batch in fetched for name in batch.image_ids]
                processes.doing(f"step {step} with {named_images(ids)}")
                rate = learning_rate(step, settings, processes.count)
                losses = optimize_or_skip(state, fetched, settings, rate, run, log)
                state.step = step + 1
                may_save = processes.count == 1

                last = state.step == settings.steps
                if losses and (step % settings.log_every == 0 or last):
                    values = {name: value.item() for name, value in losses.items()}
                    found = diagnose(state, fetched[-1], settings, step)
                    log.write(step=step, loss=sum(values.values()), lr=rate, **values, **found)
                log.advance(step)
                due = last or (settings.evaluate_every > 0 and state.step % settings.evaluate_every == 0)
                state.evaluation_due = due and evaluate is not None
                if due or settings.saves_at(state.step):
                    saver.save_last()
                saver.evaluate_if_due(stop)
                may_save = True
        except (Exception, StopRequested) as error:  # a stop request, no image that can be read, a dead worker
            if state.step > saver.saved and may_save:
                saver.save_last()
            if not isinstance(error, StopRequested):
                raise
            return saver.outcome(stop=stop)
    if state.ema is not None and evaluate is None:
        run.save("averaged", state.evaluated)  # without evaluations there is no best/ to hold it
    return saver.outcome()


def optimize_or_skip(
    state: TrainState,
    batches: Sequence[TrainingBatch],
    settings: TrainConfig,
    rate: float,
    run: RunFolder,
    log: SilentLog,
) -> dict[str, Tensor]:
    """Call `optimize`, and return its losses.

    If a loss or a gradient is not finite, raise DivergedError; with `train.nonfinite=skip`, log a warning and return no
    losses, unless too many steps in a row were skipped (`skip_or_stop`).
    """
    try:
        losses = optimize(state, batches, settings, rate)
        state.skipped = 0
        return losses
    except NonFiniteError as error:  # in all processes
        skip_or_stop(error, state, settings, run, log)
        return {}


def optimize(
    state: TrainState, batches: Sequence[TrainingBatch], settings: TrainConfig, rate: float
) -> dict[str, Tensor]:
    """One optimizer step at the learning rate `rate`, on the mean gradient of `batches`; returns the mean losses.

    With several processes, gradients and losses are means over these too. NonFiniteError, in all processes, if a loss
    or the gradient is not finite: then no weight and no statistic has changed.
    """
    detector, optimizer = state.detector, state.optimizer
    set_learning_rate(optimizer, rate)
    inputs = [(batch.to(state.device), sample_seed(batch, state, settings, state.step)) for batch in batches]
    mean_losses: dict[str, Tensor] = {}
    losses: dict[str, Tensor] = {}  # of the last batch, in this process
    with unchanged_statistics(detector):  # those of batch norm, if this block raises NonFiniteError
        for number, (batch, seed) in enumerate(inputs, start=1):
            # gradients add up in each process; their mean over the processes is taken once, with the last batch
            with nullcontext() if number == len(inputs) else without_averaging(state.model):
                losses = backward(batch, seed, state, settings, divisor=len(inputs))
            means = state.processes.mean(torch.stack(list(losses.values()))).detach() / len(inputs)
            for name, value in zip(losses, means, strict=True):
                mean_losses[name] = mean_losses.get(name, 0) + value
            if not torch.isfinite(torch.stack(list(mean_losses.values())).sum()):
                raise NonFiniteError([(batch, seed)], losses)
        gradients = [parameter.grad for parameter in detector.parameters() if parameter.grad is not None]
        norm = whole(nn.utils.get_total_norm(gradients))  # over all processes, if the gradients are divided among them
        if not torch.isfinite(norm):
            raise NonFiniteError(inputs, losses)
    if settings.clip_norm:
        nn.utils.clip_grads_with_norm_(detector.parameters(), settings.clip_norm, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update(detector, state.step)
    return mean_losses


def backward(
    batch: TrainingBatch, seed: Tensor, state: TrainState, settings: TrainConfig, *, divisor: int
) -> dict[str, Tensor]:
    """Add the gradient of the sum of the losses / `divisor` to each parameter's; returns the losses of this process."""
    with torch.autocast(seed.device.type, torch.bfloat16, enabled=settings.bf16):
        losses = state.model(batch.images, batch.targets, seed)
    loss = torch.stack(list(losses.values())).sum() / divisor
    loss.backward()
    return losses


def sample_seed(batch: TrainingBatch, state: TrainState, settings: TrainConfig, step: int) -> Tensor:
    """The seed (2,) int64 of the random samples of `batch` in `step`, see `random_keys`.

    `step` is `state.step` until the step is complete; then `state.step` is already the next one.
    """
    return torch.tensor([(settings.seed << 32) + step, batch.first], device=state.device)


def diagnose(state: TrainState, batch: TrainingBatch, settings: TrainConfig, step: int) -> dict[str, float]:
    """`diagnostics` of the batch of all processes after `step`, on the samples of this step.

    Empty where the weights are divided.
    """
    if not settings.diagnostics or (settings.shard and state.processes.count > 1):
        return {}
    seed = sample_seed(batch, state, settings, step)
    return diagnostics(state.detector, batch, seed, bf16=settings.bf16, processes=state.processes)
