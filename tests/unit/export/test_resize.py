"""The resize inside ONNX files against the preprocessor of the models."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.export.resize import add_resize, unsupported_resize
from rcnn.models import DetectorConfig, model_config
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


def write_resize(settings: list[str], file: Path) -> DetectorConfig:
    """Write `NETWORK` with the resize of Mask R-CNN, changed by `settings`, as `file`."""
    onnx = pytest.importorskip("onnx", reason="needs pip install 'rcnn[onnx]'")
    config = override(model_config("mask_rcnn_r50_fpn"), settings)
    record = ExportRecord(
        config=config, classes=(), target="onnx", inputs=input_names(config), outputs=("boxes", "scores"),
        least_size=(160, 96),
    )  # fmt: skip
    network = file.with_name("network.onnx")
    kind = "float" if record.float_images else "uint8"
    onnx.save(onnx.parser.parse_model(NETWORK.format(kind=kind)), str(network))
    add_resize(network, record, file)
    return config


def smooth_noise(size: tuple[int, int]) -> torch.Tensor:
    """An image (3, H, W) uint8 of the width and height `size`."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (25, 30, 3), dtype=np.uint8))
    return torch.from_numpy(np.array(noise.resize(size, Image.Resampling.BICUBIC))).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("resize", "size", "most", "mean"),
    [
        ("antialias", (300, 253), 12, 0.2),
        ("align_corners", (300, 253), 0.02, 1e-3),
        ("bilinear", (300, 253), 0.05, 1e-3),
        ("bilinear", (320, 305), 0.05, 1e-3),  # 305 * (100 / 305) is less than 100 in float64, 100 in float32
    ],
)
def test_pixels_and_boxes(resize: str, size: tuple[int, int], most: float, mean: float, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'rcnn[onnx]'")
    config = write_resize([f"input.resize={resize}", "input.min_size=100"], tmp_path / "whole.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "whole.onnx"))
    image = smooth_noise(size)
    boxes, pixels = session.run(["boxes", "scores"], {"image": image[None].numpy()})
    expected, frame = build_preprocessor(config.input)(image)
    height, width = frame.size
    assert pixels.shape[2:] == (160, math.ceil(width / 32) * 32)
    difference = np.abs(pixels[0, :, :height, :width] - expected.numpy().astype(np.float32))
    assert difference.max() <= most
    assert difference.mean() <= mean
    assert not pixels[0, :, height:].any()
    np.testing.assert_allclose(boxes[0, 0], [size[0] / 2, size[1] / 2, *size], rtol=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("resize", ["antialias", "align_corners", "bilinear"])
@pytest.mark.parametrize(("size", "side"), [((300, 253), 100), ((100, 80), 160), ((400, 60), 100)])
def test_pixels_and_boxes_in_openvino(resize: str, size: tuple[int, int], side: int, tmp_path: Path) -> None:
    """`size`: width and height of the image; the shorter side becomes `side` pixels, the longer one at most 320."""
    openvino = pytest.importorskip("openvino", reason="needs pip install 'rcnn[openvino]'")
    settings = [f"input.resize={resize}", f"input.min_size={side}", "input.max_size=320"]
    config = write_resize(settings, tmp_path / "whole.onnx")
    image = smooth_noise(size)
    model = openvino.convert_model(str(tmp_path / "whole.onnx"))
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    boxes, pixels = compiled({"image": image[None].numpy()}).values()
    expected, frame = build_preprocessor(config.input)(image)
    height, width = frame.size
    assert pixels.shape[2:] == (160, max(math.ceil(width / 32) * 32, 96))
    difference = np.abs(pixels[0, :, :height, :width] - expected.numpy().astype(np.float32))
    most, mean = (20, 2.5) if resize == "antialias" else (0.01, 1e-3)  # OpenVINO's antialiasing is not Pillow's
    assert difference.max() <= most
    assert difference.mean() <= mean
    np.testing.assert_allclose(boxes[0, 0], [size[0] / 2, size[1] / 2, *size], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "words", "reason"),
    [
        ("fcis_compact", [], "counts pixels"),
        ("mask_rcnn_r50_fpn", [], ""),
        ("faster_rcnn_r50_fpn_v2", [], ""),  # torchvision's, with its own rule for levels of the pyramid
        ("mask_rcnn_r50_fpn", ["input.rescale=width"], "counts pixels"),
        ("mask_rcnn_r50_fpn", ["input.rescale=geometric"], "input.rescale=axes"),
        ("mask_rcnn_r50_fpn", ["input.size_rounding=floor"], "input.size_rounding=round"),
    ],
)
def test_what_has_no_resize_inside(name: str, words: list[str], reason: str) -> None:
    config = override(model_config(name), words)
    found = unsupported_resize(config, input_names(config))
    assert (reason in found) if reason else not found
    assert "boxes" in output_names(config)
