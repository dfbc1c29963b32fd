"""A user's file with a custom backbone and box head, which tests write into their folders."""

from __future__ import annotations

from pathlib import Path

BACKBONE = '''
import torch.nn.functional as F
from torch import nn


class MyBackbone(nn.Module):
    """Four strided convolutions: c2 to c5."""

    def __init__(self, width=16):
        super().__init__()
        self.channels = {"c2": width, "c3": width, "c4": width, "c5": width}
        self.strides = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.stages = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(3))

    def forward(self, x):
        maps = [F.relu(self.stem(x))]
        for stage in self.stages:
            maps.append(F.relu(stage(maps[-1])))
        return dict(zip(self.channels, maps))


class Fixed(MyBackbone):
    def __init__(self):
        super().__init__(width=16)
'''
HEAD = """
from rcnn.models.heads.box import BoxHead
from rcnn.models.pooler import RegionPooler
from torch import nn


class OneLayer(nn.Module):
    def __init__(self, inputs, channels):
        super().__init__()
        self.channels = channels
        self.layer = nn.Linear(inputs, channels)

    def forward(self, x, valid=None):
        return self.layer(x.flatten(1)).relu()


def make_box_head(config, maps, width=24):
    pooler = RegionPooler(config=config.box.pooler, strides=maps.pooled_strides)
    layer = OneLayer(maps.channels * config.box.pooler.size**2, width)
    return BoxHead(trunk=layer, pooler=pooler, num_classes=config.num_classes, config=config.box)
"""


def write_own_modules(folder: Path) -> Path:
    """Write my_backbone.py and my_head.py into `folder`."""
    (folder / "my_backbone.py").write_text(BACKBONE, encoding="utf-8")
    (folder / "my_head.py").write_text(HEAD, encoding="utf-8")
    return folder
