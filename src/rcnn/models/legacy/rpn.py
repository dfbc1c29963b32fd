"""Region proposal networks of old systems; `LegacyRPNConfig` says which system has which rule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from rcnn.models.config import LegacyRPNConfig
from rcnn.models.rpn import DELTA_WEIGHTS, RPN, AnchorOutputs, Level, excluding
from rcnn.ops.anchors import whole_cells
from rcnn.ops.boxes import inside_image
from rcnn.ops.matching import in_crowds, match_anchors
from rcnn.ops.processes import loss_normalizer
from rcnn.structures import ImageBatch, Proposals, Targets


class LegacyRPN(RPN):
    """The RPN with the rules of `config.legacy`; those of `objectness` are in the subclasses."""

    @property
    def legacy(self) -> LegacyRPNConfig:
        """The settings that choose the rules."""
        return self.config.legacy

    @override
    def candidates(self, levels: list[Level], images: ImageBatch) -> Sequence[AnchorOutputs]:
        """The levels; anchors that cannot become proposals have a sort key of -inf. `joint_levels` joins the levels."""
        if self.legacy.whole_cells:
            levels = [
                excluding(level, ~whole_cells(level.grid, level.steps, images.sizes, level.sort_keys.shape[1]))
                for level in levels
            ]
        if self.legacy.min_size_first:
            levels = [excluding(level, self.too_small(level, images)) for level in levels]
        candidates = super().candidates(levels, images)
        return [joined(candidates)] if self.legacy.joint_levels else candidates

    @override
    def predict(self, features: dict[str, Tensor], images: ImageBatch) -> Proposals:
        """The proposals (B, P) with the highest objectness; with `top_without_nms`, NMS removes none of them."""
        if not self.legacy.top_without_nms:
            return super().predict(features, images)
        count = self.config.proposals.post_nms
        return self.select_proposals(self.head(features), images, count, count, nms_iou=1.0)  # no IoU is higher

    def too_small(self, level: Level, images: ImageBatch) -> Tensor:
        """Which anchors (B, A_l) become boxes that `proposals.min_size` removes."""
        boxes = self.rules.decode(level.deltas, level.anchors, DELTA_WEIGHTS, self.config.max_log_scale)
        return ~self.large_enough(self.rules.clip(boxes, images.sizes), images)

    @override
    def large_enough(self, boxes: Tensor, images: ImageBatch) -> Tensor:
        """Which boxes (B, N, 4) `proposals.min_size` keeps; it can be in pixels of the file."""
        scale = images.scales_or_one[:, None] if self.legacy.min_size_original else 1.0  # (B, 1)
        return self.rules.large_enough(boxes, self.config.proposals.min_size, scale)

    @override
    def label(self, anchors: Tensor, images: ImageBatch, targets: Targets) -> tuple[Tensor, Tensor]:
        """As in the plain RPN, but anchors outside the image or in crowds can be ignored (`straddle`, `crowd_ioa`).

        With `low_quality="overruled"`, the best anchor of an object is negative if its IoU is below negative_iou.
        Raises ValueError if `crowd_ioa` is set and the batch has no crowds.
        """
        straddle, sampling = self.legacy.straddle, self.config.sampling
        matched, label = match_anchors(
            anchors,
            targets.boxes,
            targets.valid,
            sampling.negative_iou,
            sampling.positive_iou,
            considered=None if straddle < 0 else inside_image(anchors, images.sizes, straddle),
            min_best_iou=sampling.negative_iou if self.legacy.low_quality == "overruled" else 0.0,
        )
        if self.legacy.crowd_ioa < 1:
            if targets.crowds is None:
                raise ValueError(
                    f"rpn.legacy.crowd_ioa={self.legacy.crowd_ioa} needs Targets.crowds, but the batch has none; pass "
                    "targets with crowds, or set rpn.legacy.crowd_ioa=2"
                )
            label = torch.where(in_crowds(anchors, targets.crowds, self.legacy.crowd_ioa), -1, label)
        return matched, label

    @override
    def normalizers(self, valid: Tensor) -> tuple[Tensor | int, Tensor | int]:
        """What the two losses are divided by: the batch size or the number of sampled anchors, see `normalizer`."""
        count, sampled = super().normalizers(valid)[0], loss_normalizer(valid.sum())
        match self.legacy.normalizer:
            case "batch_size":
                return count, count
            case "sampled":
                return sampled, sampled
            case "sampled_objectness":
                return sampled, count


class SoftmaxRPN(LegacyRPN):
    """An RPN with two logits per anchor, background and object, and their softmax."""

    logits_per_anchor = 2

    @override
    def split_outputs(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and sort keys: the difference of the two logits, since its sigmoid is the softmax of the two."""
        background, foreground = outputs.unflatten(1, (-1, 2)).unbind(-1)
        return foreground - background, foreground - background


class ObjectLogitRPN(SoftmaxRPN):
    """Like `SoftmaxRPN`, but proposals are sorted by the object's logit alone (both Chainer ports of FCIS)."""

    @override
    def split_outputs(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and sort keys: the difference of the two logits, and the object's logit."""
        background, foreground = outputs.unflatten(1, (-1, 2)).unbind(-1)
        return foreground - background, foreground


def joined(levels: Sequence[AnchorOutputs]) -> AnchorOutputs:
    """The outputs of all levels, concatenated."""
    return AnchorOutputs(
        logits=torch.cat([level.logits for level in levels], 1),
        sort_keys=torch.cat([level.sort_keys for level in levels], 1),
        deltas=torch.cat([level.deltas for level in levels], 1),
        anchors=torch.cat([level.anchors for level in levels]),
    )
