"""Results that `rcnn predict --format coco` wrote: coco.json beside them has the names that their ids stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rcnn.data.messages import counted, few
from rcnn.data.records import Dataset
from rcnn.evaluation.evaluate import Result
from rcnn.evaluation.saved_ids import by_file, path_of
from rcnn.metrics.checks import Id
from rcnn.metrics.inputs import read_json_or_lines
from rcnn.outputs import files_of_rcnn

PREDICTED_FILE, TABLES_FILE = "coco_results.json", "coco.json"
COPIES = "coco_images/"  # folder of the copies of the images; coco.json has their names
NOUNS = {"image_id": "image", "category_id": "class"}


@dataclass(frozen=True, kw_only=True)
class _Table:
    """What the ids of results mean: image_id or category_id."""

    names: dict[Id, str]  # id of the results -> its name in coco.json
    ids: dict[Id, Id]  # id of the results -> id of the data set; without those that have none
    renamed: dict[Id, str]  # id that both have -> its name in the data set, which is another


def with_ids_by_name(path: Path, results: Sequence[Any], dataset: Dataset) -> tuple[list[Result], tuple[str, ...]]:
    """The results in `path` with the ids that `dataset` has for their images and classes, and a line for each change.

    `rcnn predict` numbers images and classes itself, unless it predicts on a split of a data set. A class whose name
    the data set does not have keeps its id if the data set has that for a class of no other name in coco.json; a line
    says so. Results of another program are returned as they are. Raises ValueError for results of an image or a class
    that the data set does not have, and for two images of the results that are one of the data set.
    """
    kept, lines = list(results), list[str]()
    for field, table in _tables(path, dataset).items():
        used = dict.fromkeys(one for result in kept if (one := _id(result, field)) in table.names)
        _require_meanings(field, table, used, dataset)
        if renamed := [f"{table.names[one]} is {table.renamed[one]}" for one in used if one in table.renamed]:
            has = "has" if len(renamed) == 1 else "have"
            lines.append(
                f"{counted(len(renamed), 'class')} of {TABLES_FILE} beside the results {has} another name than the "
                f"class of the same {field} in the data set, taken as the same: {few(renamed)}"
            )
        ids = table.ids
        if changed := sum(_id(result, field) in ids and ids[result[field]] != result[field] for result in kept):
            kept = [one | {field: ids[one[field]]} if _id(one, field) in ids else one for one in kept]
            lines.append(
                f"{counted(changed, 'result')} {'has' if changed == 1 else 'have'} another {field} than the data set: "
                f"matched by the name of the {NOUNS[field]} in {TABLES_FILE} beside them"
            )
    return kept, tuple(lines)


def _require_meanings(field: str, table: _Table, used: Iterable[Id], dataset: Dataset) -> None:
    """Raise ValueError unless each of the ids `used` means one of the data set, and no two the same."""
    noun, meanings = NOUNS[field], dict[Id, Id]()
    source = f"{TABLES_FILE} beside them"
    advice = (
        "Evaluate against the data set that was predicted on; if the ids are those of this data set, copy the results "
        "to a file of another name, which is read without coco.json"
    )
    for one in used:
        if one not in table.ids:
            raise ValueError(
                f"results have {field} {one!r}, which is the {noun} {table.names[one]!r} in {source}; "
                f"{dataset.annotation_file} has none, or several, that this name could mean. {advice}"
            )
        if (first := meanings.setdefault(table.ids[one], one)) != one:
            raise ValueError(
                f"results have {field} {first!r} and {one!r}, the {noun} {table.names[first]!r} and "
                f"{table.names[one]!r} in {source}; both mean {table.ids[one]!r} of {dataset.annotation_file}. {advice}"
            )


def is_predicted(path: Path) -> bool:
    """Whether `rcnn predict --format coco` wrote the results in `path`, and the coco.json beside them."""
    file = path.parent / TABLES_FILE
    return path.name == PREDICTED_FILE and {path.name, file.name} <= files_of_rcnn(path.parent) and file.is_file()


def predicted_images(path: Path, dataset: Dataset) -> set[Id] | None:
    """The images that were predicted on, with the ids of `dataset`; None if `path` is not from `rcnn predict`."""
    tables = _tables(path, dataset)
    return set(tables["image_id"].ids.values()) if tables else None


def _tables(path: Path, dataset: Dataset) -> dict[str, _Table]:
    """The meaning of image_id and category_id; empty if `path` is not from `rcnn predict`."""
    content = read_json_or_lines(path.parent / TABLES_FILE) if is_predicted(path) else None
    if not (isinstance(content, dict) and isinstance(content.get("images"), list)):
        return {}
    return {
        "image_id": _images(content["images"], dataset),
        "category_id": _classes(content.get("categories") or [], dataset),
    }


def _images(entries: Sequence[dict[str, Any]], dataset: Dataset) -> _Table:
    """Images by the names of their files; one without a name in coco.json keeps its id."""
    files = dict(zip(dataset.image_ids, dataset.file_names, strict=True))
    names = _names(entries, "file_name")
    if all(name.startswith(COPIES) for name in names.values()):
        names = {one: name.removeprefix(COPIES) for one, name in names.items()}
    find = by_file(files, names.values())
    ids: dict[Id, Id] = {entry["id"]: entry["id"] for entry in entries if entry["id"] not in names}
    for one, name in names.items():
        target = find(name)
        if target is None and one in files and _is_copy(path_of(name), path_of(files[one])):
            target = one
        if target is not None:
            ids[one] = target
    return _Table(names=names, ids=ids, renamed={})


def _is_copy(copy: PurePosixPath, path: PurePosixPath) -> bool:
    """Whether `rcnn predict` may have given the image at `path` the name `copy`: with another suffix, or numbered."""
    parts, others = (*copy.parts[:-1], copy.stem), (*path.parts[:-1], path.stem)
    return len(parts) == len(others) and all(
        one == other or re.sub(r"-\d+$", "", one) == other for one, other in zip(parts, others, strict=True)
    )


def _classes(entries: Sequence[dict[str, Any]], dataset: Dataset) -> _Table:
    """Classes by their names; one that the data set has under another name keeps its id."""
    classes = dict(zip(dataset.classes, dataset.category_ids, strict=True))
    names = _names(entries, "name")
    ids: dict[Id, Id] = {one: classes[name] for one, name in names.items() if name in classes}
    taken = set(ids.values())
    free: dict[Id, str] = {one: name for name, one in classes.items() if one not in taken}
    renamed = {one: free[one] for one in names if one not in ids and one in free}
    return _Table(names=names, ids=ids | {one: one for one in renamed}, renamed=renamed)


def _names(entries: Sequence[dict[str, Any]], key: str) -> dict[Id, str]:
    return {entry["id"]: name for entry in entries if isinstance(name := entry.get(key), str)}


def _id(result: Any, field: str) -> Any:
    value = result.get(field) if isinstance(result, dict) else None
    return value if isinstance(value, int | str) else None
