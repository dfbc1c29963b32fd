"""Saved results: detections in COCO's format that are read from files and scored without a model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rcnn.data.held_out import HELD_OUT_FILE
from rcnn.data.messages import counted, excerpt
from rcnn.data.records import Dataset
from rcnn.data.skeletons import skeleton_of
from rcnn.evaluation.evaluate import Evaluation, Result
from rcnn.evaluation.folder import RESULTS, UNFINISHED, UNFINISHED_RECORD
from rcnn.evaluation.plan import plan_evaluation
from rcnn.evaluation.predicted import TABLES_FILE, is_predicted, predicted_images, with_ids_by_name
from rcnn.evaluation.saved_boxes import box_form_warnings
from rcnn.evaluation.saved_ids import with_ids_of
from rcnn.metrics.checks import ResultError
from rcnn.metrics.choice import evaluate
from rcnn.metrics.inputs import GroundTruth, check_results, in_utf8, json_lines, read_json_or_lines
from rcnn.metrics.values import FIELDS
from rcnn.models.config import COCO_KEYPOINTS, default_sigmas
from rcnn.outputs import METRICS_FILE, files_of_rcnn
from rcnn.runtime.exported import is_exported
from rcnn.text_files import missing_text, read_json
from rcnn.weights.files import CONFIG_FILE
from rcnn.weights.location import FOREIGN

FIELDS_OF_KINDS = ("bbox", "segmentation", "keypoints")


@dataclass(frozen=True, kw_only=True)
class SavedResults:
    """Results of an evaluation, read from files."""

    results: list[Result]
    kinds: tuple[str, ...] = ()  # of the files that `rcnn eval` wrote; empty: a file that rcnn did not write
    limit: int = 0  # only this number of images, the first ones, were evaluated; 0: all, or unknown
    split: str = ""  # that was evaluated; empty: unknown


def is_results(path: Path) -> bool:
    """Whether `path` has results: a file that is not a model or weights, or the output folder of `rcnn eval`.

    Raises FileNotFoundError for a name that only a results file has, if there is no such file.
    """
    if path.suffix.lower() in (".json", ".jsonl") and not path.exists():
        raise FileNotFoundError(
            f"{path} {missing_text(path)}; expected a file in COCO's results format, the output folder of `rcnn eval`, "
            "or a checkpoint"
        )
    if is_exported(path) or path.suffix.lower() in FOREIGN:
        return False
    return path.is_file() or (not (path / CONFIG_FILE).exists() and bool(_files_below(path)))


def has_proposals(path: Path) -> bool:
    """Whether the results are from a region proposal network, which has no classes.

    Its results_bbox.json, given alone, is recognised by the results_proposals.json beside it.
    """
    files = [path] if path.is_file() else _files_below(path)
    names = {file.name for file in files}
    if names == {UNFINISHED}:
        return bool(unfinished_record(files[0]).get("proposals"))
    pair = {RESULTS["bbox"], RESULTS["proposals"]}
    if path.name == RESULTS["bbox"] and path.with_name(RESULTS["proposals"]).is_file():
        return pair <= files_of_rcnn(path.parent)
    return RESULTS["proposals"] in names


def held_out_record(path: Path) -> tuple[Path, Any]:
    """The file that says which images the results of an evaluation are of, if they were held out, and its record.

    The record is None if they were not held out, or for a file that `rcnn eval` did not write.
    """
    files = [path] if path.is_file() else _files_below(path)
    if files[0].name == UNFINISHED:
        return files[0].with_name(UNFINISHED_RECORD), unfinished_record(files[0]).get("held_out")
    file = files[0].with_name(HELD_OUT_FILE)
    return file, read_json(file) if files[0].name in RESULTS.values() and file.is_file() else None


def unfinished_record(path: Path) -> dict[str, Any]:
    """What is recorded about the results.jsonl at `path`; empty if there is no record."""
    file = path.with_name(UNFINISHED_RECORD)
    record = read_json(file) if file.is_file() else {}
    if not isinstance(record, dict):
        raise ValueError(f"{file}: expected an object with held_out and proposals, got {excerpt(record)}")
    return record


def read_results(path: Path) -> SavedResults:
    """The results in a file, or in the output folder of `rcnn eval`.

    A file contains a JSON list; a .jsonl file has one result per line, or one list per image and line, as the
    results.jsonl of an evaluation that was stopped.
    ValueError for a file with other content, or for files of different evaluations.
    """
    files = [path] if path.is_file() else _files_below(path)
    lists = [_read_file(file) for file in files]
    kinds = tuple(kind for kind, name in RESULTS.items() if any(file.name == name for file in files))
    if files[0].name == UNFINISHED and has_proposals(path):
        kinds = ("bbox", "proposals")
    merged = lists[0]
    for file, more in zip(files[1:], lists[1:], strict=True):
        if [_key(result) for result in more] != [_key(result) for result in merged]:
            raise ValueError(
                f"{file} and {files[0]} have different detections, so they are not from the same evaluation; give the "
                "path of one of the files"
            )
        merged = [one | other for one, other in zip(merged, more, strict=True)]
    recorded, split = _recorded(files[0])
    return SavedResults(results=merged, kinds=kinds, limit=_images_of_lines(files[0]) or recorded, split=split)


def _files_below(folder: Path) -> list[Path]:
    """The results files in the output folder of `rcnn eval`: one per kind, or the file of a stopped evaluation.

    The stopped one is the newer one, because a complete evaluation removes its file.
    """
    unfinished = folder / UNFINISHED
    if unfinished.is_file() and unfinished.stat().st_size:
        return [unfinished]
    return [folder / name for name in RESULTS.values() if (folder / name).is_file()]


def _read_file(path: Path) -> list[Result]:
    results = read_json_or_lines(path, unfinished=path.name == UNFINISHED)
    if isinstance(results, dict) and {"images", "annotations"} <= results.keys():
        raise ValueError(f"{path} has annotations, not results; give the data set with data (--data), and a checkpoint")
    if not isinstance(results, list):
        raise ValueError(
            f"{path} is not a results file; expected a list [{{'image_id': 1, 'category_id': 1, 'score': 0.9, ...}}]"
        )
    return results


def _images_of_lines(path: Path) -> int:
    """Number of images in the file of an evaluation that was stopped, a list per line; 0 for other files.

    A single list is the file of one image only in results.jsonl, because other programs write all results in one list.
    """
    lines: list[Any] = []
    if path.suffix == ".jsonl":
        with suppress(ValueError, RecursionError):  # not one JSON value per line
            lines = json_lines(in_utf8(path.read_bytes()), unfinished=path.name == UNFINISHED)
    is_per_image = len(lines) > 1 or path.name == UNFINISHED
    return len(lines) if is_per_image and all(isinstance(line, list) for line in lines) else 0


def limit_of(saved: SavedResults, dataset: Dataset) -> int:
    """The number of images of `dataset` that were evaluated, the first ones, if it is smaller than all; else 0.

    All results must be of these images: the lines of another program may skip images without results.
    """
    first = set(dataset.image_ids[: saved.limit])
    is_smaller = saved.limit < len(dataset) and all(result["image_id"] in first for result in saved.results)
    return saved.limit if is_smaller else 0


def _key(result: Any) -> Any:
    return [result.get(name) for name in ("image_id", "category_id", "score")] if isinstance(result, dict) else result


def _recorded(path: Path) -> tuple[int, str]:
    """The limit of images and the split in the metrics.json beside a results file of `rcnn eval`.

    The limit is 0 for all images, or if it is unknown; the split is empty if it is unknown.
    """
    if path.name not in RESULTS.values() or not (path.parent / METRICS_FILE).is_file():
        return 0, ""
    metrics = read_json_or_lines(path.parent / METRICS_FILE)
    limit, split = (metrics.get(name) if isinstance(metrics, dict) else None for name in ("limit", "split"))
    return (limit if type(limit) is int and limit > 0 else 0), (split if isinstance(split, str) else "")


def fitted(
    path: Path, saved: SavedResults, dataset: Dataset, ground_truth: GroundTruth
) -> tuple[SavedResults, tuple[str, ...]]:
    """The results in `path` with the ids of `dataset`, and what was matched or looks wrong, a line each.

    `ground_truth`: that of the data set. Raises ValueError for results that do not fit.
    """
    certain = bool(saved.kinds) or path.is_dir() or is_predicted(path)  # rcnn wrote the ids
    try:
        named, lines = with_ids_by_name(path, saved.results, dataset)
        results, matched = with_ids_of(dataset, named, certain=certain)
        check_results(ground_truth, results, str(dataset.annotation_file))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return replace(saved, results=results), lines + matched + _other_split(saved, dataset) + box_form_warnings(
        dataset, results
    )


def _other_split(saved: SavedResults, dataset: Dataset) -> tuple[str, ...]:
    """A warning if the results are those of another split, whose images may have the same ids."""
    split = Path(dataset.split).name
    if not saved.split or saved.split in (split, *split.split("+")):  # train+val: two splits as one
        return ()
    return (
        f"the results are those of the split {saved.split!r}, but the ground truth is that of {split!r}: if that is "
        f"not the same, choose the split (--split {saved.split})",
    )


def evaluate_results(
    path: Path, dataset: Dataset, *, limit: int = 0, max_detections: int | None = None, metric: str = ""
) -> Evaluation:
    """The metrics of saved results on the first `limit` images of `dataset`.

    With `limit` 0, the images are those that were evaluated when the results were saved, if the files record that, else
    all. The kinds are those of the files that `rcnn eval` wrote; for another file, those (boxes, masks, keypoints) for
    which every result has the field. `metric` defaults to that of the data set's format. ValueError if the results do
    not fit the data set, or no kind can be measured.
    """
    given, ground_truth = read_results(path), dataset.to_coco()
    saved, lines = fitted(path, given, dataset, ground_truth)
    results, warnings = saved.results, tuple(f"{path}: {line}" for line in lines)
    if not limit and (limit := limit_of(saved, dataset)):
        warnings += (
            f"{path} has results for the first {counted(limit, 'image')}, so the other images are not evaluated",
        )
    known = tuple(kind for kind in saved.kinds if all_have(results, FIELDS[kind]))
    kinds = known or tuple(kind for kind in ("bbox", "segm", "keypoints") if all_have(results, FIELDS[kind]))
    if not kinds:
        raise ValueError(
            f"{path}: expected every result to have the same of the fields {', '.join(FIELDS_OF_KINDS)}; "
            f"{_first_different(results)}"
        )
    warnings += _incomplete_kinds(path, results, kinds) + uncovered_images(path, results, dataset, limit)
    names, sigmas = keypoints_of(dataset) if "keypoints" in kinds else ((), None)
    if not results and not names:  # no results lack keypoints, nor do they have any
        kinds = tuple(kind for kind in kinds if kind != "keypoints")
    plan = plan_evaluation(
        kinds, dataset, limit=limit, max_detections=max_detections, keypoint_names=names, metric=metric
    )
    if not plan.kinds:
        raise ValueError(f"{path} has no results that can be evaluated: {'; '.join(plan.warnings)}")
    count = min(limit, len(dataset)) if limit else len(dataset)
    try:
        metrics = evaluate(
            plan.metric,
            ground_truth,
            results,
            plan.kinds,
            image_ids=dataset.image_ids[:count],
            keypoint_sigmas=sigmas,
            max_detections=max_detections,
        )
    except ResultError as error:
        raise ValueError(f"{path}: {error}") from error
    return Evaluation(
        metrics=metrics,
        results=results,
        ground_truth=ground_truth,
        limit=limit,
        split=Path(dataset.split).name,
        warnings=warnings + plan.warnings,
    )


def _first_different(results: Sequence[Result]) -> str:
    """The first result that shares no field of a kind with all results before it."""
    common = FIELDS_OF_KINDS
    for row, result in enumerate(results):
        have = [field for field in FIELDS_OF_KINDS if result.get(field)]
        if not set(common) & set(have):
            name = f"result {row} (image {excerpt(result['image_id'])}) has {' and '.join(have) or 'none'}"
            return name if row == 0 else f"{name}, those before it have {' and '.join(common)}"
        common = tuple(field for field in common if field in have)
    return ""


def _incomplete_kinds(path: Path, results: Sequence[Result], kinds: Sequence[str]) -> tuple[str, ...]:
    """A warning for each kind that only some of the results have, so that it is not evaluated."""
    counts = {kind: sum(bool(result.get(field)) for result in results) for kind, field in FIELDS.items()}
    names = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
    return tuple(
        f"{names[kind]} are not evaluated: only {count} of the {len(results)} results of {path} "
        f"{'has' if count == 1 else 'have'} a value of {FIELDS[kind]}; give it to all, or leave it out of all"
        for kind, count in counts.items()
        if kind in names and kind not in kinds and 0 < count < len(results)
    )


def uncovered_images(path: Path, results: Sequence[Result], dataset: Dataset, limit: int = 0) -> tuple[str, ...]:
    """A warning if saved results seem to cover only some of the first `limit` images of `dataset` (0: all).

    A coco.json beside coco_results.json lists the images that `rcnn predict` predicted on. Without it, an image without
    results may have no detections: the warning is given if that is so for most of the images that have objects.
    """
    count = min(limit, len(dataset)) if limit else len(dataset)
    chosen = set(dataset.image_ids[:count])
    found = {result["image_id"] for result in results}
    listed = predicted_images(path, dataset)
    if listed is not None and found <= listed:
        covered, source = len(chosen & listed), f"{path} is of a prediction (see {TABLES_FILE} beside it) on"
        few_covered = covered < count
    else:
        covered, source = len(chosen & found), f"{path} has results for"
        objects = dataset.objects
        annotated = {dataset.image_ids[place] for place in set(objects.image_index[~objects.ignored].tolist())} & chosen
        few_covered = 2 * len(annotated - found) > len(annotated)
    if not few_covered:
        return ()
    others = count - covered
    rest = f"other {others} count as images" if others > 1 else "other one counts as an image"
    of = f"the first {counted(count, 'image')}" if limit else f"the {counted(count, 'image')}"
    return (
        f"{source} {covered} of {of} of the split; the {rest} without detections. To evaluate only some images, give "
        "their ids: split=IDS.txt (--split)",
    )


def keypoints_of(dataset: Dataset) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """Names and sigmas of the keypoints of a data set, for results without a model.

    ((), None) without keypoints that can be evaluated; the plan of the evaluation says why.
    """
    try:
        skeleton = skeleton_of(dataset)
    except ValueError:
        return (), None
    names = skeleton.names
    if not skeleton.named and len(names) == len(COCO_KEYPOINTS):  # as in training
        names = COCO_KEYPOINTS
    return names, skeleton.sigmas or default_sigmas(names)


def all_have(results: Sequence[Result], field: str) -> bool:
    """Whether every result has a value of `field`; an empty list is none."""
    return all(result.get(field) for result in results)
