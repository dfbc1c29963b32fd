"""The request for a training run: what the user gave."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rcnn.commands import as_typed
from rcnn.data import Dataset
from rcnn.data.transforms import Step
from rcnn.models import DetectorConfig
from rcnn.outputs import REPLACED
from rcnn.runtime.launch import LAUNCHED
from rcnn.training.settings import TrainConfig
from rcnn.training.trackers import Tracker
from rcnn.weights.files import WEIGHTS_FILE


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What the user asked for. Empty strings: not given."""

    # a name from `rcnn models list`, or a checkpoint folder; CONFIG and its name for a config; empty: the recipe's
    model: str = ""
    config: DetectorConfig | None = None  # the user's own, to train from random weights
    data: Path | Dataset  # folder or annotation file, or the training data themselves
    validation: Dataset | None = None  # the validation data themselves
    output: Path | None = None  # the folder of the run; None: a new runs/train-MODEL-N
    overrides: tuple[str, ...] = ()  # KEY=VALUE settings of the model, and of training with the prefix `train.`
    recipe: str = ""  # name of a published recipe; `overrides` change its settings
    augment: tuple[Step, ...] | None = None  # replaces train.augment; may hold functions, which text cannot
    trackers: tuple[Tracker, ...] = ()  # the user's own, beside those of train.trackers
    settings: TrainConfig | None = None  # default training settings, instead of those of `model`
    split: str = ""  # to train on, as in `open_dataset`
    val_splits: tuple[str, ...] = ()  # the first chooses best/; NO_SPLIT alone: no evaluation
    val_fraction: float | None = None  # of the training images that are held out; None: chosen by the data
    annotations: str = ""  # annotation file within `data`, as in `open_dataset`
    images: str = ""  # folder of the images, as in `open_dataset`
    relative_boxes: bool = False  # boxes are fractions of the image
    weights: str = ""  # for a named model: "none", "imagenet", a name or a folder; see `choose_weights`
    device: str = "auto"
    resume: bool = False
    strict: bool = False  # refuse annotation files with errors instead of repairing or skipping these
    allow_empty: bool = False  # accept a split without objects
    allow: tuple[str, ...] = ()  # the user's code that a checkpoint or a resumed run may run; see models/own.py

    @property
    def data_name(self) -> Path:
        """The folder or file of the data, for records and messages."""
        return self.data.root if isinstance(self.data, Dataset) else self.data

    @property
    def places(self) -> dict[str, str]:
        """The data and the folder of the images for the record, which is read in other working directories."""
        name = self.data_name
        inside = (name if name.is_dir() else name.parent) / self.images
        is_elsewhere = self.images and not inside.is_dir()
        images = os.path.abspath(self.images) if is_elsewhere else self.images
        return {"data": os.path.abspath(name), "images": images}

    @property
    def record_file(self) -> str:
        """The record of the run."""
        return f"{self.output}/config.json"


def continue_command(
    request: RunRequest, processes: int, output: Path, own_code: Sequence[str] = (), *, launched: bool = False
) -> str:
    """The command that continues the run in `output`, which was stopped, with the same number of processes.

    `own_code`: the user's code that the run imports. A run that is resumed imports only what --allow names. `launched`:
    `--devices` starts the processes of this run; known from the environment in one of them.
    """
    words = ["rcnn", "train", request.model, "--data", str(request.data_name), "--output", str(output), "--resume"]
    words += [] if request.device == "auto" else ["--device", request.device]
    words += [word for factory in dict.fromkeys((*request.allow, *own_code)) for word in ("--allow", factory)]
    words += ["--strict"] * request.strict + ["--allow-empty"] * request.allow_empty
    if processes == 1:
        return as_typed(*words)
    if launched or os.environ.get(LAUNCHED) == "1":
        return as_typed(*words, "--devices", processes)
    return f"{as_typed(*words)} (in {processes} processes, started as before)"


def can_continue(output: Path) -> bool:
    """Whether the run in `output` has a last/, from which it can be resumed."""
    return any((output / f"{prefix}last" / WEIGHTS_FILE).exists() for prefix in ("", REPLACED))
