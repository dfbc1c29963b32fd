"""The values of an object in a record, as COCO's form has them. What cannot be right is refused, with its place.

In all functions, `where` names the record ("record 3") or the image of a torch data set ("image 3"), and for a value of
one object also that object ("record 3, object 0"). Both are counted from 0.

Letters: H, W height and width of an image, J keypoints, P points of a polygon.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from rcnn.data.messages import counted, excerpt
from rcnn.ops.coco_backend import encode_mask

if TYPE_CHECKING:
    from torchvision.tv_tensors import BoundingBoxes

FORMS = {  # key of a record -> the value of each object
    "boxes": "[x1, y1, x2, y2] in pixels",
    "segmentations": "polygons [[x, y, x, y, ...], ...], RLE, or a bool mask (H, W)",
    "keypoints": "(J, 3): x, y, visibility",
    "labels": "the name of a class, or its number if classes=[...] is given",
}


def object_place(where: str, index: int) -> str:
    """How messages name the object `index` of the record or image `where`."""
    return f"{where}, object {index}"


def values_of(key: str, values: Any, where: str) -> list[Any]:
    """The values of `key`, one per object, of `where`; none for None. Raises ValueError if they are no list."""
    if values is None:
        return []
    if is_torchvision_boxes(values):
        values = _corners(values, where)
    values = _numpy(values)
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return values.tolist()
    if isinstance(values, (str, bytes, Mapping)) or not np.iterable(values):
        raise ValueError(f"{where} has {key} {excerpt(values)}; expected a list, {_per_object(key)}")
    return list(values)


def is_torchvision_boxes(values: object) -> TypeGuard[BoundingBoxes]:
    """Whether `values` are torchvision's BoundingBoxes, which know their format and the size of their image."""
    module = sys.modules.get("torchvision.tv_tensors")  # not imported here: that takes a second
    return module is not None and isinstance(values, module.BoundingBoxes)


def _corners(boxes: BoundingBoxes, where: str) -> Tensor:
    """Boxes (N, 4) in the format that they name, as float64 xyxy. Raises ValueError for rotated boxes."""
    from torchvision.ops import box_convert
    from torchvision.tv_tensors import is_rotated_bounding_format

    if is_rotated_bounding_format(boxes.format):
        raise ValueError(
            f"{where} has rotated boxes (BoundingBoxes of format {boxes.format.value}); expected XYXY, XYWH or "
            "CXCYWH: pass the upright boxes around the objects, and their outlines as polygons or masks"
        )
    return box_convert(boxes.as_subclass(Tensor).double(), boxes.format.value.lower(), "xyxy")


def require_same_number(key: str, values: Sequence[Any], labels: Sequence[Any], where: str) -> None:
    """Raise ValueError unless `key` of `where` has as many values as there are labels."""
    if len(values) == len(labels):
        return
    if not labels:
        raise ValueError(f"{where} has {len(values)} {key} and no labels; expected labels, {_per_object('labels')}")
    raise ValueError(
        f"{where} has {len(values)} {key} for {counted(len(labels), 'label')}; expected {_per_object(key)}"
    )


def _per_object(key: str) -> str:
    return "one per object" + (f": {FORMS[key]}" if key in FORMS else "")


def object_values(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of an object of `where` in COCO's form; `given` has COCO's names, and boxes as xyxy.

    Raises ValueError, with the record and what was expected, for a value of the wrong form.
    """
    return {field: CONVERTED[field](value, where) if field in CONVERTED else value for field, value in given.items()}


def _xywh(box: Any, where: str) -> list[float]:
    values = _numbers(box, "boxes", where).reshape(-1)
    if len(values) != 4:
        raise ValueError(f"{where} has a box of {counted(len(values), 'number')}; expected x1, y1, x2, y2")
    if not np.isfinite(values).all() or (values[2:] < values[:2]).any():
        raise ValueError(
            f"{where} has the box {values.tolist()}; expected finite x1, y1, x2, y2 in pixels, with x1 <= x2 "
            "and y1 <= y2 (not x, y, width, height)"
        )
    return [*values[:2].tolist(), *(values[2:] - values[:2]).tolist()]


def _outline(value: Any, where: str) -> Any:
    """A segmentation in COCO's form; a bool mask (H, W) becomes run lengths."""
    value = _numpy(value)
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype in (np.bool_, np.uint8):
        rle = encode_mask(value.astype(bool))
        return {"size": list(rle["size"]), "counts": _counts(rle["counts"], where)}
    if isinstance(value, Mapping):
        if not {"size", "counts"} <= value.keys():
            raise ValueError(f"{where} has the segmentation {excerpt(dict(value))}; expected RLE: size and counts")
        size = _whole_numbers(value["size"])
        if size is None or len(size) != 2:
            raise ValueError(f"{where} has RLE of size {excerpt(value['size'])}; expected [height, width]")
        return {"size": size, "counts": _counts(value["counts"], where)}
    if isinstance(value, np.ndarray) and value.ndim == 2 and len(value) > 1 and value.shape[1] > 2:
        raise ValueError(
            f"{where} has a segmentation of shape {value.shape} and type {value.dtype}; expected a mask "
            "of bool or uint8, e.g. mask > 0, or a list of polygons"
        )
    if isinstance(value, (str, bytes)) or not np.iterable(value):
        raise ValueError(f"{where} has the segmentation {excerpt(value)}; expected {FORMS['segmentations']}")
    parts = list(value)
    if parts and (isinstance(parts[0], str) or not np.iterable(parts[0])):
        raise ValueError(
            f"{where} has a segmentation of {counted(len(parts), 'number')}; expected a list of polygons, "
            "[[x, y, x, y, ...], ...]: a single polygon needs brackets around it"
        )
    polygons = [_polygon(part, where) for part in parts]
    if not np.isfinite([*chain.from_iterable(polygons)]).all():
        raise ValueError(f"{where} has a polygon with numbers that are not finite; expected x and y in pixels")
    if any(polygons) and {0.0, 1.0}.issuperset(chain.from_iterable(polygons)):
        raise ValueError(
            f"{where} has a segmentation of zeros and ones; expected polygons in pixels, or a mask as an array: "
            "np.array(mask, dtype=bool)"
        )
    return polygons


def _polygon(part: Any, where: str) -> list[float]:
    """x, y, x, y, ... of a polygon, which may also be a list of points (P, 2), or (P, 1, 2) as OpenCV has them."""
    numbers = _numbers(part, "segmentations", where)
    if numbers.shape[1:] == (1, 2):
        numbers = numbers[:, 0]
    if numbers.ndim > 2 or (numbers.ndim == 2 and numbers.shape[1] != 2 and numbers.shape[0] != 1):
        raise ValueError(
            f"{where} has a polygon of shape {numbers.shape}; expected x, y, x, y, ... If it is a mask, pass "
            "one array (H, W) of bool per object, e.g. masks[:, 0] of masks (N, 1, H, W)"
        )
    return numbers.reshape(-1).tolist()


def _counts(counts: Any, where: str) -> str | list[int]:
    """The counts of RLE: compressed, or numbers in any kind of list."""
    if isinstance(counts, (str, bytes)):
        return counts if isinstance(counts, str) else counts.decode("ascii", "replace")
    numbers = _whole_numbers(counts)
    if numbers is None:
        raise ValueError(f"{where} has RLE with the counts {excerpt(counts)}; expected COCO's text or integers")
    return numbers


def _whole_numbers(values: Any) -> list[int] | None:
    """Whole numbers in any kind of list; None for anything else."""
    try:
        numbers = np.asarray(_numpy(values), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    whole = numbers.ndim == 1 and np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all()
    return [int(number) for number in numbers] if whole else None


def _keypoints(value: Any, where: str) -> list[float]:
    numbers = _numbers(value, "keypoints", where)
    if numbers.ndim > 2 or (numbers.ndim == 2 and numbers.shape[1] != 3):
        raise ValueError(
            f"{where} has keypoints of shape {numbers.shape}; expected {FORMS['keypoints']}: 2 for a visible "
            "keypoint, 1 for a hidden one, 0 for one that is not labelled"
        )
    return numbers.reshape(-1).tolist()


def plain(value: Any) -> Any:
    """A number of numpy or torch as a Python number; anything else as it is."""
    value = _numpy(value)
    return value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value


def _numpy(value: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy(force=True)  # numpy has no bfloat16


def _flag(value: Any, where: str) -> int:
    number = plain(value)
    if not isinstance(number, (int, float)) or number not in (0, 1):
        raise ValueError(f"{where} has crowd or difficult {excerpt(value)}; expected 0 or 1 (or a bool)")
    return int(number)


def _expressions(value: Any, where: str) -> list[Any]:
    if isinstance(value, str) or not np.iterable(value):
        raise ValueError(f"{where} has expressions {excerpt(value)}; expected a list of texts")
    return list(value)


def _numbers(values: Any, key: str, where: str) -> np.ndarray:
    """Numbers of any shape as an array of float64."""
    try:
        return np.asarray(_numpy(values), dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: tensors with gradients
        raise ValueError(f"{where} has {key} {excerpt(values)}; expected {FORMS[key]}") from error


CONVERTED: dict[str, Callable[[Any, str], Any]] = {  # field of COCO's form -> its value
    "id": lambda value, where: plain(value),
    "bbox": _xywh,
    "area": lambda value, where: plain(value),
    "segmentation": _outline,
    "keypoints": _keypoints,
    "iscrowd": _flag,
    "difficult": _flag,
    "expressions": _expressions,
}
