"""The R-CNN family, from an image batch to detections. Read this file first."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rcnn.models.box_rules import HALF_OPEN, BoxRules
from rcnn.models.config import DetectorConfig
from rcnn.models.heads.box import BoxHead, PooledRegions
from rcnn.models.heads.cascade import CascadeHead, CascadeMaskHead
from rcnn.models.heads.fcis import FCISHead
from rcnn.models.heads.keypoint import KeypointHead
from rcnn.models.heads.mask import MaskHead
from rcnn.models.rpn import RPN
from rcnn.ops.normalize import normalize_pixels
from rcnn.structures import Detections, ImageBatch, Proposals, Targets


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The second stage. Without a box head the proposals are the detections."""

    box: BoxHead | CascadeHead | FCISHead | None = None
    mask: MaskHead | CascadeMaskHead | None = None
    keypoint: KeypointHead | None = None


class Detector(nn.Module):
    """Image -> features -> proposals -> detections (Ren et al. 2015, figure 2; masks: He et al. 2017, figure 1).

    A stage and its subclasses (models/legacy/) have the same signatures, so some do not use their `images` or `seed`.
    """

    def __init__(
        self,
        *,
        config: DetectorConfig,
        backbone: nn.Module,
        fpn: nn.Module | None,
        rpn: RPN,
        heads: Heads,
        rules: BoxRules = HALF_OPEN,
    ) -> None:
        super().__init__()
        self.config, self.rules = config, rules
        self.backbone, self.fpn, self.rpn = backbone, fpn, rpn
        self.box_head, self.mask_head, self.keypoint_head = heads.box, heads.mask, heads.keypoint
        self.register_buffer("pixel_mean", torch.tensor(config.input.pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.input.pixel_std)[:, None, None], persistent=False)

    def losses(self, images: ImageBatch, targets: Targets, seed: Tensor | int) -> dict[str, Tensor]:
        """The losses by name, each (): sum them and minimize the sum.

        `seed`, an int or an int64 tensor () or (2,) (see `random_keys`), selects the random samples of anchors and
        regions. With `torch.compile`, pass a tensor: an int is a constant of the graph, and each new value may compile
        the graph again. Raises ValueError for labels outside 0..K-1, and for targets without the masks or keypoints
        that a head needs.
        """
        if not isinstance(seed, Tensor):
            seed = torch.tensor(operator.index(seed), device=images.pixels.device)
        features = self.features(images)  # {"p2": (B, C, H/4, W/4), "p3": ...}
        # the same boxes, except for systems with inclusive boxes (models/box_rules.py)
        targets = replace(targets, boxes=self.rules.last_pixel_to_input(targets.boxes, images.scales_or_one))
        proposals, losses = self.rpn.losses(features, images, targets, seed)
        if self.box_head is None:
            return losses
        targets.require_labels(self.config.num_classes)
        regions, box_losses = self.box_head.losses(features, proposals, images, targets, seed)
        losses |= box_losses
        for head in self.region_heads():
            losses |= head.losses(features, regions, images, targets, seed)
        return losses

    forward = losses  # what DistributedDataParallel calls

    @torch.no_grad()
    def predict(self, images: ImageBatch, score: float = 0.0) -> Detections:
        """Detections (B, D) in pixels of the network input, sorted by score, the highest first.

        Those with a score below `score` are not valid. On CPUs, their masks and keypoints are not computed.
        """
        features = self.features(images)
        detections = self.detect_boxes(features, images)
        if score > 0 and not self.needs_low_scores():
            detections = detections.above(score)
        for head in self.region_heads():
            detections = head.predict(features, detections, images)
        return detections.above(score) if score > 0 else detections

    def features(self, images: ImageBatch) -> dict[str, Tensor]:
        """Feature maps of the normalized images: {"p2": (B, C, H/4, W/4), ..., "p6"}, or {"c4": ...} without FPN."""
        features = self.backbone(self.normalize(images))
        return features if self.fpn is None else self.fpn(features)

    def normalize(self, images: ImageBatch) -> Tensor:
        """Normalized pixels (B, 3, H, W): (pixels - mean) / std, in the channel order of the weights; padding is 0."""
        pixels = images.pixels.float()
        if self.config.input.channel_order == "bgr":
            pixels = pixels.flip(1)
        pixels = normalize_pixels(pixels, images.sizes, self.pixel_mean, self.pixel_std)
        weight = next(self.backbone.parameters())
        is_channels_last = weight.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if is_channels_last else torch.contiguous_format
        return pixels.to(weight.dtype, memory_format=layout)

    def detect_boxes(self, features: dict[str, Tensor], images: ImageBatch) -> Detections:
        """Detections (B, D) without the results of the mask head and the keypoint head."""
        proposals = self.rpn.predict(features, images)  # (B, P, 4), with `valid` (B, P)
        if self.box_head is None:
            return self.proposals_as_detections(proposals, images)
        return self.box_head.predict(features, proposals, images)

    def proposals_as_detections(self, proposals: Proposals, images: ImageBatch) -> Detections:
        """The proposals as detections of class 0; the score is the probability that a box contains an object."""
        boxes = self.rules.last_pixel_to_original(proposals.boxes, images.scales_or_one)
        return Detections(
            boxes=boxes * proposals.valid[..., None],
            scores=proposals.objectness.sigmoid() * proposals.valid,
            labels=torch.zeros_like(proposals.valid, dtype=torch.int64),
            valid=proposals.valid,
        )

    def region_heads(self) -> list[MaskHead | CascadeMaskHead | KeypointHead]:
        """The heads that are trained on the box head's regions and add to its detections."""
        return [head for head in (self.mask_head, self.keypoint_head) if head is not None]

    def needs_low_scores(self) -> bool:
        """Whether a head uses detections with low scores for others: mask voting, or perhaps the user's own head."""
        votes = self.config.mask is not None and self.config.mask.vote_iou > 0
        ours = all(isinstance(head, MaskHead | CascadeMaskHead | KeypointHead) for head in self.region_heads())
        return votes or not ours

    @torch.no_grad()
    def predict_boxes(
        self, features: dict[str, Tensor], images: ImageBatch, boxes: Tensor, valid: Tensor, labels: Tensor | None
    ) -> Detections:
        """Class, score, mask and keypoints of given `boxes` (B, R, 4), xyxy pixels of the network input.

        Row i of the result is box i; boxes are not refined, suppressed or sorted. `valid` (B, R) bool: the valid boxes
        of each image come first. `labels` (B, R) int64 are the classes to score; with None, each box gets its most
        probable class. Raises ValueError for a detector without a box head, or with the user's own.
        """
        head = self.scoring_head()
        regions = self.rules.last_pixel_to_input(boxes, images.scales_or_one)
        probabilities = head.score(features, regions, valid)  # (B, R, K)
        labels = probabilities.argmax(-1) if labels is None else labels
        detections = Detections(
            boxes=torch.where(valid[..., None], boxes, 0.0),
            scores=torch.where(valid, probabilities.gather(2, labels[..., None])[..., 0], 0.0),
            labels=torch.where(valid, labels, 0),
            valid=valid,
            masks=head.masks_of(features, regions, valid, labels) if isinstance(head, FCISHead) else None,
        )
        for region_head in self.region_heads():
            detections = region_head.predict(features, detections, images)
        return detections

    @torch.no_grad()
    def pool_boxes(
        self, features: dict[str, Tensor], images: ImageBatch, boxes: Tensor, valid: Tensor
    ) -> PooledRegions:
        """The box head's features of given `boxes` (B, R, 4), xyxy pixels of the network input; `valid` (B, R) bool.

        Raises ValueError for FCIS, and for a detector without a box head, or with the user's own.
        """
        head = self.scoring_head()
        if isinstance(head, FCISHead):
            raise ValueError(
                f"{self.config.name}: FCIS has no layers per region, so it has no features of boxes; use a model with "
                "a box head, e.g. mask_rcnn_r50_fpn"
            )
        regions = self.rules.last_pixel_to_input(boxes, images.scales_or_one)
        return head.region_features(features, regions, valid)

    def predict_masks(self, features: dict[str, Tensor], detections: Detections, images: ImageBatch) -> Detections:
        """The detections with masks (B, D, m, m). Raises ValueError for a detector without a mask head."""
        if self.mask_head is None:
            raise ValueError(f"{self.config.name} has no mask head; use a model with masks, e.g. mask_rcnn_r50_fpn")
        return self.mask_head.predict(features, detections, images)

    def scoring_head(self) -> BoxHead | CascadeHead | FCISHead:
        """The box head. Raises ValueError if the detector has no box head that can score given boxes."""
        if isinstance(self.box_head, BoxHead | CascadeHead | FCISHead):
            return self.box_head
        what = "no box head" if self.box_head is None else f"your own box head ({type(self.box_head).__name__})"
        raise ValueError(
            f"{self.config.name} has {what}, so it cannot score given boxes; use a model with a box head of rcnn"
        )
