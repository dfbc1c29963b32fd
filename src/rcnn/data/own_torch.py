"""Data sets made in Python from a torch data set in torchvision's form; see own.py for those made from records.

Letters: N objects of one image, J keypoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rcnn.data.checks.ids import as_id
from rcnn.data.checks.tables import Image, RawEntry
from rcnn.data.image_inputs import as_image
from rcnn.data.messages import counted, excerpt
from rcnn.data.own import checked_dataset, image_id_of, names_of, require_different_ids
from rcnn.data.own_values import object_place, plain, values_of
from rcnn.data.records import Dataset

OVERSHOOT = 0.5  # that float images may be outside 0..1, e.g. after resizing; these values are clipped
TARGET_KEYS = {  # torchvision's name -> key of a record
    "boxes": "boxes",
    "masks": "segmentations",
    "keypoints": "keypoints",
    "iscrowd": "crowd",
    "area": "areas",
}


class DetectionData(Protocol):
    """A torch data set in torchvision's form: image i, and a dict that describes its N objects.

    The image is uint8 or float 0..1 (3, H, W), a Pillow image, or an array (H, W, 3). The dict has `boxes` (N, 4) xyxy
    in pixels, or torchvision's BoundingBoxes (XYXY, XYWH or CXCYWH), `labels` (N,) from 1 (see `first_label` of
    `Dataset.from_torch`), and optionally `masks` (N, H, W), `keypoints` (N, J, 3: x and y of a pixel counted from 0,
    visibility 0, 1 or 2), `iscrowd` (N,), `area` (N,), `image_id`.
    """

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, i: int, /) -> tuple[Any, Mapping[str, Any]]:
        """Image `i` and its objects; the same on every call, without augmentation."""
        ...


def dataset_of_torch(
    data: DetectionData, classes: Sequence[str], *, first_label: int = 1, keypoints: Sequence[str] = ()
) -> Dataset:
    """See `Dataset.from_torch`."""
    images: list[Image] = []
    entries: list[dict[str, Any]] = []
    classes, keypoints = names_of("classes", classes), names_of("keypoints", keypoints)
    if not len(data):
        raise ValueError(f"{type(data).__name__} is empty; expected at least one image")
    for index in range(len(data)):
        image, target = _item(data, index)
        height, width = _pixels(image, index).shape[1:]
        image_id = image_id_of(target, index, f"image {index}")
        images.append({"id": image_id, "file_name": f"image {image_id}", "height": height, "width": width})
        entries.append(_of_target(target, len(classes), first_label, index))
    require_different_ids([image["id"] for image in images], "image")
    name = type(data).__name__
    known = Path(), images
    raws: list[RawEntry] = [dict(image) for image in images]
    dataset = checked_dataset(
        Path(), name, raws, entries, classes, keypoints, noun="image", known=known, pixels=partial(_pixels_of, data)
    )
    return replace(dataset, notes=(*dataset.notes, *_note_on_labels(dataset, first_label)))


def _item(data: DetectionData, index: int) -> tuple[Any, Mapping[str, Any]]:
    """Image `index` and its target. Raises ValueError, which says what is expected, for anything else."""
    item: object = data[index]
    pair = isinstance(item, (tuple, list)) and len(item) == 2
    if pair and isinstance(item[1], Mapping):
        return item[0], item[1]
    got = f"a pair with a {type(item[1]).__name__}" if pair else f"a {type(item).__name__}"
    if isinstance(item, (tuple, list)) and not pair:
        got += f" of {counted(len(item), 'value')}"
    raise ValueError(
        f"image {index} of {type(data).__name__} is {got}; expected a pair: the image, and a dict with boxes and "
        "labels. Data sets of torchvision have this form after torchvision.datasets.wrap_dataset_for_transforms_v2"
    )


def _note_on_labels(dataset: Dataset, first_label: int) -> tuple[str, ...]:
    """A note if the labels may count from 0: the last class has no objects, but another class has."""
    *others, last = dataset.class_counts.values()
    if first_label == 0 or last or not any(others):
        return ()
    return (
        f"{dataset.annotation_file}: no object has the label {len(others) + first_label} ({dataset.classes[-1]}); if "
        "the labels count from 0, pass first_label=0",
    )


def _of_target(target: Mapping[str, Any], classes: int, first_label: int, index: int) -> dict[str, Any]:
    """A target dict in torchvision's form as the dict of a record."""
    where = f"image {index}"
    written = values_of("labels", target.get("labels"), where)
    labels = [_number(label, object_place(where, i)) - first_label for i, label in enumerate(written)]
    if labels and not 0 <= min(labels) <= max(labels) < classes:
        largest, smallest = max(labels) + first_label, min(labels) + first_label
        other = 1 if largest == classes else 0
        hint = f"; labels that count from {other} need first_label={other}" if smallest >= other != first_label else ""
        raise ValueError(
            f"image {index} has labels {smallest} to {largest}; expected "
            f"{first_label} to {classes - 1 + first_label} for {classes} classes{hint}"
        )
    columns = {ours: target[theirs] for theirs, ours in TARGET_KEYS.items() if target.get(theirs) is not None}
    return {"labels": labels, **columns}


def _number(label: object, where: str) -> int:
    """The label of an object as a number. Raises ValueError for text, booleans and fractions."""
    number = as_id(plain(label))
    if not isinstance(number, int):
        raise ValueError(f"{where} has the label {excerpt(label)}; expected the number of a class")
    return number


def _pixels_of(data: DetectionData, index: int) -> Tensor:
    """Image `index`, read again."""
    return _pixels(_item(data, index)[0], index)


def _pixels(image: Any, index: int) -> Tensor:
    """An image as uint8 RGB (3, H, W)."""
    if isinstance(image, Tensor) and image.is_floating_point():
        low, high = (float(value) for value in image.aminmax()) if image.numel() else (0.0, 0.0)
        if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):  # also False for NaN
            raise ValueError(
                f"image {index} is {str(image.dtype).removeprefix('torch.')} with values from {low:g} to {high:g}; "
                "expected 0 to 1, or uint8: for 0..255, convert with image.to(torch.uint8); leave normalisation to the "
                "model"
            )
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    try:
        return as_image(image)
    except ValueError as error:
        raise ValueError(f"image {index}: {error}") from error
