"""`rcnn predict --format`: the detections in the formats of other tools, in addition to predictions.json.

| format | files in the output folder |
|---|---|
| coco | coco_results.json, coco.json (images, categories, the same objects as annotations), copies in coco_images/ |
| csv | predictions.csv |
| labelme | labelme/NAME.json and copies of the images, all in one folder, which is one split |
| yolo, yolo-boxes | yolo/labels/NAME.txt, yolo/data.yaml, and copies of the images in yolo/images/ |
| masks | masks/NAME.png |
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from rcnn.cli.sources import Source, SplitImages
from rcnn.commands import as_typed
from rcnn.data.images import embedded_image, image_suffix, is_embedded
from rcnn.data.messages import close_to
from rcnn.data.writers.coco import coco_file, coco_results, image_ids
from rcnn.data.writers.yolo import data_yaml
from rcnn.drawing.palette import object_colour
from rcnn.outputs import OutputFolder

if TYPE_CHECKING:
    from rcnn.models.config import DetectorConfig
    from rcnn.results import ImageDetections

FORMATS = ("coco", "csv", "labelme", "yolo", "yolo-boxes", "masks")
WITH_IMAGES = {
    "coco": "coco_images",
    "labelme": "labelme",
    "yolo": "yolo/images",
    "yolo-boxes": "yolo-boxes/images",
}  # folders of copies
LABELS = {
    "labelme": "labelme",
    "yolo": "yolo/labels",
    "yolo-boxes": "yolo-boxes/labels",
    "masks": "masks",
}  # folders of the files about one image
COLUMNS = ("label", "name", "score", "x1", "y1", "x2", "y2")  # after the image
LABEL_SUFFIXES = (".json", ".txt", ".png")
COLOURS = 256  # of a palette image
TABLES = {"coco": ("coco.json", "coco_results.json"), "csv": ("predictions.csv",)} | {
    name: (f"{name}/data.yaml",) for name in ("yolo", "yolo-boxes")
}  # files about all images


def chosen_formats(text: str) -> tuple[str, ...]:
    """The formats of a list such as "coco,yolo", each once. Raises ValueError for an unknown format."""
    chosen = [name.strip() for name in text.split(",")] if text else []
    for name in chosen:
        if not name:
            raise ValueError(f"--format {text}: a name is empty; expected {', '.join(FORMATS)}")
        if name not in FORMATS:
            raise ValueError(f"--format {name}: not known{close_to(name, FORMATS)}; expected {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in chosen)


def require_masks(formats: Sequence[str], config: DetectorConfig) -> None:
    """Raise ValueError if a format needs masks and the model has none."""
    if "masks" in formats and config.mask is None and config.fcis is None:
        raise ValueError("--format masks: the model has no masks; use one with a mask head, or another format")


def require_originals(formats: Sequence[str], *, copies: bool, pictures: bool) -> None:
    """Raise ValueError if readers of coco.json would take the pictures with detections beside it for its images."""
    if "coco" in formats and pictures and not copies:
        raise ValueError(
            "--format coco --no-copy-images: the pictures with the detections would be taken for the images of "
            "coco.json; add --no-pictures, or leave --no-copy-images out"
        )


def files_of_image(
    result: ImageDetections, source: Source, formats: Sequence[str], folder: Path, *, copies: bool
) -> dict[str, bytes]:
    """The files about one image: name in the output folder -> content. The caller copies the image itself.

    `folder` is the output folder. If the image is not copied, labelme's file has the path from that file to the image.
    """
    files = dict[str, bytes]()
    for name in (one for one in formats if one in LABELS):
        path = _path_of(name, source)
        if name == "labelme":
            image = copy_name(name, source).name
            if not copies and not source.url:
                place, file = os.path.split(source.name)  # without links: they change the meaning of ".."
                image = os.path.relpath(
                    os.path.join(os.path.realpath(place), file), os.path.realpath(folder / LABELS[name])
                )
            files[path] = (json.dumps(result.to_labelme(image), ensure_ascii=False, indent=2) + "\n").encode(
                errors="backslashreplace"
            )
        elif name in ("yolo", "yolo-boxes"):
            files[path] = "".join(f"{line}\n" for line in result.to_yolo(polygons=name == "yolo")).encode()
        else:
            files[path] = mask_png(result)
    return files


def copy_name(name: str, source: Source) -> PurePosixPath:
    """The name in the output folder of the copy of an image for a format of WITH_IMAGES."""
    suffix = PurePosixPath(source.picture).suffix if source.url else Path(source.name).suffix
    if not source.url and is_embedded(Path(source.name)):
        suffix = image_suffix(embedded_image(Path(source.name)))
    return PurePosixPath(WITH_IMAGES[name]) / PurePosixPath(_place(name, source)).with_suffix(suffix)


def copy_image(folder: OutputFolder, name: str, source: Source, content: bytes | None) -> None:
    """Copy an image for a format of WITH_IMAGES; `content`: the bytes of a downloaded image, else None."""
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
        if name in LABELS:
            yield from (_path_of(name, source) for source in sources)
        if copies and name in WITH_IMAGES:
            for source in sources:
                with suppress(ValueError, OSError):  # not an image: reported when it is read
                    yield str(copy_name(name, source))


def folders_of(formats: Sequence[str]) -> frozenset[str]:
    """The folders of the formats in the output folder: a picture with detections there would be part of a data set."""
    folders = (folder for name in formats for folder in (LABELS.get(name), WITH_IMAGES.get(name)))
    return frozenset(PurePosixPath(folder).parts[0] for folder in folders if folder is not None)


def remove_stale(folder: OutputFolder, formats: Sequence[str], kept: Collection[str]) -> int:
    """Remove the label files and copies of images of an earlier call that are not in `kept`; returns their number.

    Only files of `formats` are removed, and none that was changed or that rcnn did not write. A copy stays if its label
    file stays, because the user has corrected it.
    """
    removed = 0
    for name in formats:
        labels, copies = LABELS.get(name, ""), WITH_IMAGES.get(name, "")
        stale = [PurePosixPath(one) for one in sorted(folder.names().difference(kept)) if ".." not in one]
        corrected = set[PurePosixPath]()
        for path in (one for one in stale if labels and one.is_relative_to(labels) and one.suffix in LABEL_SUFFIXES):
            if folder.remove(path):
                removed += 1
            elif (folder.path / path).exists():
                corrected.add(path.relative_to(labels).with_suffix(""))
        for path in (one for one in stale if copies and one.is_relative_to(copies)):
            if path.relative_to(copies).with_suffix("") not in corrected:
                removed += folder.remove(path)
    return removed


def outputs_of_others(folder: OutputFolder, formats: Sequence[str]) -> list[str]:
    """The files and folders that an earlier call wrote for other formats than `formats` and that still exist."""
    existing = [PurePosixPath(name) for name in sorted(folder.names()) if (folder.path / name).is_file()]
    outputs = list[str]()
    for name in (one for one in FORMATS if one not in formats):
        outputs += [table for table in TABLES.get(name, ()) if PurePosixPath(table) in existing]
        labels = (path for path in existing if name in LABELS and path.is_relative_to(LABELS[name]))
        if any(path.suffix in LABEL_SUFFIXES for path in labels):  # others are pictures of images in such a folder
            outputs.append(f"{LABELS[name]}/")
    return outputs


def missing_images(output: Path, formats: Sequence[str]) -> list[str]:
    """Where YOLO's images must be, if they are not copied, a line per format: its labels do not name them."""
    return [
        f"{output / name} has labels without images; before you train on it, copy the images to "
        f"{output / WITH_IMAGES[name]}, in the same subfolders, or link their folder: "
        f"{as_typed('ln', '-s', '/path/to/photos', output / WITH_IMAGES[name])}"
        for name in formats
        if name in ("yolo", "yolo-boxes")
    ]


def write_tables(
    folder: OutputFolder,
    formats: Sequence[str],
    images: Sequence[dict[str, Any]],
    classes: Sequence[str],
    keypoints: Sequence[str],
    sources: Sequence[Source] = (),
    split: SplitImages | None = None,
) -> None:
    """Write the files about all images: coco.json and coco_results.json, predictions.csv, data.yaml.

    `images`: the entries of predictions.json. `sources`: the images that were copied; coco.json has the names of the
    copies. `split`: the images that were predicted on, if they are those of a data set, for their ids.
    """
    from rcnn.weights.systems.classes import category_ids

    for name in formats:
        if name == "coco":
            entries, ids = _with_ids(images, split)
            categories = category_ids(classes) if split is None else split.category_ids
            folder.write_json("coco_results.json", coco_results(entries, categories, ids))
            copies = {source.name: str(copy_name("coco", source)) for source in sources}
            folder.write_json("coco.json", coco_file(entries, classes, categories, ids, keypoints, copies=copies))
        elif name == "csv":
            folder.write_text("predictions.csv", _table(images))
        elif name in ("yolo", "yolo-boxes"):
            has_masks = any("mask" in found for entry in images for found in entry["detections"])
            points = len(keypoints) if name == "yolo" and not has_masks else 0
            folder.write_text(f"{name}/data.yaml", data_yaml(classes, keypoints=points))


def _with_ids(
    images: Sequence[dict[str, Any]], split: SplitImages | None
) -> tuple[Sequence[dict[str, Any]], Sequence[int | str]]:
    """The entries for COCO's files and their ids; an entry per id, if images of the data set share a file."""
    if split is None:
        return images, image_ids([entry["file"] for entry in images])
    pairs = [(entry, image_id) for entry in images for image_id in split.image_ids[entry["file"]]]
    return [entry for entry, _ in pairs], [image_id for _, image_id in pairs]


def _path_of(name: str, source: Source) -> str:
    """The name in the output folder of the file about an image."""
    suffix = {"labelme": ".json", "masks": ".png"}.get(name, ".txt")
    return str(PurePosixPath(LABELS[name]) / PurePosixPath(_place(name, source)).with_suffix(suffix))


def _place(name: str, source: Source) -> str:
    """The name of an image in the folder of a format. In labelme's data sets, a split has no subfolders."""
    return source.flat if name == "labelme" and source.flat else source.picture


def _table(images: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    first = ("file", "frame", "time") if any("frame" in entry for entry in images) else ("file",)
    table.writerow((*first, *COLUMNS))
    for entry in images:
        where = [entry[name] for name in first]
        table.writerows([*where, d["label"], d["name"], d["score"], *d["box"]] for d in entry["detections"])
    return text.getvalue()


def mask_png(result: ImageDetections) -> bytes:
    """The masks as a PNG of ids: a palette image for up to 255 objects, else a 16-bit greyscale image."""
    file, ids = io.BytesIO(), result.to_id_mask()
    if len(result) < COLOURS:
        picture = Image.fromarray(ids.astype("uint8"))
        picture.putpalette([0, 0, 0, *(value for row in range(COLOURS - 1) for value in object_colour(row))])
    elif len(result) < 1 << 16:
        picture = Image.fromarray(ids)
    else:
        raise ValueError(
            f"{len(result):,} objects, but the 16-bit PNG of --format masks has numbers for 65,535; set a higher "
            "--score, or a lower box.selection.max_detections"
        )
    picture.save(file, "PNG")
    return file.getvalue()
