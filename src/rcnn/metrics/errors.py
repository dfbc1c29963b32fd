"""The errors in each image, by the error types of TIDE (Bolya et al. 2020, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rcnn.metrics.inputs import Entry, Id
from rcnn.ops.coco_backend import as_compressed, iou_matrix

ErrorKind = Literal["class", "location", "both", "duplicate", "background", "missed"]
HIT_IOU, BACKGROUND_IOU = 0.5, 0.1  # TIDE's thresholds


@dataclass(frozen=True, kw_only=True)
class Error:
    """One wrong detection, or one object that was not found."""

    kind: ErrorKind
    class_name: str  # of the detection; of the object, if it was missed
    score: float | None = None  # of the detection

    def to_dict(self) -> dict[str, Any]:
        """The fields, for analysis.json."""
        return {"kind": self.kind, "class": self.class_name, "score": self.score}


@dataclass(frozen=True, kw_only=True)
class JudgedDetection:
    """A detection, and the kind of its error."""

    result: Entry  # in COCO's results format
    class_name: str
    error: ErrorKind | None  # None: it is correct


@dataclass(frozen=True, kw_only=True)
class ImageErrors:
    """The detections and errors in one image, at one score threshold."""

    image_id: Id
    detections: tuple[JudgedDetection, ...]
    missed: tuple[str, ...]  # classes of the missed objects

    @property
    def hits(self) -> int:
        """Number of correct detections."""
        return sum(detection.error is None for detection in self.detections)

    @property
    def errors(self) -> tuple[Error, ...]:
        """The wrong detections, then the missed objects."""
        wrong = [(d.error, d.class_name, float(d.result["score"])) for d in self.detections if d.error is not None]
        return (
            *(Error(kind=kind, class_name=name, score=score) for kind, name, score in wrong),
            *(Error(kind="missed", class_name=name) for name in self.missed),
        )

    def to_dict(self) -> dict[str, Any]:
        """The entry of the image in analysis.json."""
        return {"image_id": self.image_id, "hits": self.hits, "errors": [error.to_dict() for error in self.errors]}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A detection or an object of an image."""

    number: int  # row of the detection, or id of the object
    entry: Entry  # the result, or the annotation
    size: tuple[int, int] | None  # (height, width) of the image, if masks are compared; None: boxes are
    matched: bool = False  # a detection: it is correct; an object: it was found

    @property
    def category(self) -> Id:
        """The id of its class."""
        return self.entry["category_id"]

    @property
    def outline(self) -> Any:
        """The box [x, y, width, height], or the mask as a compressed RLE; not kept, as few are needed."""
        return self.entry["bbox"] if self.size is None else as_compressed(self.entry["segmentation"], *self.size)


def image_errors(
    image_id: Id, detections: Sequence[Shape], objects: Sequence[Shape], names: Mapping[Id, str]
) -> ImageErrors:
    """The errors of one image, each counted once.

    The kind of a wrong detection is the first one that applies: location (IoU .1 to .5 with an object of its class),
    class (IoU of .5 or more with an object of another class), duplicate (IoU of .5 or more with an object of its class
    that is already found), background (IoU below .1 with all objects), or both (wrong class and location). An object is
    missed if it was not found and no location or class error belongs to it.
    """
    wrong = [shape for shape in detections if not shape.matched]
    compared = objects if wrong else ()
    ious = iou_matrix([shape.outline for shape in wrong], [shape.outline for shape in compared])  # (D, G)
    classes, found = [shape.category for shape in compared], [shape.category for shape in wrong]
    same = np.array([[one == other for other in classes] for one in found], dtype=bool).reshape(ious.shape)
    kinds = dict(zip([shape.number for shape in wrong], _kinds_of(ious, same), strict=True))
    covered = {place for kind, place in kinds.values() if kind in ("location", "class")}  # objects, by index
    judged = [
        JudgedDetection(
            result=shape.entry,
            class_name=names[shape.category],
            error=kinds[shape.number][0] if shape.number in kinds else None,
        )
        for shape in detections
    ]
    missed = [names[g.category] for place, g in enumerate(objects) if not g.matched and place not in covered]
    return ImageErrors(image_id=image_id, detections=tuple(judged), missed=tuple(missed))


def _kinds_of(ious: np.ndarray, same: np.ndarray) -> list[tuple[ErrorKind, int]]:
    """For each wrong detection with these IoUs (D, G), the kind of its error and the object that it belongs to.

    `same` (D, G): objects of its class.
    """
    if not ious.size:
        return [("background", -1)] * len(ious)
    own, other = np.where(same, ious, 0.0), np.where(same, 0.0, ious)
    columns = [values.max(axis=1).tolist() for values in (own, other, ious)]
    columns += [values.argmax(axis=1).tolist() for values in (own, other, ious)]
    return [_kind_of(*values) for values in zip(*columns, strict=True)]


def _kind_of(
    own: float, other: float, highest: float, own_place: int, other_place: int, place: int
) -> tuple[ErrorKind, int]:
    """The kind of an error by the highest IoU with an object of its class, of another, and of any, and that object."""
    if BACKGROUND_IOU <= own < HIT_IOU:
        return "location", own_place
    if other >= HIT_IOU:
        return "class", other_place
    if own >= HIT_IOU:
        return "duplicate", own_place
    return ("background" if highest < BACKGROUND_IOU else "both"), place
