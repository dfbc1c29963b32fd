"""A keypoint detector from a data set to metrics and pictures, through the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.data import open_dataset
from rcnn.evaluation.examples import chosen_records, draw_example
from rcnn.models import build_detector
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections
from rcnn.weights.checkpoint import load_checkpoint
from rcnn.weights.transfer import transfer
from tests.command import rcnn
from tests.narrow import instance, present
from tests.tiny_data import CORNERS, TINY_KEYPOINT_MODEL, write_tiny_keypoints
from tests.unit.training.runs import run

BRIEF = ("train.steps=2", "train.batch_size=2", "train.workers=0", "box.score_threshold=0.01")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_keypoints(tmp_path_factory.mktemp("tiny"), {"train": 6, "val": 3})


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    words = [*TINY_KEYPOINT_MODEL, *BRIEF, "train.best=keypoints.AP"]
    assert rcnn("train", "keypoint_rcnn_compact", "--data", data, "--output", output, *words) == 0
    return output


def test_the_checkpoint_knows_the_keypoints_of_its_data(trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    keypoint = checkpoint.config.keypoint
    assert checkpoint.classes == ("square",)
    assert keypoint is not None
    assert keypoint.names == CORNERS
    assert keypoint.flip_pairs == ((0, 1), (3, 2))
    assert keypoint.skeleton == ((0, 1), (1, 2), (2, 3), (3, 0))
    assert Predictor.from_checkpoint(trained).skeleton == keypoint.skeleton
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert any("keypoint" in line for line in lines)
    assert any("keypoints_AP" in line for line in lines)


def test_eval_and_predict(data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rcnn("eval", trained, "--data", data, "--split", "val", "--output", tmp_path / "e") == 0
    said = capsys.readouterr().out
    assert "person_keypoints_val.json" in said
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert set(metrics) == {"bbox", "keypoints", "per_class", "counts", "max_detections", "limit", "metric", "split"}
    assert metrics["split"] == "val"
    results = json.loads((tmp_path / "e" / "results_keypoints.json").read_text())
    assert {len(result["keypoints"]) for result in results} == {12}
    assert (tmp_path / "e" / "report.html").read_text().count("data:image/jpeg") >= 2
    assert rcnn("predict", trained, data / "val", "--output", tmp_path / "p", "--score", "0.01") == 0
    images = json.loads((tmp_path / "p" / "predictions.json").read_text())["images"]
    found = [one for image in images for one in image["detections"]]
    assert found
    assert {np.array(one["keypoints"]).shape for one in found} == {(4, 3)}
    assert {"label", "name", "score", "box", "keypoints"} == set(found[0])
    with Image.open(tmp_path / "p" / "val_1.jpg") as picture:
        assert picture.size == (96, 64)


def test_ground_truth_pictures_show_skeletons(data: Path, trained: Path) -> None:
    predictor = Predictor.from_checkpoint(trained)
    [record] = chosen_records(open_dataset(data, "train", keypoints=True), 1)
    points = present(record.keypoints)
    image = record.read()
    found = predictor.predict(image, score=0.99)
    example = draw_example(predictor, record, image, found)
    bare = draw_example(predictor, replace(record, keypoints=np.zeros_like(points)), image, found)
    drawn = (np.asarray(example.ground_truth) != np.asarray(bare.ground_truth)).any(-1)
    x, y = (points[:, :, :2].reshape(-1, 2)[0] + 0.5).astype(int)
    assert drawn[y, x]
    assert 0.01 < drawn.mean() < 0.5


def test_results_are_in_cocos_pixels() -> None:
    points = np.array([[[10.5, 20.5, 0.3], [4.0, 5.0, 0.0]]], dtype=np.float32)
    found = ImageDetections(
        height=50,
        width=50,
        boxes=np.array([[1, 2, 11, 22]], dtype=np.float32),
        scores=np.ones(1, dtype=np.float32),
        labels=np.zeros(1, dtype=np.int64),
        keypoints=points,
    )
    [result] = found.to_coco(3, [10])
    assert result["keypoints"] == pytest.approx([10, 20, 0.3, 3.5, 4.5, 0])
    assert result["bbox"] == [1, 2, 10, 20]


def test_data_without_keypoints_is_refused_before_anything_is_trained(data: Path, tmp_path: Path) -> None:
    for file in (data / "annotations").glob("instances_*.json"):
        (tmp_path / "d" / "annotations").mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / "annotations" / file.name).write_bytes(file.read_bytes())
    for split in ("train", "val"):
        (tmp_path / "d" / split).symlink_to(data / split)
    with pytest.raises(ValueError, match=r"instances_train\.json has no keypoints, and this model is trained on them"):
        run("keypoint_rcnn_compact", tmp_path / "d", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_any_model_may_be_given_keypoints(data: Path, tmp_path: Path) -> None:
    words = [*TINY_KEYPOINT_MODEL, *BRIEF]
    words = ["keypoint={}", *words, "keypoint.sigmas=[0.1,0.1,0.1,0.2]", "keypoint.pooler.size=8"]
    said: list[str] = []
    run("faster_rcnn_compact", data, tmp_path / "run", words, lines=said)
    keypoint = load_checkpoint(tmp_path / "run").config.keypoint
    assert keypoint is not None
    assert (keypoint.names, keypoint.sigmas, keypoint.pooler.size) == (CORNERS, (0.1, 0.1, 0.1, 0.2), 8)
    assert any("person_keypoints_train.json: left_top, right_top" in line for line in said)


def test_the_annotation_file_may_be_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in (*TINY_KEYPOINT_MODEL, *BRIEF) if not word.startswith("keypoint.")]
    named = "annotations/person_keypoints_{split}.json"
    run("faster_rcnn_compact", data, tmp_path / "run", words, annotations=named)
    assert load_checkpoint(tmp_path / "run").classes == ("square",)
    command = ("eval", tmp_path / "run", "--data", data, "--split", "val", "--output", tmp_path / "e")
    assert rcnn(*command, "--strict") == 2  # the file of all classes
    assert rcnn(*command) == 0
    warned = capsys.readouterr().err
    assert "1 object of 1 class that the model lacks ('disc') is ignored; the model has square." in warned
    assert rcnn(*command, "--annotations", named, "--strict") == 0


def test_keypoints_of_the_same_name_keep_their_weights(trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    config = checkpoint.config
    names = ("tip", "left_bottom", "right_top")
    keypoint = replace(present(config.keypoint), names=names, sigmas=(0.1,) * 3, flip_pairs=(), skeleton=())
    torch.manual_seed(1)
    detector = build_detector(replace(config, keypoint=keypoint))
    logits = instance(present(detector.keypoint_head).logits, torch.nn.ConvTranspose2d)
    before = logits.weight.detach().clone()
    line = transfer(detector, checkpoint, checkpoint.classes)
    assert "keypoints kept: left_bottom, right_top" in line
    weight, theirs = logits.weight, checkpoint.state["keypoint_head.logits.weight"]
    assert torch.equal(weight[:, 0], before[:, 0])
    assert torch.equal(weight[:, 1], theirs[:, 3])
    assert torch.equal(weight[:, 2], theirs[:, 1])
    assert torch.equal(present(logits.bias)[1:], checkpoint.state["keypoint_head.logits.bias"][[3, 1]])
