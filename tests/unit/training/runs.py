"""Runs of training in this process, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

from rcnn.models import Detector
from rcnn.training import engine
from rcnn.training.log import RunLog
from rcnn.training.request import RunRequest
from rcnn.training.run import run_training
from rcnn.training.run_folder import RunFolder
from rcnn.training.saver import Outcome
from rcnn.training.settings import TrainConfig
from rcnn.training.state import TrainState

CLASSES = ("square", "disc")


def run(
    model: str,
    data: Path,
    output: Path,
    words: Sequence[str] = (),
    *,
    splits: tuple[str, str] = ("", ""),
    resume: bool = False,
    annotations: str = "",
    weights: str = "",
    lines: list[str] | None = None,
    charts: bool = False,
) -> Outcome:
    """A whole run on the CPU; its output is appended to `lines`.

    Without `charts`, curve.html, curve.png and report.html are not drawn, which takes longer than a few steps.
    """
    request = RunRequest(
        model=model,
        data=data,
        output=output,
        overrides=tuple(words),
        split=splits[0],
        val_splits=(splits[1],) if splits[1] else (),
        resume=resume,
        annotations=annotations,
        weights=weights,
        device="cpu",
    )
    with nullcontext() if charts else patch("rcnn.training.run._draw_curve"):
        return run_training(request, log=(lines if lines is not None else list[str]()).append)


def train(
    detector: Detector,
    batches: Callable[[int], object],
    settings: TrainConfig,
    folder: Path,
    *,
    evaluate: Callable[[Detector], Mapping[str, object]] | None = None,
    resume: bool = False,
    printed: list[str] | None = None,
) -> Outcome:
    """The training loop only: trains `detector` in place, with its run in `folder`; messages go to `printed`."""
    state = TrainState.start(detector, settings)
    with RunFolder(folder, classes=CLASSES, provenance={}) as run_folder:
        run_folder.claim(resumes=resume)
        if resume:
            run_folder.load_last(state)
        log = RunLog(
            folder / "log.jsonl", steps=settings.steps, first_step=state.step, evaluation_due=state.evaluation_due
        )
        if printed is not None:
            log.log = printed.append  # type: ignore[method-assign]
        with log:
            return engine.train(state, batches, settings, run_folder, log, evaluate=evaluate)  # type: ignore[arg-type]
