"""The resize inside ONNX files against the preprocessor of the models."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.export.resize import add_resize, unsupported_resize
from rcnn.models import model_config
from rcnn.models.overrides import override
from rcnn.preprocess import build_preprocessor
from rcnn.runtime.record import ExportRecord, input_names, output_names

NETWORK = """
<ir_version: 10, opset_import: ["" : 18]>
network ({kind}[1, 3, "h", "w"] images, int64[1, 2] sizes) => (float[1, "D", 4] boxes, float[1, 3, "h", "w"] scores)
{{
  hw = Cast <to = 1> (sizes)
  xyxy = Constant <value = int64[4] {{ 1, 0, 1, 0 }}> ()
  row = Gather <axis = 1> (hw, xyxy)
  half = Constant <value = float[4] {{ 0.5, 0.5, 2.0, 2.0 }}> ()
  scaled = Mul (row, half)
  axis = Constant <value = int64[1] {{ 0 }}> ()
  boxes = Unsqueeze (scaled, axis)
  scores = Cast <to = 1> (images)
}}
"""  # boxes: from the middle of the image to a point outside it; scores: the pixels


@pytest.mark.parametrize(
    ("resize", "most", "mean"), [("antialias", 12, 0.2), ("align_corners", 0.02, 1e-3), ("bilinear", 0.05, 1e-3)]
)
def test_pixels_and_boxes(resize: str, most: float, mean: float, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs pip install 'rcnn[onnx]'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'rcnn[onnx]'")
    config = override(model_config("mask_rcnn_r50_fpn"), [f"input.resize={resize}", "input.min_size=100"])
    record = ExportRecord(
        config=config, classes=(), target="onnx", inputs=input_names(config), outputs=("boxes", "scores"),
        least_size=(160, 96),
    )  # fmt: skip
    kind = "float" if record.float_images else "uint8"
    onnx.save(onnx.parser.parse_model(NETWORK.format(kind=kind)), str(tmp_path / "network.onnx"))
    add_resize(tmp_path / "network.onnx", record, tmp_path / "whole.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "whole.onnx"))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (25, 30, 3), dtype=np.uint8))
    image = torch.from_numpy(np.array(noise.resize((300, 253), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    boxes, pixels = session.run(["boxes", "scores"], {"image": image[None].numpy()})
    expected, frame = build_preprocessor(config.input)(image)
    height, width = frame.size
    assert pixels.shape[2:] == (160, math.ceil(width / 32) * 32)
    difference = np.abs(pixels[0, :, :height, :width] - expected.numpy().astype(np.float32))
    assert difference.max() <= most
    assert difference.mean() <= mean
    assert not pixels[0, :, height:].any()
    np.testing.assert_allclose(boxes[0, 0], [150, 126.5, 300, 253], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("fcis_compact", "counts pixels"), ("mask_rcnn_r50_fpn", "")],
)
def test_what_has_no_resize_inside(name: str, reason: str) -> None:
    config = model_config(name)
    found = unsupported_resize(config, input_names(config))
    assert (reason in found) if reason else not found
    assert "boxes" in output_names(config)
