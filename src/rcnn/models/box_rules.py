"""Decoding and clipping of boxes, and which pixels a box covers.

All boxes of this library are half open: x2 is the end of the last pixel, width = x2 - x1. `BoxRules` implements that.
models/legacy/boxes.py has the rules of systems with other conventions; their boxes are also stored half open.

Letters: B images, N boxes, J keypoints, m side of a keypoint map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcnn.ops import kernels
from rcnn.ops.boxes import clip_boxes, gather_boxes
from rcnn.ops.decode_and_clip import decode_and_clip
from rcnn.ops.deltas import MAX_LOG_SCALE, decode_deltas
from rcnn.ops.keypoints import decode_keypoints

Pixel = float | Tensor  # side of a pixel: one for all images, or (B,)


class BoxRules:
    """Half-open boxes (B, N, 4), float xyxy, in pixels of the network input except where noted.

    `scales` (B,) are the pixels of the input per pixel of the original image.
    """

    def decode(
        self,
        deltas: Tensor,
        boxes: Tensor,
        weights: Sequence[float],
        max_log_scale: float = MAX_LOG_SCALE,
        pixel_size: Pixel = 1.0,
    ) -> Tensor:
        """Boxes (..., 4), xyxy pixels: `boxes` transformed by `deltas` as in `decode_deltas`; not clipped.

        `pixel_size` is the side of a pixel, in the units of the boxes.
        """
        return decode_deltas(deltas, boxes, weights, max_log_scale)

    def clip(self, boxes: Tensor, sizes: Tensor, pixel_size: Pixel = 1.0) -> Tensor:
        """Boxes (B, N, 4), xyxy pixels, clipped to images of `sizes` (B, 2), (height, width) in the same pixels.

        `pixel_size` is the side of a pixel, in the units of the boxes.
        """
        return clip_boxes(boxes, sizes)

    def decode_and_clip(
        self,
        deltas: Tensor,
        anchors: Tensor,
        index: Tensor,
        sizes: Tensor,
        weights: Sequence[float],
        max_log_scale: float,
    ) -> Tensor:
        """Boxes (B, k, 4), decoded and clipped, of the `anchors` (A, 4) in the rows `index` (B, k).

        `deltas` (B, A, 4) are those of all anchors; `sizes` (B, 2) are the images' (height, width).
        """
        if type(self) is BoxRules and kernels.usable(deltas):  # one kernel on CUDA; elsewhere, plain torch
            return decode_and_clip(deltas, anchors, index, sizes, weights, max_log_scale)
        return self.clip(self.decode(gather_boxes(deltas, index), anchors[index], weights, max_log_scale), sizes)

    def large_enough(self, boxes: Tensor, min_size: float, scale: Pixel = 1.0) -> Tensor:
        """Which boxes (B, N, 4), xyxy pixels of the input, have both sides longer than `min_size` pixels, bool (B, N).

        `scale`, a number or (B, 1), converts `min_size` to pixels of the input.
        """
        return shorter_side(boxes) > min_size * scale

    def anchors(self, cell: Tensor) -> Tensor:
        """The anchors (A, 4) of one cell in the convention of the system; `cell` (A, 4), xyxy pixels, is half open."""
        return cell

    def last_pixel_to_original(self, boxes: Tensor, scales: Tensor) -> Tensor:
        """Identity, except for systems that count the last pixel as part of a box.

        Maps boxes (B, N, 4) of the RPN to the boxes from which detections are decoded, both in pixels of the input. In
        those systems, the width of the last pixel is 1 pixel of the network input in the RPN and in training, but 1
        pixel of the original image when detections are decoded (models/legacy/boxes.py).
        """
        return boxes

    def last_pixel_to_input(self, boxes: Tensor, scales: Tensor) -> Tensor:
        """Identity, except for the same systems: the inverse of `last_pixel_to_original`."""
        return boxes

    def to_inclusive(self, boxes: Tensor, pixel_size: Pixel = 1.0) -> Tensor:
        """Identity, except for systems with inclusive boxes, where x2, y2 of the result are the last pixel.

        The result is what pooling and ground-truth masks use.
        """
        return boxes

    def raw_keypoints(self, keypoints: Tensor, scales: Tensor) -> Tensor:
        """Identity, except for systems with inclusive boxes, where x, y are the column and row of a pixel.

        Ground-truth keypoints (B, N, J, 3) are in pixels of the input.
        """
        return keypoints

    def mask_frames(self, boxes: Tensor) -> Tensor:
        """Identity, except for systems with inclusive boxes, which are then at least 1 pixel wide and high.

        Ground-truth polygons are rasterized in these boxes (B, N, 4), xyxy pixels of the input.
        """
        return boxes

    def decode_keypoints(self, heatmaps: Tensor, boxes: Tensor, scales: Tensor) -> Tensor:
        """Keypoints (B, N, J, 4), x, y, logit and score, at the maxima of `heatmaps` (B, N, J, m, m).

        `boxes` (B, N, 4) and the result are in pixels of the input.
        """
        return decode_keypoints(heatmaps, boxes)


def shorter_side(boxes: Tensor) -> Tensor:
    """The shorter side (B, N) of boxes (B, N, 4), xyxy pixels."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return torch.minimum(width, height)


HALF_OPEN = BoxRules()
