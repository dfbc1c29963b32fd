"""Detectors that take known feature maps, or known outputs of the heads, instead of computing them again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from rcnn.models import Detector
from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.cascade import CascadeHead
from rcnn.models.rpn import Level
from rcnn.structures import ImageBatch
from tests.narrow import instance


@contextmanager
def known_features(detector: Detector, features: Mapping[str, Tensor]) -> Generator[None, None, None]:
    """The detector takes these maps, whatever its images are: the backbone and the FPN are not run or traced again."""

    def given(images: ImageBatch) -> dict[str, Tensor]:
        return dict(features)

    with patch.object(detector, "features", given):
        yield


@contextmanager
def known_levels(detector: Detector, features: Mapping[str, Tensor]) -> Generator[list[Level], None, None]:
    """As `known_features`; the RPN's head is run once, here, and the detector takes its outputs again and again."""
    levels = detector.rpn.head(dict(features))
    with known_features(detector, features), patch.object(detector.rpn, "head", return_value=levels):
        yield levels


@torch.no_grad()
def leaves(detector: Detector, images: ImageBatch) -> dict[str, Tensor]:
    """The feature maps of `images` as leaves of the graph, which collect gradients."""
    return {name: value.clone().requires_grad_() for name, value in detector.features(images).items()}


@contextmanager
def known_outputs(detector: Detector) -> Generator[None, None, None]:
    """Each box head and the keypoint head compute the outputs of a region once; the same box has them again.

    They are constants then. The first batch of regions contains all regions of the later ones, in any order; their
    invalid rows are arbitrary.
    """
    heads = detector.box_head.heads() if isinstance(detector.box_head, CascadeHead) else [detector.box_head]
    with ExitStack() as patches:
        for head in heads:
            known = KnownOutputs(instance(head, BoxHead).predict_regions)
            patches.enter_context(patch.object(head, "predict_regions", known))
        if detector.keypoint_head is not None:
            known = KnownOutputs(detector.keypoint_head.heatmaps)
            patches.enter_context(patch.object(detector.keypoint_head, "heatmaps", known))
        yield


class KnownOutputs:
    """A function of maps, regions (B, R, 4) and `valid` (B, R) that keeps the outputs (B, R, ...) of its first call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.boxes: Tensor | None = None  # (B, R, 4), of the first call; invalid boxes are nan

    def __call__(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor, *others: Any) -> Any:
        if self.boxes is None:
            self.boxes = torch.where(valid[..., None], boxes, torch.nan)
            self.outputs = self.function(features, boxes, valid, *others)
            return self.outputs
        same = (boxes[:, :, None] == self.boxes[:, None]).all(-1)  # (B, R, R')
        assert (same.any(-1) | ~valid).all(), "a region is not among those of the first batch"
        image, region = torch.arange(len(boxes))[:, None], same.int().argmax(-1)

        def known(values: Tensor) -> Tensor:
            return values.detach()[image, region]

        return tree_map_only(Tensor, known, self.outputs)
