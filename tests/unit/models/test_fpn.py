"""The feature pyramid in exported programs. Its values are compared with torchvision's in backbones/test_resnet.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.config import FPNConfig
from rcnn.models.fpn import FPN


class LastLevel(nn.Module):
    """A convolution of the last map."""

    def __init__(self) -> None:
        super().__init__()
        self.fpn = FPN(in_channels={"c2": 4}, config=FPNConfig(channels=8))
        self.conv = nn.Conv2d(8, 2, 3)

    @override
    def forward(self, c2: Tensor) -> Tensor:
        return self.conv(self.fpn({"c2": c2})["p3"])


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14), reason="torch 2.11 guards the strided view itself"
)
@torch.no_grad()
def test_an_exported_pyramid_takes_maps_with_an_odd_number_of_rows() -> None:
    """A strided view as the last map made the program refuse them: 800 pixels are 25 rows of the map p5."""
    model = LastLevel().eval().to(memory_format=torch.channels_last)
    sides = {2: torch.export.Dim("height", min=7, max=64), 3: torch.export.Dim("width", min=7, max=64)}
    program = torch.export.export(model, (torch.rand(2, 4, 10, 14),), dynamic_shapes=(sides,)).module()
    for height, width in ((11, 9), (25, 42), (8, 33)):
        c2 = torch.rand(2, 4, height, width)
        subsampled = model.fpn({"c2": c2})["p2"][:, :, ::2, ::2]
        torch.testing.assert_close(program(c2), model.conv(subsampled))
