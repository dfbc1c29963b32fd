"""Results that `rcnn predict --format coco` wrote: coco.json beside them has the names that their ids stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rcnn.data.images import ImageError
from rcnn.data.messages import counted, excerpt, few
from rcnn.data.records import Dataset
from rcnn.data.trained_images import size_in_bytes
from rcnn.evaluation.evaluate import Result
from rcnn.evaluation.saved_ids import by_file, path_of
from rcnn.metrics.checks import Id
from rcnn.metrics.inputs import read_json_or_lines
from rcnn.outputs import files_of_rcnn

PREDICTED_FILE, TABLES_FILE = "coco_results.json", "coco.json"
COPIES = "coco_images/"  # folder of the copies of the images; coco.json has their names
REPAIR = "Repair it, or predict again"
NOUNS = {"image_id": "image", "category_id": "class"}


@dataclass(frozen=True, kw_only=True)
class _Table:
    """What the ids of results mean: image_id or category_id."""

    names: dict[Id, str]  # id of the results -> its name in coco.json
    ids: dict[Id, Id]  # id of the results -> id of the data set; without those that have none
    renamed: dict[Id, str]  # id that both have -> its name in the data set, which is another
    entries: dict[Id, dict[str, Any]]  # id of the results -> its entry in coco.json


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
        if field == "image_id":
            lines += _other_photos(path, table, used, dataset)
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


def _other_photos(path: Path, table: _Table, used: Iterable[Id], dataset: Dataset) -> list[str]:
    """A line if some of the images `used` are other photos than those of the data set with the same names.

    Names in coco.json begin below the folder that was predicted on: the photo of train/1.jpg may be called 1.jpg, as
    one of val is. Only the height, the width and, with a copy of the photo beside coco.json, the size in bytes are
    compared.
    """
    places = {one: place for place, one in enumerate(dataset.image_ids)}
    shown = [one for one in used if table.ids[one] in places]
    others = [
        table.names[one] for one in shown if _differ(path.parent, table.entries[one], dataset, places[table.ids[one]])
    ]
    if not others:
        return []
    are = "are not the photos" if len(others) > 1 else "is not the photo"
    return [
        f"{len(others)} of {counted(len(shown), 'image')} with results {are} that the data set has under the same "
        f"name: another size, or another file ({few(others)}). The metrics are wrong if these are photos of another "
        "split or data set: evaluate on those that were predicted on: data (--data), split (--split)"
    ]


def _differ(folder: Path, entry: dict[str, Any], dataset: Dataset, place: int) -> bool:
    """Whether an image of coco.json in `folder` is another one than image `place` of the data set."""
    size = [side for key in ("height", "width") if isinstance(side := entry.get(key), int)]
    if len(size) == 2 and sorted(size) != sorted(
        dataset.sizes[place].tolist()
    ):  # sorted: a photo may be turned by EXIF
        return True
    copy = folder / entry["file_name"]
    if not dataset.has_files or not copy.is_file():
        return False
    with suppress(OSError, ImageError):  # what is missing or damaged is reported when it is read
        return copy.stat().st_size != size_in_bytes(dataset.folder / dataset.file_names[place])
    return False


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
    file = path.parent / TABLES_FILE
    content = read_json_or_lines(file) if is_predicted(path) else None
    if not (isinstance(content, dict) and isinstance(content.get("images"), list)):
        return {}
    return {
        "image_id": _images(_entries(content, "images", file), dataset),
        "category_id": _classes(_entries(content, "categories", file), dataset),
    }


def _entries(content: dict[str, Any], table: str, file: Path) -> list[dict[str, Any]]:
    """The entries of a table of coco.json. Raises ValueError for one without an id: somebody has changed the file."""
    entries = content.get(table) or []
    if not isinstance(entries, list):
        raise ValueError(f"{file}: {table} is {excerpt(entries)}; expected a list. {REPAIR}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{file}: entry {index} of {table} is {excerpt(entry)}; expected an object. {REPAIR}")
        if not isinstance(entry.get("id"), int | str):
            raise ValueError(
                f"{file}: entry {index} of {table} has the id {excerpt(entry.get('id'))}; expected an integer or text. "
                f"{REPAIR}"
            )
    return entries


def _images(entries: Sequence[dict[str, Any]], dataset: Dataset) -> _Table:
    """Images by the names of their files; one without a name in coco.json keeps its id."""
    files = dict(zip(dataset.image_ids, dataset.file_names, strict=True))
    names = _names(entries, "file_name")
    if are_copies := all(name.startswith(COPIES) for name in names.values()):
        names = {one: name.removeprefix(COPIES) for one, name in names.items()}
    find = by_file(files, names.values())
    ids: dict[Id, Id] = {entry["id"]: entry["id"] for entry in entries if entry["id"] not in names}
    for one, name in names.items():
        target = find(name)
        if one in files and target != one and _is_same(path_of(name), path_of(files[one]), are_copies):
            target = one if target is None else None  # a-2.jpg: of that name, or the second copy with the name a.jpg
        if target is not None:
            ids[one] = target
    return _Table(names=names, ids=ids, renamed={}, entries={entry["id"]: entry for entry in entries})


def _is_same(name: PurePosixPath, path: PurePosixPath, is_copy: bool) -> bool:
    """Whether `name` is `path`, or that of its copy by `rcnn predict`: it may be numbered.

    A copy of an image inside labelme's .json has another suffix.
    """
    if not is_copy or name == path:
        return name == path
    parts, others = (*name.parts[:-1], name.stem), (*path.parts[:-1], path.stem)
    return (
        len(parts) == len(others)
        and (name.suffix == path.suffix or path.suffix.lower() == ".json")
        and all(one == other or re.sub(r"-\d+$", "", one) == other for one, other in zip(parts, others, strict=True))
    )


def _classes(entries: Sequence[dict[str, Any]], dataset: Dataset) -> _Table:
    """Classes by their names; one that the data set has under another name keeps its id."""
    classes = dict(zip(dataset.classes, dataset.category_ids, strict=True))
    names = _names(entries, "name")
    ids: dict[Id, Id] = {one: classes[name] for one, name in names.items() if name in classes}
    taken = set(ids.values())
    free: dict[Id, str] = {one: name for name, one in classes.items() if one not in taken}
    renamed = {one: free[one] for one in names if one not in ids and one in free}
    return _Table(names=names, ids=ids | {one: one for one in renamed}, renamed=renamed, entries={})


def _names(entries: Sequence[dict[str, Any]], key: str) -> dict[Id, str]:
    """The names by id of the entries that have one."""
    return {entry["id"]: name for entry in entries if isinstance(name := entry.get(key), str)}


def _id(result: Any, field: str) -> Any:
    value = result.get(field) if isinstance(result, dict) else None
    return value if isinstance(value, int | str) else None
