"""Region proposal network (Ren et al. 2015, section 3.1): where something may be, before asking what.

Letters: B images, A anchors of all levels, S sampled anchors, P proposals, L levels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models.backbones.fbnet import rpn_blocks
from rcnn.models.config import RPNConfig
from rcnn.models.layers import Conv2d, init_linear
from rcnn.ops.anchors import cell_anchors, grid_anchors
from rcnn.ops.boxes import clip_boxes, is_nonempty
from rcnn.ops.deltas import decode_deltas, encode_deltas
from rcnn.ops.losses import smooth_l1
from rcnn.ops.matching import match
from rcnn.ops.nms import nms
from rcnn.ops.sampling import random_keys, sample
from rcnn.structures import Proposals, Targets

DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
RANDOM_STREAM = 0  # the RPN's draws; the box head has its own


class RPN(nn.Module):
    """Feature maps -> the boxes most likely to hold an object, whatever it is."""

    def __init__(self, *, in_channels: int, strides: dict[str, int], config: RPNConfig) -> None:
        super().__init__()
        if len(config.sizes) != len(strides):
            raise ValueError(
                f"rpn.sizes has anchors for {len(config.sizes)} levels, the backbone gives {list(strides)}"
            )
        self.config = config
        self.strides = strides
        if config.head == "fbnet":
            self.convs = rpn_blocks(in_channels)
        else:
            convs = [Conv2d(in_channels, in_channels, 3, relu=True) for _ in range(config.convs)]
            for conv in convs:
                init_linear(conv, std=0.01)
            self.convs = nn.Sequential(*convs)
        for name, sizes in zip(strides, config.sizes, strict=True):
            cell = cell_anchors(sizes, config.ratios, rounded=config.rounded_anchors)  # (anchors of a cell, 4)
            self.register_buffer(f"cell_{name}", cell, persistent=False)  # constants of the config, not weights
        anchors = len(config.sizes[0]) * len(config.ratios)
        self.objectness = nn.Conv2d(in_channels, anchors, 1)
        self.deltas = nn.Conv2d(in_channels, 4 * anchors, 1)
        for layer in (self.objectness, self.deltas):
            init_linear(layer, std=0.01)

    def losses(
        self, features: dict[str, Tensor], sizes: Tensor, targets: Targets, seed: Tensor
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals for the second stage, and the losses of equation 1; `seed` () int64 draws the sample."""
        logits, deltas, anchors = self.head(features)
        flat_logits, flat_deltas, flat_anchors = torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors)
        losses = self.sampled_losses(flat_logits, flat_deltas, flat_anchors, targets, seed)
        proposals = self.select(logits, deltas, anchors, sizes, self.config.pre_nms_train, self.config.post_nms_train)
        return proposals, losses

    def predict(self, features: dict[str, Tensor], sizes: Tensor) -> Proposals:
        """The best proposals (B, P) of images of `sizes` (B, 2)."""
        logits, deltas, anchors = self.head(features)
        return self.select(logits, deltas, anchors, sizes, self.config.pre_nms, self.config.post_nms)

    def head(self, features: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """For each level: logits (B, A_l) and deltas (B, A_l, 4) in float32, anchors (A_l, 4); order y, x, anchor."""
        logits, deltas, anchors = [], [], []
        for name in self.strides:
            x = self.convs(features[name])
            batch, _, height, width = x.shape
            logits.append(self.objectness(x).permute(0, 2, 3, 1).reshape(batch, -1).float())
            deltas.append(self.deltas(x).permute(0, 2, 3, 1).reshape(batch, -1, 4).float())
            cell = getattr(self, f"cell_{name}")
            anchors.append(grid_anchors(cell, (height, width), self.steps(name, features)))
        return logits, deltas, anchors

    def steps(self, name: str, features: dict[str, Tensor]) -> tuple[float, float]:
        """Pixels from one anchor of level `name` to the next, down and across."""
        stride = self.strides[name]
        if not self.config.floored_strides:
            return stride, stride
        finest = next(iter(self.strides))
        (rows, columns), (height, width) = features[name].shape[2:], features[finest].shape[2:]
        return height * self.strides[finest] // rows, width * self.strides[finest] // columns

    @torch.no_grad()
    def select(
        self,
        logits: list[Tensor],
        deltas: list[Tensor],
        anchors: list[Tensor],
        sizes: Tensor,
        pre_nms: int,
        post_nms: int,
    ) -> Proposals:
        """The `pre_nms` best anchors of each level, moved, clipped, thinned by NMS inside it; `post_nms` stay."""
        scores, boxes, levels = [], [], []
        for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
            best, index = logit.topk(min(pre_nms, logit.shape[1]), dim=1)  # (B, k)
            delta = delta.gather(1, index[..., None].expand(-1, -1, 4))  # (B, k, 4)
            boxes.append(decode_deltas(delta, anchor[index], DELTA_WEIGHTS))
            scores.append(best)
            levels.append(torch.full_like(index, level))
        box, score = clip_boxes(torch.cat(boxes, 1), sizes), torch.cat(scores, 1)
        valid = is_nonempty(box, self.config.min_size) & score.isfinite() & box.isfinite().all(-1)
        kept, valid = nms(box, score, torch.cat(levels, 1), valid, self.config.nms_iou, post_nms)
        box = box.gather(1, kept[..., None].expand(-1, -1, 4)) * valid[..., None]
        return Proposals(boxes=box, scores=score.gather(1, kept) * valid, valid=valid)

    def sampled_losses(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, targets: Targets, seed: Tensor
    ) -> dict[str, Tensor]:
        """Losses of a sample of the anchors (A, 4), given logits (B, A) and deltas (B, A, 4)."""
        config = self.config
        with torch.no_grad():
            batch = len(targets.boxes)
            matched, label = match(
                anchors, targets.boxes, targets.valid, config.negative_iou, config.positive_iou, low_quality=True
            )
            keys = random_keys(seed, label.shape, RANDOM_STREAM)
            index, positive, valid = sample(label, keys, config.batch_size, config.positive_fraction)  # (B, S)
            # objects come first in the sample, and only they have a box to learn
            objects = index[:, : max(1, int(config.batch_size * config.positive_fraction))]
            is_object = positive[:, : objects.shape[1]]
            target = targets.boxes.gather(1, matched.gather(1, objects)[..., None].expand(-1, -1, 4))
            target = torch.where(is_object[..., None], target, anchors[objects])  # a padded box has no logarithm
            wanted = encode_deltas(target, anchors[objects], DELTA_WEIGHTS)
            normalizer = valid.sum().clamp(min=1) if config.normalizer == "sampled" else batch * config.batch_size
        objectness = F.binary_cross_entropy_with_logits(logits.gather(1, index), positive.float(), reduction="none")
        moved = smooth_l1(deltas.gather(1, objects[..., None].expand(-1, -1, 4)), wanted, config.smooth_l1_beta)
        return {
            "rpn_objectness": (objectness * valid).sum() / normalizer,
            "rpn_box": (moved * is_object[..., None]).sum() / normalizer,
        }
