"""Writes splits in COCO's layout: annotations/instances_SPLIT.json and the images in SPLIT/."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rcnn.data.checks.tables import Annotation, Category, Id, Image, MetricName
from rcnn.data.formats.coco import METRIC, VOC_METRICS
from rcnn.data.formats.divided import KEY
from rcnn.data.images import embedded_image, image_suffix, is_embedded
from rcnn.data.records import Dataset
from rcnn.outputs import OutputFolder, files_of_rcnn, numbered

FILE = "annotations/instances_{split}.json"


@dataclass(frozen=True, kw_only=True)
class CocoSplit:
    """A split to write; `sources` are the image files, one per image."""

    name: str
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
    sources: list[Path]
    metric: MetricName = "coco"  # default metric of the data set


def require_free(output: OutputFolder, names: Sequence[str]) -> None:
    """Raise FileExistsError unless splits of these names may be written."""
    output.require_free(*(FILE.replace("{split}", name) for name in names))


def require_no_other_splits(output: Path, names: Sequence[str]) -> None:
    """Raise FileExistsError if an earlier command of rcnn wrote a split that is not one of `names` to the folder."""
    own = {FILE.replace("{split}", name) for name in names}
    before, after = FILE.split("{split}")
    for file in sorted(files_of_rcnn(output) - own):
        if file.startswith(before) and file.endswith(after) and (output / file).exists():
            raise FileExistsError(
                f"{output / file} was written by an earlier command and would be an additional split of the new "
                "data set: remove it, or choose another output folder"
            )


def write_splits(
    output: OutputFolder,
    splits: Sequence[CocoSplit],
    *,
    copy: bool = True,
    divided_from: Path | None = None,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Write splits, first all images, then the annotation files: an interrupted copy has no annotation file.

    The images are copied to `SPLIT/` with their names. Without `copy` they stay where they are, below the output
    folder, and the annotation file has their paths relative to it; images embedded in labelme files are written in any
    case. Ids that are text are replaced by numbers. `divided_from` is the original annotation file or folder; the files
    name it, so that its later edits are reported when they are read. They also name VOC's metric, which thus stays the
    default. `advance` is called once per image. Raises
    FileExistsError for files that rcnn did not write.
    """
    tables = [_write_images(output, split, copy, advance) for split in splits]
    origin: dict[str, str] = {}
    if divided_from is not None:
        origin[KEY] = Path(os.path.relpath(divided_from, output.path)).as_posix()
    for split, content in zip(splits, tables, strict=True):
        info = origin | ({METRIC: split.metric} if split.metric in VOC_METRICS else {})
        output.write_text(
            FILE.replace("{split}", split.name), json.dumps(({"info": info} if info else {}) | content) + "\n"
        )


def _write_images(
    output: OutputFolder, split: CocoSplit, copy: bool, advance: Callable[[], None]
) -> dict[str, Sequence[Image | Annotation | Category]]:
    """Write the images of a split; returns the tables of its annotation file."""
    images: list[Image] = []
    taken: set[str] = set()
    new = whole_ids([image["id"] for image in split.images])
    for image, source in zip(split.images, split.sources, strict=True):
        if is_embedded(source):  # other tools do not read images in labelme files
            content = embedded_image(source)
            file = PurePosixPath(image["file_name"]).with_suffix(image_suffix(content))
            name = _free_name(str(file), source.with_suffix(file.suffix), taken)
            with output.writing(f"{split.name}/{name}") as path:
                path.write_bytes(content)
            name = name if copy else f"{split.name}/{name}"
        elif copy:
            name = _free_name(image["file_name"], source, taken)
            with output.writing(f"{split.name}/{name}") as path:
                shutil.copyfile(source, path)
        else:
            name = Path(os.path.relpath(source, output.path)).as_posix()
        written = image.copy()
        written["id"], written["file_name"] = new[image["id"]], name
        images.append(written)
        advance()
    numbers = whole_ids([entry["id"] for entry in split.annotations])
    annotations: list[Annotation] = [
        {**entry, "id": numbers[entry["id"]], "image_id": new[entry["image_id"]]} for entry in split.annotations
    ]
    return {"images": images, "annotations": annotations, "categories": split.categories}


def whole_ids(ids: Sequence[Id]) -> dict[Id, Id]:
    """The ids as COCO's tools need them: as they are if all are integers, else counted from 1."""
    if all(isinstance(one, int) for one in ids):
        return {one: one for one in ids}
    return {one: number for number, one in enumerate(dict.fromkeys(ids), start=1)}


def image_sources(dataset: Dataset) -> list[Path]:
    """The image files of a data set."""
    return [dataset.folder / name for name in dataset.file_names]


def _free_name(name: str, source: Path, taken: set[str]) -> str:
    """The name of a copied image in the folder of its split; unique even if the file system ignores case."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        path = PurePosixPath(source.name)
    number = 1
    while str(numbered(path, number)).lower() in taken:
        number += 1
    free = str(numbered(path, number))
    taken.add(free.lower())
    return free
