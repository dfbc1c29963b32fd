"""The public function `rcnn.evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from rcnn.arguments import MODEL, OUTPUT, as_path, require_one_of, require_switches, whole_number
from rcnn.data import Dataset
from rcnn.data.loading import Padding, require_padding
from rcnn.data.opening import DatasetOptions
from rcnn.data.output_place import output_warnings, require_output_apart
from rcnn.evaluation.boundary import add_boundary, require_boundary
from rcnn.evaluation.evaluate import Evaluation
from rcnn.evaluation.opening import (
    Subject,
    dataset_for,
    in_one_class,
    open_subject,
    require_path_options,
    trained_on_warning,
)
from rcnn.evaluation.plan import EvaluationOptions
from rcnn.evaluation.recorded_data import RecordedData, recorded_data
from rcnn.evaluation.results import evaluate_results, is_results
from rcnn.evaluation.run import evaluate_predictor, run_evaluation
from rcnn.models.overrides import Overrides, as_overrides
from rcnn.outputs import METRICS_FILE, require_folder
from rcnn.predictor import Predictor
from rcnn.runtime.devices import Device, Precision, choose_device
from rcnn.runtime.launch import launch_function, require_devices
from rcnn.runtime.processes import Processes, device_of_process, joined, process_numbers


def evaluate(
    model: Predictor | str | Path,
    data: Dataset | str | Path | None = None,
    *,
    overrides: Overrides = (),
    split: str | Path = "",
    annotations: str = "",
    images: str | Path = "",
    relative_boxes: bool = False,
    ignore_other_classes: bool = False,
    limit: int = 0,
    batch_size: int = 1,
    workers: int = 2,
    max_detections: int | None = None,
    metric: str = "",
    strict: bool = False,
    allow_empty: bool = False,
    device: Device = "auto",
    devices: int = 1,
    precision: Precision = "float32",
    padding: Padding = "exact",
    compile: bool = False,
    allow: str | Sequence[str] = (),
    output: str | Path | None = None,
    pictures: int = 8,
    boundary: bool = False,
) -> Evaluation:
    """The metrics of a checkpoint, a predictor or saved results on a data set (or its folder).

    `model`: a path or a name, a predictor, or results to score again: a file in COCO's format, or the output folder of
    an earlier evaluation. `data` defaults to the data set that the run of the checkpoint was trained on, read as the
    run read it, and `split` then to its first validation split. `overrides`: changes of the checkpoint's settings, e.g.
    ["box.score_threshold=0.001"] or a dict. `split` (as in `open_dataset`) defaults to the images that the run of the
    checkpoint held out from training; if it held out none, to the validation split. `annotations`: the annotation file
    within the folder, e.g. "labels/{split}.json"; default: found by its name. `images`, `relative_boxes` and
    `ignore_other_classes` as in `open_dataset`. All these, `strict` and `allow_empty` are for a path, not for a
    `Dataset`, which is opened.
    `limit`: evaluate only the first `limit` images (0 = all). `batch_size`: images per forward pass. `workers`: threads
    that read images. `max_detections`: detections per image and class that count; defaults to COCO's 100 (keypoints 20,
    proposals 1000) or LVIS' 300 per image. A checkpoint's own limit is raised to this number; a predictor that returns
    fewer gets a warning. `metric`: "coco", "voc2007", "voc2012" or "lvis"; defaults to that of the data set's
    format. `strict` and `allow_empty` as in `open_dataset`.
    `device`, `precision`, `padding`, `compile` (see `Predictor`) and `allow` (see `rcnn.load`) are for a checkpoint; a
    predictor has its own, and saved results need none. Each padded shape of images is compiled for itself, so give
    `compile` with padding="bucket", which has few; it changes AP a little.
    `devices`: number of processes that share the images, for a checkpoint: one per GPU, or on the CPU if there is none;
    a script then needs `if __name__ == "__main__":`.

    `boundary`: also measure boundary AP of masks, which needs `pip install 'rcnn[boundary]'`.
    `output`: a folder for the files that `rcnn eval` writes; `report` of the result is then the path of report.html,
    with up to `pictures` images, and `thresholds` are the score thresholds with the best F1.

    `print(result)` shows the tables of metrics; `result.per_class()` is a table with one line per class. The result has
    `metrics` (e.g. `metrics.kinds["bbox"]["AP"]`), `results` (the detections in COCO's format), `failed` (the images
    that could not be read), and `warnings`.
    Raises FileNotFoundError or ValueError for a checkpoint or data set that cannot be used.
    """
    options = DatasetOptions(
        annotations=annotations,
        images=images,
        relative_boxes=relative_boxes,
        ignore_other_classes=ignore_other_classes,
        strict=strict,
        allow_empty=allow_empty,
    )
    if not isinstance(model, Predictor):
        model = as_path(model, "the model", f"{MODEL}, saved results, or a Predictor")
    recorded = None
    if data is None:
        recorded = _recorded(model, split, options)
        data, split, options = recorded.path, recorded.split, recorded.options
    require_path_options(data, split, options)
    devices = whole_number("devices", devices, "1 or more processes")
    require_switches(compile=compile)
    require_one_of("precision", precision, get_args(Precision))
    require_padding(padding)
    if output is not None:
        require_folder(as_path(output, OUTPUT))
        require_output_apart(Path(output), data, str(options.images or ""), own=METRICS_FILE)
    chosen = EvaluationOptions(
        limit=limit, batch_size=batch_size, workers=workers, max_detections=max_detections, metric=metric,
        pictures=pictures, boundary=boundary,
    )  # fmt: skip
    if devices > 1 and (isinstance(model, Predictor) or not is_results(model)):
        if isinstance(model, Predictor):
            raise ValueError(f"devices={devices} needs a checkpoint: give its path instead of a predictor")
        require_devices(devices, device)
        again = partial(
            evaluate, model, data if recorded is None else None, overrides=overrides, split=split,
            annotations=options.annotations, images=options.images, relative_boxes=options.relative_boxes,
            ignore_other_classes=ignore_other_classes, limit=limit, batch_size=batch_size, workers=workers,
            max_detections=max_detections, metric=metric, strict=strict, allow_empty=allow_empty, device=device,
            precision=precision, padding=padding, compile=compile, allow=allow, output=output, pictures=pictures,
            boundary=boundary,
        )  # fmt: skip
        # on a CPU, the last digits of scores depend on the number of threads
        same_threads = choose_device(device).type == "cpu"
        return launch_function(_call, again, devices=devices, same_threads=same_threads)
    changes = as_overrides(overrides)
    if isinstance(model, Predictor):
        subject = _subject_of(model, data, str(split), changes, options)
    else:
        own = device_of_process(choose_device(device), process_numbers())
        load = partial(_load, model, device=own, precision=precision, padding=padding, compile=compile, allow=allow)
        subject = open_subject(
            model, data, str(split), load=load, overrides=changes, options=options, evaluation=chosen
        )
    source, dataset = subject.source, subject.dataset
    inside = () if recorded is None else recorded.changes(dataset)
    if output is not None:
        inside += output_warnings(Path(output), data, str(options.images or ""), [dataset], own=METRICS_FILE)
    with joined(source.device if isinstance(source, Predictor) else torch.device("cpu")) as processes:
        if output is not None:
            name = source.config.name if isinstance(source, Predictor) else source.name
            named = "the model" if isinstance(model, Predictor) else str(model)
            evaluation = run_evaluation(
                source,
                dataset,
                output,
                options=chosen,
                title=f"{name} on {dataset.split}",
                details={"Evaluated": named, "Ground truth": str(dataset.annotation_file)},
                log=_no_log,
                processes=processes,
            )
        else:
            evaluation = _evaluate(source, dataset, chosen, processes)
    return replace(evaluation, warnings=(*inside, *subject.warnings, *evaluation.warnings))


def _recorded(model: Predictor | Path, split: str | Path, options: DatasetOptions) -> RecordedData:
    """The data set that a checkpoint was trained on. ValueError for what records none."""
    if isinstance(model, Predictor):
        raise ValueError("data is missing: a Predictor does not record what it was trained on; give the data set")
    return recorded_data([model], f"{model} does not record one", split, options)


def _subject_of(
    predictor: Predictor, data: Dataset | str | Path, split: str, changes: Sequence[str], options: DatasetOptions
) -> Subject:
    """The predictor, and the data set opened with the classes that it needs."""
    if changes:
        raise ValueError(
            f"overrides ({changes[0]}) are for a checkpoint; give them to the predictor: Predictor(overrides=)"
        )
    if isinstance(data, Dataset):
        dataset = in_one_class(data, predictor) if predictor.config.proposals_only else data
    else:
        dataset = dataset_for(predictor, data, split, options=options)
    return Subject(
        source=predictor,
        dataset=dataset,
        warnings=trained_on_warning(dataset, dataset.split if isinstance(data, Dataset) else split),
    )


def _load(
    model: str | Path,
    overrides: Sequence[str],
    *,
    device: Device,
    precision: Precision,
    padding: Padding,
    compile: bool,
    allow: str | Sequence[str],
) -> Predictor:
    return Predictor(
        model, device=device, precision=precision, overrides=overrides, allow=allow, compile=compile, padding=padding
    )


def _evaluate(
    source: Predictor | Path, dataset: Dataset, options: EvaluationOptions, processes: Processes
) -> Evaluation:
    """The metrics of a predictor or of saved results; nothing is written."""
    if options.boundary:
        require_boundary(source, dataset, options)
    if isinstance(source, Predictor):
        evaluation = evaluate_predictor(source, dataset, options, processes)
    else:
        evaluation = evaluate_results(
            source, dataset, limit=options.limit, max_detections=options.max_detections, metric=options.metric
        )
    if options.boundary and processes.is_first:
        return add_boundary(evaluation, dataset, options.max_detections)
    return evaluation


def _call(function: Callable[[], Evaluation]) -> Evaluation:
    """What `function` returns, without the ground truth in all processes but the first: each sends its own back."""
    evaluation = function()
    return evaluation if process_numbers().is_first else replace(evaluation, ground_truth={})


def _no_log(line: str) -> None:
    """The log of `evaluate`, which returns its warnings in the result."""
