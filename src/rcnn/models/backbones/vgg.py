"""VGG-16 (Simonyan and Zisserman 2015, configuration D) without its fully connected layers, as in Faster R-CNN."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.backbones.backbone import Backbone
from rcnn.models.config import VGGConfig
from rcnn.models.layers import zero_bias

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # number of convolutions, their channels


class VGG16(Backbone):
    """Images (B, 3, H, W) -> {"c4": (B, 512, H/16, W/16)}, the output of conv5_3; sides are rounded down.

    The parameter names below `features` are torchvision's.
    """

    def __init__(self, config: VGGConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, frozen = 3, 0  # number of layers that are not trained
        for number, (count, width) in enumerate(STAGES, start=1):
            for _ in range(count):
                conv = nn.Conv2d(channels, width, 3, padding=1)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                zero_bias(conv)
                layers += [conv, nn.ReLU(inplace=True)]
                channels = width
            if number < len(STAGES):
                layers.append(nn.MaxPool2d(2))
            frozen = len(layers) if number <= config.frozen_stages else frozen
        self.features = nn.Sequential(*layers)
        self.channels, self.strides = {"c4": channels}, {"c4": 16}
        self.freeze(layers[:frozen])

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"c4": self.features(x)}
