"""Compiled prediction: the detections of the eager model, a graph per shape, and what happens without a compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rcnn.models import Detector, build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections
from rcnn.runtime import compiled
from rcnn.runtime.compiled import CompiledDetector, require_compiler
from rcnn.structures import Detections, ImageBatch
from tests.command import rcnn
from tests.compiled import FORWARD
from tests.tiny_data import TINY_MODEL


@pytest.fixture
def detector() -> Detector:
    words = [*TINY_MODEL, "num_classes=2", "box.score_threshold=0", "box.selection.max_detections=8"]
    return build_detector(override(model_config("mask_rcnn_compact"), words)).eval()


def noise(height: int, width: int) -> torch.Tensor:
    """An image (3, H, W) uint8."""
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def assert_same(found: ImageDetections, expected: ImageDetections) -> None:
    """The same objects, up to rounding; with the tolerances of test_compile.py."""
    assert len(expected) > 0
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.boxes == pytest.approx(expected.boxes, abs=1e-3, rel=1e-4)
    assert found.scores == pytest.approx(expected.scores, abs=1e-5, rel=1e-4)
    assert found.box_masks == pytest.approx(expected.box_masks, abs=1e-4, rel=1e-4)


@pytest.mark.compile
def test_detections_equal_those_of_the_eager_model(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """One shape is compiled once; with that, MAX_GRAPHS is reached, and the next one runs eagerly."""
    monkeypatch.setattr(compiled, "MAX_GRAPHS", 1)
    eager = Predictor(detector, device="cpu")
    predictor = Predictor(detector, device="cpu")
    lines: list[str] = []
    runner = CompiledDetector(predictor.detector, backend=FORWARD, log=lines.append)
    monkeypatch.setattr(predictor, "runner", runner)
    calls: list[int] = []
    graph = runner._compiled

    def counted(images: ImageBatch) -> Detections:
        calls.append(images.pixels.shape[2])
        return graph(images)

    monkeypatch.setattr(runner, "_compiled", counted)
    first, second, other = noise(64, 96), noise(64, 96), noise(96, 64)
    for image in (first, second, other, other):
        assert_same(predictor.predict(image), eager.predict(image))
    assert_same(predictor.predict(first, score=0.3), eager.predict(first, score=0.3))  # not a part of the graph
    height = calls[0]
    assert calls == [height] * 3
    assert len(lines) == 3
    assert lines[0].startswith(f"compiling mask_rcnn_compact for 1 x 3 x {height} x ")
    assert lines[1].startswith(lines[0].replace("compiling", "compiled").removesuffix(" ...") + ": ")
    assert lines[1].endswith(" s")
    assert lines[2].startswith("1 shapes are compiled")


def test_without_a_compiler_the_error_says_what_to_install(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "absent-g++"))
    with pytest.raises(ImportError, match=r"absent-g\+\+ was not found. Install it \(apt install g\+\+"):
        Predictor(detector, device="cpu", compile=True)
    (tmp_path / "photo.jpg").touch()
    assert rcnn("predict", tmp_path, tmp_path / "photo.jpg", "--compile", "--device", "cpu") == 2
    message = capsys.readouterr().err
    assert "rcnn: compile (--compile) needs a C++ compiler" in message
    assert "Traceback" not in message


@pytest.mark.compile
def test_the_compiler_is_looked_for_before_it_is_needed(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "sh")  # a program that every machine has
    predictor = Predictor(detector, device="cpu", compile=True)
    assert isinstance(predictor.runner, CompiledDetector)
    assert isinstance(Predictor(detector, device="cpu").runner, Detector)


def test_a_gpu_needs_triton_and_a_c_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "find_spec", {}.get)
    with pytest.raises(ImportError, match="needs triton: pip install triton"):
        require_compiler(torch.device("cuda"))
    monkeypatch.setattr(compiled, "find_spec", str)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ImportError, match="needs a C compiler, and gcc or clang was not found"):
        require_compiler(torch.device("cuda"))
    with pytest.raises(ValueError, match="for CPUs and CUDA GPUs, not for mps"):
        require_compiler(torch.device("mps"))


@pytest.mark.compile
def test_a_compiler_that_fails(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.exc import CppCompileError, InductorError  # here: it imports the compiler

    runner = CompiledDetector(detector)
    images = ImageBatch(pixels=noise(64, 96)[None], sizes=torch.tensor([[64, 96]]))
    cause = CppCompileError(["g++"], "In file x.h\nx.cpp:1: fatal error: Python.h: No such file or directory\n")

    def fail(images: ImageBatch) -> Detections:
        raise InductorError(cause, None)

    monkeypatch.setattr(runner, "_compiled", fail)
    with pytest.raises(ImportError, match=r"failed: x\.cpp:1: fatal error: Python\.h") as caught:
        runner.predict(images)
    assert "apt install g++ python3-dev" in str(caught.value)
    assert not runner.seconds


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "model.xml"])
def test_an_exported_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"{name} is an exported file.*leave compile \(--compile\) out"):
        Predictor(tmp_path / name, device="cpu", compile=True)


def test_options_that_exclude_compilation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, boxes = tmp_path / "photo.jpg", tmp_path / "boxes.json"
    photo.touch()
    assert rcnn("predict", tmp_path, photo, "--compile", "--tta", "640") == 2
    assert "--compile is not for test-time augmentation (--tta)" in capsys.readouterr().err
    assert rcnn("predict", tmp_path, photo, "--compile", "--boxes", boxes) == 2
    assert "--boxes are scored without compilation; leave --compile out" in capsys.readouterr().err
