"""The public function `rcnn.compare`: two checkpoints, or saved results, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rcnn.data import Dataset
from rcnn.data.opening import DatasetOptions
from rcnn.evaluation.api import evaluate
from rcnn.evaluation.evaluate import Result, failure_warnings
from rcnn.evaluation.opening import Model, dataset_for, held_out_of, trained_images_of
from rcnn.evaluation.plan import plan_evaluation
from rcnn.evaluation.results import is_results, keypoints_of, read_results, uncovered_images
from rcnn.metrics.checks import check_results
from rcnn.metrics.comparison import Comparison, compare_results
from rcnn.metrics.values import FIELDS
from rcnn.outputs import OutputFolder
from rcnn.runtime.devices import Device
from rcnn.runtime.open_model import model_record

COMPARE_FILE = "compare.json"


def compare(
    a: str | Path,
    b: str | Path,
    data: Dataset | str | Path | None = None,
    *,
    split: str = "",
    annotations: str = "",
    images: str | Path = "",
    relative_boxes: bool = False,
    metric: str = "",
    samples: int = 1000,
    seed: int = 0,
    device: Device = "auto",
    allow: str | Sequence[str] = (),
    output: str | Path | None = None,
) -> Comparison:
    """The metrics of `a` and `b`, their differences (B - A), and the 95% bootstrap intervals of the differences.

    `a` and `b` are checkpoints, runs or exported files, which are evaluated, or saved results: a file in COCO's format,
    or the output folder of `rcnn eval`. If one of them has results for the first images only, only these are compared.
    `data` defaults to the data set that the first model of the two was trained on, and `split` to its validation split.
    `metric`: "coco", "voc2007", "voc2012" or "lvis"; defaults to that of the data set's format.
    `samples`: number of bootstrap samples of the images (0: no intervals). `output`: a folder for compare.json.
    The other arguments as in `rcnn.evaluate`.

    Raises FileNotFoundError or ValueError if an input cannot be read, or if `a` and `b` have no kind of results in
    common.
    """
    if samples < 0:
        raise ValueError(f"samples={samples} (--samples); expected 0 or more")
    sources = (Path(a), Path(b))
    if isinstance(data, Dataset):
        dataset = data
    else:
        options = DatasetOptions(annotations=annotations, images=images, relative_boxes=relative_boxes)
        if data is None:
            data, recorded, own = _recorded_data(sources)
            split = split or recorded
            options = replace(own, annotations=annotations or own.annotations, images=images or own.images)
            options = replace(options, relative_boxes=relative_boxes or own.relative_boxes)
        held_out = next((part for part in map(held_out_of, sources) if part is not None), None)
        dataset = dataset_for(_model_of(sources), data, split, held_out=held_out, options=options)
    sides = [_side(source, dataset, device, allow, metric) for source in sources]
    limit = min((side.limit for side in sides if side.limit), default=0)
    kinds = [kind for kind in sides[0].kinds if kind in sides[1].kinds]
    names, sigmas = keypoints_of(dataset) if "keypoints" in kinds else ((), None)
    plan = plan_evaluation(kinds, dataset, limit=limit, keypoint_names=names, metric=metric)
    if not plan.kinds:
        found = " and ".join(f"{one} has {', '.join(side.kinds)}" for one, side in zip((a, b), sides, strict=True))
        reasons = "".join(f"; {line}" for line in plan.warnings)
        raise ValueError(f"no results can be compared: {found}{reasons}; expected a kind that both have")
    chosen = dataset.image_ids[: limit or len(dataset)]
    comparison = compare_results(
        plan.metric,
        dataset.to_coco(),
        sides[0].results,
        sides[1].results,
        plan.kinds,
        image_ids=chosen,
        keypoint_sigmas=sigmas,
        samples=samples,
        seed=seed,
    )
    partly = [
        line
        for source, side in zip(sources, sides, strict=True)
        if is_results(source)
        for line in uncovered_images(source, side.results, dataset, limit)
    ]
    lines = (*_trained_on(sources, dataset), *sides[0].warnings, *sides[1].warnings, *plan.warnings, *partly)
    comparison = replace(
        comparison,
        split=dataset.split,
        failed=sum(side.failed for side in sides),
        warnings=tuple(dict.fromkeys(lines)),
    )
    if output is not None:
        with OutputFolder(output) as folder:
            folder.write_json(COMPARE_FILE, comparison.to_dict(), indent=2)
    return comparison


def _recorded_data(sources: Sequence[Path]) -> tuple[Path, str, DatasetOptions]:
    """The data set that the first of the models among `sources` was trained on: path, validation split, options.

    The split is empty if the run had none. ValueError if no model records its data set, FileNotFoundError if that does
    not exist here.
    """
    models = [source for source in sources if not is_results(source)]
    records = [(source, model_record(source).provenance) for source in models]
    source, record = next(((s, r) for s, r in records if isinstance(r.get("data"), str)), (None, dict[str, Any]()))
    if source is None:
        raise ValueError(
            "give the data set (--data DIR): neither A nor B records one, as a model does that rcnn has trained"
        )
    if not Path(record["data"]).exists():
        raise FileNotFoundError(
            f"{source} was trained on {record['data']}, which does not exist here; give the data set (--data DIR)"
        )
    validations = [name for name in record.get("splits", [])[1:] if name != "none"]
    options = DatasetOptions(
        annotations=record.get("annotations", ""),
        images=record.get("images", ""),
        relative_boxes=record.get("relative_boxes", False),
    )
    return Path(record["data"]), validations[0] if validations else "", options


def _trained_on(sources: Sequence[Path], dataset: Dataset) -> tuple[str, ...]:
    """A warning for each model that was trained on some of the images."""
    advice = "Compare on images that neither model was trained on"
    records = [(source, trained_images_of(source)) for source in sources]
    return tuple(
        line for source, trained in records if trained for line in trained.warning(dataset, str(source), advice)
    )


def _model_of(sources: tuple[Path, Path]) -> Model | None:
    """The record of the first model among the sources, for its classes; None if all are saved results."""
    return next((model_record(source) for source in sources if not is_results(source)), None)


@dataclass(frozen=True, kw_only=True)
class _Side:
    """A or B."""

    results: list[Result]
    kinds: tuple[str, ...]
    limit: int = 0  # number of images that the results cover, the first ones; 0: all
    failed: int = 0  # images that could not be read: they count as images without detections
    warnings: tuple[str, ...] = ()


def _side(source: Path, dataset: Dataset, device: Device, allow: str | Sequence[str], metric: str) -> _Side:
    """The saved results of a source, or those of its evaluation."""
    if is_results(source):
        saved = read_results(source)
        try:
            check_results(dataset.to_coco(), saved.results, str(dataset.annotation_file), f"{source}: result")
        except ValueError as error:
            raise ValueError(str(error) if str(source) in str(error) else f"{source}: {error}") from error
        limit = saved.limit if saved.limit < len(dataset) else 0
        return _Side(results=saved.results, kinds=_kinds(saved.results), limit=limit)
    done = evaluate(source, dataset, device=device, allow=allow, metric=metric)
    failures = [*(image.error for image in done.failed), *failure_warnings(done.failed, len(dataset))]
    return _Side(
        results=done.results,
        kinds=_kinds(done.results),
        failed=len(done.failed),
        warnings=tuple(f"{source}: {line}" for line in failures),
    )


def _kinds(results: Sequence[Result]) -> tuple[str, ...]:
    return tuple(kind for kind in ("bbox", "segm", "keypoints") if all(FIELDS[kind] in result for result in results))
