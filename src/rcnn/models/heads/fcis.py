"""Second stage of FCIS (Li et al. 2017): boxes, classes and masks of all regions, pooled from shared maps.

The position-sensitive score maps are an outside map and an inside map for each class and each of the k x k groups of a
region. The outside map is high at pixels of the region that do not belong to the object, the inside map at pixels of
the object. Pooling gives s x s cells per region, several for each group. For each class, the class logit is
max(inside, outside), averaged over the cells; the mask logit of a cell is the difference, inside - outside. No layer is
applied per region.

The paper calls groups cells, and cells the pixels of a RoI: see the table in ops/ps_roi.py.

Letters: B images, P proposals, G ground-truth objects, R regions, N candidates (of both passes), D detections,
K classes, C channels, k groups per side, s cells per side.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.models.box_rules import HALF_OPEN, BoxRules
from rcnn.models.config import NO_LIMIT, FCISConfig
from rcnn.models.heads.box import encode_targets
from rcnn.models.heads.regions import Regions, sample_regions
from rcnn.models.layers import Conv2d, init_linear
from rcnn.ops.bitmap_targets import cut_bitmaps
from rcnn.ops.boxes import gather_boxes
from rcnn.ops.capacity import valid_prefix
from rcnn.ops.classes import gather_classes
from rcnn.ops.losses import smooth_l1
from rcnn.ops.mask_voting import vote_masks, vote_weights
from rcnn.ops.nms import nms
from rcnn.ops.precision import at_least_float32
from rcnn.ops.processes import loss_normalizer
from rcnn.ops.ps_roi import ps_roi_pool
from rcnn.structures import Detections, ImageBatch, Proposals, Targets

# Factor of the mask loss in the authors' code (MXNet) and in ChainerCV. It is not in `config.loss_weights`, because it
# belongs to this way of averaging: chainer-fcis averages otherwise, without a factor (models/legacy/fcis.py).
MASK_WEIGHT = 10.0


class Pooled(NamedTuple):
    """Predictions for R regions per image, pooled from the maps."""

    logits: Tensor  # (B, R, K + 1) float32, background last
    deltas: Tensor  # (B, R, 4) float32
    outside_inside: Tensor  # (B, R, K + 1, 2, s, s) float32: the pooled outside and inside map of each class


class FCISHead(nn.Module):
    """Proposals -> detections with masks, as in the authors' code (MXNet); background is the last class.

    models/legacy/fcis.py has the rules of the Chainer ports.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        stride: int,
        num_classes: int,
        config: FCISConfig,
        rules: BoxRules = HALF_OPEN,
    ) -> None:
        super().__init__()
        if config.roi_size % config.groups:
            raise ValueError(
                f"fcis.roi_size={config.roi_size} is not divisible by fcis.groups={config.groups}; "
                "set fcis.roi_size to a multiple of fcis.groups"
            )
        self.config, self.num_classes, self.scale = config, num_classes, 1.0 / stride
        self.rules = rules
        self.reduce = Conv2d(in_channels, config.width, 1, relu=True)
        self.maps = nn.Conv2d(config.width, (num_classes + 1) * 2 * config.groups**2, 1)
        self.deltas = nn.Conv2d(config.width, 4 * config.groups**2, 1)
        for layer in (self.reduce, self.maps, self.deltas):
            init_linear(layer, std=0.01)

    def score_maps(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The position-sensitive maps, (B, (K + 1) * 2 * k * k, H, W) of classes and (B, 4 * k * k, H, W) of deltas."""
        x = self.reduce(features["c5"])
        return self.maps(x), self.deltas(x)

    def pool(self, maps: tuple[Tensor, Tensor], boxes: Tensor, valid: Tensor) -> Pooled:
        """Predictions for regions (B, R, 4). A class logit is max(inside, outside), averaged over the cells."""
        outside_inside, deltas = (self.pool_map(at_least_float32(each), boxes, valid) for each in maps)
        outside_inside = outside_inside.unflatten(2, (-1, 2))  # (B, R, K + 1, 2, s, s)
        return Pooled(torch.maximum(*outside_inside.unbind(3)).mean((3, 4)), deltas.mean((3, 4)), outside_inside)

    def pool_map(self, values: Tensor, boxes: Tensor, valid: Tensor) -> Tensor:
        """Position-sensitive pooling (B, R, C, s, s) of maps `values` (B, C * k * k, H, W)."""
        config = self.config
        return ps_roi_pool(values, boxes, valid, self.scale, config.groups, config.roi_size, self.rounds_regions)

    @property
    def rounds_regions(self) -> bool:
        """Whether region borders are rounded to whole pixels before pooling: here they are."""
        return True

    def losses(
        self, features: dict[str, Tensor], proposals: Proposals, images: ImageBatch, targets: Targets, seed: Tensor
    ) -> tuple[Regions, dict[str, Tensor]]:
        """The regions, and the class, box and mask losses (section 3.3).

        They are computed on a random sample; with `ohem`, on the regions with the highest losses (Shrivastava et al.
        2016).
        """
        config = self.config
        sampling = config.sampling
        if config.ohem:  # no sample: all regions
            num_regions = proposals.boxes.shape[1] + targets.boxes.shape[1]
            sampling = replace(sampling, batch_size=num_regions, positive_fraction=1.0)
        regions = sample_regions(proposals, targets, num_classes=self.num_classes, sampling=sampling, seed=seed)
        pooled = self.pool(self.score_maps(features), regions.boxes, regions.valid)
        class_losses = F.cross_entropy(pooled.logits.flatten(0, 1), regions.labels.flatten(), reduction="none")
        class_losses = class_losses.view_as(regions.valid) * regions.valid  # (B, R), as the other two
        box_losses = self.box_loss_per_region(pooled.deltas, regions, targets)
        mask_losses, has_mask = self.mask_loss_per_region(pooled.outside_inside, regions, images, targets)
        kept = regions.valid
        if config.ohem:
            hardness = torch.where(kept, class_losses + MASK_WEIGHT * mask_losses + box_losses, -1.0).detach()
            hardest = hardness.topk(min(config.sampling.batch_size, hardness.shape[1]), dim=1)[1]
            kept = torch.zeros_like(kept).scatter(1, hardest, True) & kept
        normalizer = loss_normalizer(kept.sum(dtype=class_losses.dtype))
        class_weight, box_weight, mask_weight = config.loss_weights
        return regions, {
            "box_class": class_weight * (class_losses * kept).sum() / normalizer,
            "box_delta": box_weight * (box_losses * kept).sum() / normalizer,
            "mask": mask_weight * self.mean_mask_loss(mask_losses, has_mask, kept),
        }

    def box_loss_per_region(self, deltas: Tensor, regions: Regions, targets: Targets) -> Tensor:
        """Smooth L1 loss (B, R) of each region's box; 0 for background."""
        target_deltas = encode_targets(regions, targets, self.config.delta_weights)
        return smooth_l1(deltas, target_deltas, 1.0).sum(-1) * regions.positive

    def mask_loss_per_region(
        self, outside_inside: Tensor, regions: Regions, images: ImageBatch, targets: Targets
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (B, R) over the cells of each positive region's own class.

        Also returns which regions have a ground-truth mask, bool (B, R).
        """
        if targets.bitmaps is None:
            raise ValueError("FCIS trains on Targets.bitmaps, but the batch has none; use a data set with masks")
        target = self.mask_targets(targets.bitmaps, regions, images, targets)
        outside, inside = gather_classes(outside_inside, regions.labels).unbind(2)  # (B, R, s, s) each
        logits, target = inside - outside, target.to(inside.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((2, 3))
        not_empty = targets.bitmaps.flatten(2).any(-1).gather(1, regions.matched)
        has_mask = regions.positive & not_empty
        return loss * has_mask, has_mask

    def mask_targets(self, bitmaps: Tensor, regions: Regions, images: ImageBatch, targets: Targets) -> Tensor:
        """Ground-truth masks (B, R, s, s) of the positive regions; only the part of an object inside its box counts."""
        return self.crop_masks(bitmaps, regions, images, within=targets.boxes)

    def crop_masks(self, bitmaps: Tensor, regions: Regions, images: ImageBatch, within: Tensor | None) -> Tensor:
        """Masks (B, R, s, s) cropped from `bitmaps` (B, G, H, W), limited to the boxes `within` (B, G, 4)."""
        return cut_bitmaps(
            bitmaps,
            regions.matched,
            regions.boxes,
            regions.positive,
            self.config.roi_size,
            "resized",
            images.sizes,
            within=within,
            least=self.config.mask_threshold,
        )

    def mean_mask_loss(self, losses: Tensor, has_mask: Tensor, kept: Tensor) -> Tensor:
        """The mask loss (): ten times the mean over the `kept` regions of their mask losses, `losses` (B, R).

        `has_mask` and `kept` are bool (B, R).
        """
        return MASK_WEIGHT * (losses * kept).sum() / loss_normalizer(kept.sum(dtype=losses.dtype))

    def predict(self, features: dict[str, Tensor], proposals: Proposals, images: ImageBatch) -> Detections:
        """The best detections (B, D), with masks (B, D, s, s); their boxes are fitted to the masks by voting."""
        count = valid_prefix(proposals.valid)
        boxes, valid = proposals.boxes[:, :count], proposals.valid[:, :count]
        maps = self.score_maps(features)
        scores, masks, refined = self.predict_regions(maps, boxes, valid)
        if self.config.refine:
            refined = self.rules.clip(refined, images.sizes)
            scores_again, masks_again, _ = self.predict_regions(maps, refined, valid)
            boxes, valid = torch.cat([boxes, refined], 1), torch.cat([valid, valid], 1)  # (B, N, 4)
            scores, masks = torch.cat([scores, scores_again], 1), torch.cat([masks, masks_again], 1)
        valid = valid & boxes.isfinite().all(-1) & scores.isfinite().all(-1) & self.is_candidate(boxes)
        return self.detections(boxes, scores, masks, valid, images)

    def predict_regions(
        self, maps: tuple[Tensor, Tensor], boxes: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities (B, R, K), masks (B, R, s, s) and refined boxes (B, R, 4) of regions (B, R, 4).

        A mask is that of the most probable class, which can be background. Boxes are xyxy pixels of the input.
        """
        pooled = self.pool(maps, boxes, valid)
        outside, inside = gather_classes(pooled.outside_inside, pooled.logits.argmax(-1)).unbind(2)
        refined = self.rules.decode(pooled.deltas, boxes, self.config.delta_weights, NO_LIMIT)
        return pooled.logits.softmax(-1)[..., :-1], (inside - outside).sigmoid(), refined

    def score(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Probabilities (B, R, K) of regions (B, R, 4), which are not refined."""
        return self.pool(self.score_maps(features), boxes, valid).logits.softmax(-1)[..., :-1]

    def masks_of(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities (B, R, s, s) of regions (B, R, 4) for the classes `labels` (B, R)."""
        pooled = self.pool(self.score_maps(features), boxes, valid)
        outside, inside = gather_classes(pooled.outside_inside, labels).unbind(2)
        return (inside - outside).sigmoid() * valid[..., None, None]

    def is_candidate(self, boxes: Tensor) -> Tensor:
        """Which boxes (B, N, 4), pixels of the input, have sides of at least `min_size`."""
        return ((boxes[..., 2:] - boxes[..., :2]) >= self.config.min_size).all(-1)

    def detections(self, boxes: Tensor, scores: Tensor, masks: Tensor, valid: Tensor, images: ImageBatch) -> Detections:
        """Candidates (B, N) -> detections: NMS per class, then voting on masks and boxes.

        `boxes` and the result are in pixels of the network input. NMS and voting are computed in pixels of the original
        image; if its scale is not known, these are the pixels of the input.
        """
        config = self.config
        scale, file_sizes = images.scales_or_one[:, None, None], images.file_sizes
        boxes = self.rules.clip(self.rules.last_pixel_to_original(boxes, images.scales_or_one) / scale, file_sizes)
        classes = scores.shape[2]
        # NMS of all pairs of a candidate and a class, numbered candidate * K + class
        index, kept = nms(
            boxes.repeat_interleave(classes, 1),
            scores.flatten(1),
            torch.arange(classes, device=boxes.device).repeat(boxes.shape[0], scores.shape[1]),
            (valid[..., None] & (scores >= config.score_threshold)).flatten(1),
            config.nms_iou,
            config.max_detections,
        )
        best, labels, owner = scores.flatten(1).gather(1, index), index % classes, index // classes
        if config.vote_iou > 0:
            weights = vote_weights(boxes, scores, valid, owner, labels, kept, config.vote_iou)
            boxes, masks, found = self.vote(boxes, masks, weights, file_sizes)
            kept = kept & found
        else:
            boxes = gather_boxes(boxes, owner)
            masks = masks.gather(1, owner[..., None, None].expand(-1, -1, *masks.shape[2:]))
        kept = kept & self.is_detection(boxes)
        order = torch.where(kept, 0, 1).sort(dim=1, stable=True)[1]  # valid detections first, still by score
        kept = kept.gather(1, order)
        return Detections(
            boxes=torch.where(kept[..., None], gather_boxes(boxes * scale, order), 0.0),
            scores=torch.where(kept, best.gather(1, order), 0.0),
            labels=torch.where(kept, labels.gather(1, order), 0),
            valid=kept,
            masks=torch.where(kept[..., None, None], masks.gather(1, order[..., None, None].expand_as(masks)), 0.0),
        )

    def vote(self, boxes: Tensor, masks: Tensor, weights: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, D, 4), masks (B, D, s, s) and `found` (B, D) from weighted votes of the candidates.

        `found` is False where no pixel of the votes reaches the threshold.
        """
        return vote_masks(boxes, masks, weights, sizes, self.config.mask_threshold, True)

    def is_detection(self, boxes: Tensor) -> Tensor:
        """Which boxes (B, D, 4), pixels of the original image, are kept after voting: here all of them."""
        return torch.ones_like(boxes[..., 0], dtype=torch.bool)
