"""Tracing with sides of any size: formulas that torch.export can simplify, and timm's own padding."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from typing_extensions import override

from rcnn.export.trace import in_units, same_padding_in_integers


class Halves(nn.Module):
    """Two layers that halve the sides."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self.layers(in_units(images, 32))


def sides_of(layers: nn.Module) -> list[str]:
    """The formulas of the sides of the result, for images of any multiple of 32."""
    sides = {axis: 32 * Dim(name, min=2, max=257) - 32 for axis, name in ((2, "height"), (3, "width"))}
    module = Halves(layers)
    program = torch.export.export(module, (torch.rand(1, 3, 64, 96),), dynamic_shapes=(sides,))
    shape = program.graph.output_node().args[0][0].meta["val"].shape  # type: ignore[index, union-attr]
    images = torch.rand(1, 3, 96, 64)
    torch.testing.assert_close(program.module()(images), module(images))
    return [str(side) for side in shape[2:]]


def test_sides_are_multiples_without_divisions() -> None:
    def halve() -> nn.Conv2d:
        return nn.Conv2d(3, 3, 3, stride=2, padding=1)

    assert not any("//" in side for side in sides_of(nn.Sequential(halve(), halve())))


def test_same_padding_of_timm_has_no_divisions_either() -> None:
    conv2d_same = pytest.importorskip(
        "timm.layers.conv2d_same", reason="timm is not installed: pip install 'rcnn[timm]'"
    )
    with same_padding_in_integers():
        sides = sides_of(
            nn.Sequential(conv2d_same.Conv2dSame(3, 3, 3, stride=2), conv2d_same.Conv2dSame(3, 3, 5, stride=2))
        )
    assert not any("//" in side or "ceil" in side.lower() for side in sides)


def test_same_padding_has_timms_width() -> None:
    padding = pytest.importorskip("timm.layers.padding", reason="timm is not installed: pip install 'rcnn[timm]'")
    theirs = padding.get_same_padding
    cases = list(product(range(1, 40), (1, 2, 3, 5, 7), (1, 2, 3, 4), (1, 2)))
    with same_padding_in_integers():
        found = [padding.get_same_padding(*case) for case in cases]
    assert found == [theirs(*case) for case in cases]
    assert padding.get_same_padding is theirs
