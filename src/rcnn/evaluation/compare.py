"""The public function `rcnn.compare`: two checkpoints, or saved results, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from rcnn.arguments import MODEL, OUTPUT, as_optional_text, as_path, whole_number
from rcnn.data import Dataset
from rcnn.data.messages import counted, few
from rcnn.data.opening import DatasetOptions
from rcnn.data.output_place import output_warnings, require_output_apart
from rcnn.evaluation.api import evaluate
from rcnn.evaluation.evaluate import Result
from rcnn.evaluation.opening import (
    Model,
    dataset_for,
    held_out_of,
    in_one_class,
    require_path_options,
    trained_images_of,
)
from rcnn.evaluation.plan import limit_overrides, plan_evaluation
from rcnn.evaluation.recorded_data import recorded_data
from rcnn.evaluation.results import (
    all_have,
    fitted,
    has_proposals,
    is_results,
    keypoints_of,
    limit_of,
    read_results,
    uncovered_images,
)
from rcnn.metrics.choice import require_metric
from rcnn.metrics.comparison import Comparison, compare_results
from rcnn.metrics.values import FIELDS
from rcnn.outputs import OutputFolder
from rcnn.predictor import Predictor
from rcnn.runtime.devices import Device
from rcnn.runtime.exported import is_exported
from rcnn.runtime.open_model import model_record

COMPARE_FILE = "compare.json"
KINDS = ("bbox", "segm", "keypoints")  # that are compared


def compare(
    a: str | Path,
    b: str | Path,
    data: Dataset | str | Path | None = None,
    *,
    split: str | Path = "",
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
    Region proposal networks are compared by the AP of their boxes, without classes; their recall (AR) is not compared.
    `data` defaults to the data set that the first model of the two was trained on, and `split` to its validation split.
    `metric`: "coco", "voc2007", "voc2012" or "lvis"; defaults to that of the data set's format.
    `samples`: number of bootstrap samples of the images (0: no intervals). `output`: a folder for compare.json.
    The other arguments as in `rcnn.evaluate`.

    Raises FileNotFoundError or ValueError if an input cannot be read, if `a` and `b` have no kind of results in common,
    or if they are models with different classes; FileExistsError for a compare.json that rcnn did not write.
    """
    samples = whole_number("samples", samples, "0 or more bootstrap samples (--samples)", 0)
    seed = whole_number("seed", seed, "0 or more (--seed)", 0)
    require_metric(as_optional_text(metric, "metric", path=False))
    expected = f"{MODEL}, or saved results"
    sources = (as_path(a, "the first model", expected), as_path(b, "the second model", expected))
    options = DatasetOptions(annotations=annotations, images=images, relative_boxes=relative_boxes)
    if data is not None:
        require_path_options(data, split, options)
    models = tuple(None if is_results(source) else model_record(source) for source in sources)
    options = replace(options, optional_files=not any(models))
    _require_same_classes(sources, models)
    one_class = _are_proposals(sources, models)
    recorded = None
    if data is None:
        recorded = recorded_data(sources, "neither A nor B records one", split, options)
        data, split, options = recorded.path, recorded.split, recorded.options
    if output is not None:
        require_output_apart(as_path(output, OUTPUT), data, str(options.images), own=COMPARE_FILE)
    with nullcontext() if output is None else OutputFolder(output) as folder:
        if folder is not None:
            folder.require_free(COMPARE_FILE)
        dataset = _dataset(sources, models, data, str(split), replace(options, one_class=one_class))
        inside = () if recorded is None else recorded.changes(dataset)
        if folder is not None:
            inside += output_warnings(folder.path, data, str(options.images), [dataset], own=COMPARE_FILE)
        saved = [
            _saved_side(source, dataset) if model is None else None
            for source, model in zip(sources, models, strict=True)
        ]
        limit = min((side.limit for side in saved if side is not None and side.limit), default=0)
        sides = [
            side or _evaluated_side(source, dataset, limit, device, allow, metric)
            for source, side in zip(sources, saved, strict=True)
        ]
        comparison = _compare(sources, sides, dataset, limit, metric, samples, seed)
        comparison = replace(comparison, warnings=(*inside, *comparison.warnings))
        if folder is not None:
            folder.write_json(COMPARE_FILE, comparison.to_dict(), indent=2)
    return comparison


def _require_same_classes(sources: Sequence[Path], models: Sequence[Model | None]) -> None:
    """Raise ValueError for two models with different classes, because each needs the data set in another form."""
    classes = [model.classes for model in models if model is not None]
    if len(set(classes)) > 1:
        raise ValueError(
            f"{sources[0]} has the classes {few(classes[0])}, but {sources[1]} has {few(classes[1])}; expected "
            "the same in the same order. Evaluate each, `rcnn eval MODEL --data DIR --output OUT`, and compare their "
            "results: `rcnn compare OUT_A OUT_B --data DIR`"
        )


def _are_proposals(sources: Sequence[Path], models: Sequence[Model | None]) -> bool:
    """Whether the sources are region proposal networks, or their results. ValueError if one of them is a detector."""
    are = [
        has_proposals(source) if model is None else model.config.proposals_only
        for source, model in zip(sources, models, strict=True)
    ]
    for source, model, other in zip(sources, models, reversed(sources), strict=True):
        if any(are) and model is not None and not model.config.proposals_only:
            raise ValueError(
                f"{source} is a detector, but {other} has proposals, which have no classes; expected two detectors, or "
                "two region proposal networks"
            )
    return any(are)


def _dataset(
    sources: Sequence[Path],
    models: Sequence[Model | None],
    data: Dataset | str | Path,
    split: str,
    options: DatasetOptions,
) -> Dataset:
    """The data set with the classes that the first model needs, or with one class for proposals."""
    model = next((one for one in models if one is not None), None)
    if isinstance(data, Dataset):
        return in_one_class(data, model) if options.one_class else data
    held_out = next((part for part in map(held_out_of, sources) if part is not None), None)
    return dataset_for(model, data, split, held_out=held_out, options=options)


def _compare(
    sources: Sequence[Path],
    sides: Sequence[_Side],
    dataset: Dataset,
    limit: int,
    metric: str,
    samples: int,
    seed: int,
) -> Comparison:
    """The comparison on the first `limit` images (0 = all) by the kinds that both sides have, with all warnings."""
    kinds = [kind for kind in sides[0].kinds if kind in sides[1].kinds]
    names, sigmas = keypoints_of(dataset) if "keypoints" in kinds else ((), None)
    plan = plan_evaluation(kinds, dataset, limit=limit, keypoint_names=names, metric=metric)
    if not plan.kinds:
        found = " and ".join(f"{one} has {', '.join(side.kinds)}" for one, side in zip(sources, sides, strict=True))
        reasons = "".join(f"; {line}" for line in (*plan.warnings, *sides[0].warnings, *sides[1].warnings))
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
    own = [
        f"{source}: {line}"
        for source, side in zip(sources, sides, strict=True)
        for line in side.warnings
        if line not in plan.warnings
    ]
    first = [
        f"{source} has results for the first {counted(limit, 'image')}, so only these are compared"
        for source, side in zip(sources, sides, strict=True)
        if side.limit and side.limit == limit
    ]
    lines = (*_trained_on(sources, dataset), *own, *plan.warnings, *first, *partly)
    return replace(
        comparison,
        split=dataset.split,
        failed=sum(side.failed for side in sides),
        warnings=tuple(dict.fromkeys(lines)),
    )


def _trained_on(sources: Sequence[Path], dataset: Dataset) -> tuple[str, ...]:
    """A warning for each model that was trained on some of the images."""
    advice = "Compare on images that neither model was trained on"
    records = [(source, trained_images_of(source)) for source in sources]
    return tuple(
        line for source, trained in records if trained for line in trained.warning(dataset, str(source), advice)
    )


@dataclass(frozen=True, kw_only=True)
class _Side:
    """A or B."""

    results: list[Result]
    kinds: tuple[str, ...]
    limit: int = 0  # number of images that the results cover, the first ones; 0: all
    failed: int = 0  # images that could not be read: they count as images without detections
    warnings: tuple[str, ...] = ()  # of its evaluation, or about its saved results


def _saved_side(source: Path, dataset: Dataset) -> _Side:
    saved, warnings = fitted(source, read_results(source), dataset, dataset.to_coco())
    kinds = tuple(kind for kind in KINDS if all_have(saved.results, FIELDS[kind]))
    return _Side(results=saved.results, kinds=kinds, limit=limit_of(saved, dataset), warnings=warnings)


def _evaluated_side(
    source: Path, dataset: Dataset, limit: int, device: Device, allow: str | Sequence[str], metric: str
) -> _Side:
    """The results of a model on the first `limit` images (0 = all), and the kinds that could be measured."""
    limits: list[str] = []
    if not is_exported(source):  # as in `rcnn eval`: an exported file has fixed settings
        limits = limit_overrides(model_record(source).config, dataset, metric=metric)
    predictor = Predictor(source, device=device, allow=allow, overrides=limits)
    done = evaluate(predictor, dataset, limit=limit, metric=metric)
    return _Side(
        results=done.results,
        kinds=tuple(kind for kind in KINDS if kind in done.metrics.kinds),
        failed=len(done.failed),
        warnings=(*(image.error for image in done.failed), *done.warnings),
    )
