"""Keypoint head (He et al. 2017, section 5): one heatmap per keypoint and region; the keypoint is at its maximum.

Letters: B images, G ground-truth objects, R regions, D detections, J keypoints, m side of a heatmap (four times that of
the pooled region: 56); for the layers, N regions of all images, C channels and s side of their maps.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.backbones.fbnet import FBNetBlock, RegionBlocks
from rcnn.models.box_rules import HALF_OPEN, BoxRules
from rcnn.models.config import KeypointHeadConfig
from rcnn.models.heads.regions import Regions
from rcnn.models.heads.trunks import Convs
from rcnn.models.layers import zero_bias
from rcnn.models.pooler import RegionPooler
from rcnn.ops.capacity import valid_prefix
from rcnn.ops.keypoints import keypoint_bins
from rcnn.ops.layout import contiguous
from rcnn.ops.precision import at_least_float32
from rcnn.ops.processes import loss_normalizer
from rcnn.structures import Detections, ImageBatch, Targets


class UpsampledDeconv(nn.ConvTranspose2d):
    """The last layer: (N, C, s, s) -> (N, J, 4 s, 4 s) by a deconvolution and bilinear upsampling, 2x each."""

    def __init__(self, in_channels: int, keypoints: int) -> None:
        super().__init__(in_channels, keypoints, 4, stride=2, padding=1)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        zero_bias(self)

    @override
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        logits = at_least_float32(super().forward(input, output_size))
        return F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)


class KeypointHead(nn.Module):
    """Regions -> heatmaps (J, m, m) per region, logits of a softmax over their bins; the same for all classes.

    `positives_per_image` is the number of positive regions in a full sample; normalizer=batch_size divides by it.
    """

    def __init__(
        self,
        *,
        trunk: Convs | RegionBlocks,
        logits: UpsampledDeconv | FBNetBlock,
        pooler: RegionPooler,
        config: KeypointHeadConfig,
        positives_per_image: float,
        rules: BoxRules = HALF_OPEN,
    ) -> None:
        super().__init__()
        self.config, self.pooler, self.rules, self.positives_per_image = config, pooler, rules, positives_per_image
        self.trunk, self.logits = trunk, logits

    def losses(
        self, features: dict[str, Tensor], regions: Regions, images: ImageBatch, targets: Targets, seed: Tensor
    ) -> dict[str, Tensor]:
        """Softmax cross-entropy over the m * m bins of each keypoint that is annotated and inside its region.

        The loss is divided by the number of these keypoints (normalizer=visible), or by the number of keypoints of a
        full sample (batch_size).
        """
        keypoints = self.ground_truth(targets)  # (B, G, J, 3)
        positives = regions.positives()
        heatmaps = self.heatmaps(features, positives.boxes, positives.positive)  # (B, R, J, m, m)
        index = positives.matched[..., None, None].expand(-1, -1, *keypoints.shape[2:])
        points = self.rules.raw_keypoints(keypoints.gather(1, index), images.scales_or_one)  # (B, R, J, 3)
        bins, annotated = keypoint_bins(points, self.rules.to_inclusive(positives.boxes), heatmaps.shape[-1])
        annotated = annotated & positives.positive[..., None]  # (B, R, J)
        logits = contiguous(heatmaps).flatten(3).flatten(0, 2)  # (B * R * J, m * m)
        loss = F.cross_entropy(logits, bins.flatten(), reduction="none")
        loss = self.config.loss_weight * (loss * annotated.flatten()).sum()
        if self.config.normalizer == "batch_size":
            return {"keypoint": loss / (len(regions.boxes) * self.positives_per_image * heatmaps.shape[2])}
        return {"keypoint": loss / loss_normalizer(annotated.sum(dtype=loss.dtype))}

    def predict(self, features: dict[str, Tensor], detections: Detections, images: ImageBatch) -> Detections:
        """The detections with keypoints (B, D, J, 3): x, y in pixels of the network input, and score."""
        count = valid_prefix(detections.valid)
        boxes, valid = detections.boxes[:, :count], detections.valid[:, :count]
        heatmaps = self.detection_heatmaps(features, boxes, valid, images)
        points = self.decode(heatmaps, boxes, images) * valid[..., None, None]
        return replace(detections, keypoints=F.pad(points, (0, 0, 0, 0, 0, detections.valid.shape[1] - count)))

    def ground_truth(self, targets: Targets) -> Tensor:
        """The ground-truth keypoints (B, G, J, 3). Raises ValueError if there are none, or not J per object."""
        if targets.keypoints is None:
            raise ValueError(
                "the keypoint head trains on Targets.keypoints, but the batch has none; use a data set with keypoints, "
                "or set keypoint=null"
            )
        if targets.keypoints.shape[2] != len(self.config.names):
            raise ValueError(
                f"objects have {targets.keypoints.shape[2]} keypoints, but this model has {len(self.config.names)} "
                f"({', '.join(self.config.names[:3])}, ...); set keypoint.names to those of the data set"
            )
        return targets.keypoints

    def detection_heatmaps(
        self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor, images: ImageBatch
    ) -> Tensor:
        """Heatmaps (B, D, J, m, m) float32 in the frames of detections (B, D, 4), pixels of the network input."""
        return self.heatmaps(features, self.rules.last_pixel_to_input(boxes, images.scales_or_one), valid)

    def decode(self, heatmaps: Tensor, boxes: Tensor, images: ImageBatch) -> Tensor:
        """Keypoints (B, D, J, 3), x, y in pixels of the network input and score, at the maxima of `heatmaps`."""
        found = self.rules.decode_keypoints(heatmaps, boxes, images.scales_or_one)  # (B, D, J, 4)
        return torch.cat([found[..., :2], found[..., 3:]], -1)

    def heatmaps(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Heatmaps (B, R, J, m, m) float32 in the frames of regions (B, R, 4), pixels of the network input."""
        pooled = self.pooler(features, boxes, valid).flatten(0, 1)
        return at_least_float32(self.logits(self.trunk(pooled))).unflatten(0, boxes.shape[:2])


def require_consistent_keypoints(config: KeypointHeadConfig) -> None:
    """Raise ValueError unless sigmas, flip pairs and skeleton match the number of keypoint names in `config`."""
    count = len(config.names)
    if not count:
        raise ValueError("keypoint.names is empty; expected at least one name")
    if len(config.sigmas) != count:
        raise ValueError(f"keypoint.sigmas has {len(config.sigmas)} numbers; expected {count}, one per keypoint.names")
    for name, pairs in (("flip_pairs", config.flip_pairs), ("skeleton", config.skeleton)):
        if unknown := [pair for pair in pairs if not all(0 <= index < count for index in pair)]:
            raise ValueError(f"keypoint.{name} has {unknown[0]}; expected numbers from 0 to {count - 1}")
    partners: dict[int, int] = {}
    for first, second in config.flip_pairs:
        for point, other in ((first, second), (second, first)):
            if partners.setdefault(point, other) != other:
                raise ValueError(
                    f"keypoint.flip_pairs exchanges keypoint {point} with {partners[point]} and with {other}; expected "
                    "each keypoint in one pair"
                )
