"""The R-CNN family, one image batch followed from pixels to detections. Read this file first."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rcnn.models.box_rules import BoxRules
from rcnn.models.config import DetectorConfig
from rcnn.models.fpn import FPN
from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.cascade import CascadeHead, CascadeMaskHead
from rcnn.models.heads.fcis import FCISHead
from rcnn.models.heads.keypoint import KeypointHead
from rcnn.models.heads.mask import MaskHead
from rcnn.models.rpn import RPN
from rcnn.structures import Detections, ImageBatch, Proposals, Targets


class Detector(nn.Module):
    """Image -> features -> proposals -> detections (Ren et al. 2015, figure 2; masks: He et al. 2017, figure 1)."""

    def __init__(
        self,
        *,
        config: DetectorConfig,
        backbone: nn.Module,
        fpn: FPN | None,
        rpn: RPN,
        box_head: BoxHead | CascadeHead | FCISHead | None,  # None: the proposals are the detections
        mask_head: MaskHead | CascadeMaskHead | None,
        keypoint_head: KeypointHead | None,
    ) -> None:
        super().__init__()
        self.config, self.rules = config, BoxRules(config.legacy.boxes)
        self.backbone, self.fpn, self.rpn, self.box_head, self.mask_head = backbone, fpn, rpn, box_head, mask_head
        self.keypoint_head = keypoint_head
        self.register_buffer("pixel_mean", torch.tensor(config.input.pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.input.pixel_std)[:, None, None], persistent=False)

    def losses(self, images: ImageBatch, targets: Targets, seed: Tensor) -> dict[str, Tensor]:
        """The losses to add up and minimise; `seed` () int64 draws which anchors and regions they are taken from."""
        features = self.features(images)  # {"p2": (B, C, H/4, W/4), "p3": ...}
        targets = replace(targets, boxes=self.rules.in_input(targets.boxes, images.scales))
        proposals, losses = self.rpn.losses(features, images.sizes, targets, seed, images.scales)
        if self.box_head is None:
            return losses
        regions, box_losses = self.box_head.losses(features, proposals, images.sizes, targets, seed)
        losses |= box_losses
        if self.mask_head is not None:
            most = self.config.box.sampling.max_positives
            losses |= self.mask_head.losses(features, regions, targets, most, images.sizes)
        if self.keypoint_head is not None:
            sampling = self.config.box.sampling
            losses |= self.keypoint_head.losses(
                features, regions, targets, sampling.batch_size * sampling.positive_fraction, images.scales
            )
        return losses

    forward = losses  # what DistributedDataParallel calls

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> Detections:
        """Detections (B, D) in pixels of the network input, best first."""
        features = self.features(images)
        detections = self.find(features, images)
        if self.mask_head is not None:
            detections = self.outline(features, detections, images)
        if self.keypoint_head is not None:
            detections = self.keypoint_head.predict(features, detections, images.scales)
        return detections

    def find(self, features: dict[str, Tensor], images: ImageBatch) -> Detections:
        """What is in the images and where, without what the heads of masks and keypoints add."""
        proposals = self.rpn.predict(features, images.sizes, images.scales)  # (B, P, 4), with `valid` (B, P)
        if self.box_head is None:
            return self.as_detections(proposals, images)
        if isinstance(self.box_head, FCISHead):
            return self.box_head.predict(features, proposals, images)
        return self.box_head.predict(features, proposals, self.limits(images), images.scales)

    def limits(self, images: ImageBatch) -> Tensor:
        """Heights and widths (B, 2) to which detections are cut: those of the input, or of the file at its scale.

        Systems that take boxes back by one number for both axes cut them afterwards: rounding made the input a little
        larger or smaller than the file at that scale.
        """
        back_by_one = self.config.input.rescale in ("width", "height", "factor")
        if back_by_one and images.scales is not None and images.originals is not None:
            return images.originals * images.scales[:, None]
        return images.sizes

    def outline(self, features: dict[str, Tensor], detections: Detections, images: ImageBatch) -> Detections:
        """The detections with their masks."""
        if self.mask_head is None:
            raise ValueError(f"{self.config.name} has no mask head")
        shared = None
        if self.mask_head.config.trunk == "res5" and isinstance(self.box_head, BoxHead):
            shared = self.box_head.trunk
        return self.mask_head.predict(features, detections, shared, images.scales)

    def as_detections(self, proposals: Proposals, images: ImageBatch) -> Detections:
        """The proposals themselves, all of class 0, scored with the probability of holding an object."""
        boxes = self.rules.in_file(proposals.boxes, images.scales)
        return Detections(
            boxes=boxes * proposals.valid[..., None],
            scores=proposals.scores.sigmoid() * proposals.valid,
            labels=torch.zeros_like(proposals.valid, dtype=torch.int64),
            valid=proposals.valid,
        )

    def features(self, images: ImageBatch) -> dict[str, Tensor]:
        """Feature maps of the normalised images: {"p2": (B, C, H/4, W/4), ..., "p6"}, or {"c4": ...} without FPN."""
        features = self.backbone(self.normalize(images))
        return features if self.fpn is None else self.fpn(features)

    def normalize(self, images: ImageBatch) -> Tensor:
        """Pixels (B, 3, H, W) less mean over standard deviation, in the weights' channel order; padding is 0."""
        pixels = images.pixels.float()
        if self.config.input.channel_order == "bgr":
            pixels = pixels.flip(1)
        height, width = pixels.shape[-2:]
        rows = torch.arange(height, device=pixels.device) < images.sizes[:, :1]  # (B, H)
        columns = torch.arange(width, device=pixels.device) < images.sizes[:, 1:]  # (B, W)
        inside = (rows[:, :, None] & columns[:, None, :])[:, None]  # (B, 1, H, W)
        pixels = (pixels - self.pixel_mean) / self.pixel_std * inside
        weight = next(self.backbone.parameters())
        innermost = weight.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if innermost else torch.preserve_format
        return pixels.to(weight.dtype, memory_format=layout)
