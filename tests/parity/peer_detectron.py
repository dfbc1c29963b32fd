"""Detectron's Mask R-CNN computed from its blobs, one box at a time: a slow reference for our converter.

From what is published of it: affine channels, boxes that end on their last pixel, anchors by table with ratios outer,
RoIAlign without the half pixel, proposals taken to the file's pixels before the last decoding, background first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from tests.unit.legacy_formulas import clip, decode_detectron, pyramid_level, suppress
from tests.unit.weights.detectron_blobs import BLOCKS

# x1, y1, x2, y2 of the first and the last pixel, at the map's first cell
FPN_ANCHORS = {
    2: [(-22, -10, 25, 13), (-14, -14, 17, 17), (-10, -22, 13, 25)],
    3: [(-40, -20, 47, 27), (-28, -28, 35, 35), (-20, -44, 27, 51)],
    4: [(-84, -40, 99, 55), (-56, -56, 71, 71), (-36, -80, 51, 95)],
    5: [(-164, -72, 195, 103), (-112, -112, 143, 143), (-76, -168, 107, 199)],
    6: [(-332, -152, 395, 215), (-224, -224, 287, 287), (-148, -328, 211, 391)],
}
C4_ANCHORS = [
    (-15, -4, 30, 19), (-38, -16, 53, 31), (-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199),
    (-8, -8, 23, 23), (-24, -24, 39, 39), (-56, -56, 71, 71), (-120, -120, 135, 135), (-248, -248, 263, 263),
    (-3, -14, 18, 29), (-14, -36, 29, 51), (-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359),
]  # fmt: skip


@dataclass
class Rules:
    """The settings of this run."""

    pre: int  # proposals of a level before NMS
    post: int  # and after it, of all levels
    threshold: float
    most: int


class Peer:
    """The network of `blobs`, R-50 with a pyramid or on one map (C4)."""

    def __init__(self, blobs: Mapping[str, np.ndarray], fpn: bool) -> None:
        self.blob = {name: torch.from_numpy(value) for name, value in blobs.items()}
        self.fpn = fpn

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        """A convolution with its bias or its affine channel."""
        weight, bias = self.blob[f"{name}_w"], self.blob.get(f"{name}_b")
        norm = "res_conv1_bn" if name == "conv1" else f"{name}_bn"
        if f"{norm}_s" not in self.blob:
            return F.conv2d(x, weight, bias, stride, padding)
        scale, shift = (self.blob[f"{norm}_{field}"][:, None, None] for field in "sb")
        return F.conv2d(x, weight, None, stride, padding) * scale + shift

    def stage(self, x: Tensor, number: int) -> Tensor:
        """One of res2 to res5, the stride in its first 1x1 convolution."""
        for block in range(BLOCKS[50][number - 2]):
            name, stride = f"res{number}_{block}_branch", 2 if number > 2 and block == 0 else 1
            y = self.conv(self.conv(x, f"{name}2a", stride).relu(), f"{name}2b", 1, 1).relu()
            x = (self.conv(y, f"{name}2c") + (self.conv(x, f"{name}1", stride) if block == 0 else x)).relu()
        return x

    def features(self, x: Tensor) -> dict[int, Tensor]:
        """Maps by level: 2 to 6 of the pyramid, or 4 alone."""
        x = F.max_pool2d(self.conv(x, "conv1", 2, 3).relu(), 3, 2, 1)
        stages = {}
        for number in (2, 3, 4, 5) if self.fpn else (2, 3, 4):
            x = stages[number] = self.stage(x, number)
        if not self.fpn:
            return {4: x}
        maps: dict[int, Tensor] = {}
        above = None
        for number in (5, 4, 3, 2):
            name = f"res{number}_{BLOCKS[50][number - 2] - 1}_sum"
            lateral = self.conv(stages[number], f"fpn_inner_{name}" + ("" if number == 5 else "_lateral"))
            above = lateral if above is None else lateral + F.interpolate(above, scale_factor=2, mode="nearest")
            maps[number] = self.conv(above, f"fpn_{name}", 1, 1)
        return dict(sorted(maps.items())) | {6: F.max_pool2d(maps[5], 1, 2)}

    def rpn(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (A, H, W) and offsets (A, 4, H, W) of a map, in the order of its anchors."""
        suffix = "_fpn2" if self.fpn else ""
        x = self.conv(x, f"conv_rpn{suffix}", 1, 1).relu()
        logits, deltas = self.conv(x, f"rpn_cls_logits{suffix}")[0], self.conv(x, f"rpn_bbox_pred{suffix}")[0]
        return logits, deltas.unflatten(0, (-1, 4))

    def proposals(self, maps: dict[int, Tensor], size: tuple[int, int], rules: Rules) -> np.ndarray:
        """The best boxes (P, 4) of all levels, pixels of the input."""
        boxes: list[np.ndarray] = []
        scores: list[float] = []
        for level, x in maps.items():
            logits, deltas = (value.double().numpy() for value in self.rpn(x))
            table = FPN_ANCHORS[level] if self.fpn else C4_ANCHORS
            best = np.argsort(-logits.ravel(), kind="stable")[: rules.pre]
            found: list[np.ndarray] = []
            for anchor, y, across in zip(*np.unravel_index(best, logits.shape), strict=True):
                start = np.array(table[anchor]) + 2**level * np.array([across, y, across, y])
                found.append(clip(decode_detectron(start, deltas[anchor, :, y, across]), *size))
            kept = suppress(np.array(found), logits.ravel()[best], 0.7)
            boxes += [found[index] for index in kept]
            scores += [logits.ravel()[best[index]] for index in kept]
        return np.array(boxes)[np.argsort(-np.array(scores), kind="stable")[: rules.post]]

    def pool(self, maps: dict[int, Tensor], boxes: np.ndarray, side: int) -> Tensor:
        """Regions' features (R, C, side, side)."""
        pooled = []
        for box in boxes:
            level = pyramid_level(box) if self.fpn else 4
            region = torch.tensor([[0.0, *box]], dtype=torch.float32)
            pooled.append(roi_align(maps[level], region, side, 1 / 2**level, 2 if self.fpn else -1, aligned=False))
        return torch.cat(pooled)

    def box_head(self, maps: dict[int, Tensor], boxes: np.ndarray) -> tuple[Tensor, Tensor]:
        """Scores (R, 1 + K), the background first, and offsets (R, 1 + K, 4) of regions."""
        if self.fpn:
            x = self.pool(maps, boxes, 7).flatten(1)
            for name in ("fc6", "fc7"):
                x = F.linear(x, self.blob[f"{name}_w"], self.blob[f"{name}_b"]).relu()
        else:
            x = self.stage(self.pool(maps, boxes, 14), 5).mean((2, 3))
        scores = F.linear(x, self.blob["cls_score_w"], self.blob["cls_score_b"]).softmax(1)
        return scores, F.linear(x, self.blob["bbox_pred_w"], self.blob["bbox_pred_b"]).unflatten(1, (-1, 4))

    def masks(self, maps: dict[int, Tensor], boxes: np.ndarray, classes: np.ndarray) -> Tensor:
        """Probabilities (D, m, m) of each box's own class (1 to K)."""
        if self.fpn:
            x = self.pool(maps, boxes, 14)
            for number in range(1, 5):
                x = self.conv(x, f"_[mask]_fcn{number}", 1, 1).relu()
        else:
            x = self.stage(self.pool(maps, boxes, 14), 5)
        x = F.conv_transpose2d(x, self.blob["conv5_mask_w"], self.blob["conv5_mask_b"], 2).relu()
        return self.conv(x, "mask_fcn_logits").sigmoid()[torch.arange(len(boxes)), torch.from_numpy(classes)]

    def detections(
        self, maps: dict[int, Tensor], regions: np.ndarray, scale: float, size: tuple[int, int], rules: Rules
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (D, 4) in the file's pixels, scores and classes (1 to K), of a file of `size` (height, width)."""
        scores, deltas = (value.double().numpy() for value in self.box_head(maps, regions))
        found: list[tuple[np.ndarray, float, int]] = []
        for kind in range(1, scores.shape[1]):
            rows = np.flatnonzero(scores[:, kind] > rules.threshold)
            boxes = [
                clip(decode_detectron(regions[row] / scale, deltas[row, kind] / [10, 10, 5, 5]), *size) for row in rows
            ]
            kept = suppress(np.array(boxes), scores[rows, kind], 0.5) if len(rows) else []
            found += [(boxes[index], scores[rows[index], kind], kind) for index in kept]
        found.sort(key=lambda item: -item[1])
        boxes, values, kinds = zip(*found[: rules.most], strict=True)
        return np.array(boxes), np.array(values), np.array(kinds)
