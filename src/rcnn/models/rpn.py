"""Region proposal network (Ren et al. 2015, section 3.1): boxes that may contain an object, of any class.

Letters: B images, A_l anchors of one level, A of all levels, S sampled anchors, M the most positives among them;
G ground-truth boxes; k best anchors of a level before NMS, N of all levels, P proposals after NMS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models.anchors import AnchorGenerator
from rcnn.models.box_rules import HALF_OPEN, BoxRules
from rcnn.models.config import RPNConfig
from rcnn.models.layers import Conv2d, init_linear
from rcnn.ops.boxes import gather_boxes
from rcnn.ops.deltas import encode_deltas
from rcnn.ops.layout import contiguous
from rcnn.ops.losses import smooth_l1
from rcnn.ops.matching import match_anchors
from rcnn.ops.nms import nms
from rcnn.ops.precision import at_least_float32
from rcnn.ops.sampling import random_keys, sample
from rcnn.structures import ImageBatch, Proposals, Targets

DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
RANDOM_STREAM = 0  # of the random samples of anchors; the box head uses another stream


@dataclass(frozen=True, kw_only=True)
class AnchorOutputs:
    """Predictions for A_l anchors."""

    logits: Tensor  # (B, A_l) float32, objectness
    sort_keys: Tensor  # (B, A_l) float32; proposals are sorted by it, the highest first
    deltas: Tensor  # (B, A_l, 4) float32
    anchors: Tensor  # (A_l, 4) float32 xyxy, pixels of the network input


@dataclass(frozen=True, kw_only=True)
class Level(AnchorOutputs):
    """Predictions for the anchors of one level, in the order y, x, anchor."""

    grid: tuple[int, int]  # (height, width) of its map
    steps: tuple[float, float]  # pixels between neighbouring cells of the map, (down, across)


class SampledAnchors(NamedTuple):
    """The S anchors per image that the losses are computed on; the positives, up to M, come first."""

    index: Tensor  # (B, S) int64, into all A anchors
    positive: Tensor  # (B, S) bool
    valid: Tensor  # (B, S) bool
    target_deltas: Tensor  # (B, M, 4) float32, anchor -> ground-truth box; 0 where not positive


class RPN(nn.Module):
    """Feature maps -> proposals. models/legacy/rpn.py has the variants of old systems.

    `convs` are the layers before the two outputs; they have `width` output channels.
    Boxes and anchors are float32 xyxy in pixels of the network input.
    """

    logits_per_anchor = 1

    def __init__(
        self,
        *,
        convs: nn.Sequential,
        width: int,
        anchors: AnchorGenerator,
        config: RPNConfig,
        rules: BoxRules = HALF_OPEN,
    ) -> None:
        super().__init__()
        self.config, self.anchors, self.rules = config, anchors, rules
        self.convs = convs
        self.objectness = nn.Conv2d(width, anchors.per_cell * self.logits_per_anchor, 1)
        self.deltas = nn.Conv2d(width, anchors.per_cell * 4, 1)
        for layer in (self.objectness, self.deltas):
            init_linear(layer, std=0.01)

    def losses(
        self, features: dict[str, Tensor], images: ImageBatch, targets: Targets, seed: Tensor
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals for the second stage, and the losses of equation 1.

        `seed`, () or (2,) int64, selects the sample of anchors (`random_keys`).
        """
        levels = self.head(features)
        losses = self.sampled_losses(levels, images, targets, seed)
        return self.training_proposals(levels, images), losses

    def predict(self, features: dict[str, Tensor], images: ImageBatch) -> Proposals:
        """The proposals (B, P) with the highest objectness."""
        config = self.config.proposals
        return self.select_proposals(self.head(features), images, config.pre_nms, config.post_nms, config.nms_iou)

    def head(self, features: dict[str, Tensor]) -> list[Level]:
        """Objectness and deltas of the anchors at each cell of each level (figure 3)."""
        levels: list[Level] = []
        for name, anchors in self.anchors(features).items():
            x = self.convs(features[name])
            batch, _, height, width = x.shape
            outputs = at_least_float32(contiguous(self.objectness(x).permute(0, 2, 3, 1)).reshape(batch, -1))
            logits, sort_keys = self.split_outputs(outputs)
            deltas = at_least_float32(contiguous(self.deltas(x).permute(0, 2, 3, 1)).reshape(batch, -1, 4))
            level = Level(
                logits=logits,
                sort_keys=sort_keys,
                deltas=deltas,
                anchors=anchors,
                grid=(height, width),
                steps=self.anchors.steps(name, features),
            )
            levels.append(level)
        return levels

    def split_outputs(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and sort keys, (B, A_l) each, from the outputs of the objectness layer.

        Here they are the same; systems with two logits per anchor override this (models/legacy/rpn.py).
        """
        return outputs, outputs

    def training_proposals(self, levels: list[Level], images: ImageBatch) -> Proposals:
        """The proposals (B, P) that the second stage is trained on; by default from more anchors than in `predict`."""
        config = self.config.proposals
        return self.select_proposals(levels, images, config.pre_nms_train, config.post_nms_train, config.nms_iou)

    @torch.no_grad()
    def select_proposals(
        self, levels: list[Level], images: ImageBatch, pre_nms: int, post_nms: int, nms_iou: float
    ) -> Proposals:
        """Proposals (B, P): per level, decode and clip the `pre_nms` best anchors; then NMS within each level.

        The `post_nms` best boxes of all levels are kept (section 3.3).
        """
        level_boxes: list[Tensor] = []
        level_sort_keys: list[Tensor] = []
        level_numbers: list[Tensor] = []
        for number, outputs in enumerate(self.candidates(levels, images)):
            best, index = outputs.sort_keys.topk(_smaller(pre_nms, outputs.sort_keys.shape[1]), dim=1)  # (B, k)
            level_boxes.append(
                self.rules.decode_and_clip(
                    outputs.deltas, outputs.anchors, index, images.sizes, DELTA_WEIGHTS, self.config.max_log_scale
                )
            )
            level_sort_keys.append(best)
            level_numbers.append(torch.full_like(index, number))
        boxes, sort_keys = torch.cat(level_boxes, 1), torch.cat(level_sort_keys, 1)  # (B, N, 4), (B, N)
        candidate = self.large_enough(boxes, images) & sort_keys.isfinite() & boxes.isfinite().all(-1)
        index, kept = nms(boxes, sort_keys, torch.cat(level_numbers, 1), candidate, nms_iou, post_nms)  # (B, P)
        return Proposals(
            boxes=torch.where(kept[..., None], gather_boxes(boxes, index), 0.0),  # what is not kept may be NaN
            objectness=sort_keys.gather(1, index).where(kept, 0.0),
            valid=kept,
        )

    def candidates(self, levels: list[Level], images: ImageBatch) -> Sequence[AnchorOutputs]:
        """The levels; anchors that cannot become proposals have a sort key of -inf."""
        threshold = self.config.proposals.score_threshold
        if threshold <= 0:
            return levels
        return [excluding(level, level.logits.sigmoid() < threshold) for level in levels]

    def large_enough(self, boxes: Tensor, images: ImageBatch) -> Tensor:
        """Which boxes (B, N, 4) `proposals.min_size` keeps, bool (B, N)."""
        return self.rules.large_enough(boxes, self.config.proposals.min_size)

    def sampled_losses(
        self, levels: list[Level], images: ImageBatch, targets: Targets, seed: Tensor
    ) -> dict[str, Tensor]:
        """The objectness loss and the box loss (equation 1) of a sample of all anchors."""
        logits = torch.cat([level.logits for level in levels], 1)  # (B, A)
        deltas = torch.cat([level.deltas for level in levels], 1)  # (B, A, 4)
        anchors = torch.cat([level.anchors for level in levels])  # (A, 4)
        chosen = self.sample_anchors(anchors, images, targets, seed)
        objectness_loss = F.binary_cross_entropy_with_logits(
            logits.gather(1, chosen.index), chosen.positive.to(logits.dtype), reduction="none"
        )
        most_positives = chosen.target_deltas.shape[1]
        predicted_deltas = gather_boxes(deltas, chosen.index[:, :most_positives])
        box_loss = smooth_l1(predicted_deltas, chosen.target_deltas, self.config.smooth_l1_beta)
        box_loss = box_loss * chosen.positive[:, :most_positives, None]
        objectness_count, box_count = self.normalizers(chosen.valid.to(logits.dtype))
        objectness_weight, box_weight = self.config.loss_weights
        return {
            "rpn_objectness": objectness_weight * (objectness_loss * chosen.valid).sum() / objectness_count,
            "rpn_box": box_weight * box_loss.sum() / box_count,
        }

    @torch.no_grad()
    def sample_anchors(self, anchors: Tensor, images: ImageBatch, targets: Targets, seed: Tensor) -> SampledAnchors:
        """A random sample of `anchors` (A, 4), matched with the ground truth, and its deltas (section 3.1.3)."""
        sampling = self.config.sampling
        matched, label = self.label(anchors, images, targets)
        keys = random_keys(seed, label.shape, RANDOM_STREAM)
        index, positive, valid = sample(label, keys, sampling.batch_size, sampling.max_positives)  # (B, S)
        index_positives = index[:, : sampling.max_positives]  # (B, M): positives come first
        target_boxes = gather_boxes(targets.boxes, matched.gather(1, index_positives))
        target_deltas = encode_deltas(target_boxes, anchors[index_positives], DELTA_WEIGHTS)  # (B, M, 4)
        has_target = positive[:, : sampling.max_positives, None]  # deltas are not finite without a ground-truth box
        return SampledAnchors(index, positive, valid, torch.where(has_target, target_deltas, 0.0))

    def label(self, anchors: Tensor, images: ImageBatch, targets: Targets) -> tuple[Tensor, Tensor]:
        """Match `anchors` (A, 4), xyxy pixels of the network input, with the ground-truth boxes (section 3.1.2).

        Returns the index (B, A) int64 of the ground-truth box with the highest IoU, and the label (B, A) int64 of each
        anchor: 1 positive, 0 negative, -1 ignored.
        """
        sampling = self.config.sampling
        return match_anchors(anchors, targets.boxes, targets.valid, sampling.negative_iou, sampling.positive_iou)

    def normalizers(self, valid: Tensor) -> tuple[Tensor | int, Tensor | int]:
        """What the objectness and the box loss are divided by; `valid` (B, S) is 1.0 for sampled anchors, else 0.0."""
        count = len(valid) * self.config.sampling.batch_size
        return count, count


def rpn_convs(in_channels: int, config: RPNConfig) -> tuple[nn.Sequential, int]:
    """The 3x3 convolutions before the two outputs (figure 3), and their output channels."""
    widths = [in_channels] + [config.width or in_channels] * config.convs
    convs = [Conv2d(before, after, 3, relu=True, winograd=True) for before, after in pairwise(widths)]
    for conv in convs:
        init_linear(conv, std=0.01)
    return nn.Sequential(*convs), widths[-1]


def excluding(level: Level, excluded: Tensor) -> Level:
    """The level with a sort key of -inf where `excluded` (B, A_l)."""
    return replace(level, sort_keys=level.sort_keys.masked_fill(excluded, -torch.inf))


def _smaller(limit: int, count: int) -> int | torch.SymInt:
    """min(limit, count). An exported program of any size has a symbol as `count`, which must not become a condition."""
    # torch 2.11 does not compile sym_min of two numbers
    return min(limit, count) if isinstance(count, int) else torch.sym_min(limit, count)
