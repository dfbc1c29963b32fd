"""Interpolation: resizes one image to a given size, bit for bit as each system does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rcnn.ops.opencv import resize_bilinear
from rcnn.preprocess.config import Resize

Resizer = Callable[[Tensor, tuple[int, int], Resize, float | None], Tensor]  # a function like `resize_image`


def resize_image(image: Tensor, size: tuple[int, int], kind: Resize, factor: float | None = None) -> Tensor:
    """An image (3, H, W) uint8 resized to `size` (height, width).

    antialias: Pillow's bilinear, bit for bit, uint8 (Detectron2). bilinear: between pixel centres, without
    antialiasing, float32 (torchvision normalises first; both operations are linear, so the order does not matter).
    align_corners: the same with aligned corner pixels (D2Go). opencv: OpenCV's bilinear, bit for bit, uint8
    (tensorpack's prediction, chainer-mask-rcnn); opencv_float: OpenCV's bilinear, float32 (DeNA, FCIS in Chainer,
    Detectron, mask-faster-rcnn). With OpenCV's kinds, samples are 1 / `factor` pixels apart if `factor` is given, else
    the ratio of the sizes. Raises ValueError for an image of another shape or type.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"the image is {tuple(image.shape)} of {image.dtype}; expected (3, H, W) of torch.uint8")
    if kind == "antialias":
        if tuple(image.shape[1:]) == tuple(size):
            return image
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        return torch.from_numpy(np.array(picture.resize(size[::-1], Image.Resampling.BILINEAR))).permute(2, 0, 1)
    if kind in ("opencv", "opencv_float"):
        return resize_bilinear(image if kind == "opencv" else image.float(), size, factor)
    planes = image.contiguous()[None].float()  # for floats, twice as fast as channels last
    return F.interpolate(planes, size=size, mode="bilinear", align_corners=kind == "align_corners")[0]


def resize_for_training(image: Tensor, size: tuple[int, int], kind: Resize, factor: float | None = None) -> Tensor:
    """Like `resize_image`, but "antialias" uses torch instead of Pillow.

    torch takes a sixth of the time. Up to 1 % of the pixels differ, by at most 1 of 255, too little to matter in
    training.
    """
    if kind != "antialias" or tuple(image.shape[1:]) == tuple(size):
        return resize_image(image, size, kind, factor)
    channels_last = image.permute(1, 2, 0).contiguous()[None]  # torch is slow with the strides of image[None]
    return F.interpolate(channels_last.permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True)[0]
