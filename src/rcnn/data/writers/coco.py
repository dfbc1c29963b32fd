"""COCO's format: results, or an annotation file with the same objects, from the entries of predictions.json."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from rcnn.data.skeletons import HALF_PIXEL
from rcnn.ops.coco_backend import rle_area


def coco_result(found: dict[str, Any], image_id: int | str, category_id: int | str) -> dict[str, Any]:
    """A detection of predictions.json (`ImageDetections.to_json`) in COCO's results format."""
    x1, y1, x2, y2 = found["box"]
    result = {
        "image_id": image_id,
        "category_id": category_id,
        "score": found["score"],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
    }
    if "mask" in found:
        result["segmentation"] = found["mask"]
    if "keypoints" in found:
        # the centre of a pixel is x + 0.5 here and x in COCO; the score replaces visibility
        points = np.asarray(found["keypoints"], dtype=np.float32) - HALF_PIXEL
        result["keypoints"] = points.reshape(-1).tolist()
    return result


def image_ids(files: Sequence[str]) -> list[int]:
    """An id per image: the number in its file name, as in COCO (000000000139.jpg), else its index, from 1."""
    stems = [Path(file).stem for file in files]
    if all(stem.isascii() and stem.isdigit() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(stems) + 1))


def file_names(files: Sequence[str]) -> list[str]:
    """The paths of images relative to the folder that contains all of them; for a URL, its last part."""
    local = [os.path.abspath(file) for file in files if "://" not in file]
    folder = os.path.commonpath([os.path.dirname(path) for path in local]) if local else ""
    return [
        PurePosixPath(file).name if "://" in file else Path(os.path.relpath(file, folder)).as_posix() for file in files
    ]


def coco_results(
    images: Sequence[dict[str, Any]], category_ids: Sequence[int], ids: Sequence[int | str]
) -> list[dict[str, Any]]:
    """The results of all images of predictions.json; `category_ids` (K,) of the classes, `ids` (I,) of the images."""
    return [
        coco_result(found, image_id, category_ids[found["label"]])
        for image_id, entry in zip(ids, images, strict=True)
        for found in entry["detections"]
    ]


def coco_file(
    images: Sequence[dict[str, Any]],
    names: Sequence[str],
    category_ids: Sequence[int],
    ids: Sequence[int | str],
    keypoints: Sequence[str] = (),
    *,
    copies: Mapping[str, str] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The content of an annotation file: the same objects as annotations with a score; `ids` as in `coco_results`.

    `names` (K,) are the classes; each has the `keypoints` (J,), all of them visible. `copies`: image -> its path
    relative to the folder of the annotation file; by default, paths are relative to the folder with all images.
    """
    annotations = coco_results(images, category_ids, ids)
    for number, entry in enumerate(annotations, start=1):
        area = rle_area(entry["segmentation"]) if "segmentation" in entry else entry["bbox"][2] * entry["bbox"][3]
        entry.update({"id": number, "iscrowd": 0, "area": area})
        if "keypoints" in entry:
            entry["keypoints"][2::3] = [2] * len(keypoints)
            entry["num_keypoints"] = len(keypoints)
    more = {"keypoints": list(keypoints), "skeleton": list[list[int]]()} if keypoints else {}
    files = [entry["file"] for entry in images]
    places = [copies[file] for file in files] if copies else file_names(files)
    return {
        "images": [
            {"id": image_id, "file_name": name, "height": entry["height"], "width": entry["width"]}
            for image_id, name, entry in zip(ids, places, images, strict=True)
        ],
        "annotations": annotations,
        "categories": [{"id": id, "name": name} | more for id, name in zip(category_ids, names, strict=True)],
    }
