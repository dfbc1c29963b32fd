"""Settings that several stages share: pooling of regions, sampling for a loss, selection of detections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# roi_align: He et al. 2017; roi_pool: maximum over rounded bins (Girshick 2015).
# The others are of old systems (models/legacy/pooling.py): crop_resize: crop whole cells of the map, then resize
# (chainer-mask-rcnn); affine: bilinear samples from border to border, both included, zeros outside of the map
# (mask-faster-rcnn, TensorFlow's crop_and_resize, RoIWarp: Dai et al. 2016); normalized: as affine, with the first and
# last pixels of the input at the first and last cells of the map (matterport); image_affine: as normalized, but the
# pixels are those of each image without its padding (mask-faster-rcnn's POOLING_ALIGN)
Pooling = Literal["roi_align", "roi_pool", "crop_resize", "affine", "normalized", "image_affine"]
NO_LIMIT = 100.0  # a `max_log_scale` that has no effect


@dataclass(frozen=True, kw_only=True)
class PoolerConfig:
    """How the features of a region are pooled into a square of fixed size."""

    kind: Pooling = "roi_align"
    size: int  # side of the pooled map, cells
    sampling_ratio: int = 0  # samples per bin and axis; 0: one per map cell of the bin, rounded up
    aligned: bool = True  # shift by half a map cell (Detectron2's ROIAlignV2); False: as first published
    max_pool: bool = False  # of affine and image_affine: sample 2 x 2 as many cells, then take maxima of 2 x 2

    def __post_init__(self) -> None:
        if self.max_pool and self.kind not in ("affine", "image_affine"):
            raise ValueError(f"pooler.max_pool is for the kinds affine and image_affine only; the kind is {self.kind}")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How many boxes (anchors or regions) a loss is computed on, and which of them are positive."""

    batch_size: int  # boxes sampled per image
    positive_fraction: float  # upper limit of positives, as a fraction of batch_size
    positive_iou: float  # positive: IoU with a ground-truth box of at least this

    @property
    def max_positives(self) -> int:
        """Upper limit of positive boxes in the sample of an image."""
        return int(self.batch_size * self.positive_fraction)


@dataclass(frozen=True, kw_only=True)
class AnchorSamplingConfig(SamplingConfig):
    """The sample of anchors that the losses of the RPN are computed on."""

    negative_iou: float  # negative: IoU with all ground-truth boxes below this; up to positive_iou: ignored


@dataclass(frozen=True, kw_only=True)
class RegionSamplingConfig(SamplingConfig):
    """The sample of regions that the losses of the second stage are computed on."""

    # negative: highest IoU below positive_iou, but at least this (Fast R-CNN: 0.1); regions below it are ignored
    min_negative_iou: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which scored boxes become detections: NMS, and a limit per image."""

    nms_iou: float = 0.5  # of two boxes of a class with a higher IoU, NMS removes the one with the lower score
    class_agnostic_nms: bool = False  # suppress across classes, too
    nms: Literal["hard", "soft_linear", "soft_gaussian"] = "hard"  # soft: scores are reduced (Bodla et al. 2017)
    soft_nms_sigma: float = 0.5  # of soft_gaussian
    soft_nms_threshold: float = 0.001  # soft NMS removes boxes with a score reduced below this
    max_detections: int = 100  # per image
    min_size: float = -1.0  # boxes with a side of at most this are removed, pixels; -1: disabled


def plain_arguments(arguments: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Keyword arguments as a checkpoint stores them. ValueError for what JSON cannot hold.

    Tuples, arrays and tensors become lists; numbers of numpy and torch those of Python.
    """
    try:
        return json.loads(json.dumps(dict(arguments), default=_as_python))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{key} is {arguments!r}; expected names with numbers, strings, booleans, lists or mappings ({error})"
        ) from error


def _as_python(value: Any) -> Any:
    """A number, array or tensor as Python's numbers and lists. TypeError for other values."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"{type(value).__name__} is none of these")
    return value.tolist()
