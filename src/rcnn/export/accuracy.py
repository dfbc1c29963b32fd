"""AP of an exported file beside that of the model that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rcnn.data import Dataset
from rcnn.data.messages import counted
from rcnn.evaluation.evaluate import evaluate_dataset
from rcnn.metrics.values import Number
from rcnn.predictor import Predictor

MEASURED = 500  # images of the data set on which AP is measured


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """AP per kind of result, e.g. {"bbox": 0.38, "segm": 0.35}, before and after the export."""

    images: int  # on which AP was measured
    models: tuple[str, str]  # names of both for messages: checkpoint and file, or float32 and int8
    before: dict[str, Number]  # of the checkpoint (int8: of the float32 file)
    after: dict[str, Number]  # of the file

    def lines(self) -> list[str]:
        """One line per kind of result, e.g. "bbox AP: checkpoint 0.3812, file 0.3809"."""
        first, second = self.models
        return [
            f"{kind} AP: {first} {_text(value)}, {second} {_text(self.after[kind])}"
            for kind, value in self.before.items()
        ]


def measure_accuracy(
    before: Predictor, path: Path, dataset: Dataset, models: tuple[str, str], say: Callable[[str], object]
) -> Accuracy:
    """AP of `before` and of the exported file `path`; `models` are the names of both.

    It is measured on the first images of the data set, at most MEASURED.
    """
    number = min(MEASURED, len(dataset))
    say(f"measuring AP on {counted(number, 'image')} of {dataset.split}")
    return Accuracy(
        images=number,
        models=models,
        before=average_precision(before, dataset),
        after=average_precision(Predictor(path, device="cpu"), dataset),
    )


def average_precision(predictor: Predictor, dataset: Dataset) -> dict[str, Number]:
    """AP per kind of result on the first images of the data set, at most MEASURED."""
    evaluation = evaluate_dataset(predictor, dataset, limit=MEASURED)
    return {kind: values["AP"] for kind, values in evaluation.metrics.kinds.items()}


def _text(value: Number) -> str:
    return "none" if value is None else f"{value:.4f}"
