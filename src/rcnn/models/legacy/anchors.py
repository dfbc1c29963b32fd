"""Anchors rounded to whole pixels: torchvision's rule and that of R-CNN's MATLAB code."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from rcnn.models.anchors import AnchorGenerator
from rcnn.ops.anchors import cell_anchors, legacy_cell_anchors


class TorchvisionAnchors(AnchorGenerator):
    """Rounded to whole pixels, spaced by (input size // map size), e.g. 800 // 13 = 61 pixels at stride 64."""

    @override
    def cell(self, sizes: tuple[float, ...], stride: int) -> Tensor:
        """The anchors (A, 4) of one cell, whole pixels."""
        return cell_anchors(sizes, self.config.ratios, rounded=True)

    @override
    def steps(self, name: str, features: dict[str, Tensor]) -> tuple[float, float]:
        """Pixels between neighbouring anchors of level `name`, (down, across)."""
        finest = next(iter(self.strides))
        (rows, columns), (height, width) = features[name].shape[2:], features[finest].shape[2:]
        return height * self.strides[finest] // rows, width * self.strides[finest] // columns


class DetectronAnchors(AnchorGenerator):
    """R-CNN's MATLAB anchors: stretched in whole pixels, with inclusive boxes (Detectron, MXNet's FCIS)."""

    @override
    def cell(self, sizes: tuple[float, ...], stride: int) -> Tensor:
        """The anchors (A, 4) of one cell, xyxy pixels around the centre of the cell."""
        return legacy_cell_anchors(sizes, self.config.ratios, stride)
