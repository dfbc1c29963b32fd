"""The model that the tests of evaluations share."""

from __future__ import annotations

import pytest
import torch

from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from tests.tiny_data import CLASSES, TINY_MODEL


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """A tiny Mask R-CNN with random weights that detects something in every image."""
    torch.manual_seed(0)
    words = [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.01"]
    return Predictor(build_detector(override(model_config("mask_rcnn_compact"), words)), classes=CLASSES, device="cpu")
