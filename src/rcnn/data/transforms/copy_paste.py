"""Pastes objects of one sample onto another (Ghiasi et al. 2021, "Simple Copy-Paste"), without blending.

Letters: N objects of the image, P pasted objects, J keypoints.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rcnn.data.transforms.cutting import bitmap_bounds, intersection, large_enough
from rcnn.data.transforms.sample import Flags, Sample
from rcnn.ops.rle import mask_outline, outline_mask


def paste(sample: Sample, other: Sample) -> Sample:
    """`sample` with the objects of `other`, an image of the same size, in front of its own.

    Only objects with a mask are pasted. A partly covered object keeps the visible part of its outline or bitmap, and
    the box around it; a fully covered object is removed; a covered keypoint becomes hidden (visibility 1). Crowds do
    not change, and those of `other` are not pasted.
    """
    masks = object_masks(other)  # (P, H, W)
    given = np.asarray(masks.any((1, 2)))
    other, masks = other.subset(given), masks[given]
    if not len(masks):
        return sample
    cover = np.asarray(masks.any(0))  # (H, W)
    image = torch.where(torch.from_numpy(cover), other.image.to(sample.image.dtype), sample.image)
    return _joined(replace(_behind(sample, cover), image=image), other)


def object_masks(sample: Sample) -> Flags:
    """The pixels (N, H, W) bool of the objects of a sample; all False for an object without a mask."""
    if sample.bitmaps is not None:
        return sample.bitmaps.numpy()
    masks = np.zeros((len(sample.boxes), *sample.size), dtype=bool)
    for mask, edges in zip(masks, sample.outlines or (), strict=False):
        mask[:] = outline_mask(edges, sample.size)
    return masks


def _behind(sample: Sample, cover: Flags) -> Sample:
    """A sample in which the pixels `cover` (H, W) hide the objects."""
    boxes = sample.boxes.clone()
    outlines = None if sample.outlines is None else list(sample.outlines)
    bitmaps = None if sample.bitmaps is None else sample.bitmaps.clone()
    kept = np.ones(len(boxes), dtype=bool)
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        if not cover[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))].any():
            continue
        mask = object_masks(sample.subset(np.arange(len(boxes)) == index))[0]
        if not mask.any():  # an object without a mask: the annotated box is all that is known
            kept[index] = not cover[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))].all()
            continue
        if not (mask & cover).any():
            continue
        left = mask & ~cover
        box = bitmap_bounds(torch.from_numpy(left))
        if box is not None:
            box = intersection(box, boxes[index])  # turned inside out if the visible pixels are outside the box
        kept[index] = box is not None and bool(large_enough(box[None])[0])
        if box is None or not kept[index]:
            continue
        boxes[index] = box
        if outlines is not None:
            edges = mask_outline(left)
            outlines[index] = np.column_stack([edges, np.zeros(len(edges))]).astype(np.float64)
        if bitmaps is not None:
            bitmaps[index] = torch.from_numpy(left)
    return replace(
        sample,
        boxes=boxes,
        outlines=None if outlines is None else tuple(outlines),
        bitmaps=bitmaps,
        keypoints=None if sample.keypoints is None else _hidden(sample.keypoints, cover),
    ).subset(kept)


def _hidden(keypoints: Tensor, cover: Flags) -> Tensor:
    """Keypoints (N, J, 3) with visibility 1 instead of 2 where `cover` (H, W) is in front of them."""
    height, width = cover.shape
    x = keypoints[..., 0].long().clamp(0, width - 1)
    y = keypoints[..., 1].long().clamp(0, height - 1)
    covered = torch.from_numpy(cover)[y, x]
    visibility = torch.where(covered, keypoints[..., 2].clamp(max=1), keypoints[..., 2])
    return torch.cat([keypoints[..., :2], visibility[..., None]], -1)


def _joined(sample: Sample, other: Sample) -> Sample:
    """The objects of `sample`, then those of `other`, in the image of `sample`."""

    def both(name: str) -> Tensor | None:
        mine, theirs = getattr(sample, name), getattr(other, name)
        return None if mine is None or theirs is None else torch.cat([mine, theirs])

    outlines = None
    if sample.outlines is not None and other.outlines is not None:
        outlines = (*sample.outlines, *other.outlines)
    return replace(
        sample,
        boxes=torch.cat([sample.boxes, other.boxes]),
        labels=torch.cat([sample.labels, other.labels]),
        outlines=outlines,
        bitmaps=both("bitmaps"),
        keypoints=both("keypoints"),
    )
