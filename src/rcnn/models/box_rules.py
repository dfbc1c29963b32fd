"""Decoding and clipping of boxes, and which pixels a box covers.

All boxes of this library are half open: x2 is the end of the last pixel, width = x2 - x1. `BoxRules` implements that.
models/legacy/boxes.py has the rules of systems with other conventions; their boxes are also stored half open.

Letters: B images, N boxes, J keypoints, m side of a keypoint map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcnn.ops.boxes import clip_boxes
from rcnn.ops.deltas import MAX_LOG_SCALE, decode_deltas
from rcnn.ops.keypoints import decode_keypoints

Pixel = float | Tensor  # side of a pixel: one for all images, or (B,)


class BoxRules:
    """Half-open boxes (B, N, 4), float xyxy, pixels of the network input.

    `scales` (B,) are the input pixels per pixel of the file.
    """

    def decode(
        self,
        deltas: Tensor,
        boxes: Tensor,
        weights: Sequence[float],
        max_log_scale: float = MAX_LOG_SCALE,
        pixel: Pixel = 1.0,
    ) -> Tensor:
        """Apply `deltas` to `boxes` as `decode_deltas`; `pixel` is the side of a pixel in the units of the boxes."""
        return decode_deltas(deltas, boxes, weights, max_log_scale)

    def clip(self, boxes: Tensor, sizes: Tensor, pixel: Pixel = 1.0) -> Tensor:
        """Clip boxes (B, N, 4) to images of `sizes` (B, 2), (height, width)."""
        return clip_boxes(boxes, sizes)

    def large_enough(self, boxes: Tensor, min_size: float, scale: Pixel = 1.0) -> Tensor:
        """Which boxes (B, N, 4) have both sides longer than `min_size` pixels, bool (B, N).

        `scale`, a number or (B, 1), converts `min_size` to pixels of the input.
        """
        return shorter_side(boxes) > min_size * scale

    def anchors(self, cell: Tensor) -> Tensor:
        """The anchors (A, 4) of a cell, from half-open ones."""
        return cell

    def in_file(self, boxes: Tensor, scales: Tensor) -> Tensor:
        """Boxes of the RPN and of training -> the boxes from which final boxes are decoded."""
        return boxes

    def in_input(self, boxes: Tensor, scales: Tensor) -> Tensor:
        """The inverse of `in_file`."""
        return boxes

    def raw(self, boxes: Tensor, pixel: Pixel = 1.0) -> Tensor:
        """Boxes as the system itself writes them, for pooling and ground-truth masks."""
        return boxes

    def raw_keypoints(self, keypoints: Tensor, scales: Tensor) -> Tensor:
        """Ground-truth keypoints (B, N, J, 3) as the system writes them."""
        return keypoints

    def mask_frames(self, boxes: Tensor) -> Tensor:
        """The boxes in which ground-truth polygons are rasterized."""
        return boxes

    def decode_keypoints(self, maps: Tensor, boxes: Tensor, scales: Tensor) -> Tensor:
        """Keypoints (B, N, J, 4), x, y, logit and score, at the maxima of `maps` (B, N, J, m, m)."""
        return decode_keypoints(maps, boxes)


def shorter_side(boxes: Tensor) -> Tensor:
    """The shorter side (B, N) of boxes (B, N, 4), pixels."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return torch.minimum(width, height)


HALF_OPEN = BoxRules()
