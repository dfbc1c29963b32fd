"""The view of a model's stages: the best proposals of each object, and the picture."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from rcnn.data.loading import pad_images
from rcnn.data.opening import open_dataset
from rcnn.data.records import ImageRecord
from rcnn.evaluation.stages import MIN_IOU, best_proposals, draw_stages
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.weights.checkpoint import save_checkpoint
from tests.command import rcnn
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"val": 2}, size=(64, 96))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(build_detector(override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2"])))


def test_the_best_proposals_are_those_with_the_highest_iou(predictor: Predictor, data: Path) -> None:
    record = open_dataset(data)[0]
    boxes = record.boxes.astype(np.float32)
    found = best_proposals(predictor, record.read(), boxes, 2)
    resized, frame = predictor.prepare(record.read())
    batch = pad_images([resized], predictor.config.input.divisor, "exact", [frame])
    with torch.no_grad():
        proposals = predictor.detector.rpn.predict(predictor.detector.features(batch), batch)
    regions = frame.to_original(proposals.boxes[0].numpy())
    iou = torchvision.ops.box_iou(torch.from_numpy(boxes), torch.from_numpy(regions)).numpy()
    expected = [
        (index, row) for index in range(len(boxes)) for row in np.argsort(-iou[index])[:2] if iou[index, row] >= MIN_IOU
    ]
    rows = [row for _, row in expected]
    assert expected
    assert found.objects.tolist() == [index for index, _ in expected]
    np.testing.assert_allclose(found.iou, [iou[pair] for pair in expected], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, regions[rows])
    np.testing.assert_allclose(found.objectness, proposals.objectness[0].sigmoid().numpy()[rows], rtol=1e-6)


def test_a_picture_has_four_panels_and_that_of_a_proposal_network_three(predictor: Predictor, data: Path) -> None:
    corner = slice(-20, -4), slice(-20, -4)  # in the fourth panel
    pixels = np.asarray(draw_stages(predictor, open_dataset(data)[0], score=0.0))
    assert pixels.shape[1] == 2 * 480 + 4
    assert (pixels[corner] < 255).any()
    tiny = [word for word in TINY_MODEL if not word.startswith("mask.")]
    config = override(model_config("faster_rcnn_compact"), [*tiny, "num_classes=1"])
    proposer = Predictor(build_detector(replace(config, proposals_only=True)), classes=["object"])
    pixels = np.asarray(draw_stages(proposer, open_dataset(data, one_class=True)[0], best=1))
    assert (pixels[corner] == 255).all()


def test_of_many_proposals_only_the_best_of_each_object_is_labelled(
    predictor: Predictor, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[list[str]]()

    def draw(pixels: Tensor, *rest: object, captions: Sequence[str] = (), **settings: object) -> Image.Image:
        written.append([*captions])
        return Image.new("RGB", (pixels.shape[2], pixels.shape[1]))

    monkeypatch.setattr("rcnn.evaluation.stages.draw_objects", draw)
    monkeypatch.setattr("rcnn.evaluation.stages.MANY", 3)
    record = open_dataset(data)[0]
    found = best_proposals(predictor, record.read(), record.boxes.astype(np.float32), 20)
    assert len(found.objects) > 3
    draw_stages(predictor, record, best=20)
    first = [row for row, index in enumerate(found.objects.tolist()) if index not in found.objects[:row]]
    for captions in written[1:3]:
        assert [row for row, caption in enumerate(captions) if caption] == first
    written.clear()
    draw_stages(predictor, record, best=1)
    assert all(written[1])


def test_the_command_reports_an_image_that_cannot_be_read(
    predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_tiny_coco(tmp_path / "data", {"val": 2}, size=(64, 96))
    broken = sorted((data / "val").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:60])
    save_checkpoint(tmp_path / "model", build_detector(predictor.config), predictor.config, CLASSES)
    assert rcnn("visualize", tmp_path / "model", "--data", data, "--output", tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert str(broken) in shown.err
    assert "1 image failed" in shown.err
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 1


@pytest.mark.parametrize("kind", ["unnamed", "named", "without number"])
def test_a_disk_error_names_the_image_once(
    predictor: Predictor,
    data: Path,
    kind: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Errors of the system and of decoders while a file is read do not name it; those of opening it do."""
    record = open_dataset(data)[0]
    errors = {
        "unnamed": OSError(errno.EIO, "I/O error"),
        "named": OSError(errno.EIO, "I/O error", str(record.path)),
        "without number": OSError("image file is truncated"),
    }
    error = errors[kind]

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("rcnn.evaluation.stages.draw_stages", fail)
    save_checkpoint(tmp_path / "model", build_detector(predictor.config), predictor.config, CLASSES)
    command = ("visualize", tmp_path / "model", "--data", data, "--output", tmp_path / "out", "--limit", 1)
    assert rcnn(*command) == 1
    expected = str(error) if kind == "named" else f"{record.path}: {error}"
    assert expected in capsys.readouterr().err.splitlines()


def test_a_number_of_proposals_below_one_is_refused(predictor: Predictor, data: Path) -> None:
    for best in (0, -1):
        with pytest.raises(ValueError, match=f"best={best}; expected 1 or more proposals per object"):
            draw_stages(predictor, open_dataset(data)[0], best=best)


def test_a_record_with_other_classes_is_refused(predictor: Predictor, data: Path) -> None:
    with pytest.raises(ValueError, match="the record has the classes cat, but the model has"):
        draw_stages(predictor, open_dataset(data)[0], classes=["cat"])
    record = open_dataset(data)[0]
    with pytest.raises(ValueError, match="the record has label 7; expected labels from 0 to 1"):
        draw_stages(predictor, replace(record, labels=np.full_like(record.labels, 7)))


def test_the_command_matches_classes_by_name_and_reports_those_that_the_model_lacks(
    predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_tiny_coco(tmp_path / "data", {"val": 2}, size=(64, 96))
    drawn: list[tuple[str, Sequence[str] | None]] = []

    def draw(
        predictor: Predictor, record: ImageRecord, *, best: int, score: float, classes: Sequence[str] | None
    ) -> Image.Image:
        drawn.extend((predictor.classes[label], classes) for label in record.labels)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("rcnn.evaluation.stages.draw_stages", draw)
    save_checkpoint(tmp_path / "model", build_detector(predictor.config), predictor.config, ("disc", "ring"))
    assert rcnn("visualize", tmp_path / "model", "--data", data, "--output", tmp_path / "out") == 0
    assert drawn == [("disc", ("disc", "ring"))] * 2
    assert "1 class that the model lacks ('square')" in capsys.readouterr().err
    save_checkpoint(tmp_path / "other", build_detector(predictor.config), predictor.config, ("cat", "dog"))
    assert rcnn("visualize", tmp_path / "other", "--data", data, "--output", tmp_path / "out2") == 2
    assert "has no objects of cat, dog" in capsys.readouterr().err


def test_the_command_refuses_data_without_objects(
    predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96))
    file = data / "annotations" / "instances_val.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    save_checkpoint(tmp_path / "model", build_detector(predictor.config), predictor.config, CLASSES)
    assert rcnn("visualize", tmp_path / "model", "--data", data, "--output", tmp_path / "out") == 2
    assert "has 1 image and no objects" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
