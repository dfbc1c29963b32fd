"""Training targets: the record of one image -> `Sample`, a batch of samples -> `Targets`.

Crowds are not among the objects. An object that has a box but no outline is kept, with an outline without edges (and an
empty bitmap): it trains the box head, and the mask head ignores it.

Letters: B images, N objects of an image, G slots for objects, I for crowds, E for edges of an outline, J keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from rcnn.arguments import require_switches
from rcnn.data.decoded import Decoded
from rcnn.data.messages import brief, excerpt
from rcnn.data.records import Dataset, ImageRecord
from rcnn.data.segmentations import Segmentation
from rcnn.data.skeletons import HALF_PIXEL
from rcnn.data.transforms import Sample
from rcnn.ops.coco_backend import as_rle, rle_box, rle_mask
from rcnn.ops.rle import mask_outline
from rcnn.structures import Targets

# the form of ground-truth masks that a model is trained on (its mask.target): outlines, or bitmaps in several variants
Masks = Literal[
    "polygon", "bitmap", "soft_bitmap", "sampled_bitmap", "resized_bitmap", "truncated_bitmap", "nearest_bitmap"
]
MIN_OBJECTS = 8  # the smallest G
MIN_CROWDS = 2  # the smallest I
MAX_BYTES = 4 * 2**30  # of the masks of a batch of one image: an image with 10,000 objects must not fill the memory
MIN_EDGES = 128  # the smallest E: most batches of photos need 64 to 256, and each size compiles a new graph


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """What a model is trained on besides the boxes and classes of the objects.

    Raises ValueError for unknown masks, and for values of another type.
    """

    masks: Masks | None = "polygon"  # None: no masks
    keypoints: bool = False
    crowds: bool = False  # also the boxes of crowds, for a model that ignores anchors inside them
    pairs: tuple[tuple[int, int], ...] | None = None  # keypoints that a flip exchanges; None: found by their names

    def __post_init__(self) -> None:
        if self.masks is not None and not (isinstance(self.masks, str) and self.masks in get_args(Masks)):
            known = ", ".join(map(repr, get_args(Masks)))
            raise ValueError(f"masks={self.masks!r} is not known; expected None (boxes only) or one of {known}")
        require_switches(keypoints=self.keypoints, crowds=self.crowds)
        for name in ("keypoints", "crowds"):
            object.__setattr__(self, name, bool(getattr(self, name)))
        object.__setattr__(self, "pairs", _as_tuples(self.pairs))
        if self.pairs is not None and not (isinstance(self.pairs, tuple) and all(map(_is_pair, self.pairs))):
            raise ValueError(
                f"pairs={excerpt(self.pairs)}; expected None or pairs of numbers of keypoints, e.g. ((1, 2), (3, 4))"
            )


def _as_tuples(value: Any) -> Any:
    """`value` with tuples in place of lists and of numpy's arrays, and Python's numbers in place of numpy's."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_as_tuples, value)) if isinstance(value, (tuple, list)) else value


def _is_pair(value: object) -> bool:
    """Whether `value` is two whole numbers of 0 or more."""
    return isinstance(value, tuple) and len(value) == 2 and all(type(one) is int and one >= 0 for one in value)


def make_sample(
    record: ImageRecord, image: Tensor, options: TargetOptions, file_size: tuple[int, int] | None = None
) -> Sample:
    """The image (3, H, W) uint8 and the objects of its record.

    `file_size`: (height, width) of the file if `image` is already resized, as in `Decoded`. Raises ValueError if the
    size of the file is not that of the record, or if keypoints are requested and missing.
    """
    masks = options.masks
    require_size(record, Decoded(image, file_size).original_size)
    used = np.flatnonzero(~record.ignored)
    segmentations = [record.segmentations[index] for index in used.tolist()] if masks else []
    size = (record.height, record.width)
    points = None
    if options.keypoints:
        if record.keypoints is None:
            raise ValueError(
                f"image {brief(record.image_id)} ({record.path}) has no keypoints, and this model is trained on them: "
                "use a data set with keypoints, or a model without"
            )
        # the file has the index of a pixel, a sample its centre; absent keypoints stay zeros
        given = record.keypoints[used]
        points = torch.from_numpy(np.where(given[..., 2:] > 0, given + HALF_PIXEL, np.zeros_like(given)))
    return Sample(
        image=image,
        boxes=torch.from_numpy(record.boxes[used]),
        labels=torch.from_numpy(record.labels[used]),
        outlines=tuple(outline_edges(one) for one in segmentations) if masks == "polygon" else None,
        bitmaps=_bitmaps(segmentations, size) if masks not in (None, "polygon") else None,
        keypoints=points,
        crowds=torch.from_numpy(record.boxes[record.ignored]) if options.crowds else None,
        file_size=file_size,
    )


def require_size(record: ImageRecord, size: tuple[int, int]) -> None:
    """Raise ValueError unless `size` (height, width) of an image is the size that its annotation states."""
    if size == (record.height, record.width):
        return
    if size == (record.width, record.height):
        advice = (
            "it seems to be annotated as it was before its EXIF rotation: remove the orientation tag from the file "
            "(exiftool -Orientation= FILE), or annotate it as viewers show it"
        )
    else:
        advice = "replace it with the image that was annotated, or correct its annotation"
    raise ValueError(
        f"{record.path} is {size[1]}x{size[0]} pixels (width x height), but its annotation (image "
        f"{brief(record.image_id)}) says {record.width}x{record.height}: {advice}"
    )


def outline_edges(segmentation: Segmentation) -> np.ndarray:
    """The edges (E, 5) float64 x1, y1, x2, y2, part of an object, in pixels of its image; E is 0 without an outline.

    Polygons are closed. Run lengths become the line around their pixels, in one part filled by the even-odd rule.
    """
    if segmentation is None:
        return np.zeros((0, 5))
    if isinstance(segmentation, dict):
        x, y, width, height = (int(value) for value in rle_box(segmentation))
        around = mask_outline(rle_mask(segmentation)[y : y + height, x : x + width])
        return np.column_stack([around + np.array([x, y, x, y], dtype=np.float64), np.zeros(len(around))])
    edges, first = np.empty((sum(len(part) for part in segmentation) // 2, 5)), 0
    for number, part in enumerate(segmentation):
        points = part.reshape(-1, 2)
        own = edges[first : first + len(points)]
        own[:, :2], own[:-1, 2:4], own[-1:, 2:4], own[:, 4] = points, points[1:], points[:1], number
        first += len(points)
    return edges


def _bitmaps(segmentations: Sequence[Segmentation], size: tuple[int, int]) -> Tensor:
    """The pixels (N, H, W) bool of objects in an image of `size` (H, W)."""
    bitmaps = np.zeros((len(segmentations), *size), dtype=bool)
    for bitmap, segmentation in zip(bitmaps, segmentations, strict=True):
        if segmentation is not None:
            whole = segmentation if isinstance(segmentation, dict) else [part.tolist() for part in segmentation]
            bitmap[:] = rle_mask(as_rle(whole, *size))
    return torch.from_numpy(bitmaps)


def capacity(count: int, smallest: int) -> int:
    """The smallest of `smallest` times 1, 2, 4, ... that holds `count`: few shapes, and nothing is ever cut off."""
    size = smallest
    while size < count:
        size *= 2
    return size


def require_memory(dataset: Dataset, masks: Masks, pixels: int) -> None:
    """Raise ValueError if the masks of a batch of one image need more than MAX_BYTES.

    `pixels` is the area of the largest padded network input. Polygons take 20 bytes per edge, with every object padded
    to the number of edges of the largest one; bitmaps take one byte per pixel of the file and of the network input. A
    batch pads its images to the largest number of objects and of edges, so it needs up to B times this memory.
    """
    objects = dataset.objects
    if not len(objects.labels):
        return
    used = ~objects.ignored
    image = objects.image_index[used]
    counts = np.bincount(image, minlength=len(dataset))
    if masks == "polygon":
        edges = np.zeros(len(dataset), dtype=np.int64)
        np.maximum.at(edges, image, objects.outlines.edges[used])
        sizes = [20 * capacity(e, MIN_EDGES) for e in edges.tolist()]
    else:
        sizes = (pixels + dataset.sizes.prod(axis=1)).tolist()
    needed = [capacity(count, MIN_OBJECTS) * size for count, size in zip(counts.tolist(), sizes, strict=True)]
    worst = int(np.argmax(needed))
    if needed[worst] > MAX_BYTES:
        raise ValueError(
            f"{dataset.annotation_file}: image {brief(dataset.image_ids[worst])} ({dataset.file_names[worst]}) has "
            f"{counts[worst]} objects. Their masks need {needed[worst] / 2**30:.1f} GiB of memory; expected at most "
            f"{MAX_BYTES / 2**30:.0f} GiB. Cut the image into tiles, use a smaller input.max_size"
            + ("" if masks == "polygon" else ", use mask.target=polygon if the model allows it")
            + ", or train a model without masks"
        )


def collate_targets(samples: Sequence[Sample], shape: tuple[int, int], num_classes: int | None = None) -> Targets:
    """The objects of B samples, the valid rows of each image first; `shape` (H, W) is that of the padded images."""
    slots = capacity(max((len(sample.boxes) for sample in samples), default=0), MIN_OBJECTS)
    boxes = torch.zeros(len(samples), slots, 4)
    labels = torch.zeros(len(samples), slots, dtype=torch.int64)
    valid = torch.zeros(len(samples), slots, dtype=torch.bool)
    for image, sample in enumerate(samples):
        count = len(sample.boxes)
        boxes[image, :count], labels[image, :count], valid[image, :count] = sample.boxes, sample.labels, True
    crowds = max((len(sample.crowds) for sample in samples if sample.crowds is not None), default=0)
    return Targets(
        boxes=boxes,
        labels=labels,
        valid=valid,
        polygons=_collate_outlines(samples, slots),
        bitmaps=_padded([sample.bitmaps for sample in samples], (slots, *shape)),
        keypoints=_padded([sample.keypoints for sample in samples], (slots,)),
        crowds=_padded([sample.crowds for sample in samples], (capacity(crowds, MIN_CROWDS),)),
        num_classes=num_classes,
    )


def _collate_outlines(samples: Sequence[Sample], slots: int) -> Tensor | None:
    """(B, G, E, 5) float32, with part -1 for rows that are not edges; None if the samples have no outlines."""
    outlines = [sample.outlines for sample in samples if sample.outlines is not None]
    if len(outlines) < len(samples):
        return None
    edges = capacity(max((len(one) for objects in outlines for one in objects), default=0), MIN_EDGES)
    polygons = np.zeros((len(samples), slots, edges, 5), dtype=np.float32)
    polygons[..., 4] = -1
    for image, objects in enumerate(outlines):
        for index, one in enumerate(objects):
            polygons[image, index, : len(one)] = one
    return torch.from_numpy(polygons)


def _padded(values: Sequence[Tensor | None], shape: tuple[int, ...]) -> Tensor | None:
    """Values of B samples in one tensor (B, *shape, ...), padded with zeros; None if a sample has None.

    `shape` replaces the first dimensions of the values.
    """
    given = [value for value in values if value is not None]
    if not given or len(given) < len(values):
        return None
    padded = torch.zeros(len(given), *shape, *given[0].shape[len(shape) :], dtype=given[0].dtype)
    for slot, value in zip(padded, given, strict=True):
        slot[tuple(slice(side) for side in value.shape)] = value
    return padded
