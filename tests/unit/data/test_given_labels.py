"""Labels of given boxes as names of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rcnn.data.given_boxes import check_given
from tests.narrow import present

BOXES, CLASSES = [[10, 5, 50, 60], [20, 30, 120, 90], [0, 0, 30, 30]], ("square", "disc")


def test_labels_may_be_names() -> None:
    image = torch.zeros(3, 96, 128, dtype=torch.uint8)
    for names in (["disc", "square", "disc"], np.array(["disc", "square", "disc"]), ("disc", "square", "disc")):
        np.testing.assert_array_equal(present(check_given(BOXES, names, image, CLASSES).labels), [1, 0, 1])
    with pytest.raises(
        ValueError, match=r"photo: labels has the class 'disk' \(did you mean 'disc'\?\); the model has"
    ):
        check_given(BOXES, ["disc", "disk", "disc"], image, CLASSES, "photo: ")
    with pytest.raises(ValueError, match="labels has the class 'a'; the model has 2 classes of this name"):
        check_given(BOXES, ["a"] * 3, image, ("a", "a"))
    for labels in ([0, None, 1], "disc", [True, False, True], ["disc"], [0.0, 1.0, 0.0]):
        with pytest.raises(ValueError, match="expected 3 integers, one for each box, or names of classes"):
            check_given(BOXES, labels, image, CLASSES)
