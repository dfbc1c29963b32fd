"""Decoding and clipping of boxes, and which pixels a box covers.

All boxes of this library are half open: x2 is the end of the last pixel, width = x2 - x1. `BoxRules` implements that.
models/legacy/boxes.py has the rules of systems with other conventions; their boxes are also stored half open.

Five methods return their argument here. They mark where it matters that Detectron, MXNet's FCIS and others count the
last pixel as part of a box (inclusive boxes, width = x2 - x1 + 1). There, `InclusiveBoxes` replaces them:

| method | called by, for | with inclusive boxes |
|---|---|---|
| last_pixel_to_original | box head, FCIS: regions to decode | last pixel: 1 of the input -> 1 of the file |
| last_pixel_to_input | detector: ground truth, given boxes; mask and keypoint heads: detections | the inverse |
| to_inclusive | pooler: regions; keypoint head: frames of targets | x2, y2 become the start of the last pixel |
| raw_keypoints | keypoint head: ground truth | x, y become the column and row of a pixel, not its centre |
| mask_frames | polygon targets: frames to rasterize in | as to_inclusive, but at least 1 pixel wide and high |

Letters: B images, N boxes, A anchors, J keypoints, m side of a keypoint map.
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
        """Boxes (B, N, 4) of the RPN -> the boxes from which detections are decoded, both in pixels of the input.

        Here the same. With inclusive boxes, the last pixel is 1 pixel of the input wide in the RPN and in training, but
        1 pixel of the original image when detections are decoded.
        """
        return boxes

    def last_pixel_to_input(self, boxes: Tensor, scales: Tensor) -> Tensor:
        """The inverse of `last_pixel_to_original`; here the same boxes (B, N, 4)."""
        return boxes

    def to_inclusive(self, boxes: Tensor, pixel_size: Pixel = 1.0) -> Tensor:
        """Boxes (..., 4), xyxy pixels, as pooling and targets need them: here the same.

        `pixel_size` is the side of a pixel, in the units of the boxes.
        """
        return boxes

    def raw_keypoints(self, keypoints: Tensor, scales: Tensor) -> Tensor:
        """Ground-truth keypoints (B, N, J, 3), in pixels of the input, as keypoint targets need them: here the same."""
        return keypoints

    def mask_frames(self, boxes: Tensor) -> Tensor:
        """The boxes (B, N, 4), xyxy pixels of the input, in which polygons are rasterized: here the same."""
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
