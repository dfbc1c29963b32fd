"""Batches of images, ground truth, proposals and detections: padded tensors, each with a mask of the valid rows.

Letters: B images of H x W pixels with padding, G ground-truth objects, I crowds, E polygon edges, P proposals,
D detections, J keypoints, K classes, m x m cells of a mask.
Boxes are float32 xyxy in absolute pixels of the *network input*, width = x2 - x1. Sizes are (height, width).
Labels are 0..K-1; there is no background label here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Base of the four structures: copies their tensors to a device, and checks shapes and types."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same values on `device`."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same values in page-locked memory, which allows asynchronous copies to a GPU."""
        return self._map(lambda value: value.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: function(v) if isinstance(v, Tensor) else v for k, v in values.items()})

    def _check_rows(self, names: tuple[str, ...], shape: torch.Size) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value.shape[: len(shape)] != shape:
                raise ValueError(
                    f"{type(self).__name__}.{name} has shape {tuple(value.shape)}; expected a shape that starts with "
                    f"{tuple(shape)}"
                )

    def _check_types(self, **types: torch.dtype) -> None:
        for name, expected in types.items():
            value = getattr(self, name)
            if value is not None and value.dtype != expected:
                raise ValueError(f"{type(self).__name__}.{name} is of {value.dtype}; expected {expected}")


@dataclass(frozen=True, kw_only=True)
class ImageBatch(_Batch):
    """B images padded at the right and bottom to one height and width."""

    pixels: Tensor  # (B, 3, H, W) uint8, or float32 in 0..255; RGB
    sizes: Tensor  # (B, 2) int64, (height, width) of each image without its padding
    # (B,) float32, the factor by which each file was resized; None: not resized
    scales: Tensor | None = None
    originals: Tensor | None = None  # (B, 2) int64, (height, width) of the files; None: computed from `scales`

    @property
    def scales_or_one(self) -> Tensor:
        """(B,) float32: `scales`, or 1 for every image if the images were not resized."""
        return torch.ones_like(self.sizes[:, 0], dtype=torch.float32) if self.scales is None else self.scales

    @property
    def file_sizes(self) -> Tensor:
        """(B, 2) int64: (height, width) of the files."""
        if self.originals is not None:
            return self.originals
        return (self.sizes / self.scales_or_one[:, None]).round().to(torch.int64)

    def __post_init__(self) -> None:
        if self.scales is not None and self.scales.shape != self.sizes.shape[:1]:
            raise ValueError(
                f"ImageBatch: scales have shape {tuple(self.scales.shape)} for {len(self.sizes)} images; expected (B,)"
            )
        if self.originals is not None and self.originals.shape != self.sizes.shape:
            raise ValueError(
                f"ImageBatch: originals have shape {tuple(self.originals.shape)} for {len(self.sizes)} images; "
                "expected (B, 2)"
            )
        if self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise ValueError(f"ImageBatch: pixels have shape {tuple(self.pixels.shape)}; expected (B, 3, H, W)")
        if self.sizes.shape != (self.pixels.shape[0], 2):
            raise ValueError(
                f"ImageBatch: sizes have shape {tuple(self.sizes.shape)} for {self.pixels.shape[0]} images; "
                "expected (B, 2)"
            )


@dataclass(frozen=True, kw_only=True)
class Targets(_Batch):
    """The ground-truth objects of B images, G rows each; `valid` marks the rows in use. Crowds are not objects."""

    boxes: Tensor  # (B, G, 4) float32 xyxy
    labels: Tensor  # (B, G) int64 in [0, K)
    valid: Tensor  # (B, G) bool
    # Outlines, as edges (x1, y1, x2, y2, part): an object is the union of its parts, each filled by the even-odd rule.
    # Padding has part -1. The edges of a part form closed outlines, in any order.
    polygons: Tensor | None = None  # (B, G, E, 5) float32
    bitmaps: Tensor | None = None  # (B, G, H, W) bool, if the masks are bitmaps
    keypoints: Tensor | None = None  # (B, G, J, 3) float32: x, y, visibility 0, 1 or 2
    crowds: Tensor | None = None  # (B, I, 4) float32 xyxy, if anchors in crowds are ignored; padded with empty boxes
    num_classes: int | None = None  # K of the data set; None: not known

    def __post_init__(self) -> None:
        if self.boxes.ndim != 3 or self.boxes.shape[2] != 4:
            raise ValueError(f"Targets: boxes have shape {tuple(self.boxes.shape)}; expected (B, G, 4)")
        self._check_rows(("labels", "valid", "polygons", "bitmaps", "keypoints"), self.boxes.shape[:2])
        self._check_types(labels=torch.int64, valid=torch.bool, bitmaps=torch.bool)
        if self.bitmaps is not None and self.bitmaps.ndim != 4:
            raise ValueError(f"Targets: bitmaps have shape {tuple(self.bitmaps.shape)}; expected (B, G, H, W)")
        if self.keypoints is not None and (self.keypoints.ndim != 4 or self.keypoints.shape[3] != 3):
            raise ValueError(f"Targets: keypoints have shape {tuple(self.keypoints.shape)}; expected (B, G, J, 3)")
        if self.polygons is not None and self.polygons.shape[-1] != 5:
            raise ValueError(f"Targets: polygons have shape {tuple(self.polygons.shape)}; expected (B, G, E, 5)")
        if self.crowds is not None and (
            self.crowds.ndim != 3 or (len(self.crowds), self.crowds.shape[2]) != (len(self.boxes), 4)
        ):
            raise ValueError(
                f"Targets: crowds have shape {tuple(self.crowds.shape)} for {len(self.boxes)} images; "
                "expected (B, I, 4)"
            )

    def require_labels(self, num_classes: int) -> None:
        """Raise ValueError unless all valid labels are in 0..`num_classes` - 1, the labels of the model.

        On devices other than the CPU, and in a compiled graph, only the number of classes of the data set is compared:
        reading the labels would make the CPU wait for the device.
        """
        if self.num_classes is not None and self.num_classes > num_classes:
            raise ValueError(
                f"the data set has {self.num_classes} classes, but the model has num_classes={num_classes}. Build it "
                f'with rcnn.override(config, "num_classes={self.num_classes}")'
            )
        if self.labels.device.type != "cpu" or torch.compiler.is_compiling():
            return
        wrong = self.labels[self.valid & ((self.labels < 0) | (self.labels >= num_classes))]
        if len(wrong):
            raise ValueError(
                f"a target has label {int(wrong[0])}, but the model has num_classes={num_classes}; expected labels 0 "
                f"to {num_classes - 1}, without background. Correct the labels, or num_classes in the config"
            )


@dataclass(frozen=True, kw_only=True)
class Proposals(_Batch):
    """Regions that may contain an object, P rows for each of B images.

    The RPN returns them sorted by `objectness`, highest first, with the valid rows first. Boxes that a stage of a
    cascade has refined (`CascadeHead.refine`) have objectness 0, and their invalid rows can be anywhere.
    """

    boxes: Tensor  # (B, P, 4) float32 xyxy
    objectness: Tensor  # (B, P) float32 logits; proposals are sorted by them
    valid: Tensor  # (B, P) bool

    def __post_init__(self) -> None:
        if self.boxes.ndim != 3 or self.boxes.shape[2] != 4:
            raise ValueError(f"Proposals: boxes have shape {tuple(self.boxes.shape)}; expected (B, P, 4)")
        self._check_rows(("objectness", "valid"), self.boxes.shape[:2])


@dataclass(frozen=True, kw_only=True)
class Detections(_Batch):
    """Detections in B images, D rows each; row i of every field is one object; `valid` marks the rows in use."""

    boxes: Tensor  # (B, D, 4) float32 xyxy
    scores: Tensor  # (B, D) float32 in [0, 1], highest first
    labels: Tensor  # (B, D) int64 in [0, K)
    valid: Tensor  # (B, D) bool; the valid rows come first
    masks: Tensor | None = None  # (B, D, m, m) float32 probabilities in the frame of each box; m = 28 by default
    keypoints: Tensor | None = None  # (B, D, J, 3) float32: x, y, score

    def __post_init__(self) -> None:
        if self.boxes.ndim != 3 or self.boxes.shape[2] != 4:
            raise ValueError(f"Detections: boxes have shape {tuple(self.boxes.shape)}; expected (B, D, 4)")
        self._check_rows(("scores", "labels", "valid", "masks", "keypoints"), self.boxes.shape[:2])

    def above(self, score: float) -> Self:
        """The same rows; those with a score below `score` are not valid, and their values are 0."""
        valid = self.valid & (self.scores >= score)  # (B, D)
        return self._map(lambda value: value * valid.reshape(*valid.shape, *[1] * (value.ndim - 2)))


for _structure in (ImageBatch, Targets, Proposals, Detections):
    pytree.register_dataclass(_structure)
