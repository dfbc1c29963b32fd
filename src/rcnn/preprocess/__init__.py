"""Image file <-> network input: resizes images and maps coordinates back. Read preprocessor.py first."""

from rcnn.preprocess.build import build_preprocessor
from rcnn.preprocess.config import InputConfig, Resize, Rounding
from rcnn.preprocess.fitted import FittedPreprocessor
from rcnn.preprocess.preprocessor import Frame, Preprocessor
from rcnn.preprocess.whole import WholeImage

__all__ = [
    "FittedPreprocessor",
    "Frame",
    "InputConfig",
    "Preprocessor",
    "Resize",
    "Rounding",
    "WholeImage",
    "build_preprocessor",
]
