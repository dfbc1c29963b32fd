"""The public function `rcnn.evaluate`."""

from __future__ import annotations

from pathlib import Path

from rcnn.data import Dataset, open_dataset, splits
from rcnn.evaluation.evaluate import Evaluation, evaluate_dataset
from rcnn.predictor import Predictor
from rcnn.runtime.devices import Device, Precision


def evaluate(
    model: Predictor | str | Path,
    data: Dataset | str | Path,
    *,
    split: str = "",
    annotations: str = "",
    limit: int = 0,
    batch_size: int = 1,
    workers: int = 2,
    device: Device = "auto",
    precision: Precision = "float32",
) -> Evaluation:
    """COCO's metrics of a checkpoint (or predictor) on a data set (or its folder).

    `split` defaults to the validation split, see `validation_split`. `annotations`: the annotation file within the
    folder, e.g. "labels/{split}.json"; default: found by its name. `limit`: only the first images; 0: all.
    `device` and `precision` are for a checkpoint; a predictor has its own.

    The result has `metrics` (e.g. `metrics.kinds["bbox"]["AP"]`) and `results`, the detections in COCO's format.
    Raises FileNotFoundError or ValueError for a checkpoint or data set that cannot be used.
    """
    predictor = model if isinstance(model, Predictor) else Predictor(model, device=device, precision=precision)
    if not isinstance(data, Dataset):
        data = open_dataset(
            Path(data),
            split or validation_split(data, annotations),
            classes=predictor.classes,
            keypoints=predictor.config.keypoint is not None,
            annotations=annotations,
            one_class=predictor.config.proposals_only,
        )
    return evaluate_dataset(predictor, data, limit=limit, batch_size=batch_size, workers=workers)


def validation_split(data: str | Path, annotations: str = "") -> str:
    """The split of a data set to evaluate on: the only one, or the first whose name starts with "val".

    Raises ValueError, with the names of all splits, if there is none.
    """
    found = splits(Path(data), annotations)
    named = [name for name in found if name.startswith("val")]
    if not named and len(found) != 1:
        raise ValueError(f"{data} has splits {', '.join(found)}; none of them starts with val: choose one with split")
    return (named or found)[0]
