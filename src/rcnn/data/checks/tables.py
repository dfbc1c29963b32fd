"""The tables of one split: as a format's reader fills them, and after every field has been checked.

Both have the form of COCO's annotation files. `RawTables` contain whatever the file contains; the entries of `Tables`
have exactly the fields and types that are declared here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from rcnn.data.messages import DataError, Finding, MissingImagesError
from rcnn.ops.coco_backend import Rle

TABLES = ("images", "annotations", "categories")  # of an annotation file in COCO's form
Id = int | str
MetricName = Literal["coco", "voc2007", "voc2012", "lvis"]  # metrics in rcnn.metrics
RawEntry = dict[str, Any]  # an entry of a table, unchanged: any fields, of any type


class Image(TypedDict):
    """An image of the split."""

    id: Id
    file_name: str  # relative to Tables.folder
    height: int  # pixels, after the EXIF rotation
    width: int
    neg_category_ids: NotRequired[list[int]]  # LVIS: classes that were verified to be absent
    not_exhaustive_category_ids: NotRequired[list[int]]  # LVIS: classes with objects that may not all be annotated


class Annotation(TypedDict):
    """An object in an image. Coordinates are pixels of the original image."""

    id: Id
    image_id: Id  # of an image in the tables
    category_id: int  # of a category in the tables
    bbox: list[float]  # x, y, width, height, finite; may be of zero size or outside the image
    area: float  # pixels
    iscrowd: int  # 0, or 1 for a group of objects
    segmentation: NotRequired[list[list[float]] | Rle]  # polygons of 3 points or more, or RLE of the image size
    keypoints: NotRequired[list[float]]  # x, y, visibility (0, 1 or 2) of each; the same number in every annotation
    num_keypoints: NotRequired[int]  # those with visibility 1 or 2
    difficult: NotRequired[int]  # VOC: 1 for an object that is not trained on, and ignored by VOC's metric
    expressions: NotRequired[list[str]]  # REFER: referring expressions


class Category(TypedDict):
    """A class of objects."""

    id: int
    name: str
    supercategory: NotRequired[str]
    keypoints: NotRequired[list[str]]  # their names, each once
    skeleton: NotRequired[list[list[int]]]  # pairs of keypoints that a line joins, counted from 1
    sigmas: NotRequired[list[float]]  # one per keypoint, above 0
    frequency: NotRequired[str]  # LVIS: "r" (rare), "c" (common) or "f" (frequent)


@dataclass(frozen=True, kw_only=True)
class RawTables:
    """The content of the annotation files of a split, unchecked."""

    file: Path  # the annotation file, or the folder of several; named in every message
    root: Path  # the folder of the data set; all images are inside it
    folders: tuple[Path, ...]  # where the images may be, in this order
    images: list[RawEntry]
    annotations: list[RawEntry]
    categories: list[RawEntry]
    takes_images: bool = False  # whether the user can name the folder of the images: `images` of `open_dataset`
    optional_files: bool = False  # the files may all be absent if the entries have the sizes of the images
    relative_boxes: bool = False  # boxes are fractions, as given by the user; otherwise found from the values
    metric: MetricName = "coco"  # default metric of the format
    names: Mapping[object, str] = field(default_factory=dict)  # annotation id -> name in messages


@dataclass(frozen=True, kw_only=True)
class Tables:
    """One split, with every field checked. Annotations that cannot be used are left out; `findings` counts them."""

    file: Path
    folder: Path  # what file names are relative to
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
    keypoints_differ: bool  # objects have different numbers of keypoints, so none are used
    findings: tuple[Finding, ...]  # faults, with what was done about them
    notes: tuple[str, ...]  # decisions that are not about faults
    metric: MetricName = "coco"  # default metric of the split
    names: Mapping[object, str] = field(default_factory=dict)  # as in RawTables
    refusals: tuple[DataError | MissingImagesError, ...] = ()  # why the file is refused; the entries are left out
    skipped: tuple[tuple[Id, str], ...] = ()  # id and file name of images whose files are missing or cannot be read
    without_files: bool = False  # no image file is there (RawTables.optional_files); file names are as written
