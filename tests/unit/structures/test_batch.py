"""Structures check the shapes and types of their tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rcnn.structures import Targets


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": torch.zeros(2, 3, dtype=torch.int32)},
            r"Targets\.labels is of torch\.int32; expected torch\.int64",
        ),
        ({"valid": torch.ones(2, 3)}, r"Targets\.valid is of torch\.float32; expected torch\.bool"),
        ({"bitmaps": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, r"bitmaps is of torch\.uint8; expected torch\.bool"),
        ({"bitmaps": torch.zeros(2, 3, 8) > 0}, r"bitmaps have shape \(2, 3, 8\); expected \(B, G, H, W\)"),
        ({"keypoints": torch.zeros(2, 3, 17, 2)}, r"keypoints have shape \(2, 3, 17, 2\); expected \(B, G, J, 3\)"),
        ({"labels": torch.zeros(2, 4, dtype=torch.int64)}, r"Targets\.labels has shape \(2, 4\); .* \(2, 3\)"),
    ],
)
def test_targets_of_another_shape_or_type_are_refused(changes: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {
        "boxes": torch.zeros(2, 3, 4),
        "labels": torch.zeros(2, 3, dtype=torch.int64),
        "valid": torch.ones(2, 3, dtype=torch.bool),
        "bitmaps": torch.zeros(2, 3, 8, 8, dtype=torch.bool),
        "keypoints": torch.zeros(2, 3, 17, 3),
    }
    Targets(**values)
    with pytest.raises(ValueError, match=message):
        Targets(**values | changes)
