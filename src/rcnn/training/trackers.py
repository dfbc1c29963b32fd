"""Other programs that a run reports to: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from typing_extensions import override

from rcnn.arguments import ArgumentTypeError
from rcnn.training.found_run import EVENTS, TRACKED

Name = Literal["tensorboard", "wandb", "mlflow"]  # also the names of the packages and of the extras of rcnn
AUTO: Literal["auto"] = "auto"  # in train.trackers: TensorBoard if it is installed
METHODS = ("start", "log", "close")  # of a tracker
STEP = "step"  # the x axis of the charts of Weights & Biases


class Tracker(Protocol):
    """The interface of a tracker, also of your own. A run calls it in the first process only."""

    def start(self, folder: Path, record: Mapping[str, Any], first_step: int) -> None:
        """The run in `folder` starts or continues at `first_step`; `record` is the contents of its config.json."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Losses, learning rate or metrics of `step`, counted from 0."""
        ...

    def close(self) -> None:
        """The run has ended, or was stopped."""
        ...


class TensorBoard(Tracker):
    """Event files in RUN/tensorboard: `tensorboard --logdir runs`."""

    @override
    def start(self, folder: Path, record: Mapping[str, Any], first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # the steps after last/ are done again: their earlier values are hidden
        self._writer = SummaryWriter(str(folder / EVENTS), purge_step=first_step)

    @override
    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    @override
    def close(self) -> None:
        self._writer.close()


class WandB(Tracker):
    """A run of Weights & Biases with the name of the folder; WANDB_PROJECT and wandb's other variables apply."""

    @override
    def start(self, folder: Path, record: Mapping[str, Any], first_step: int) -> None:
        wandb: Any = importlib.import_module("wandb")
        project = os.environ.get("WANDB_PROJECT", "rcnn")
        known = read_id(folder / TRACKED[0])
        self._run = wandb.init(project=project, name=folder.name, config=dict(record), id=known, resume="allow")
        # a resumed run repeats steps, and wandb drops what is logged at an earlier step=: the step is a value
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        (folder / TRACKED[0]).write_text(self._run.id, encoding="utf-8")

    @override
    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({STEP: step, **values})

    @override
    def close(self) -> None:
        self._run.finish()


class MLflow(Tracker):
    """A run of MLflow with the name of the folder; MLFLOW_TRACKING_URI and MLflow's other variables apply."""

    @override
    def start(self, folder: Path, record: Mapping[str, Any], first_step: int) -> None:
        self._mlflow: Any = importlib.import_module("mlflow")
        known = read_id(folder / TRACKED[1])
        run = self._mlflow.start_run(run_id=known, run_name=folder.name)
        if known is None:  # MLflow refuses a second value of a parameter
            settings = {f"train.{key}": value for key, value in record["train"].items()}
            self._mlflow.log_params({"model": record["model"]["name"], "data": record["data"]} | settings)
        (folder / TRACKED[1]).write_text(run.info.run_id, encoding="utf-8")

    @override
    def log(self, step: int, values: Mapping[str, float]) -> None:
        values = {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in values.items()}  # MLflow refuses others
        self._mlflow.log_metrics(values, step=step)

    @override
    def close(self) -> None:
        self._mlflow.end_run()


def read_id(file: Path) -> str | None:
    """The tracker's id of this run, if the run is resumed; None for a new run."""
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


TRACKERS: dict[Name, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def chosen_trackers(names: Sequence[Name | Literal["auto"]]) -> list[Name]:
    """The trackers of a run, each once. ValueError, with the command to install it, if a named one is not installed."""
    chosen: list[Name] = ["tensorboard"] if AUTO in names and _is_installed("tensorboard") else []
    for name in names:
        if name == AUTO or name in chosen:
            continue
        if not _is_installed(name):
            raise ValueError(f"train.trackers: {name} is not installed; run: pip install 'rcnn[{name}]'")
        chosen.append(name)
    return chosen


def own_trackers(given: Sequence[Tracker]) -> tuple[Tracker, ...]:
    """The trackers that were passed from Python. ValueError for one without the methods of `Tracker`."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ArgumentTypeError(
            f"trackers is {given!r}; expected a list of objects with the methods {', '.join(METHODS)}"
        )
    for number, tracker in enumerate(given):
        if isinstance(tracker, str):
            raise ValueError(
                f"trackers[{number}] is {tracker!r}; names are for the setting: "
                f"overrides=['train.trackers=[{tracker}]']. Expected an object with the methods {', '.join(METHODS)}"
            )
        missing = [name for name in METHODS if not callable(getattr(tracker, name, None))]
        if missing or isinstance(tracker, type):
            what = f"has no method {missing[0]}" if missing else "is a class"
            raise ValueError(
                f"trackers[{number}] {what}; expected an object with the methods {', '.join(METHODS)}, got {tracker!r}"
            )
    return tuple(given)


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None  # a mere folder, e.g. wandb/ of earlier runs, has no origin


class Reports:
    """Several trackers as one. If one fails, a warning is logged and it is not called again; the run continues."""

    def __init__(self, trackers: Sequence[Tracker], warn: Callable[[str], object]) -> None:
        self._trackers, self._warn = list(trackers), warn

    def start(self, folder: Path, record: Mapping[str, Any], first_step: int) -> None:
        """As `Tracker.start`."""
        self._each(lambda tracker: tracker.start(folder, record, first_step))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.log`."""
        self._each(lambda tracker: tracker.log(step, values))

    def close(self) -> None:
        """As `Tracker.close`."""
        self._each(lambda tracker: tracker.close())

    def _each(self, call: Callable[[Tracker], object]) -> None:
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                name = type(tracker).__name__
                self._warn(f"warning: {name} failed ({reason}) and gets no more values; the run continues")
