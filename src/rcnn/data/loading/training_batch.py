"""One batch of training: images and their ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from rcnn.structures import ImageBatch, Targets


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """B images and their ground truth."""

    images: ImageBatch
    targets: Targets
    image_ids: tuple[int | str, ...]  # (B,) of the annotation file
    first: int = 0  # index of the first image among all images of the optimizer step
    unreadable: tuple[str, ...] = ()  # errors of images that were replaced by others

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same batch on `device`; copied asynchronously if it is in pinned memory."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
        )

    def pin_memory(self) -> TrainingBatch:
        """The same batch in pinned (page-locked) memory."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())
