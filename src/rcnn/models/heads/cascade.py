"""Cascade R-CNN's second stage (Cai and Vasconcelos 2018, figure 3d): box heads in a row, each stricter.

Letters: B images, R regions, K classes, D detections.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rcnn.models.config import BackboneConfig, BoxHeadConfig, CascadeConfig, MaskHeadConfig
from rcnn.models.heads.box import BoxHead, BoxOutputs
from rcnn.models.heads.mask import MaskHead
from rcnn.models.heads.regions import RANDOM_STREAM, Regions, relabel_regions, sample_regions
from rcnn.models.heads.selection import select_detections
from rcnn.ops.boxes import clip_boxes, is_nonempty
from rcnn.ops.capacity import live_prefix
from rcnn.structures import Detections, Proposals, Targets

RANDOM_STREAMS = 16  # the later stages' draws: this and the numbers that follow


class CascadeHead(nn.Module):
    """Proposals -> detections by a row of box heads: each begins where the one before says that the boxes are."""

    def __init__(
        self,
        *,
        in_channels: int,
        strides: dict[str, int],
        num_classes: int,
        config: BoxHeadConfig,
        cascade: CascadeConfig,
        backbone: BackboneConfig,
        level_eps_inside: bool = True,
    ) -> None:
        super().__init__()
        self.config, self.cascade, self.num_classes, self.strides = config, cascade, num_classes, strides
        self.stages = nn.ModuleList(
            BoxHead(
                in_channels=in_channels,
                strides=strides,
                num_classes=num_classes,
                config=replace(config, sampling=replace(config.sampling, positive_iou=iou), delta_weights=weights),
                backbone=backbone,
                level_eps_inside=level_eps_inside,
            )
            for iou, weights in zip(cascade.ious, cascade.delta_weights, strict=True)
        )

    def heads(self) -> list[BoxHead]:
        """The stages, in order."""
        return [stage for stage in self.stages if isinstance(stage, BoxHead)]

    def losses(
        self, features: dict[str, Tensor], proposals: Proposals, sizes: Tensor, targets: Targets, seed: Tensor
    ) -> tuple[Regions, dict[str, Tensor]]:
        """The first stage's regions, the other stages' in its `later`, and two losses of each stage."""
        losses: dict[str, Tensor] = {}
        rounds: list[Regions] = []
        for number, stage in enumerate(self.heads()):
            most = self.config.sampling.max_positives
            if number == 0 or self.cascade.resample:
                regions = sample_regions(
                    proposals,
                    targets,
                    num_classes=self.num_classes,
                    sampling=stage.config.sampling,
                    append=stage.config.append_ground_truth,
                    seed=seed,
                    stream=RANDOM_STREAM if number == 0 else RANDOM_STREAMS + number,
                )
            else:
                most = proposals.boxes.shape[1]  # all that there are may be objects
                regions = relabel_regions(
                    proposals.boxes,
                    proposals.valid,
                    targets,
                    num_classes=self.num_classes,
                    positive_iou=stage.config.sampling.positive_iou,
                )
            outputs = stage.classify(features, regions.boxes, regions.valid, self.cascade.feature_gradient)
            weight = self.cascade.loss_weights[number]
            for name, loss in stage.region_losses(outputs, regions, targets, most).items():
                losses[f"{name}_{number}"] = weight * loss
            rounds.append(regions)
            if number + 1 < len(self.stages):
                proposals = self.refined(stage, outputs, regions, sizes)
        return replace(rounds[0], later=tuple(rounds[1:])), losses

    @torch.no_grad()
    def refined(self, stage: BoxHead, outputs: BoxOutputs, regions: Regions, sizes: Tensor) -> Proposals:
        """The boxes (B, R, 4) that a stage makes of its regions, for the next to learn from.

        Empty ones are left out, and with `resample` the true boxes, which the next stage adds itself.
        """
        guessed = outputs.logits[..., :-1].argmax(-1)  # (B, R): the class of a background region
        labels = torch.where(regions.positive, regions.labels, guessed)
        boxes = self.moved(stage, outputs, regions.boxes, labels, sizes)
        valid = regions.valid & is_nonempty(boxes) & boxes.isfinite().all(-1)
        if self.cascade.resample and regions.appended is not None:
            valid = valid & ~regions.appended
        return Proposals(boxes=boxes * valid[..., None], scores=torch.zeros_like(boxes[..., 0]), valid=valid)

    def moved(self, stage: BoxHead, outputs: BoxOutputs, boxes: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
        """Boxes (B, R, 4) moved by a stage's deltas for classes `labels` (B, R), cut to the images."""
        deltas = stage.of_class(outputs.deltas, labels)[:, :, None]  # (B, R, 1, 4)
        return clip_boxes(stage.decode(deltas, boxes)[:, :, 0], sizes)

    def predict(
        self, features: dict[str, Tensor], proposals: Proposals, sizes: Tensor, scales: Tensor | None = None
    ) -> Detections:
        """The best detections (B, D): boxes of the last stage, scores the mean of all, each on its own boxes.

        `scales` as a single head takes them, for boxes whose last pixel is one of the file: a cascade has none such.
        """
        live = live_prefix(proposals.valid)
        boxes, valid = proposals.boxes[:, :live], proposals.valid[:, :live]
        moved, scores = boxes[:, :, None], []
        for number, stage in enumerate(self.heads()):
            outputs = stage.classify(features, boxes, valid)
            scores.append(outputs.logits if self.cascade.average == "logits" else outputs.logits.softmax(-1))
            if number == len(self.stages) - 1:
                moved = stage.decode(outputs.deltas, boxes)  # (B, R, K or 1, 4)
                break
            boxes = self.moved(stage, outputs, boxes, outputs.logits[..., :-1].argmax(-1), sizes)
            valid = valid & boxes.isfinite().all(-1)
            boxes = torch.where(valid[..., None], boxes, 0.0)
        mean = torch.stack(scores).mean(0)  # (B, R, K + 1)
        if self.cascade.average == "logits":
            mean = mean.softmax(-1)
        return select_detections(moved, mean[..., :-1], valid, sizes, self.config)


class CascadeMaskHead(nn.Module):
    """A mask head for each stage, trained on that stage's regions (MMDetection); the mean of their probabilities."""

    def __init__(
        self,
        *,
        in_channels: int,
        strides: dict[str, int],
        num_classes: int,
        config: MaskHeadConfig,
        cascade: CascadeConfig,
        backbone: BackboneConfig,
        level_eps_inside: bool = True,
    ) -> None:
        super().__init__()
        self.config, self.cascade = config, cascade
        self.stages = nn.ModuleList(
            MaskHead(
                in_channels=in_channels,
                strides=strides,
                num_classes=num_classes,
                config=config,
                backbone=backbone,
                level_eps_inside=level_eps_inside,
            )
            for _ in cascade.ious
        )

    def heads(self) -> list[MaskHead]:
        """The stages, in order."""
        return [stage for stage in self.stages if isinstance(stage, MaskHead)]

    def losses(
        self, features: dict[str, Tensor], regions: Regions, targets: Targets, most: int, sizes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of each stage's objects; of those sampled an image has at most `most`."""
        losses: dict[str, Tensor] = {}
        for number, (stage, own) in enumerate(zip(self.heads(), (regions, *regions.later), strict=True)):
            limit = most if number == 0 or self.cascade.resample else own.boxes.shape[1]
            for name, loss in stage.losses(features, own, targets, limit, sizes).items():
                losses[f"{name}_{number}"] = self.cascade.loss_weights[number] * loss
        return losses

    def predict(
        self,
        features: dict[str, Tensor],
        detections: Detections,
        shared: nn.Module | None,
        scales: Tensor | None = None,
    ) -> Detections:
        """The detections with their masks: probabilities (B, D, m, m) in the frame of each box."""
        masks = [stage.predict(features, detections, shared, scales).masks for stage in self.heads()]
        return replace(detections, masks=torch.stack([mask for mask in masks if mask is not None]).mean(0))
