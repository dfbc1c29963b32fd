"""int8 files: the choice of the layers that stay in float, and one export that is calibrated on a small data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import rcnn
from rcnn.data import Dataset
from rcnn.data.held_out import HeldOut
from rcnn.evaluation.opening import dataset_for
from rcnn.export import calibration, int8
from rcnn.export.calibration import batches, find_calibration_images, spread
from rcnn.export.compare import agreement
from rcnn.export.int8 import choose_float_layers
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.runtime.exported import exported_record
from rcnn.runtime.record import ExportRecord
from rcnn.structures import Detections
from rcnn.weights.checkpoint import load_checkpoint
from tests.command import rcnn as command
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.data.coco_folders import write_images

NO_MASKS = [word for word in TINY_MODEL if not word.startswith("mask.")]


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Detections of one image: x1, y1, x2, y2, score, label."""
    values = torch.tensor(rows).reshape(-1, 6)
    return Detections(
        boxes=values[None, :, :4], scores=values[None, :, 4], labels=values[None, :, 5].long(),
        valid=torch.ones(1, len(values), dtype=torch.bool),
    )  # fmt: skip


def test_agreement_of_detections() -> None:
    one = detections((0, 0, 10, 10, 0.8, 0), (50, 50, 60, 60, 0.2, 1))
    assert agreement(one, one) == pytest.approx(1)
    assert agreement(one, detections()) == 0
    assert agreement(detections(), detections()) == 1
    other = detections((0, 0, 10, 5, 0.4, 0))  # IoU 1/2, half the score: .25, for scores of .8 and .4 of 1.4 in all
    assert agreement(one, other) == pytest.approx((0.8 * 0.25 + 0.4 * 0.25) / 1.4)
    assert agreement(one, replace(other, labels=torch.ones(1, 1, dtype=torch.int64))) == 0


def test_the_parts_that_help_most_stay_in_float() -> None:
    """Layer 3 costs .2 and layer 17 costs .1: their parts (of two layers) are found, and no others."""
    layers = [str(number) for number in range(24)]
    tried: list[int] = []

    def measured(float_layers: Sequence[str]) -> float:
        tried.append(len(float_layers))
        return 0.7 + 0.2 * ("3" in float_layers) + 0.1 * ("17" in float_layers)

    assert choose_float_layers(layers, measured, print) == ("2", "3", "16", "17")
    assert max(tried) == 4
    assert choose_float_layers(layers, lambda _: 0.99, print) == ()


def test_a_part_that_does_not_help_stays_in_int8() -> None:
    assert choose_float_layers(["a", "b"], lambda kept: 0.5 - len(kept) / 10, print) == ()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact model with random weights, few proposals and detections."""
    path = tmp_path_factory.mktemp("int8") / "model"
    settings = [*NO_MASKS, "num_classes=2", "box.score_threshold=0", "box.selection.max_detections=5"]
    config = override(model_config("faster_rcnn_compact"), settings)
    rcnn.save_checkpoint(path, build_detector(config), classes=["square", "disc"])
    return path


@pytest.mark.heavy
def test_an_int8_file_carries_its_measurements(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript", reason="needs pip install 'rcnn[onnx]'")
    monkeypatch.setattr(int8, "ENOUGH", 0.0)  # the choice of layers is tested above
    data = write_tiny_coco(tmp_path / "data", {"train": 3, "val": 2})
    output = tmp_path / "int8.onnx"
    words = ("export", checkpoint, "--output", output, "--size", "96x128", "--batch", 1)
    assert command(*words, "--precision", "int8", "--calibrate", data) == 0
    results, progress = capsys.readouterr()
    assert "calibrating on 3 images" in progress
    assert "bbox AP: float32" in results
    record = exported_record(output)
    made = record.quantization
    assert (record.precision, made["images"], made["ap_images"]) == ("int8", 3, 2)
    assert made["ap_int8"].keys() == made["ap_float32"].keys() == {"bbox"}
    assert made["agreement"] > 0.5
    assert made["seconds_int8"] > 0
    import onnx

    operators = [node.op_type for node in onnx.load(str(output)).graph.node]
    assert operators.count("QuantizeLinear") >= made["layers"] > 10
    image = np.random.default_rng(0).integers(0, 256, (64, 90, 3), dtype=np.uint8)
    assert len(rcnn.Predictor(output).predict(image)) > 0
    with pytest.raises(ValueError, match="was exported in int8; it cannot run in bfloat16"):
        rcnn.Predictor(output, precision="bfloat16")


def test_a_split_without_image_files_cannot_calibrate(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_files(*arguments: Any, **options: Any) -> Dataset:
        data = dataset_for(*arguments, **options)
        return replace(data, file_names=("",) * len(data))

    monkeypatch.setattr(calibration, "dataset_for", without_files)
    record = ExportRecord(
        config=load_checkpoint(checkpoint).config, classes=("square", "disc"), target="onnx", inputs=(), outputs=()
    )
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "val": 1})
    with pytest.raises(ValueError, match="the split 'train' has no image files"):
        find_calibration_images(data, record)


def test_calibration_and_ap_use_different_images(tmp_path: Path) -> None:
    """A run without a validation split: AP is measured on the images that it held out, the ranges come from others."""
    data = write_tiny_coco(tmp_path, {"train": 5})
    held_out = HeldOut(split="train", fraction=0.4, files=("train_2.png", "train_4.png"), contents=())
    record = ExportRecord(
        config=override(model_config("faster_rcnn_compact"), ["num_classes=2"]), classes=("square", "disc"),
        target="onnx", provenance={"held_out": held_out.to_dict()},
    )  # fmt: skip
    images = find_calibration_images(data, record)
    assert [file.name for file in images.files] == ["train_1.png", "train_3.png", "train_5.png"]
    assert images.annotated is not None
    assert images.annotated.file_names == ("train_2.png", "train_4.png")
    only = find_calibration_images(data, replace(record, provenance={}))  # the only images: for both
    assert only.annotated is not None
    assert len(only.files) == len(only.annotated) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--precision", "int8"), "int8 needs images to calibrate on: --calibrate DIR"),
        (("--calibrate", "."), "--calibrate (calibrate=) is for --precision int8, but the precision is float32"),
        (("--precision", "int8", "--calibrate", "nowhere"), "--calibrate nowhere does not exist; expected a data set"),
        (("--precision", "int8", "--calibrate", "empty"), "--calibrate empty has no images; expected a data set"),
        (
            ("--precision", "int8", "--calibrate", "empty", "--data", "empty"),
            "int8 measures AP on the data set of --calibrate (calibrate=); leave --data (data=) out",
        ),
    ],
)
def test_what_int8_needs(
    words: tuple[str, ...], message: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("onnxscript", reason="needs pip install 'rcnn[onnx]'")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert command("export", checkpoint, "--output", "a.onnx", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.onnx").exists()


def test_images_that_cannot_be_read_are_skipped(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "b.png").write_bytes(b"")
    detector = build_detector(override(model_config("faster_rcnn_compact"), ["num_classes=1"]))
    predictor, failed = Predictor(detector, classes=("kite",), device="cpu"), list[str]()
    files = sorted(tmp_path.iterdir())
    assert len(list(batches(predictor, files, failed))) == 2
    assert [line.partition(": ")[0] for line in failed] == [f"{files[1]} is empty (0 bytes)"]
    with pytest.raises(ValueError, match=r"none of 1 image can be read: .*b\.png is empty"):
        list(batches(predictor, files[1:2]))


def test_the_images_of_a_folder_without_annotations(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("b.png", "sub/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("text")
    record = ExportRecord(config=model_config("faster_rcnn_compact"), classes=("a",), target="onnx")
    images = find_calibration_images(tmp_path, record)
    assert [file.name for file in images.files] == ["b.png", "a.png"]
    assert images.annotated is None
    assert spread([Path(str(number)) for number in range(9)], 3) == [Path("0"), Path("3"), Path("6")]


def test_ap_of_proposals_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def seconds(files: object, images: object) -> list[float]:
        return [2.0, 1.0]

    monkeypatch.setattr(int8, "seconds_per_image", seconds)
    config = override(model_config("mask_rcnn_compact"), ["proposals_only=true", "num_classes=1"])
    monkeypatch.setattr(int8, "Predictor", Mock(return_value=Mock(config=config)))
    dataset = rcnn.open_dataset(write_tiny_coco(tmp_path, {"val": 1}))
    images = calibration.CalibrationImages(files=(), annotated=dataset)
    lines: list[str] = []
    how = int8.measure(tmp_path / "a", tmp_path / "b", images, int8.Quantization(images=1, layers=1), lines.append)
    assert (how.seconds_float32, how.ap_images, how.ap_int8) == (2.0, 0, None)
    assert lines[-1] == "AP was not measured: the model returns only proposals, which have none"
