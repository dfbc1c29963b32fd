"""Combinations that cannot be exported, and why; docs/deploy.md has a matrix from this file and from real exports."""

from __future__ import annotations

from rcnn.models import DetectorConfig
from rcnn.runtime.record import ExportPrecision, Target


def unsupported(config: DetectorConfig, target: Target, precision: ExportPrecision) -> str:
    """Why a model cannot be exported to `target` in `precision`, and what to do; empty if it can."""
    votes = config.fcis is not None and config.fcis.vote_iou > 0
    if target != "torch" and votes:
        return "mask voting of FCIS has no ONNX operators; export with fcis.vote_iou=0, or with --to torch"
    if target == "onnx" and precision == "bfloat16":
        return "onnxruntime has no bfloat16 convolution for CPUs; use --precision float32, or --to torch"
    if target == "torch" and precision == "int8":
        return "int8 needs the quantizers of onnxruntime and OpenVINO; use --to onnx or --to openvino"
    if target == "openvino" and precision == "bfloat16":
        return (
            "OpenVINO chooses bfloat16 when it loads a float32 file (INFERENCE_PRECISION_HINT=bf16); use --precision "
            "float32 or float16"
        )
    return ""
