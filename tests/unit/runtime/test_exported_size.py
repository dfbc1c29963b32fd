"""Images that are smaller than the smallest that an exported file takes, or of another shape than its only one."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rcnn.data.loading import pad_images
from rcnn.models import model_config
from rcnn.models.overrides import override
from rcnn.preprocess import FittedPreprocessor, build_preprocessor
from rcnn.runtime.exported import Arrays, ExportedModel
from rcnn.runtime.record import ExportRecord
from rcnn.structures import ImageBatch

RECORD = ExportRecord(
    config=model_config("faster_rcnn_compact"), classes=(), target="onnx", inputs=("images", "sizes"),
    outputs=("boxes", "scores", "labels", "valid"),
)  # fmt: skip


def run(inputs: Arrays) -> list[np.ndarray]:
    """No detections."""
    shapes.append(inputs["images"].shape)
    return [np.zeros((1, 2, 4), np.float32), np.zeros((1, 2), np.float32), np.zeros((1, 2), np.int64),
            np.zeros((1, 2), bool)]  # fmt: skip


shapes = list[tuple[int, ...]]()


@pytest.mark.parametrize(("size", "warned"), [((64, 256), True), ((96, 256), False)])
def test_smaller_images_are_padded_and_a_warning_says_so(size: tuple[int, int], warned: bool) -> None:
    shapes.clear()
    record = replace(RECORD, least_size=(96, 96))
    images = ImageBatch(pixels=torch.zeros(1, 3, *size, dtype=torch.uint8), sizes=torch.tensor([size]))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ExportedModel(record, run, Path("m.onnx")).predict(images)
    assert shapes == [(1, 3, 96, 256)]
    assert [str(one.message)[:52] for one in found] == ["m.onnx takes images from 96 x 96 pixels on (height x"] * warned


@pytest.mark.parametrize(
    ("original", "canvas", "warned"),
    [
        ((100, 150), 0, False),  # resized to 128 x 192, which the checkpoint pads to the same
        ((100, 100), 0, True),  # 128 x 128, padded
        ((100, 300), 0, True),  # made smaller
        ((200, 150), 0, True),
        ((200, 150), 128, False),  # the checkpoint, too, has one shape
    ],
)
def test_a_file_of_one_shape_warns_once_of_others(original: tuple[int, int], canvas: int, warned: bool) -> None:
    overrides = [f"input.canvas={canvas}", "input.min_size=128", f"input.max_size={canvas or 256}"]
    config = override(RECORD.config, overrides)
    size = (canvas, canvas) if canvas else (128, 192)
    model = ExportedModel(replace(RECORD, config=config, size=size), run, Path("m.onnx"))
    prepare = build_preprocessor(config.input) if canvas else FittedPreprocessor(config.input, size)
    image, frame = prepare(torch.zeros(3, *original, dtype=torch.uint8))
    images = pad_images([image], config.input.divisor, "exact", [frame])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        model.predict(images)
        assert not found  # e.g. while int8 is calibrated
        model.warns = True  # as in a predictor
        model.predict(images)
        model.predict(images)
    assert [str(one.message)[:56] for one in found] == [
        "m.onnx takes images of 128x192 pixels (height x width) o"
    ] * warned
