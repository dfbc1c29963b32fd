"""One batch of training: images and their ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rcnn.structures import ImageBatch, Targets


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """B images and their ground truth."""

    images: ImageBatch
    targets: Targets
    image_ids: tuple[int | str, ...]  # (B,) of the annotation file

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same batch on `device`; copied asynchronously if it is in pinned memory."""
        return TrainingBatch(
            images=self.images.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            image_ids=self.image_ids,
        )

    def pin_memory(self) -> TrainingBatch:
        """The same batch in pinned (page-locked) memory."""
        return TrainingBatch(
            images=self.images.pin_memory(), targets=self.targets.pin_memory(), image_ids=self.image_ids
        )
