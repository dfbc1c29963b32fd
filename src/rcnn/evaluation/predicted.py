"""Results that `rcnn predict --format coco` wrote: coco.json beside them has the names that their ids stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rcnn.data.messages import counted
from rcnn.data.records import Dataset
from rcnn.evaluation.evaluate import Result
from rcnn.evaluation.saved_ids import Rule, by_file
from rcnn.metrics.checks import Id
from rcnn.metrics.inputs import read_json_or_lines
from rcnn.outputs import files_of_rcnn

PREDICTED_FILE, TABLES_FILE = "coco_results.json", "coco.json"


def with_ids_by_name(path: Path, results: Sequence[Any], dataset: Dataset) -> tuple[list[Result], tuple[str, ...]]:
    """The results in `path` with the ids that `dataset` has for their images and classes, and a line for each change.

    `rcnn predict` numbers images and classes itself, unless it predicts on a split of a data set. Results of another
    program are returned as they are, and so are ids if most of their names are not in the data set.
    """
    kept, lines = list(results), list[str]()
    for field, ids in _tables(path, dataset).items():
        if changed := sum(_id(result, field) in ids and ids[result[field]] != result[field] for result in kept):
            kept = [one | {field: ids[one[field]]} if _id(one, field) in ids else one for one in kept]
            what = "image" if field == "image_id" else "class"
            lines.append(
                f"{counted(changed, 'result')} {'has' if changed == 1 else 'have'} another {field} than the data set: "
                f"matched by the name of the {what} in {TABLES_FILE} beside them"
            )
    return kept, tuple(lines)


def predicted_images(path: Path, dataset: Dataset) -> set[Id] | None:
    """The images that were predicted on, with the ids of `dataset`; None if `path` is not from `rcnn predict`."""
    tables = _tables(path, dataset)
    return set(tables["image_id"].values()) if tables else None


def _tables(path: Path, dataset: Dataset) -> dict[str, dict[Any, Id]]:
    """For image_id and category_id: id of the results -> id of the data set, or the name if it does not have it.

    Empty if `path` is not from `rcnn predict`.
    """
    file = path.parent / TABLES_FILE
    if path.name != PREDICTED_FILE or not {path.name, file.name} <= files_of_rcnn(path.parent) or not file.is_file():
        return {}
    content = read_json_or_lines(file)
    tables: dict[str, dict[Any, Id]] = {}
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        files = by_file(dict(zip(dataset.image_ids, dataset.file_names, strict=True)))
        tables["image_id"] = _by_name(content["images"], "file_name", files)
        classes = dict(zip(dataset.classes, dataset.category_ids, strict=True))
        tables["category_id"] = _by_name(content.get("categories") or [], "name", classes.get)
    return tables


def _by_name(entries: Sequence[dict[str, Any]], key: str, find: Rule) -> dict[Any, Id]:
    names = {entry.get("id"): entry.get(key) for entry in entries}
    found = {one: target for one, name in names.items() if name is not None and (target := find(name)) is not None}
    if 2 * len(found) < len(names) or not found:
        return {one: one for one in names if isinstance(one, int | str)}
    return {one: found.get(one, str(names[one])) for one in names}


def _id(result: Any, field: str) -> Any:
    value = result.get(field) if isinstance(result, dict) else None
    return value if isinstance(value, int | str) else None
