"""Settings of the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Resize = Literal["antialias", "bilinear", "align_corners", "opencv", "opencv_float"]
Rounding = Literal["round", "floor", "factor", "factor_limit", "factor_up"]


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How an image file becomes the network's input."""

    min_size: int = 800  # shorter side after resizing, pixels
    max_size: int = 1333  # limit of the longer side, pixels
    # antialias: Pillow's bilinear on uint8 (Detectron2); bilinear: on floats, without antialiasing (torchvision);
    # align_corners: bilinear with aligned corners (D2Go); opencv: OpenCV's bilinear on uint8; opencv_float: OpenCV's
    # bilinear on floats
    resize: Resize = "antialias"
    # how the resized sides are rounded: round: to the nearest pixel, as in Detectron2, but with resize=bilinear as in
    # torchvision: down, after both sides were multiplied by the smaller of min_size / shorter side and max_size /
    # longer side; floor: down, whatever the resize (FCIS in Chainer); factor: as OpenCV rounds for a given scale
    # factor, and samples are 1 / factor pixels apart (chainer-mask-rcnn, DeNA); factor_limit: like factor, and the
    # longer side is rounded before it is compared with max_size (Detectron, mask-faster-rcnn); factor_up: like
    # factor_limit, but images are never shrunk to reach min_size, and the distance between samples is the ratio of the
    # sides (matterport)
    size_rounding: Rounding = "round"
    canvas: int = 0  # side of a black square, pixels; images are placed in its centre (matterport); 0: none
    # the factor that maps boxes back to the file: axes: one factor per axis; width (ChainerCV), height (chainer-fcis):
    # the factor of this axis for both axes; geometric (tensorpack): the geometric mean of the two for both axes;
    # factor: the factor before rounding for both axes
    rescale: Literal["axes", "width", "height", "geometric", "factor"] = "axes"
    channel_order: Literal["rgb", "bgr"] = "rgb"  # the order that the weights were trained with
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # 0..255, in channel_order
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    divisor: int = 32  # exact padding: sides are padded to a multiple of this; 0: to the largest image of the batch
