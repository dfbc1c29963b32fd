"""What a box's numbers mean: half open, or with the last pixel inside (R-CNN's MATLAB, and after it Detectron).

Inside this library every box is half open: x2 is where its last pixel ends, width = x2 - x1. A system of inclusive
boxes writes the last pixel itself, one less, and counts width = x2 - x1 + 1. With its box (x1, x2) held as
(x1, x2 + 1), its formulas become ours, number for number:

- widths, centres x1 + width / 2, areas: the same; so encoding, IoU, NMS and the pyramid's level formula are the same.
- decoding: Detectron ends a box at centre + width / 2 - 1, which is where ours ends, less one. (MXNet's FCIS has
  centres and half widths of width - 1: the halves cancel.)
- anchors: those of `legacy.anchors=detectron` end on a last pixel, to which `ops.anchors` adds the one.

What reads the raw x2 is not the same, and is here: what pooling and true masks cut out; the image's border, to which a
box is cut but keeps one pixel; mask-faster-rcnn's decoding, which leaves out the -1.

One pixel of what? Of the network's input, until Detectron and mask-faster-rcnn decode the final boxes: they divide the
proposals by the image's scale first, so that this last pixel is one of the file. In the input's pixels it is `scale`
wide, which is the `pixel` below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rcnn.ops.boxes import clip_boxes, move_ends
from rcnn.ops.deltas import MAX_LOG_SCALE, decode_deltas

Pixel = float | Tensor  # the side of a pixel, one for all images or (B,)


@dataclass(frozen=True)
class BoxRules:
    """Decoding and cutting boxes (B, N, 4) by the rules of a system; `kind` as `LegacyConfig.boxes`."""

    kind: Literal["half_open", "inclusive", "inclusive_loose", "pixel_centers"] = "half_open"

    @property
    def inclusive(self) -> bool:
        """Whether the last pixel has a say at all."""
        return self.kind in ("inclusive", "inclusive_loose")

    @property
    def margin(self) -> int:
        """Pixels by which images and anchors end earlier."""
        return int(self.kind == "pixel_centers")

    def decode(
        self,
        deltas: Tensor,
        boxes: Tensor,
        weights: Sequence[float],
        max_log_scale: float = MAX_LOG_SCALE,
        pixel: Pixel = 1.0,
    ) -> Tensor:
        """What `deltas` make of `boxes`, as `decode_deltas`; inclusive_loose ends a pixel later."""
        decoded = decode_deltas(deltas, boxes, weights, max_log_scale)
        return move_ends(decoded, pixel) if self.kind == "inclusive_loose" else decoded

    def clip(self, boxes: Tensor, sizes: Tensor, pixel: Pixel = 1.0) -> Tensor:
        """Boxes (B, N, 4) cut to images of `sizes` (B, 2); inclusive ones keep a pixel, be they outside altogether."""
        if not self.inclusive:
            return clip_boxes(boxes, sizes - self.margin)
        side = torch.as_tensor(pixel, dtype=boxes.dtype, device=boxes.device).expand(len(sizes))[:, None]  # (B, 1)
        # whole pixels: those of the file, whose number rounding hid when the image was resized
        limit = (sizes.flip(-1).to(boxes.dtype) / side).round() * side  # (B, 2): width, height
        low = torch.cat([torch.zeros_like(limit), side.expand_as(limit)], -1)[:, None]
        high = torch.cat([limit - side, limit], -1)[:, None]
        return torch.minimum(torch.maximum(boxes, low), high)

    def in_file(self, boxes: Tensor, scales: Tensor | None) -> Tensor:
        """Boxes whose last pixel is one of the input, with one of the file in its place; `scales` (B,), or None: 1."""
        return move_ends(boxes, scales - 1.0) if self.inclusive and scales is not None else boxes

    def in_input(self, boxes: Tensor, scales: Tensor | None) -> Tensor:
        """The inverse of `in_file`."""
        return move_ends(boxes, 1.0 - scales) if self.inclusive and scales is not None else boxes

    def raw(self, boxes: Tensor, pixel: Pixel = 1.0) -> Tensor:
        """Boxes as the system itself writes them, which is what its pooling and its true masks read."""
        return move_ends(boxes, -pixel) if self.inclusive else boxes

    def raw_points(self, points: Tensor, pixel: Pixel) -> Tensor:
        """Keypoints (B, R, J, 3) as the system writes them: a pixel by its number, not its middle. See `Pixel`."""
        if not self.inclusive:
            return points
        half = 0.5 * (pixel.view(-1, 1, 1, 1) if isinstance(pixel, Tensor) else pixel)
        return torch.cat([points[..., :2] - half, points[..., 2:]], -1)

    def outline_frame(self, boxes: Tensor) -> Tensor:
        """The boxes in which true outlines are filled: Detectron's are the raw ones, a pixel wide at least."""
        raw = self.raw(boxes)
        return torch.cat([raw[..., :2], torch.maximum(raw[..., 2:], raw[..., :2] + 1)], -1) if self.inclusive else raw


HALF_OPEN = BoxRules()
