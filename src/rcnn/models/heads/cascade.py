"""Cascade R-CNN (Cai and Vasconcelos 2018, figure 3d): several box heads, the stages, in a row, each trained with a
higher IoU threshold.

Letters: B images, R regions, K classes, D detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from rcnn.models.config import CascadeConfig
from rcnn.models.heads.box import BoxHead, BoxOutputs, PooledRegions
from rcnn.models.heads.mask import MaskHead
from rcnn.models.heads.regions import RANDOM_STREAM, Regions, relabel_regions, sample_regions
from rcnn.ops.boxes import clip_boxes, sides_longer_than
from rcnn.ops.capacity import valid_prefix
from rcnn.structures import Detections, ImageBatch, Proposals, Targets

LATER_STREAMS = 16  # with `resample`, stage i = 1, 2, ... uses the random stream LATER_STREAMS + i for its sample


class CascadeHead(nn.Module):
    """Proposals -> detections by several box heads; each stage starts from the boxes of the stage before."""

    def __init__(self, *, stages: Sequence[BoxHead], config: CascadeConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(stages)

    def heads(self) -> list[BoxHead]:
        """The stages, in order."""
        return cast("list[BoxHead]", list(self.stages))

    def losses(
        self, features: dict[str, Tensor], proposals: Proposals, images: ImageBatch, targets: Targets, seed: Tensor
    ) -> tuple[Regions, dict[str, Tensor]]:
        """The first stage's regions, with those of the other stages in `later`, and two losses per stage."""
        losses: dict[str, Tensor] = {}
        regions_of_stages: list[Regions] = []
        for number, stage in enumerate(self.heads()):
            regions = self.regions(number, stage, proposals, targets, seed)
            outputs = stage.predict_regions(features, regions.boxes, regions.valid, self.config.feature_gradient)
            for name, loss in stage.region_losses(outputs, regions, targets).items():
                losses[f"{name}_{number}"] = self.config.loss_weights[number] * loss
            regions_of_stages.append(regions)
            if number + 1 < len(self.stages):
                proposals = self.next_proposals(stage, outputs, regions, images)
        first, *later = regions_of_stages
        return replace(first, later=tuple(later)), losses

    def regions(self, number: int, stage: BoxHead, proposals: Proposals, targets: Targets, seed: Tensor) -> Regions:
        """The regions that a stage is trained on: a sample, or all boxes of the stage before."""
        config, classes = stage.config, stage.num_classes
        if number > 0 and not self.config.resample:
            positive_iou = config.sampling.positive_iou
            return relabel_regions(proposals, targets, num_classes=classes, positive_iou=positive_iou)
        return sample_regions(
            proposals,
            targets,
            num_classes=classes,
            sampling=config.sampling,
            append=config.append_ground_truth,
            seed=seed,
            stream=RANDOM_STREAM if number == 0 else LATER_STREAMS + number,
        )

    @torch.no_grad()
    def next_proposals(self, stage: BoxHead, outputs: BoxOutputs, regions: Regions, images: ImageBatch) -> Proposals:
        """The boxes (B, R, 4), xyxy pixels of the input, that a stage predicts for its regions: the next stage's input.

        Row i is region i. Boxes without area are not valid, and are set to 0. With `resample`, the same holds for
        ground-truth boxes, because the next stage appends them itself. Objectness is 0: these proposals are not sorted.
        """
        predicted = outputs.logits[..., :-1].argmax(-1)  # (B, R): the class of a background region
        labels = torch.where(regions.positive, regions.labels, predicted)
        boxes = self.refine(stage, outputs, regions.boxes, labels, images.sizes)
        valid = regions.valid & sides_longer_than(boxes) & boxes.isfinite().all(-1)
        if self.config.resample and regions.appended is not None:
            valid = valid & ~regions.appended
        boxes = torch.where(valid[..., None], boxes, 0.0)  # not `boxes * valid`: boxes that are not valid may be NaN
        return Proposals(boxes=boxes, objectness=torch.zeros_like(boxes[..., 0]), valid=valid)

    def refine(self, stage: BoxHead, outputs: BoxOutputs, boxes: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
        """Boxes (B, R, 4), xyxy pixels of the input, refined by a stage's deltas for the classes `labels` (B, R).

        They are clipped to `sizes` (B, 2), (height, width), as half-open boxes: no system defines a cascade with other
        boxes, so `validate` refuses it. In training these are the sizes of the input; in prediction `stage.clip_sizes`,
        as for the detections.
        """
        deltas = stage.deltas_of_class(outputs.deltas, labels)[:, :, None]  # (B, R, 1, 4)
        return clip_boxes(stage.decode(deltas, boxes)[:, :, 0], sizes)

    def predict(self, features: dict[str, Tensor], proposals: Proposals, images: ImageBatch) -> Detections:
        """The best detections (B, D): boxes of the last stage, scores averaged over the stages.

        Each stage scores the boxes that it gets, as in Detectron2, tensorpack and MMDetection. The authors evaluate the
        classifiers of all stages on the boxes that the last stage gets (their table 2, "1 ~ 3").
        """
        count = valid_prefix(proposals.valid)
        boxes, valid = proposals.boxes[:, :count], proposals.valid[:, :count]
        *refining, last = self.heads()
        class_values: list[Tensor] = []
        for stage in refining:
            outputs = stage.predict_regions(features, boxes, valid)
            class_values.append(self.class_values(outputs))
            labels = outputs.logits[..., :-1].argmax(-1)
            boxes = self.refine(stage, outputs, boxes, labels, stage.clip_sizes(images))
            valid = valid & boxes.isfinite().all(-1)
            boxes = torch.where(valid[..., None], boxes, 0.0)
        outputs = last.predict_regions(features, boxes, valid)
        mean = torch.stack([*class_values, self.class_values(outputs)]).mean(0)  # (B, R, K + 1)
        if self.config.average == "logits":
            mean = mean.softmax(-1)
        return last.select(last.decode(outputs.deltas, boxes), mean[..., :-1], valid, images)

    def score(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Probabilities (B, R, K) of regions (B, R, 4), averaged over the stages; no stage refines the boxes."""
        outputs = [stage.predict_regions(features, boxes, valid) for stage in self.heads()]
        mean = torch.stack([self.class_values(each) for each in outputs]).mean(0)
        return (mean.softmax(-1) if self.config.average == "logits" else mean)[..., :-1]

    def region_features(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> PooledRegions:
        """The features of regions (B, R, 4) in the last stage."""
        return self.heads()[-1].region_features(features, boxes, valid)

    def class_values(self, outputs: BoxOutputs) -> Tensor:
        """The values (B, R, K + 1) that are averaged over the stages: logits or probabilities."""
        return outputs.logits if self.config.average == "logits" else outputs.logits.softmax(-1)


class CascadeMaskHead(nn.Module):
    """One mask head per stage, trained on that stage's regions (MMDetection); their probabilities are averaged."""

    def __init__(self, *, stages: Sequence[MaskHead], config: CascadeConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(stages)

    def heads(self) -> list[MaskHead]:
        """The stages, in order."""
        return cast("list[MaskHead]", list(self.stages))

    def losses(
        self, features: dict[str, Tensor], regions: Regions, images: ImageBatch, targets: Targets, seed: Tensor
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of the positive regions of each stage."""
        losses: dict[str, Tensor] = {}
        stages = zip(self.heads(), (regions, *regions.later), strict=True)
        for number, (stage, stage_regions) in enumerate(stages):
            for name, loss in stage.losses(features, stage_regions, images, targets, seed).items():
                losses[f"{name}_{number}"] = self.config.loss_weights[number] * loss
        return losses

    def predict(self, features: dict[str, Tensor], detections: Detections, images: ImageBatch) -> Detections:
        """The detections with masks: probabilities (B, D, m, m) in the frame of each box."""
        masks = [stage.predict(features, detections, images).masks for stage in self.heads()]
        return replace(detections, masks=torch.stack([mask for mask in masks if mask is not None]).mean(0))
