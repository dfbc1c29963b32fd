"""Annotated images: the record of one image, and a data set of images that is kept in a few arrays.

A data set of a million objects must be cheap to send to worker processes, so its objects are columns with offsets, not
Python objects: `dataset[i]` makes the record of one image when it is requested.

Letters: I images, A objects of the whole data set, N objects of one image, J keypoints, K classes.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rcnn.data.checks.check import KnownImages
from rcnn.data.checks.images import SKIPPED_IMAGES
from rcnn.data.checks.tables import Annotation, Category, Id, Image, MetricName, Tables
from rcnn.data.decoded import Decoded
from rcnn.data.images import MAX_PIXELS, read_image, read_resized
from rcnn.data.messages import Finding, brief, counted, excerpt, few
from rcnn.data.segmentations import Outlines, Segmentation, ranges

if TYPE_CHECKING:
    from rcnn.data.own_torch import DetectionData

Reader = Callable[[KnownImages | None], Tables]


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One image and its N objects, in pixels of the original image (after its EXIF rotation)."""

    path: Path
    image_id: Id
    height: int
    width: int
    boxes: np.ndarray  # (N, 4) float32 xyxy, clipped to the image and not empty
    labels: np.ndarray  # (N,) int64 in [0, K)
    ignored: np.ndarray  # (N,) bool: not trained on: a crowd (a group of objects), or a difficult object
    difficult: np.ndarray  # (N,) bool: an object that VOC or labelme calls difficult; ignored, but not a crowd
    areas: np.ndarray  # (N,) float64 pixels, as annotated; if missing, computed from the outline or the box
    segmentations: tuple[Segmentation, ...]  # (N,) None if the annotation has a box only
    keypoints: np.ndarray | None  # (N, J, 3) float32: x, y, visibility 0 (not given), 1 (hidden) or 2 (visible)
    annotation_ids: tuple[Id, ...]  # (N,)
    expressions: tuple[tuple[str, ...], ...] | None = None  # (N,) referring expressions of each object (REFER)
    pixels: Callable[[], Tensor] | None = None  # reads an image that is not a file; `path` is then only a name

    def read(self, *, max_pixels: int = MAX_PIXELS) -> Tensor:
        """The image, uint8 RGB (3, H, W), upright. Raises ValueError or OSError if it cannot be read.

        `max_pixels`: refuse a file with a larger image; 0: no limit.
        """
        return read_image(self.path, max_pixels=max_pixels) if self.pixels is None else self.pixels()

    def read_resized(self, size: tuple[int, int]) -> Decoded:
        """The image, resized to `size` (height, width) if it is a large JPEG file."""
        return read_resized(self.path, size) if self.pixels is None else Decoded(self.pixels())

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4):
            raise ValueError(f"image {brief(self.image_id)}: boxes have shape {self.boxes.shape}; expected (N, 4)")
        for name in (
            "labels",
            "ignored",
            "difficult",
            "areas",
            "segmentations",
            "annotation_ids",
            "keypoints",
            "expressions",
        ):
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise ValueError(
                    f"image {brief(self.image_id)}: {name} has length {len(value)}; expected {count}, one per box"
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """The A objects of a data set as columns; those of image i are at the indices starts[i] to starts[i + 1] - 1."""

    starts: np.ndarray  # (I + 1,) int64
    boxes: np.ndarray  # (A, 4) float32 xyxy
    labels: np.ndarray  # (A,) int64
    ignored: np.ndarray  # (A,) bool: crowds and difficult objects
    difficult: np.ndarray  # (A,) bool
    areas: np.ndarray  # (A,) float64
    ids: np.ndarray  # (A,) int64, or of dtype object if an id is text
    outlines: Outlines
    keypoints: np.ndarray | None  # (A, J, 3) float32
    expressions: tuple[tuple[str, ...], ...] | None = None  # (A,) referring expressions (REFER)

    @property
    def image_index(self) -> npt.NDArray[np.int64]:
        """The index of the image of each object, (A,)."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def subset(self, indices: np.ndarray, starts: np.ndarray) -> Objects:
        """The objects at `indices`; those of the new image i are at starts[i] to starts[i + 1] - 1."""
        return Objects(
            starts=starts,
            boxes=self.boxes[indices],
            labels=self.labels[indices],
            ignored=self.ignored[indices],
            difficult=self.difficult[indices],
            areas=self.areas[indices],
            ids=self.ids[indices],
            outlines=self.outlines.subset(indices),
            keypoints=None if self.keypoints is None else self.keypoints[indices],
            expressions=None if self.expressions is None else tuple(self.expressions[i] for i in indices.tolist()),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The annotated images of a split, or of several as one; `open_dataset` makes it.

    Objects that cannot be used in training (empty boxes, boxes outside the image) are not in the records. `warnings`
    counts them, and `to_coco` returns all objects that evaluation can use.
    """

    root: Path  # the folder that was opened
    split: str
    annotation_file: Path
    folder: Path  # what `file_names` are relative to
    classes: tuple[str, ...]  # (K,) names, by label
    category_ids: tuple[int, ...]  # (K,) ids of the annotation file, by label
    image_ids: tuple[Id, ...]  # (I,)
    file_names: tuple[str, ...]  # (I,)
    sizes: np.ndarray  # (I, 2) int64: height, width
    objects: Objects
    categories: tuple[Category, ...]  # (K,) as the annotation file has them, names made unique
    label_of: dict[int, int]  # category id of the annotation file -> label
    reader: Reader  # reads the tables again, for `to_coco`
    missing_classes: tuple[str, ...] = ()  # requested classes that the annotation file does not have
    keypoints_differ: bool = False  # objects have different numbers of keypoints, so none are used
    findings: tuple[Finding, ...] = ()  # faults of the annotation file
    warnings: tuple[str, ...] = ()  # faults, a line each: what is wrong, where, and what was done about it
    notes: tuple[str, ...] = ()  # decisions that are not about faults, a line each
    metric: MetricName = "coco"  # default metric of the format, see `rcnn.metrics`
    pixels: Callable[[int], Tensor] | None = None  # reads image i, uint8 RGB (3, H, W); None: images are files
    without_files: bool = False  # the image files are absent: the data set serves to score saved results only

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any] | ImageRecord],
        classes: Sequence[str] | None = None,
        *,
        keypoints: Sequence[str] = (),
        metric: MetricName = "coco",
    ) -> Dataset:
        """A data set of annotated images, one dict (or ImageRecord) per image.

        Keys: `file`, the path of the image; `labels`, a class name or number per object; also per object: `boxes`
        (x1, y1, x2, y2 in pixels), `segmentations` (polygons [[x, y, x, y, ...], ...], COCO's RLE, or a bool mask
        (H, W)), `keypoints` (J, 3: x and y of a pixel counted from 0, visibility 0, 1 or 2), `crowd`, `difficult`,
        `areas`, `expressions` (a list of strings), `annotation_ids`. `image_id` (default: the index of the record),
        `height` and `width` are optional.
        `classes` are the names of the labels (default: the names in alphabetical order); `keypoints` are the names of
        the keypoints; `metric` is the default in evaluation. Fields are checked like those of annotation files: boxes
        are clipped to the image for training; boxes of zero size or outside the image are skipped in training and kept
        in evaluation; `warnings` counts both. Raises ValueError or FileNotFoundError; the message names the record, the
        object and the fault. Both are counted from 0.
        """
        from rcnn.data.own import dataset_of_records

        return dataset_of_records(records, classes, keypoints, metric)

    @classmethod
    def from_torch(
        cls, data: DetectionData, classes: Sequence[str], *, first_label: int = 1, keypoints: Sequence[str] = ()
    ) -> Dataset:
        """A torch data set in torchvision's form, where `data[i]` is an image and a dict of its objects.

        See `rcnn.data.own_torch.DetectionData` for the dict. Each image is read once now, for its objects, and again
        whenever it is used, also by worker processes; augmentation belongs to the training settings. `first_label` is
        the label of classes[0]: 1 as in torchvision, where 0 is the background, or 0. Raises ValueError for data in
        another form.
        """
        from rcnn.data.own_torch import dataset_of_torch

        return dataset_of_torch(data, classes, first_label=first_label, keypoints=keypoints)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __repr__(self) -> str:
        """One line: the split, its file, the numbers of images and objects, the first classes."""
        ignored = int(self.objects.ignored.sum())
        also = f" and {counted(ignored, 'ignored one')}" if ignored else ""
        where = "" if str(self.annotation_file) == self.split else f" of {self.annotation_file}"
        return (
            f"Dataset({self.split!r}{where}: {counted(len(self), 'image')}, "
            f"{counted(self.num_training_objects, 'object')}{also}, {counted(len(self.classes), 'class')}: "
            f"{few(self.classes)})"
        )

    def __iter__(self) -> Iterator[ImageRecord]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: SupportsIndex) -> ImageRecord:
        """Image `i` in the order of the annotation file; negative from the end. Raises IndexError if there is none.

        Raises TypeError for anything but an integer.
        """
        try:
            index = operator.index(i)
        except TypeError as error:
            raise TypeError(
                f"the index is {excerpt(i)}; expected an integer. For several images, use dataset.subset(range(10))"
            ) from error
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no image {index}: {self.annotation_file} has {counted(len(self), 'image')}")
        index %= len(self)
        objects = self.objects
        first, last = (int(start) for start in objects.starts[index : index + 2])
        height, width = self.sizes[index].tolist()
        return ImageRecord(
            path=self.folder / self.file_names[index],
            image_id=self.image_ids[index],
            height=height,
            width=width,
            boxes=objects.boxes[first:last],
            labels=objects.labels[first:last],
            ignored=objects.ignored[first:last],
            difficult=objects.difficult[first:last],
            areas=objects.areas[first:last],
            segmentations=tuple(objects.outlines.segmentation(place, (height, width)) for place in range(first, last)),
            keypoints=None if objects.keypoints is None else objects.keypoints[first:last],
            annotation_ids=tuple(objects.ids[first:last].tolist()),
            expressions=None if objects.expressions is None else objects.expressions[first:last],
            pixels=None if self.pixels is None else partial(self.pixels, index),
        )

    @property
    def num_training_objects(self) -> int:
        """Number of objects used in training: those that are not ignored."""
        return int((~self.objects.ignored).sum())

    @property
    def has_outlines(self) -> bool:
        """Whether some object that is not ignored has an outline, so that masks can be trained and evaluated."""
        return bool(self.objects.outlines.given[~self.objects.ignored].any())

    def subset(self, indices: Sequence[int] | np.ndarray, name: str = "") -> Dataset:
        """The images at `indices` (e.g. range(10)) in this order; `name` replaces the name of the split.

        Raises ValueError for an index that occurs twice or is out of range, and for anything but integers.
        """
        given = np.asarray(indices)
        if given.size and given.dtype.kind not in "iu":
            advice = ": np.flatnonzero(mask) gives those of a mask" if given.dtype.kind == "b" else ""
            raise ValueError(f"indices are of type {given.dtype}; expected integers{advice}")
        chosen = given.astype(np.int64).reshape(-1)
        if len(np.unique(chosen)) < len(chosen) or not np.isin(chosen, np.arange(len(self))).all():
            raise ValueError(f"indices {few(chosen.tolist())}: expected different numbers from 0 to {len(self) - 1}")
        objects, starts = ranges(self.objects.starts, chosen)
        return replace(
            self,
            split=name or self.split,
            image_ids=tuple(self.image_ids[index] for index in chosen.tolist()),
            file_names=tuple(self.file_names[index] for index in chosen.tolist()),
            sizes=self.sizes[chosen],
            objects=self.objects.subset(objects, starts),
            reader=partial(_read_all, self.reader),
            pixels=None if self.pixels is None else partial(_pixels_at, self.pixels, chosen),
        )

    @property
    def skipped_images(self) -> tuple[Finding, ...]:
        """The findings about images that are not in the data set, because their files are missing or cannot be read."""
        return tuple(finding for finding in self.findings if finding.kind in SKIPPED_IMAGES and finding.noun == "image")

    @property
    def has_files(self) -> bool:
        """Whether the images are files that are there."""
        return self.pixels is None and not self.without_files

    @property
    def image_folders(self) -> frozenset[Path]:
        """The folders that contain the images; none if they are not files."""
        folders = {os.path.dirname(name) for name in self.file_names} if self.has_files else set[str]()
        return frozenset(self.folder / folder for folder in folders)

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of objects of each class, without ignored ones, in the order of the labels."""
        counts = np.bincount(self.objects.labels[~self.objects.ignored], minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def as_one_class(self, name: str) -> Dataset:
        """The same objects, all of class `name`, category id 1; LVIS' metric needs classes, so it becomes COCO's."""
        return replace(
            self,
            metric="coco" if self.metric == "lvis" else self.metric,
            reader=partial(_read_without_verified, self.reader),
            classes=(name,),
            category_ids=(1,),
            categories=({"id": 1, "name": name},),
            label_of=dict.fromkeys(self.label_of, 0),
            objects=replace(self.objects, labels=np.zeros_like(self.objects.labels)),
        )

    def to_coco(self) -> dict[str, Any]:
        """The ground truth in COCO's form, for evaluation: every usable annotation of the K classes, with its own id.

        Categories are the K classes by label. Raises ValueError if the annotation file has changed.
        """
        images: list[Image] = [
            {"id": image_id, "file_name": name, "height": height, "width": width}
            for image_id, name, (height, width) in zip(
                self.image_ids, self.file_names, self.sizes.tolist(), strict=True
            )
        ]
        annotations: list[Annotation] = []
        own = set(self.image_ids)
        tables = self.reader(None if self.skipped_images else (self.folder, images))
        for annotation in tables.annotations:
            label = self.label_of.get(annotation["category_id"])
            if label is not None and annotation["image_id"] in own:
                ours = annotation.copy()
                ours["category_id"] = self.category_ids[label]
                annotations.append(ours)
        read = {image["id"]: image for image in tables.images}  # with LVIS' fields
        images = [read.get(image["id"], image) for image in images]
        return {"images": images, "annotations": annotations, "categories": list(self.categories)}


def _pixels_at(pixels: Callable[[int], Tensor], indices: np.ndarray, i: int) -> Tensor:
    """Image `i` of a subset with the images at `indices`."""
    return pixels(int(indices[i]))


def _read_without_verified(reader: Reader, known: KnownImages | None) -> Tables:
    """The tables without the fields that LVIS adds to images, which contain category ids."""
    tables = reader(known)
    images = [image.copy() for image in tables.images]
    for image in images:
        image.pop("neg_category_ids", None)
        image.pop("not_exhaustive_category_ids", None)
    return replace(tables, images=images)


def _read_all(reader: Reader, known: KnownImages | None) -> Tables:
    """The tables of the whole data set; `known` has only the images of a subset, so all are searched for again."""
    return reader(None)
