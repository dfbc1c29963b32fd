"""Region proposal network (Ren et al. 2015, section 3.1): where something may be, before asking what.

Letters: B images, A anchors of all levels, S sampled anchors, P proposals, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models.backbones.fbnet import rpn_blocks
from rcnn.models.box_rules import BoxRules
from rcnn.models.config import RPNConfig
from rcnn.models.layers import Conv2d, init_linear
from rcnn.ops.anchors import cell_anchors, grid_anchors, legacy_cell_anchors, whole_cells
from rcnn.ops.boxes import inside_image
from rcnn.ops.deltas import encode_deltas
from rcnn.ops.losses import smooth_l1
from rcnn.ops.matching import in_crowds, match
from rcnn.ops.nms import nms
from rcnn.ops.sampling import random_keys, sample
from rcnn.structures import Proposals, Targets

DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
RANDOM_STREAM = 0  # the RPN's draws; the box head has its own


@dataclass(frozen=True, kw_only=True)
class Level:
    """What the network says about the anchors of one level; their order is y, x, anchor."""

    logits: Tensor  # (B, A_l) float32, of holding an object
    ranks: Tensor  # (B, A_l) float32, what proposals are sorted by
    deltas: Tensor  # (B, A_l, 4) float32
    anchors: Tensor  # (A_l, 4)
    grid: tuple[int, int]  # (height, width) of its map
    steps: tuple[float, float]  # pixels from one place of the map to the next, down and across


class RPN(nn.Module):
    """Feature maps -> the boxes most likely to hold an object, whatever it is."""

    def __init__(
        self, *, in_channels: int, strides: dict[str, int], config: RPNConfig, rules: BoxRules | None = None
    ) -> None:
        super().__init__()
        require_consistent(config, list(strides))
        self.config, self.strides = config, strides
        self.rules = rules or BoxRules()
        width = config.width or in_channels
        if config.head == "fbnet":
            self.convs = rpn_blocks(in_channels)
            width = in_channels
        else:
            widths = [in_channels] + [width] * config.convs
            convs = [Conv2d(before, after, 3, relu=True) for before, after in pairwise(widths)]
            for conv in convs:
                init_linear(conv, std=0.01)
            self.convs, width = nn.Sequential(*convs), widths[-1]
        for (name, stride), sizes in zip(strides.items(), config.anchors.sizes, strict=True):
            cell = (  # (anchors of a cell, 4)
                legacy_cell_anchors(sizes, config.anchors.ratios, stride)
                if config.legacy.anchors == "detectron"
                else cell_anchors(sizes, config.anchors.ratios, rounded=config.legacy.anchors == "torchvision")
            )
            cell[:, 2:] -= self.rules.margin
            self.register_buffer(f"cell_{name}", cell, persistent=False)  # constants of the config, not weights
        anchors = len(config.anchors.sizes[0]) * len(config.anchors.ratios)
        self.objectness = nn.Conv2d(width, anchors * (1 if config.legacy.objectness == "sigmoid" else 2), 1)
        self.deltas = nn.Conv2d(width, 4 * anchors, 1)
        for layer in (self.objectness, self.deltas):
            init_linear(layer, std=0.01)

    def losses(
        self,
        features: dict[str, Tensor],
        sizes: Tensor,
        targets: Targets,
        seed: Tensor,
        scales: Tensor | None = None,
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals for the second stage, and the losses of equation 1; `seed` () int64 draws the sample."""
        levels = self.head(features)
        losses = self.sampled_losses(levels, sizes, targets, seed)
        proposals = self.select(
            levels, sizes, scales, self.config.proposals.pre_nms_train, self.config.proposals.post_nms_train
        )
        return proposals, losses

    def predict(self, features: dict[str, Tensor], sizes: Tensor, scales: Tensor | None = None) -> Proposals:
        """The best proposals (B, P) of images of `sizes` (B, 2), resized by `scales` (B,), or not at all if None."""
        return self.select(
            self.head(features), sizes, scales, self.config.proposals.pre_nms, self.config.proposals.post_nms
        )

    def head(self, features: dict[str, Tensor]) -> list[Level]:
        """Two small layers at each place of each level's map say how likely its anchors are objects, and where."""
        levels = []
        for name in self.strides:
            x = self.convs(features[name])
            batch, _, height, width = x.shape
            logits = self.objectness(x).permute(0, 2, 3, 1).reshape(batch, -1).float()
            ranks = logits
            if self.config.legacy.objectness != "sigmoid":
                background, ranks = logits.unflatten(1, (-1, 2)).unbind(-1)
                logits = ranks - background  # the softmax of two is the sigmoid of their difference
            if self.config.legacy.objectness != "object_logit":
                ranks = logits
            deltas = self.deltas(x).permute(0, 2, 3, 1).reshape(batch, -1, 4).float()
            steps = self.steps(name, features)
            anchors = grid_anchors(getattr(self, f"cell_{name}"), (height, width), steps, self.config.anchors.offset)
            level = Level(logits=logits, ranks=ranks, deltas=deltas, anchors=anchors, grid=(height, width), steps=steps)
            levels.append(level)
        return levels

    def steps(self, name: str, features: dict[str, Tensor]) -> tuple[float, float]:
        """Pixels from one anchor of level `name` to the next, down and across."""
        stride = self.strides[name]
        if self.config.legacy.anchors != "torchvision":
            return stride, stride
        finest = next(iter(self.strides))
        (rows, columns), (height, width) = features[name].shape[2:], features[finest].shape[2:]
        return height * self.strides[finest] // rows, width * self.strides[finest] // columns

    @torch.no_grad()
    def select(
        self, levels: list[Level], sizes: Tensor, scales: Tensor | None, pre_nms: int, post_nms: int
    ) -> Proposals:
        """The `pre_nms` best anchors of each level, moved, clipped, thinned by NMS inside it; `post_nms` stay.

        With legacy.joint_levels all levels are one.
        """
        config = self.config
        pools = []  # of ranks (B, n), deltas (B, n, 4) and anchors (n, 4)
        for level in levels:
            ranks = level.ranks
            if config.legacy.whole_cells:
                ranks = ranks.masked_fill(~whole_cells(level.grid, level.steps, sizes, len(ranks[0])), -torch.inf)
            if config.proposals.score_threshold > 0:
                ranks = ranks.masked_fill(level.logits.sigmoid() < config.proposals.score_threshold, -torch.inf)
            if config.legacy.min_size_first:
                moved = self.rules.decode(level.deltas, level.anchors, DELTA_WEIGHTS, config.max_log_scale)
                small = ~self.large_enough(self.rules.clip(moved, sizes), scales)
                ranks = ranks.masked_fill(small, -torch.inf)
            pools.append((ranks, level.deltas, level.anchors))
        if config.legacy.joint_levels:
            ranks, deltas, anchors = zip(*pools, strict=True)
            pools = [(torch.cat(ranks, 1), torch.cat(deltas, 1), torch.cat(anchors))]
        scores, boxes, groups = [], [], []
        for group, (ranks, deltas, anchors) in enumerate(pools):
            best, index = ranks.topk(min(pre_nms, ranks.shape[1]), dim=1)  # (B, k)
            deltas = deltas.gather(1, index[..., None].expand(-1, -1, 4))  # (B, k, 4)
            boxes.append(self.rules.decode(deltas, anchors[index], DELTA_WEIGHTS, config.max_log_scale))
            scores.append(best)
            groups.append(torch.full_like(index, group))
        box, score = self.rules.clip(torch.cat(boxes, 1), sizes), torch.cat(scores, 1)
        valid = self.large_enough(box, scales) & score.isfinite() & box.isfinite().all(-1)
        kept, valid = nms(box, score, torch.cat(groups, 1), valid, config.proposals.nms_iou, post_nms)
        box = box.gather(1, kept[..., None].expand(-1, -1, 4)) * valid[..., None]
        return Proposals(boxes=box, scores=score.gather(1, kept).where(valid, 0.0), valid=valid)

    def large_enough(self, boxes: Tensor, scales: Tensor | None) -> Tensor:
        """Which boxes (B, N, 4) have no side that `min_size` drops, bool (B, N)."""
        least = self.config.proposals.min_size
        width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
        shorter = torch.minimum(width, height)
        scale = scales[:, None] if self.config.legacy.min_size_original and scales is not None else 1.0  # (B, 1)
        if self.rules.inclusive:
            return (shorter - 1) / scale + 1 >= least  # Detectron's way to count the file's pixels
        return shorter > least * scale

    def sampled_losses(self, levels: list[Level], sizes: Tensor, targets: Targets, seed: Tensor) -> dict[str, Tensor]:
        """Losses of a sample of the anchors of all levels, in images of `sizes` (B, 2)."""
        config = self.config
        logits = torch.cat([level.logits for level in levels], 1)  # (B, A)
        deltas = torch.cat([level.deltas for level in levels], 1)  # (B, A, 4)
        anchors = torch.cat([level.anchors for level in levels])  # (A, 4)
        with torch.no_grad():
            matched, label = self.label(anchors, sizes, targets)
            keys = random_keys(seed, label.shape, RANDOM_STREAM)
            index, positive, valid = sample(
                label, keys, config.sampling.batch_size, config.sampling.positive_fraction
            )  # (B, S)
            # objects come first in the sample, and only they have a box to learn
            objects = index[:, : config.sampling.max_positives]
            is_object = positive[:, : objects.shape[1]]
            target = targets.boxes.gather(1, matched.gather(1, objects)[..., None].expand(-1, -1, 4))
            target = torch.where(is_object[..., None], target, anchors[objects])  # a padded box has no logarithm
            wanted = encode_deltas(target, anchors[objects], DELTA_WEIGHTS)
            sampled, places = valid.sum().clamp(min=1), len(targets.boxes) * config.sampling.batch_size
        objectness = F.binary_cross_entropy_with_logits(logits.gather(1, index), positive.float(), reduction="none")
        moved = smooth_l1(deltas.gather(1, objects[..., None].expand(-1, -1, 4)), wanted, config.smooth_l1_beta)
        divisor = places if config.legacy.normalizer == "batch_size" else sampled
        box_divisor = sampled if config.legacy.normalizer == "sampled" else places
        return {
            "rpn_objectness": config.loss_weights[0] * (objectness * valid).sum() / divisor,
            "rpn_box": config.loss_weights[1] * (moved * is_object[..., None]).sum() / box_divisor,
        }

    def label(self, anchors: Tensor, sizes: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """For each anchor (B, A) the object it overlaps most; and 1 if it is an object, 0 background, -1 neither."""
        config = self.config
        matched, label = match(
            anchors,
            targets.boxes,
            targets.valid,
            config.sampling.low_iou,
            config.sampling.positive_iou,
            low_quality=True,
            usable=None if config.legacy.straddle < 0 else inside_image(anchors, sizes, config.legacy.straddle),
            overruled=config.legacy.low_quality == "overruled",
        )
        if config.legacy.crowd_ioa < 1:
            if targets.crowds is None:
                raise ValueError(
                    f"rpn.legacy.crowd_ioa={config.legacy.crowd_ioa} needs Targets.crowds; the batch has none"
                )
            label = torch.where(in_crowds(anchors, targets.crowds, config.legacy.crowd_ioa), -1, label)
        return matched, label


def require_consistent(config: RPNConfig, levels: list[str]) -> None:
    """Raise a ValueError if settings contradict each other, or the `levels` of the backbone."""
    sizes = config.anchors.sizes
    if len(sizes) != len(levels):
        raise ValueError(f"rpn.anchors.sizes has {len(sizes)} levels; expected {len(levels)}, one for each of {levels}")
    if len({len(level) for level in sizes}) > 1:
        raise ValueError(
            f"rpn.anchors.sizes is {sizes}; expected the same number of sizes on each level, since they share layers"
        )
    if config.head == "fbnet" and config.width:
        raise ValueError(f"rpn.width={config.width} has no effect with rpn.head=fbnet; set rpn.width=0")
    if config.legacy.anchors == "detectron" and config.anchors.offset:
        raise ValueError("rpn.legacy.anchors=detectron sets the centres itself; set rpn.anchors.offset=0")
