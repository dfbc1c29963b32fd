"""The data set that a model was trained on, as its checkpoint records it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rcnn.data import Dataset
from rcnn.data.identity import data_identity, identity_changes
from rcnn.data.opening import DatasetOptions
from rcnn.evaluation.results import is_results
from rcnn.runtime.open_model import model_record


@dataclass(frozen=True, kw_only=True)
class RecordedData:
    """A data set, and how a run read it."""

    path: Path
    split: str  # to evaluate on; by default the first one that the run was evaluated on; empty: it had none
    options: DatasetOptions
    identity: Any  # by split, see `data_identity`; of a file, so perhaps damaged; None: not recorded

    def changes(self, dataset: Dataset) -> tuple[str, ...]:
        """What differs in `dataset` from the split of the same name in the training, as warnings."""
        if not self.identity:
            return ()
        return tuple(identity_changes(self.identity, {dataset.split: data_identity(dataset)}))


def recorded_data(sources: Sequence[Path], missing: str, split: str | Path, given: DatasetOptions) -> RecordedData:
    """The data set that the first of the models among `sources` was trained on, read as in the training.

    `split` and the options `given` by the user take precedence over those of the training.
    ValueError with `missing` ("RUN does not record one") if none does, or if it was a `Dataset`, which no record can
    name; FileNotFoundError if the data set does not exist here.
    """
    models = [source for source in sources if not is_results(source)]
    records = [(source, model_record(source).provenance) for source in models]
    source, record = next(((s, r) for s, r in records if isinstance(r.get("data"), str)), (None, dict[str, Any]()))
    if source is None:
        raise ValueError(f"give the data set (data=, --data DIR): {missing}; only models that rcnn trained record it")
    if record.get("dataset_given", False):
        raise ValueError(f"{source} was trained on a Dataset from Python: give the data (data=, --data DIR)")
    if not Path(record["data"]).exists():
        raise FileNotFoundError(
            f"{source} was trained on {record['data']}, which does not exist here; give the data set "
            "(data=, --data DIR)"
        )
    validations = [name for name in record.get("splits", [])[1:] if name != "none"]
    options = DatasetOptions(
        annotations=record.get("annotations", ""),
        images=record.get("images", ""),
        relative_boxes=record.get("relative_boxes", False),
    )
    return RecordedData(
        path=Path(record["data"]),
        split=str(split) or (validations[0] if validations else ""),
        options=_with_recorded(given, options),
        identity=record.get("data_identity"),
    )


def _with_recorded(given: DatasetOptions, recorded: DatasetOptions) -> DatasetOptions:
    """The options of the user, and those of the run where the user gave none."""
    return replace(
        given,
        annotations=given.annotations or recorded.annotations,
        images=given.images or recorded.images,
        relative_boxes=given.relative_boxes or recorded.relative_boxes,
    )
