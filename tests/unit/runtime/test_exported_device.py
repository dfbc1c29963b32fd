"""The GPU that an ONNX file runs on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rcnn.runtime import exported

PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("device", "provider"),
    [
        ("cuda:1", ("CUDAExecutionProvider", {"device_id": 1})),
        ("cuda", ("CUDAExecutionProvider", {})),
        ("cpu", ("CPUExecutionProvider", {})),
    ],
)
def test_an_onnx_file_runs_on_the_chosen_gpu(
    device: str, provider: tuple[str, dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    asked = list[object]()

    def session(path: str, options: object, providers: list[object], **others: object) -> None:
        asked.extend(providers)
        raise RuntimeError("not in this test")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(ValueError, match="not in this test"):
        exported.open_exported(Path("model.onnx"), torch.device(device))
    assert asked == [provider]
