"""Chooses the preprocessor of a config."""

from __future__ import annotations

from rcnn.preprocess.config import InputConfig
from rcnn.preprocess.legacy import CanvasPreprocessor, FactorPreprocessor
from rcnn.preprocess.preprocessor import Preprocessor
from rcnn.preprocess.resizing import Resizer, resize_image


def build_preprocessor(config: InputConfig, resize: Resizer = resize_image) -> Preprocessor:
    """The plain preprocessor, or that of an older system if the config has one of its settings."""
    if config.canvas:
        return CanvasPreprocessor(config, resize)
    if config.size_rounding != "round" or config.rescale != "axes":
        return FactorPreprocessor(config, resize)
    return Preprocessor(config, resize)
