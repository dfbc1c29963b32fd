"""Changes the colours of an image (3, H, W), uint8 or float32 in 0..255; objects do not change.

The operations are those of torchvision v2. `jitter` computes them itself: for uint8, torchvision needs several times as
long, which is more than decoding the file.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)  # of red, green and blue (ITU-R 601, with torchvision's digits)


def jitter(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """An image with each property multiplied by its factor (1: unchanged), in this order.

    Floats are those of torchvision's adjust_brightness, adjust_contrast and adjust_saturation, up to rounding. Bytes
    are the same values to within 2 of 255; torchvision cuts off fractions three times, which darkens the image.
    """
    if image.is_floating_point():
        return _jitter_floats(image, brightness, contrast, saturation)
    return _jitter_bytes(image, brightness, contrast, saturation)


def adjust(image: Tensor, brightness: float, contrast: float, saturation: float, hue: float) -> Tensor:
    """Like `jitter`; then the hue is shifted by `hue`, a fraction of the colour circle."""
    image = jitter(image, brightness, contrast, saturation)
    if not hue:
        return image
    from torchvision.transforms.v2 import functional as TF  # here: the import takes seconds

    if image.is_floating_point():  # torchvision expects floats in 0..1
        return TF.adjust_hue(image / 255, hue) * 255
    return TF.adjust_hue(image, hue)


def blur(image: Tensor, sigma: float) -> Tensor:
    """An image convolved with a Gaussian of `sigma` pixels, cut off at 3 sigma."""
    from torchvision.transforms.v2 import functional as TF

    side = 2 * math.ceil(3 * sigma) + 1
    height, width = image.shape[1:]
    kernel = [min(side, 2 * width - 1), min(side, 2 * height - 1)]  # reflection needs a border inside the image
    return TF.gaussian_blur(image, kernel, [sigma, sigma])


def _jitter_floats(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    bright = (image * brightness).clamp_(0, 255)
    mean = float(_grey(bright).mean())
    contrasted = bright.mul_(contrast).add_((1 - contrast) * mean).clamp_(0, 255)
    grey = _grey(contrasted)
    return contrasted.mul_(saturation).add_(grey, alpha=1 - saturation).clamp_(0, 255)


def _grey(image: Tensor) -> Tensor:
    """The grey values (H, W) of an image of floats."""
    return (image[0] * GREY[0]).add_(image[1], alpha=GREY[1]).add_(image[2], alpha=GREY[2])


def _jitter_bytes(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Brightness and contrast by a table of 256 values, saturation by a matrix: two passes of Pillow."""
    pillow = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    values = np.arange(256)
    bright = np.clip(values * brightness, 0, 255)
    counts = np.reshape(pillow.histogram(), (3, 256))
    mean = np.dot(counts @ bright, GREY) / max(1, pillow.width * pillow.height)
    table = np.clip(bright * contrast + (1 - contrast) * mean, 0, 255).round().astype(np.uint8)
    red, green, blue = ((1 - saturation) * weight for weight in GREY)
    matrix = (
        saturation + red, green, blue, 0.0,
        red, saturation + green, blue, 0.0,
        red, green, saturation + blue, 0.0,
    )  # fmt: skip
    changed = pillow.point(table.tolist() * 3).convert("RGB", matrix)
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)
