"""FCIS's second stage (Li et al. 2017): boxes, classes and masks of all regions from the same maps, and nothing after.

Two maps for each class and each of k x k parts of an object: how much a pixel is inside of an object, and how much
outside of one but in its region. Pooled, their larger one says the class, which of the two is larger the mask.

Letters: B images, P proposals, R regions, N candidates (both passes), D detections, K classes, k groups and s cells a
side.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models.box_rules import BoxRules
from rcnn.models.config import FCISConfig
from rcnn.models.heads.regions import Regions, sample_regions
from rcnn.models.layers import Conv2d, init_linear
from rcnn.ops.bitmap_targets import cut_bitmaps
from rcnn.ops.capacity import live_prefix
from rcnn.ops.deltas import encode_deltas
from rcnn.ops.losses import smooth_l1
from rcnn.ops.mask_voting import vote_masks, vote_weights
from rcnn.ops.nms import nms
from rcnn.ops.ps_roi import ps_roi_pool
from rcnn.structures import Detections, ImageBatch, Proposals, Targets

MASK_WEIGHT = 10.0  # of the mask loss beside the two others, where it is a mean over regions
OUTSIDE, INSIDE = 0, 1
NO_LIMIT = 100.0  # of logarithms of the boxes' scales: none of the three systems cuts them


class Pooled(NamedTuple):
    """What the maps say of regions."""

    logits: Tensor  # (B, R, K + 1) float32 of the classes, background last
    deltas: Tensor  # (B, R, 4) float32
    pairs: Tensor  # (B, R, K + 1, 2, s, s) float32: how far outside and inside each class's object a cell is


class FCISHead(nn.Module):
    """Proposals -> detections with masks, by position-sensitive maps; background is the last class."""

    def __init__(
        self,
        *,
        in_channels: int,
        stride: int,
        num_classes: int,
        config: FCISConfig,
        rules: BoxRules | None = None,
    ) -> None:
        super().__init__()
        if config.roi_size % config.groups:
            raise ValueError(
                f"fcis.roi_size={config.roi_size} cells are shared by fcis.groups={config.groups} groups a side: "
                "wanted a multiple"
            )
        self.config, self.num_classes, self.scale = config, num_classes, 1.0 / stride
        self.rules = rules or BoxRules()
        self.reduce = Conv2d(in_channels, config.width, 1, relu=True)
        self.maps = nn.Conv2d(config.width, (num_classes + 1) * 2 * config.groups**2, 1)
        self.deltas = nn.Conv2d(config.width, 4 * config.groups**2, 1)
        for layer in (self.reduce, self.maps, self.deltas):
            init_linear(layer, std=0.01)

    def losses(
        self, features: dict[str, Tensor], proposals: Proposals, sizes: Tensor, targets: Targets, seed: Tensor
    ) -> tuple[Regions, dict[str, Tensor]]:
        """The regions and the three losses: of the sampled ones, or of the hardest (OHEM: Shrivastava et al. 2016)."""
        config = self.config
        every = proposals.boxes.shape[1] + targets.boxes.shape[1]
        ohem, sampling = config.ohem, config.sampling
        if ohem:
            sampling = replace(sampling, batch_size=every, positive_fraction=1.0)
        regions = sample_regions(proposals, targets, num_classes=self.num_classes, sampling=sampling, seed=seed)
        pooled = self.pool(self.score(features), regions.boxes, regions.valid)
        classes = F.cross_entropy(pooled.logits.flatten(0, 1), regions.labels.flatten(), reduction="none")
        classes = classes.view_as(regions.valid) * regions.valid  # (B, R)
        moved = self.box_losses(pooled.deltas, regions, targets)
        masks, drawn = self.mask_losses(pooled.pairs, regions, sizes, targets)
        kept = regions.valid
        if ohem:
            hardness = torch.where(kept, classes + MASK_WEIGHT * masks + moved, -1.0).detach()
            hardest = hardness.topk(min(config.sampling.batch_size, hardness.shape[1]), dim=1)[1]
            kept = torch.zeros_like(kept).scatter(1, hardest, True) & kept
        count = kept.sum().clamp(min=1)
        if config.legacy.mask_loss == "regions":
            mask = MASK_WEIGHT * (masks * kept).sum() / count
        else:
            mask = (masks * kept).sum() / (drawn & kept).sum().clamp(min=1)
        return regions, {
            "box_class": (classes * kept).sum() / count,
            "box_delta": (moved * kept).sum() / count,
            "mask": mask,
        }

    def box_losses(self, deltas: Tensor, regions: Regions, targets: Targets) -> Tensor:
        """Smooth L1 (B, R) of each region's box, 0 for background."""
        target = targets.boxes.gather(1, regions.matched[..., None].expand(-1, -1, 4))
        # a region that is no object may be empty, and an empty box has no logarithm: a unit square stands in
        square = torch.cat([regions.boxes[..., :2], regions.boxes[..., :2] + 1], -1)
        source = torch.where(regions.positive[..., None], regions.boxes, square)
        target = torch.where(regions.positive[..., None], target, square)
        wanted = encode_deltas(target, source, self.config.delta_weights)
        return smooth_l1(deltas, wanted, 1.0).sum(-1) * regions.positive

    def mask_losses(self, pairs: Tensor, regions: Regions, sizes: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (B, R) of each object's cells, by the maps of its own class; and which have a mask."""
        if targets.bitmaps is None:
            raise ValueError("FCIS learns from Targets.bitmaps; the batch has none")
        config = self.config
        wanted = cut_bitmaps(
            targets.bitmaps,
            regions.matched,
            regions.boxes,
            regions.positive,
            config.roi_size,
            "resized",
            sizes,
            within=targets.boxes if config.legacy.mask_within_box else None,
            least=config.mask_threshold,
        )
        outside, inside = of_class(pairs, regions.labels).unbind(2)  # (B, R, s, s) each
        loss = F.binary_cross_entropy_with_logits(inside - outside, wanted, reduction="none").mean((2, 3))
        outlined = targets.bitmaps.flatten(2).any(-1).gather(1, regions.matched)
        drawn = regions.positive & outlined
        return loss * drawn, drawn

    def predict(self, features: dict[str, Tensor], proposals: Proposals, images: ImageBatch) -> Detections:
        """The best detections (B, D) with masks (B, D, s, s); boxes are regions, voted where `vote_iou` is not 0."""
        config = self.config
        live = live_prefix(proposals.valid)
        boxes, valid = proposals.boxes[:, :live], proposals.valid[:, :live]
        maps = self.score(features)
        scores, masks, moved = self.read(maps, boxes, valid)
        if config.refine:
            moved = self.rules.clip(moved, images.sizes)
            again, masks_again, _ = self.read(maps, moved, valid)
            boxes, valid = torch.cat([boxes, moved], 1), torch.cat([valid, valid], 1)  # (B, N, 4)
            scores, masks = torch.cat([scores, again], 1), torch.cat([masks, masks_again], 1)
        valid = valid & boxes.isfinite().all(-1) & scores.isfinite().all(-1)
        if config.legacy.drop == "before":
            valid = valid & ((boxes[..., 2:] - boxes[..., :2]) >= config.min_size).all(-1)
        return self.detections(boxes, scores, masks, valid, images)

    def read(self, maps: tuple[Tensor, Tensor], boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities (B, R, K), masks (B, R, s, s) of the likeliest class, background too, and boxes moved."""
        pooled = self.pool(maps, boxes, valid)
        outside, inside = of_class(pooled.pairs, pooled.logits.argmax(-1)).unbind(2)
        moved = self.rules.decode(pooled.deltas, boxes, self.config.delta_weights, NO_LIMIT)
        return pooled.logits.softmax(-1)[..., :-1], (inside - outside).sigmoid(), moved

    def detections(self, boxes: Tensor, scores: Tensor, masks: Tensor, valid: Tensor, images: ImageBatch) -> Detections:
        """Candidates (B, N) to detections: the best of every class after NMS, masks and boxes by vote, in file pixels.

        Without the files' scale the network's input is the file.
        """
        config = self.config
        scales = boxes.new_ones(len(boxes)) if images.scales is None else images.scales
        originals = images.originals
        if originals is None:
            originals = (images.sizes / scales[:, None]).round().to(torch.int64)
        scale = scales[:, None, None]
        boxes = self.rules.clip(self.rules.in_file(boxes, images.scales) / scale, originals)
        classes = scores.shape[2]
        kept, real = nms(
            boxes.repeat_interleave(classes, 1),
            scores.flatten(1),
            torch.arange(classes, device=boxes.device).repeat(len(boxes), scores.shape[1]),
            (valid[..., None] & (scores >= config.score_threshold)).flatten(1),
            config.nms_iou,
            config.max_detections,
        )
        best, labels, owner = scores.flatten(1).gather(1, kept), kept % classes, kept // classes
        if config.vote_iou > 0:
            weights = vote_weights(boxes, scores, valid, owner, labels, real, config.vote_iou)
            boxes, masks, found = vote_masks(
                boxes, masks, weights, originals, config.mask_threshold, config.legacy.mask_inclusive
            )
            real = real & found
        else:
            boxes = boxes.gather(1, owner[..., None].expand(-1, -1, 4))
            masks = masks.gather(1, owner[..., None, None].expand(-1, -1, *masks.shape[2:]))
        if config.legacy.clip_votes:
            masks = masks.clamp(0, 1)
        if config.legacy.drop == "after":
            real = real & ((boxes[..., 2:] - boxes[..., :2]) > config.min_size).all(-1)
        order = torch.where(real, 0, 1).sort(dim=1, stable=True)[1]  # the valid ones first, still best first
        real = real.gather(1, order)
        return Detections(
            boxes=(boxes * scale).gather(1, order[..., None].expand(-1, -1, 4)) * real[..., None],
            scores=best.gather(1, order) * real,
            labels=labels.gather(1, order) * real,
            valid=real,
            masks=masks.gather(1, order[..., None, None].expand_as(masks)) * real[..., None, None],
        )

    def score(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The maps that every region is read from: (B, (K + 1) * 2 * k * k, H, W) and (B, 4 * k * k, H, W)."""
        x = self.reduce(features["c5"])
        return self.maps(x), self.deltas(x)

    def pool(self, maps: tuple[Tensor, Tensor], boxes: Tensor, valid: Tensor) -> Pooled:
        """What the maps say of regions (B, R, 4): means over the cells, of the classes the larger of each pair's."""
        config = self.config
        pairs, deltas = (
            ps_roi_pool(
                each.float(), boxes, valid, self.scale, config.groups, config.roi_size, config.legacy.rounded_regions
            )
            for each in maps
        )
        pairs = pairs.unflatten(2, (-1, 2))  # (B, R, K + 1, 2, s, s)
        return Pooled(torch.maximum(*pairs.unbind(3)).mean((3, 4)), deltas.mean((3, 4)), pairs)


def of_class(pairs: Tensor, labels: Tensor) -> Tensor:
    """The outside and inside maps (B, R, 2, s, s) of each region's own class (B, R), background K among them."""
    return pairs.gather(2, labels[..., None, None, None, None].expand(-1, -1, 1, *pairs.shape[3:]))[:, :, 0]
