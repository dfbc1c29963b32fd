"""MobileNetV3-Large (Howard et al. 2019) from torchvision's layers, with the maps of torchvision's detectors."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.backbones.backbone import Backbone
from rcnn.models.config import MobileNetConfig
from rcnn.models.layers import FrozenBatchNorm2d

# layers that start a stage: the stem, each layer that halves the map, and the last 1x1 convolution
STAGES = (0, 2, 4, 7, 13, 16)
MAPS = {"c4": (13, 160), "c5": (16, 960)}  # name: index of the layer that outputs it, and its channels


class MobileNet(Backbone):
    """Images (B, 3, H, W) -> {"c4": (B, 160, H/32, W/32), "c5": (B, 960, H/32, W/32)}.

    The maps are those of torchvision's Faster R-CNN: c4 is the output of the last layer with stride 2, not its input,
    so both maps have stride 32. The parameter names below `features` are torchvision's.
    """

    def __init__(self, config: MobileNetConfig) -> None:
        from torchvision.models import mobilenet_v3_large  # here: its import takes seconds

        super().__init__()
        norm = FrozenBatchNorm2d if config.norm == "frozen_bn" else nn.BatchNorm2d
        self.features = mobilenet_v3_large(weights=None, norm_layer=norm).features
        self.channels = {name: channels for name, (_, channels) in MAPS.items()}
        self.strides = dict.fromkeys(MAPS, 32)
        first = [*STAGES, len(self.features)][config.frozen_stages]
        self.freeze(list(self.features)[:first])

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        names = {layer: name for name, (layer, _) in MAPS.items()}
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in names:
                maps[names[number]] = x
        return maps
