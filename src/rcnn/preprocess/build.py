"""Chooses the preprocessor for a config."""

from __future__ import annotations

from rcnn.preprocess.config import InputConfig
from rcnn.preprocess.legacy import CanvasPreprocessor, FactorPreprocessor
from rcnn.preprocess.preprocessor import Preprocessor
from rcnn.preprocess.resizing import Resizer, resize_image


def build_preprocessor(config: InputConfig, resize: Resizer = resize_image) -> Preprocessor:
    """`Preprocessor`, or its subclass for older systems if `config` needs it; `resize` resizes one image."""
    if config.canvas:
        return CanvasPreprocessor(config, resize)
    if config.size_rounding != "round" or config.rescale != "axes":
        return FactorPreprocessor(config, resize)
    return Preprocessor(config, resize)
