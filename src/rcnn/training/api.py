"""The public function `rcnn.train`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rcnn.models import DetectorConfig
from rcnn.models.overrides import Settings, as_settings, as_strings
from rcnn.training.plan import RunRequest
from rcnn.training.run import run_training
from rcnn.training.starting import CONFIG


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A training run that has ended. `rcnn.Predictor(run.folder)` predicts with its best checkpoint."""

    folder: Path  # config.json, log.jsonl, last/, best/
    step: int  # steps done
    finished: bool  # False: stopped by a signal; continue it with `resume=True`
    best: float | None  # the best value of `train.best`, e.g. segm.AP, in 0..1; None if nothing was evaluated


def train(
    model: DetectorConfig | str | Path,
    data: str | Path,
    output: str | Path | None = None,
    *,
    settings: Settings = (),
    split: str = "",
    val_split: str = "",
    annotations: str = "",
    weights: str | Path = "",
    resume: bool = False,
    strict: bool = False,
    allow_empty: bool = False,
    allow: str | Sequence[str] = (),
    device: str = "auto",
    log: Callable[[str], object] = print,
) -> TrainingRun:
    """Train a model by name or by its config, or fine-tune a checkpoint, on the data set in the folder `data`.

    `output`: the run's folder; default: a new `runs/train-MODEL-N`. `settings`: changes, as KEY=VALUE strings or a
    dict: ["train.steps=500", "input.min_size=640"] or {"train.steps": 500} (`rcnn models show MODEL` lists all).
    `split` and `val_split` are found by their names (train..., val...); `val_split="none"`: no evaluation. `weights`:
    a converted ImageNet backbone. `resume`: continue the run in `output`, which must not contain one otherwise.
    `strict` and `allow_empty` as in `open_dataset`.
    `allow`: the user's code that a checkpoint, or a run that is resumed, may run, see `rcnn.load`.
    `log` receives the lines of the progress.

    Raises FileNotFoundError, FileExistsError or ValueError before anything is trained.
    """
    request = RunRequest(
        model=CONFIG + model.name if isinstance(model, DetectorConfig) else str(model),
        config=model if isinstance(model, DetectorConfig) else None,
        data=Path(data),
        output=None if output is None else Path(output),
        overrides=as_settings(settings),
        splits=(split, val_split),
        annotations=annotations,
        weights=str(weights),
        device=device,
        resume=resume,
        strict=strict,
        allow_empty=allow_empty,
        allow=as_strings(allow),
    )
    outcome = run_training(request, log=log)
    return TrainingRun(folder=outcome.output, step=outcome.step, finished=outcome.finished, best=outcome.best)
