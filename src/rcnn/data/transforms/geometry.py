"""Geometry of a training sample: moves image and objects together, on the CPU, never in place.

Coordinates are continuous: a pixel covers [x, x + 1], its centre is at x + 0.5, an image of width W ends at W. A
horizontal flip therefore maps x to W - x for boxes, outlines and keypoints alike. (COCO's files give the pixel index of
keypoints: `make_sample` adds 0.5, which moves them to the pixel's centre.)

The transforms of torchvision v2 are not used for objects: the flip maps keypoints to W - 1 - x but boxes to W - x, and
does not exchange left and right keypoints; polygons are not supported; keypoints outside the image are moved to the
border.

Letters: N objects of the image, E edges of one object's outline, J keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rcnn.data.transforms.cutting import bounds, cut
from rcnn.data.transforms.sample import Sample
from rcnn.preprocess import Frame, Preprocessor, Resize

Matrix = npt.NDArray[np.float64]
Colour = tuple[float, float, float]  # RGB, 0..255


def _nearest(old: int, new: int, kind: Resize) -> Tensor:
    """Source index (new,) int64 of each pixel when a line of `old` pixels of a bitmap is resized to `new` pixels.

    torchvision takes floor(x * scale) in float32, OpenCV the same in float64; Detectron2, with Pillow, takes the pixel
    that contains the centre of the new one.
    """
    if kind in ("opencv", "opencv_float"):
        positions = torch.arange(new, dtype=torch.float64) * (old / new)
    elif kind == "bilinear":
        positions = torch.arange(new, dtype=torch.float32) * (old / new)
    else:  # summed step by step like Pillow: the rounding decides which pixel a centre on a border belongs to
        positions = torch.from_numpy(np.add.accumulate([0.5 * old / new] + [old / new] * (new - 1)))
    return positions.long().clamp(max=old - 1)


def _flipped(boxes: Tensor, width: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], 1)


def preprocess(sample: Sample, preprocessor: Preprocessor) -> tuple[Sample, Frame]:
    """A sample resized for the network by `preprocessor`, with its objects moved accordingly, and its frame."""
    if sample.is_resized:  # only the objects are left to move
        image, frame = sample.image, preprocessor.frame(sample.size)
    else:
        image, frame = preprocessor(sample.image)
    return to_input(sample, image, frame, preprocessor.config.resize), frame


def to_input(sample: Sample, image: Tensor, frame: Frame, kind: Resize) -> Sample:
    """A sample with the network's `image` (3, h, w), and its objects moved as `frame` says.

    x and y are scaled separately, because sizes are rounded. `kind` chooses the pixels of bitmaps.
    """
    (height, width), (top, left) = sample.size, frame.corner
    y, x = frame.resized[0] / height, frame.resized[1] / width
    keypoints = sample.keypoints
    if keypoints is not None:
        scaled = keypoints.double() * torch.tensor([x, y, 1], dtype=torch.float64)
        given = keypoints[..., 2:] > 0  # absent keypoints stay zero
        keypoints = torch.where(given, scaled + torch.tensor([left, top, 0]), 0).float()
    outlines = sample.outlines
    if outlines is not None:
        outlines = tuple(edges * (x, y, x, y, 1) + (left, top, left, top, 0) for edges in outlines)
    scale, offset = torch.tensor([x, y, x, y], dtype=torch.float64), torch.tensor([left, top, left, top])
    return replace(
        sample,
        image=image,
        boxes=(sample.boxes.double() * scale + offset).float(),
        crowds=None if sample.crowds is None else (sample.crowds.double() * scale + offset).float(),
        outlines=outlines,
        bitmaps=None if sample.bitmaps is None else _resized_bitmaps(sample.bitmaps, frame, kind),
        keypoints=keypoints,
        file_size=None,
    )


def _resized_bitmaps(bitmaps: Tensor, frame: Frame, kind: Resize) -> Tensor:
    """Bitmaps (N, H, W) bool resized and placed in the network's image, (N, h, w)."""
    (height, width), (top, left) = frame.resized, frame.corner
    rows = _nearest(bitmaps.shape[1], height, kind)
    columns = _nearest(bitmaps.shape[2], width, kind)
    resized = bitmaps[:, rows][:, :, columns]
    return F.pad(resized, (left, frame.size[1] - width - left, top, frame.size[0] - height - top))


def flip(sample: Sample, pairs: Sequence[tuple[int, int]] = ()) -> Sample:
    """A sample flipped horizontally; `pairs` are the indices of keypoints to exchange (e.g. left and right eye)."""
    width = sample.size[1]
    outlines, keypoints = sample.outlines, sample.keypoints
    if outlines is not None:
        outlines = tuple(edges * (-1, 1, -1, 1, 1) + (width, 0, width, 0, 0) for edges in outlines)
    if keypoints is not None:
        order = list(range(keypoints.shape[1]))
        for left, right in pairs:
            order[left], order[right] = right, left
        keypoints = keypoints[:, order]
        given = keypoints[..., 2:] > 0  # absent keypoints stay zero
        keypoints = torch.where(
            given, keypoints * keypoints.new_tensor([-1, 1, 1]) + keypoints.new_tensor([width, 0, 0]), 0
        )
    return replace(
        sample,
        image=sample.image.flip(-1),
        boxes=_flipped(sample.boxes, width),
        crowds=None if sample.crowds is None else _flipped(sample.crowds, width),
        outlines=outlines,
        bitmaps=None if sample.bitmaps is None else sample.bitmaps.flip(-1),
        keypoints=keypoints,
    )


def crop(sample: Sample, top: int, left: int, size: tuple[int, int], fill: Colour = (0, 0, 0)) -> Sample:
    """The window of `size` (height, width) at (top, left) of a sample, with `fill` outside the image.

    Objects are cut at the border of the window, see `cut`.
    """
    offset = torch.tensor([left, top, left, top])
    keypoints = sample.keypoints
    if keypoints is not None:
        keypoints = torch.where(keypoints[..., 2:] > 0, keypoints - torch.tensor([left, top, 0]), 0)
    bitmaps = sample.bitmaps
    return cut(
        replace(
            sample,
            image=_window(sample.image, top, left, size, fill),
            boxes=sample.boxes - offset,
            crowds=None if sample.crowds is None else sample.crowds - offset,
            outlines=None
            if sample.outlines is None
            else tuple(edges - (left, top, left, top, 0) for edges in sample.outlines),
            bitmaps=None if bitmaps is None else F.pad(bitmaps, _padding(sample.size, top, left, size)),
            keypoints=keypoints,
        ),
        before=bitmaps,
    )


def _padding(old: tuple[int, int], top: int, left: int, size: tuple[int, int]) -> list[int]:
    """Pixels to add (negative: to remove) at the left, right, top and bottom, as `F.pad` takes them."""
    return [-left, left + size[1] - old[1], -top, top + size[0] - old[0]]


def _window(image: Tensor, top: int, left: int, size: tuple[int, int], fill: Colour) -> Tensor:
    """The window of an image (3, H, W) at (top, left), (3, *size)."""
    height, width = image.shape[1:]
    inside = 0 <= top <= height - size[0] and 0 <= left <= width - size[1]
    if inside:
        return image[:, top : top + size[0], left : left + size[1]]
    window = filled(size, fill, image.dtype)
    y1, x1, y2, x2 = max(0, top), max(0, left), min(height, top + size[0]), min(width, left + size[1])
    if y1 < y2 and x1 < x2:
        window[:, y1 - top : y2 - top, x1 - left : x2 - left] = image[:, y1:y2, x1:x2]
    return window


def filled(size: tuple[int, int], colour: Colour, dtype: torch.dtype) -> Tensor:
    """An image (3, *size) of one colour, rounded for integer types; channels last in memory."""
    values = torch.tensor(colour) if dtype.is_floating_point else torch.tensor(colour).round()
    return values.to(dtype).expand(*size, 3).contiguous().permute(2, 0, 1)


def warp(sample: Sample, matrix: Matrix, fill: Colour = (0, 0, 0)) -> Sample:
    """A sample moved by an affine `matrix` (2, 3) from old to new coordinates, in an image of the same size.

    The image is interpolated bilinearly, without antialiasing, and filled with `fill` where no pixel is moved to;
    bitmaps take the nearest pixel. Boxes become those of the moved outlines, or, without an outline, the boxes around
    the moved corners. Objects are cut at the border of the image, see `cut`.
    """
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    keypoints, bitmaps = sample.keypoints, sample.bitmaps
    if keypoints is not None:
        moved = torch.from_numpy(_moved(keypoints[..., :2].double().numpy(), matrix))
        keypoints = torch.where(keypoints[..., 2:] > 0, torch.cat([moved.float(), keypoints[..., 2:]], -1), 0)
    if bitmaps is not None and len(bitmaps):
        bitmaps = torch.stack([_warped(bitmap.byte(), inverse, 0, Image.Resampling.NEAREST) for bitmap in bitmaps]) > 0
    outlines = sample.outlines
    if outlines is not None:
        outlines = tuple(_moved_edges(edges, matrix) for edges in outlines)
    boxes = _moved_boxes(sample.boxes, matrix)
    for index, edges in enumerate(outlines or ()):
        if len(edges):
            boxes[index] = torch.from_numpy(bounds(edges))
    planes = [
        _warped(plane, inverse, value, Image.Resampling.BILINEAR)
        for plane, value in zip(sample.image, fill, strict=True)
    ]
    return cut(
        replace(
            sample,
            image=torch.stack(planes),
            boxes=boxes,
            crowds=None if sample.crowds is None else _moved_boxes(sample.crowds, matrix),
            outlines=outlines,
            bitmaps=bitmaps,
            keypoints=keypoints,
        ),
        before=sample.bitmaps,
        recompute=True,
    )


def _moved(points: npt.NDArray[np.float64], matrix: Matrix) -> npt.NDArray[np.float64]:
    """Points (..., 2) moved by an affine `matrix` (2, 3)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def _moved_edges(edges: np.ndarray, matrix: Matrix) -> np.ndarray:
    points = _moved(edges[:, :4].reshape(-1, 2), matrix).reshape(-1, 4)
    return np.concatenate([points, edges[:, 4:]], axis=1)


def _moved_boxes(boxes: Tensor, matrix: Matrix) -> Tensor:
    """The boxes (N, 4) around the moved corners of `boxes`."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].double().numpy().reshape(-1, 4, 2)
    moved = _moved(corners, matrix)
    return torch.from_numpy(np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)).float()


def _warped(plane: Tensor, inverse: Matrix, fill: float, filter_: Image.Resampling) -> Tensor:
    """A plane (H, W) uint8 or float32: each point has the value of `plane` at the point moved by `inverse` (2, 3)."""
    image = Image.fromarray(plane.contiguous().numpy())
    colour = fill if plane.is_floating_point() else round(fill)
    moved = image.transform(
        image.size, Image.Transform.AFFINE, tuple(inverse.ravel().tolist()), filter_, fillcolor=colour
    )
    return torch.from_numpy(np.array(moved))
