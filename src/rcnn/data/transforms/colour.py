"""Changes the colours of an image (3, H, W), uint8 or float32 in 0..255, with torchvision v2; objects do not change."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor


def jitter(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """An image with each property multiplied by its factor (1: unchanged), in this order."""
    return adjust(image, brightness, contrast, saturation, 0.0)


def adjust(image: Tensor, brightness: float, contrast: float, saturation: float, hue: float) -> Tensor:
    """Like `jitter`; then the hue is shifted by `hue`, a fraction of the colour circle."""
    from torchvision.transforms.v2 import functional as TF  # here: the import takes seconds

    def change(image: Tensor) -> Tensor:
        image = TF.adjust_brightness(image, brightness)
        image = TF.adjust_contrast(image, contrast)
        image = TF.adjust_saturation(image, saturation)
        return TF.adjust_hue(image, hue) if hue else image

    return _in_unit(image, change)


def blur(image: Tensor, sigma: float) -> Tensor:
    """An image convolved with a Gaussian of `sigma` pixels, cut off at 3 sigma."""
    from torchvision.transforms.v2 import functional as TF

    side = 2 * math.ceil(3 * sigma) + 1
    height, width = image.shape[1:]
    kernel = [min(side, 2 * width - 1), min(side, 2 * height - 1)]  # reflection needs a border inside the image
    return TF.gaussian_blur(image, kernel, [sigma, sigma])


def _in_unit(image: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `change` to an image; torchvision expects floats in 0..1."""
    return change(image / 255) * 255 if image.is_floating_point() else change(image)
