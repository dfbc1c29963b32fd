"""Detectors that take known feature maps, or known outputs of the heads, instead of computing them again."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from rcnn.models import Detector
from rcnn.models.heads.box import BoxHead, BoxOutputs
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
    """Each box head computes the outputs of a region once; on the same maps, the same box has them again, as constants.

    The first batch of regions contains all regions of the later ones, in any order; their invalid rows are arbitrary.
    """
    heads = detector.box_head.heads() if isinstance(detector.box_head, CascadeHead) else [detector.box_head]
    with ExitStack() as patches:
        for head in heads:
            patches.enter_context(patch.object(head, "predict_regions", KnownOutputs(instance(head, BoxHead))))
        yield


class KnownOutputs:
    """A box head's `predict_regions` that keeps the outputs of its first call."""

    def __init__(self, head: BoxHead) -> None:
        self.predict_regions = head.predict_regions
        self.boxes: Tensor | None = None  # (B, R, 4), of the first call; invalid boxes are nan

    def __call__(
        self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor, feature_gradient: float = 1.0
    ) -> BoxOutputs:
        if self.boxes is None:
            self.boxes = torch.where(valid[..., None], boxes, torch.nan)
            self.outputs = self.predict_regions(features, boxes, valid, feature_gradient)
            return self.outputs
        same = (boxes[:, :, None] == self.boxes[:, None]).all(-1)  # (B, R, R')
        assert (same.any(-1) | ~valid).all(), "a region is not among those of the first batch"
        image, region = torch.arange(len(boxes))[:, None], same.int().argmax(-1)
        logits, deltas, maps = self.outputs
        chosen = None if maps is None else maps.detach()[image, region]
        return BoxOutputs(logits.detach()[image, region], deltas.detach()[image, region], chosen)
