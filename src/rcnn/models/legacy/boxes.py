"""Boxes that include their last pixel (R-CNN's MATLAB code, Detectron), and boxes between pixel centres (matterport).

Tensors stay half open: a system's box (x1, x2) with width = x2 - x1 + 1 is stored as (x1, x2 + 1). Then most formulas
of the system give the same numbers as the half-open ones:

- widths, centres x1 + width / 2 and areas; so encoding, IoU, NMS and the level of the pyramid;
- decoding: Detectron ends a box at centre + width / 2 - 1, the half-open end minus 1. MXNet's FCIS subtracts 1 from the
  width in the centre and in the half width, which cancels;
- anchors: those of rpn.legacy.anchors=detectron include their last pixel; `ops.anchors` adds 1 to their ends.

Steps that use x2 by itself differ, and are in this file: pooling, ground-truth masks, clipping (a box keeps at least
one pixel), and mask-faster-rcnn's decoding, which omits the -1.

The last pixel is a pixel of the network input, except when Detectron and mask-faster-rcnn decode the final boxes. They
first divide the proposals by the scale of the image, so it is a pixel of the file. It is then `scale` pixels of the
input wide: the argument `pixel_size`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from rcnn.models.box_rules import BoxRules, Pixel, shorter_side
from rcnn.ops.boxes import clip_boxes, move_ends
from rcnn.ops.deltas import MAX_LOG_SCALE, decode_deltas
from rcnn.ops.keypoints import decode_keypoints


class InclusiveBoxes(BoxRules):
    """width = x2 - x1 + 1 (Detectron, MXNet's FCIS)."""

    @override
    def clip(self, boxes: Tensor, sizes: Tensor, pixel_size: Pixel = 1.0) -> Tensor:
        """Boxes (B, N, 4), xyxy pixels, clipped to the images; a box entirely outside keeps one pixel at the border."""
        side = torch.as_tensor(pixel_size, dtype=boxes.dtype, device=boxes.device)
        side = side.expand(sizes.shape[0])[:, None]  # (B, 1)
        # the image's size in whole pixels of the file; after resizing it can be a fraction
        limit = (sizes.flip(-1).to(boxes.dtype) / side).round() * side  # (B, 2): width, height
        low = torch.cat([torch.zeros_like(limit), side.expand_as(limit)], -1)[:, None]
        high = torch.cat([limit - side, limit], -1)[:, None]
        return torch.minimum(torch.maximum(boxes, low), high)

    @override
    def large_enough(self, boxes: Tensor, min_size: float, scale: Pixel = 1.0) -> Tensor:
        """Which boxes (B, N, 4) have both sides of at least `min_size`, as Detectron counts pixels of the file."""
        return (shorter_side(boxes) - 1) / scale + 1 >= min_size

    @override
    def last_pixel_to_original(self, boxes: Tensor, scales: Tensor) -> Tensor:
        """Boxes (B, N, 4) with a last pixel of the input -> the same boxes with a last pixel of the original image."""
        return move_ends(boxes, scales - 1.0)

    @override
    def last_pixel_to_input(self, boxes: Tensor, scales: Tensor) -> Tensor:
        """The inverse of `last_pixel_to_original`."""
        return move_ends(boxes, 1.0 - scales)

    @override
    def to_inclusive(self, boxes: Tensor, pixel_size: Pixel = 1.0) -> Tensor:
        """Boxes (B, N, 4) that end on their last pixel."""
        return move_ends(boxes, -pixel_size)

    @override
    def raw_keypoints(self, keypoints: Tensor, scales: Tensor) -> Tensor:
        """Keypoints (B, N, J, 3): x, y are the column and row of a pixel, not its centre."""
        return torch.cat([keypoints[..., :2] - 0.5 * scales.view(-1, 1, 1, 1), keypoints[..., 2:]], -1)

    @override
    def mask_frames(self, boxes: Tensor) -> Tensor:
        """Inclusive boxes (B, N, 4), with x2 - x1 and y2 - y1 of at least 1 pixel."""
        inclusive = self.to_inclusive(boxes)
        return torch.cat([inclusive[..., :2], torch.maximum(inclusive[..., 2:], inclusive[..., :2] + 1)], -1)

    @override
    def decode_keypoints(self, heatmaps: Tensor, boxes: Tensor, scales: Tensor) -> Tensor:
        """Keypoints (B, N, J, 4), decoded in pixels of the file, as the boxes are."""
        scale = scales[:, None, None]  # (B, 1, 1)
        found = decode_keypoints(heatmaps, self.to_inclusive(boxes, scales) / scale)  # (B, N, J, 4)
        return torch.cat([(found[..., :2] + 0.5) * scale[..., None], found[..., 2:]], -1)


class LooseInclusiveBoxes(InclusiveBoxes):
    """Like `InclusiveBoxes`, but decoded boxes are one pixel larger (mask-faster-rcnn)."""

    @override
    def decode(
        self,
        deltas: Tensor,
        boxes: Tensor,
        weights: Sequence[float],
        max_log_scale: float = MAX_LOG_SCALE,
        pixel_size: Pixel = 1.0,
    ) -> Tensor:
        """Boxes (..., 4), xyxy pixels, from `deltas` and `boxes`; they end one pixel later."""
        return move_ends(decode_deltas(deltas, boxes, weights, max_log_scale), pixel_size)


class PixelCenterBoxes(BoxRules):
    """Coordinates run from the centre of the first pixel to that of the last, as in matterport.

    Images and anchors therefore end one pixel earlier.
    """

    @override
    def clip(self, boxes: Tensor, sizes: Tensor, pixel_size: Pixel = 1.0) -> Tensor:
        """Boxes (B, N, 4), xyxy pixels, clipped to the centre of the last pixel."""
        return clip_boxes(boxes, sizes - 1)

    @override
    def anchors(self, cell: Tensor) -> Tensor:
        """Anchors (A, 4), xyxy pixels, that end one pixel earlier."""
        return move_ends(cell, -1.0)


def build_box_rules(kind: str) -> BoxRules:
    """The rules of `LegacyConfig.boxes`."""
    classes = {"inclusive": InclusiveBoxes, "inclusive_loose": LooseInclusiveBoxes, "pixel_centers": PixelCenterBoxes}
    return classes.get(kind, BoxRules)()
