"""`rcnn predict --format`: the detections in the formats of other tools, beside predictions.json.

| format | files in the output folder |
|---|---|
| coco | coco_results.json, and coco.json: images, categories and the same objects as annotations |
| csv | predictions.csv |
| labelme | labelme/NAME.json and copies of the images |
| yolo, yolo-boxes | yolo/labels/NAME.txt (outlines or boxes), yolo/data.yaml, copies of images in yolo/images/ |
| masks | masks/NAME.png |
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from rcnn.cli.sources import Source
from rcnn.data.images import embedded_image, image_suffix, is_embedded
from rcnn.data.messages import close_to
from rcnn.data.writers.coco import coco_file, coco_results
from rcnn.data.writers.yolo import data_yaml
from rcnn.drawing.palette import object_colour
from rcnn.outputs import OutputFolder

if TYPE_CHECKING:
    from rcnn.models.config import DetectorConfig
    from rcnn.results import ImageDetections

FORMATS = ("coco", "csv", "labelme", "yolo", "yolo-boxes", "masks")
WITH_IMAGES = {"labelme": "labelme", "yolo": "yolo/images", "yolo-boxes": "yolo-boxes/images"}  # folders of copies
COLUMNS = ("file", "label", "name", "score", "x1", "y1", "x2", "y2")
COLOURS = 256  # of a palette image
TABLES = {"coco": ("coco.json", "coco_results.json"), "csv": ("predictions.csv",)} | {
    name: (f"{name}/data.yaml",) for name in ("yolo", "yolo-boxes")
}  # files about all images


def chosen_formats(text: str, config: DetectorConfig) -> tuple[str, ...]:
    """The formats of --format coco,yolo, each once. Raises ValueError for one that is not known, or needs masks."""
    chosen = [name.strip() for name in text.split(",")] if text else []
    for name in chosen:
        if name not in FORMATS:
            raise ValueError(f"--format {name}: not known{close_to(name, FORMATS)}; expected {', '.join(FORMATS)}")
    if "masks" in chosen and config.mask is None and config.fcis is None:
        raise ValueError("--format masks: the model has no masks; use one with a mask head, or another format")
    return tuple(name for name in FORMATS if name in chosen)


def files_of_image(
    result: ImageDetections, source: Source, formats: Sequence[str], folder: Path, *, copies: bool
) -> dict[str, bytes]:
    """Names in the output folder, and contents, of what is written about one image; images are copied by the caller.

    `folder` is the output folder, from which labelme's file names the image if it is not copied.
    """
    files = dict[str, bytes]()
    for name in formats:
        path = _path_of(name, source)
        if name == "labelme":
            image = copy_name(name, source).name
            if not copies and not source.url:
                image = os.path.relpath(source.name, (folder / path).parent)
            files[path] = (json.dumps(result.to_labelme(image), ensure_ascii=False, indent=2) + "\n").encode()
        elif name in ("yolo", "yolo-boxes"):
            files[path] = "".join(f"{line}\n" for line in result.to_yolo(polygons=name == "yolo")).encode()
        elif name == "masks":
            files[path] = _mask_png(result)
    return files


def copy_name(name: str, source: Source) -> PurePosixPath:
    """The name in the output folder of the copy of an image for a format of WITH_IMAGES."""
    suffix = PurePosixPath(source.picture).suffix if source.url else Path(source.name).suffix
    if not source.url and is_embedded(Path(source.name)):
        suffix = image_suffix(embedded_image(Path(source.name)))
    return PurePosixPath(WITH_IMAGES[name]) / PurePosixPath(source.picture).with_suffix(suffix)


def copy_image(folder: OutputFolder, name: str, source: Source, content: bytes | None) -> None:
    """Copy an image for a format of WITH_IMAGES; `content` is that of a download."""
    with folder.writing(copy_name(name, source)) as path:
        if content is not None:
            path.write_bytes(content)
        elif is_embedded(Path(source.name)):
            path.write_bytes(embedded_image(Path(source.name)))
        else:
            shutil.copyfile(source.name, path)


def names_of_outputs(formats: Sequence[str], sources: Sequence[Source], *, copies: bool) -> Iterator[str]:
    """The names in the output folder of all files of the formats."""
    for name in formats:
        yield from TABLES.get(name, ())
        if name in ("coco", "csv"):
            continue
        yield from (_path_of(name, source) for source in sources)
        if copies and name in WITH_IMAGES:
            yield from (str(copy_name(name, source)) for source in sources)


def write_tables(
    folder: OutputFolder,
    formats: Sequence[str],
    images: Sequence[dict[str, Any]],
    classes: Sequence[str],
    keypoints: Sequence[str],
) -> None:
    """Write the files about all images: COCO's, the CSV table, data.yaml. `images` are those of predictions.json."""
    from rcnn.weights.systems.classes import category_ids

    for name in formats:
        if name == "coco":
            ids = category_ids(classes)
            folder.write_json("coco_results.json", coco_results(images, ids))
            folder.write_json("coco.json", coco_file(images, classes, ids, keypoints))
        elif name == "csv":
            folder.write_text("predictions.csv", _table(images))
        elif name in ("yolo", "yolo-boxes"):
            folder.write_text(f"{name}/data.yaml", data_yaml(classes))


def _path_of(name: str, source: Source) -> str:
    """The name in the output folder of the file about an image."""
    inside, suffix = {"labelme": ("labelme", ".json"), "masks": ("masks", ".png")}.get(name, (f"{name}/labels", ".txt"))
    return str(PurePosixPath(inside) / PurePosixPath(source.picture).with_suffix(suffix))


def _table(images: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for entry in images:
        table.writerows([entry["file"], d["label"], d["name"], d["score"], *d["box"]] for d in entry["detections"])
    return text.getvalue()


def _mask_png(result: ImageDetections) -> bytes:
    """The masks as a PNG of ids: with the colours of a palette if they are enough, else 16 bits of grey."""
    file, ids = io.BytesIO(), result.to_id_mask()
    if len(result) < COLOURS:
        picture = Image.fromarray(ids.astype("uint8"))
        picture.putpalette([0, 0, 0, *(value for row in range(COLOURS - 1) for value in object_colour(row))])
    else:
        picture = Image.fromarray(ids)
    picture.save(file, "PNG")
    return file.getvalue()
