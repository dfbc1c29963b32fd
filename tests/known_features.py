"""Detectors that take given feature maps instead of computing those of the images."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from rcnn.models import Detector
from rcnn.structures import ImageBatch


@contextmanager
def known_features(detector: Detector, features: Mapping[str, Tensor]) -> Generator[None, None, None]:
    """The detector takes these maps, whatever its images are: the backbone and the FPN are not run or traced again."""

    def given(images: ImageBatch) -> dict[str, Tensor]:
        return dict(features)

    with patch.object(detector, "features", given):
        yield


@torch.no_grad()
def leaves(detector: Detector, images: ImageBatch) -> dict[str, Tensor]:
    """The feature maps of `images` as leaves of the graph, which collect gradients."""
    return {name: value.clone().requires_grad_() for name, value in detector.features(images).items()}
