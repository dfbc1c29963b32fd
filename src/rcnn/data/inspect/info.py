"""`rcnn data info`: what a data set contains, and the image size and anchors that suit it.

Letters: I images, A objects (ignored ones not counted), K classes, N anchors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.defaults import is_training_split
from rcnn.data.inspect.check import is_test_split
from rcnn.data.messages import counted, cut, few
from rcnn.data.opening import open_dataset, splits
from rcnn.data.records import Dataset

SMALL, MEDIUM = 32.0**2, 96.0**2  # areas that separate COCO's small, medium and large objects, pixels
SIDE = 32.0  # square root of the box area, pixels, that 90% of the objects should have in the network's input
MIN_SIDE, MAX_SIDE, PAPER_RATIO = 320, 800, 1333 / 800  # limits of the shorter side, pixels; longer / shorter side
MULTIPLE = 32  # the suggested sizes are multiples of this
LEVELS, RATIOS = 5, 3  # numbers of suggested anchor sizes (one per level of an FPN) and ratios
DEFAULT_SIZES, DEFAULT_RATIOS = (32.0, 64.0, 128.0, 256.0, 512.0), (0.5, 1.0, 2.0)
MIN_OBJECTS, MIN_GAIN = 50, 0.02  # needed to suggest anchors: objects, and gain in the fraction of covered objects
NAME_WIDTH, MAX_ROWS = 32, 2000  # of the table of classes: characters of a name, and classes (LVIS has 1203)
FOUND = 0.5  # IoU of an object and an anchor of the same centre


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitInfo:
    """The content of one split."""

    name: str
    image_sizes: np.ndarray  # (I, 2) height, width
    objects: np.ndarray  # (K,) objects per class
    images: np.ndarray  # (K,) images with objects of the class
    empty: int  # images without objects
    has_ground_truth: bool  # False for test images
    ignored: int  # crowds and difficult objects
    areas: np.ndarray  # (A,) pixels of the objects, as annotated

    @property
    def by_size(self) -> dict[str, int]:
        """Objects by COCO's size ranges."""
        small, medium = (int((self.areas < limit).sum()) for limit in (SMALL, MEDIUM))
        return {"small": small, "medium": medium - small, "large": len(self.areas) - medium}


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Settings that suit the objects of a data set; anchors are empty if the default anchors are as good."""

    min_size: int
    max_size: int
    anchor_sizes: tuple[int, ...]  # one per level, pixels of the network's input
    anchor_ratios: tuple[float, ...]  # height / width
    covered: float  # fraction of the objects with an IoU of at least FOUND with one of these anchors
    covered_by_default: float  # the same for the default anchors of the models

    @property
    def settings(self) -> list[str]:
        """The settings as KEY=VALUE for `rcnn train`."""
        found = [f"input.min_size={self.min_size}", f"input.max_size={self.max_size}"]
        if self.anchor_sizes:
            found.append(f"rpn.anchors.sizes=[{','.join(f'[{size}]' for size in self.anchor_sizes)}]")
            found.append(f"rpn.anchors.ratios=[{','.join(f'{ratio:g}' for ratio in self.anchor_ratios)}]")
        return found

    def lines(self) -> list[str]:
        """The settings, and what their anchors cover."""
        settings = f"suggested settings: {' '.join(self.settings)}"
        if self.anchor_sizes:
            return [
                settings,
                f"these anchors cover {self.covered:.0%} of the objects (IoU of {FOUND} or more, same centre); the "
                f"default anchors {self.covered_by_default:.0%}",
            ]
        return [
            settings,
            f"anchors: keep the default ones, which cover {self.covered:.0%} of the objects (IoU of {FOUND} or more, "
            "same centre); k-means finds no better ones",
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetInfo:
    """What `describe_dataset` found."""

    root: Path
    classes: tuple[str, ...]  # (K,) of all splits
    splits: tuple[SplitInfo, ...]
    suggestion: Suggestion  # for the training split, else the first
    warnings: tuple[str, ...] = ()  # objects and fields that were skipped or repaired, a line each

    def to_dict(self) -> dict[str, Any]:
        """The description as JSON values."""
        return {
            "data": str(self.root),
            "warnings": list(self.warnings),
            "classes": list(self.classes),
            "splits": {one.name: self._split_dict(one) for one in self.splits},
            "suggestion": {
                "input.min_size": self.suggestion.min_size,
                "input.max_size": self.suggestion.max_size,
                "rpn.anchors.sizes": [[size] for size in self.suggestion.anchor_sizes],
                "rpn.anchors.ratios": list(self.suggestion.anchor_ratios),
                "covered": round(self.suggestion.covered, 4),
                "covered_by_default": round(self.suggestion.covered_by_default, 4),
            },
        }

    def _split_dict(self, one: SplitInfo) -> dict[str, Any]:
        low, middle, high = (np.percentile(one.image_sizes, part, axis=0).tolist() for part in (0, 50, 100))
        return {
            "images": len(one.image_sizes),
            "ground_truth": one.has_ground_truth,
            "images_without_objects": one.empty,
            "objects": int(one.objects.sum()),
            "ignored": one.ignored,
            "objects_by_size": one.by_size,
            "image_height_width": {"min": low, "median": middle, "max": high},
            "classes": {
                name: {"objects": int(objects), "images": int(images)}
                for name, objects, images in zip(self.classes, one.objects, one.images, strict=True)
            },
        }

    def lines(self) -> list[str]:
        """Tables of the splits and of the classes, and the suggestion."""
        width = max(12, *(len(one.name) for one in self.splits), *(min(NAME_WIDTH, len(name)) for name in self.classes))
        lines = [*self._split_table(width), "", *self._class_table(width)]
        if not any(one.objects.any() for one in self.splits):
            return [*lines, "", "no settings are suggested, because there are no objects"]
        return [*lines, "", *self.suggestion.lines()]

    def _split_table(self, width: int) -> list[str]:
        """A row per split; `width`: characters of the first column."""
        lines = [f"{'split':{width}}  images   empty  objects   small  medium   large   image height x width"]
        for one in self.splits:
            middle = np.median(one.image_sizes, axis=0).astype(int)
            counts = f"{one.empty:8,}{int(one.objects.sum()):9,}"
            counts += "".join(f"{count:8,}" for count in one.by_size.values())
            if not one.has_ground_truth:
                counts = f"{'no ground truth':>{len(counts)}}"
            lines.append(
                f"{one.name:{width}}{len(one.image_sizes):8,}{counts}   "
                f"{_range(one.image_sizes[:, 0])} x {_range(one.image_sizes[:, 1])}, median {middle[0]} x {middle[1]}"
            )
        if any(one.empty and one.has_ground_truth for one in self.splits):
            lines.append("empty: images without objects")
        lines += [
            f"{one.name}: {counted(one.ignored, 'ignored object')} (crowds, difficult) in addition"
            for one in self.splits
            if one.ignored
        ]
        return lines

    def _class_table(self, width: int) -> list[str]:
        """A row per class, those with most objects first; `width`: characters of the first column."""
        lines = [f"{'class':{width}}" + "".join(f"{one.name[:20]:>22}" for one in self.splits)]
        order = np.argsort(-sum(one.objects for one in self.splits), kind="stable").tolist()
        digits = max(len(f"{one.images.max(initial=0):,}") for one in self.splits)  # columns of numbers
        for label in order[:MAX_ROWS]:
            cells = [_class_cell(one, label, digits) if one.has_ground_truth else "-" for one in self.splits]
            row = f"{cut(self.classes[label], NAME_WIDTH):{width}}" + "".join(f"{c:>22}" for c in cells)
            lines.append(row.rstrip())
        if len(order) > MAX_ROWS:
            lines.append(f"and {len(order) - MAX_ROWS:,} more classes with fewer objects; --json lists all")
        for one in self.splits:
            absent = [self.classes[label] for label in np.flatnonzero(one.objects == 0).tolist()]
            if absent and one.objects.any():
                lines.append(f"no objects in {one.name}: {few(absent)}")
        return lines


def describe_dataset(
    path: Path | str,
    *,
    split: str | Path = "",
    annotations: str = "",
    keypoints: bool = False,
    images: str | Path = "",
    relative_boxes: bool = False,
) -> DatasetInfo:
    """Count the images and objects of all splits of a data set, or of one, and suggest settings for training.

    Takes the arguments of `open_dataset`, and raises the same errors.
    """
    opened = partial(
        open_dataset, path, annotations=annotations, keypoints=keypoints, images=images, relative_boxes=relative_boxes,
        allow_empty=True,
    )  # fmt: skip
    datasets = [opened(name) for name in ([split] if split else splits(path, annotations))]
    classes = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.classes))
    training = next((one for one in datasets if is_training_split(one.split)), datasets[0])
    return DatasetInfo(
        root=Path(path),
        classes=classes,
        splits=tuple(_split_info(dataset, classes) for dataset in datasets),
        suggestion=suggest(training),
        warnings=tuple(dict.fromkeys(line for dataset in datasets for line in dataset.warnings)),
    )


def suggest(dataset: Dataset) -> Suggestion:
    """The image size with which 90% of the objects have a side of at least SIDE, and anchors by k-means for it."""
    own = ~dataset.objects.ignored
    boxes = dataset.objects.boxes[own].astype(np.float64)
    image = dataset.objects.image_index[own]
    short, long = dataset.sizes.min(axis=1), dataset.sizes.max(axis=1)  # (I,)
    width, height = (boxes[:, 2:] - boxes[:, :2]).T  # (A,)
    sides = np.sqrt(width * height)  # of the boxes
    smallest = float(np.percentile(sides / short[image], 10)) if len(sides) else SIDE / MAX_SIDE
    limit = min(MAX_SIDE, 2 * float(np.median(short)))  # enlarging an image further adds no detail
    min_size = _rounded(np.clip(SIDE / max(smallest, 1e-6), MIN_SIDE, max(MIN_SIDE, limit)))
    ratio = min(PAPER_RATIO, float(np.percentile(long / short, 95)))
    max_size = round(min_size * PAPER_RATIO) if ratio == PAPER_RATIO else _rounded(min_size * ratio)
    scale = np.minimum(min_size / short, max_size / long)[image]
    shapes = np.stack([width * scale, height * scale], axis=1)  # (A, 2) in the network's input
    default = covered(shapes, DEFAULT_SIZES, DEFAULT_RATIOS)
    sizes = tuple(round(float(np.exp(one))) for one in k_means(np.log(sides * scale), LEVELS))
    ratios = tuple(float(f"{np.exp(one):.2g}") for one in k_means(np.log(height / width), RATIOS))
    found = covered(shapes, sizes, ratios)
    if len(boxes) < MIN_OBJECTS or len(set(sizes)) < LEVELS or len(set(ratios)) < RATIOS or found < default + MIN_GAIN:
        sizes, ratios, found = (), (), default
    return Suggestion(
        min_size=min_size,
        max_size=max_size,
        anchor_sizes=sizes,
        anchor_ratios=ratios,
        covered=found,
        covered_by_default=default,
    )


def k_means(values: np.ndarray, count: int) -> np.ndarray:
    """The centres (count,) of `values` (A,), ascending: Lloyd's algorithm from evenly spaced quantiles (Lloyd 1982)."""
    if not len(values):
        return np.zeros(count)
    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.quantile(ordered, (np.arange(count) + 0.5) / count)
    for _ in range(300):
        edges = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(ordered)]])
        sizes = np.diff(edges)
        moved = np.where(sizes > 0, np.diff(sums[edges]) / np.maximum(1, sizes), centres)
        if np.allclose(moved, centres, rtol=0, atol=1e-9):
            break
        centres = moved
    return centres


def covered(shapes: np.ndarray, sizes: tuple[float, ...], ratios: tuple[float, ...]) -> float:
    """Fraction of the objects with `shapes` (A, 2) width, height that have an IoU of FOUND or more with an anchor.

    Object and anchor have the same centre; anchors have the area of a square of `sizes`, and height / width `ratios`.
    """
    if not len(shapes):
        return 0.0
    anchors = np.array([(size / ratio**0.5, size * ratio**0.5) for size in sizes for ratio in ratios])  # (N, 2)
    best = np.zeros(len(shapes))
    for anchor in anchors:
        overlap = np.minimum(shapes, anchor).prod(axis=1)
        best = np.maximum(best, overlap / (shapes.prod(axis=1) + anchor.prod() - overlap))
    return float((best >= FOUND).mean())


def _split_info(dataset: Dataset, classes: tuple[str, ...]) -> SplitInfo:
    index = {name: label for label, name in enumerate(classes)}
    new_label = np.array([index[name] for name in dataset.classes], dtype=np.int64)
    ignored = dataset.objects.ignored
    labels, owners = new_label[dataset.objects.labels[~ignored]], dataset.objects.image_index[~ignored]
    pairs = np.unique(np.stack([owners, labels]), axis=1)  # image and class; (I, K) counts would take gigabytes
    return SplitInfo(
        name=dataset.split,
        image_sizes=dataset.sizes,
        objects=np.bincount(labels, minlength=len(classes)),
        images=np.bincount(pairs[1], minlength=len(classes)),
        empty=len(dataset) - len(np.unique(owners)),
        has_ground_truth=not is_test_split(dataset),
        ignored=int(ignored.sum()),
        areas=np.maximum(0, dataset.objects.areas[~ignored]),
    )


def _class_cell(split: SplitInfo, label: int, digits: int) -> str:
    """The numbers of objects of a class and of their images; `digits`: the width of the number of images."""
    images = split.images[label]
    return f"{split.objects[label]:,} in {images:{digits},} {'image ' if images == 1 else 'images'}"


def _rounded(size: float) -> int:
    return int(np.ceil(size / MULTIPLE)) * MULTIPLE


def _range(values: np.ndarray) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low}-{high}"
