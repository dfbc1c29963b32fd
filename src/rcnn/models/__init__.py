"""Detectors: tensors in, tensors out. Read detector.py first."""

from rcnn.models.build import build_detector
from rcnn.models.config import DetectorConfig
from rcnn.models.detector import Detector
from rcnn.models.zoo import MODELS, list_models, model_config

__all__ = ["MODELS", "Detector", "DetectorConfig", "build_detector", "list_models", "model_config"]
