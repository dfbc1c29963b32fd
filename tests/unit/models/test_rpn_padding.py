"""Padding of the proposals."""

from __future__ import annotations

from dataclasses import replace

import torch

from tests.unit.models.test_rpn import SIZES, maps, rpn
from tests.unit.random_batches import images_of


@torch.no_grad()
def test_rows_that_are_not_valid_hold_zeros_whatever_the_candidates_hold() -> None:
    """The padding repeats the first candidate, here of a level with deltas that are NaN."""
    network, images = rpn(), images_of(SIZES)
    first, second = network.head(maps())
    broken = replace(first, deltas=torch.full_like(first.deltas, torch.nan))
    found = network.select_proposals([broken, second], images, 40, 100, 0.7)
    alone = network.select_proposals([second], images, 40, 100, 0.7)
    assert found.valid.any(1).all()
    assert not found.valid.all()
    assert torch.equal(found.valid, alone.valid)
    assert torch.equal(found.boxes, alone.boxes)  # not so if any is NaN
    assert torch.equal(found.objectness, alone.objectness)
