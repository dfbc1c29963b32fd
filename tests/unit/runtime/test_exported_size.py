"""Images that are smaller than the smallest that an exported file takes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from rcnn.models import model_config
from rcnn.runtime.exported import Arrays, ExportedModel
from rcnn.runtime.record import ExportRecord
from rcnn.structures import ImageBatch


@pytest.mark.parametrize(("size", "warned"), [((64, 256), True), ((96, 256), False)])
def test_smaller_images_are_padded_and_a_warning_says_so(size: tuple[int, int], warned: bool) -> None:
    shapes: list[tuple[int, ...]] = []

    def run(inputs: Arrays) -> list[np.ndarray]:
        shapes.append(inputs["images"].shape)
        return [np.zeros((1, 2, 4), np.float32), np.zeros((1, 2), np.float32), np.zeros((1, 2), np.int64),
                np.zeros((1, 2), bool)]  # fmt: skip

    record = ExportRecord(
        config=model_config("faster_rcnn_compact"), classes=(), target="onnx", inputs=("images", "sizes"),
        outputs=("boxes", "scores", "labels", "valid"), least_size=(96, 96),
    )  # fmt: skip
    images = ImageBatch(pixels=torch.zeros(1, 3, *size, dtype=torch.uint8), sizes=torch.tensor([size]))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ExportedModel(record, run, Path("m.onnx")).predict(images)
    assert shapes == [(1, 3, 96, 256)]
    assert [str(one.message)[:52] for one in found] == ["m.onnx takes images from 96 x 96 pixels on (height x"] * warned
