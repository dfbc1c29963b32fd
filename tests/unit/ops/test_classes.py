"""Values of each region's class, against a loop over the regions."""

from __future__ import annotations

import torch

from rcnn.ops.classes import gather_classes


def test_each_region_gets_the_values_of_its_class() -> None:
    values = torch.arange(2 * 3 * 4 * 5 * 2).view(2, 3, 4, 5, 2)
    labels = torch.tensor([[0, 3, 2], [1, 4, 0]])  # 4: background, which gets the last class
    found = gather_classes(values, labels)
    assert found.shape == (2, 3, 5, 2)
    for image, row in enumerate([[0, 3, 2], [1, 3, 0]]):
        for region, label in enumerate(row):
            assert torch.equal(found[image, region], values[image, region, label])
    assert torch.equal(gather_classes(values[:, :, 1:2], labels), values[:, :, 1])  # one value for all classes
    assert torch.equal(gather_classes(values[..., 0, 0], labels), found[..., 0, 0])
    assert gather_classes(values[:, :0], labels[:, :0]).shape == (2, 0, 5, 2)
