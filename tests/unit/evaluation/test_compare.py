"""`rcnn.compare`: the data set that it takes by default, and messages about what cannot be compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rcnn.data.opening import open_dataset
from rcnn.evaluation.compare import compare
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.outputs import OutputFolder
from rcnn.weights.checkpoint import save_checkpoint
from tests.command import rcnn
from tests.tiny_data import CLASSES, TINY_KEYPOINT_MODEL, TINY_MODEL, write_tiny_coco


def results_of(data: Path, split: str) -> list[dict[str, Any]]:
    """One result, a box, for the first image of the split."""
    dataset = open_dataset(data, split)
    category = dataset.to_coco()["categories"][0]["id"]
    return [{"image_id": dataset.image_ids[0], "category_id": category, "bbox": [1, 1, 20, 20], "score": 0.5}]


def test_the_side_that_is_wrong_is_named(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96))
    [result] = results_of(data, "val")
    (tmp_path / "good.json").write_text(json.dumps([result]))
    (tmp_path / "bad.json").write_text(json.dumps([result | {"image_id": 987}]))
    with pytest.raises(ValueError, match=r"bad\.json: results have image_id 987, which"):
        compare(tmp_path / "good.json", tmp_path / "bad.json", data, samples=0)


def test_kinds_that_are_not_compared_are_reported(tmp_path: Path) -> None:
    data, file = write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96)), tmp_path / "results.json"
    annotations = data / "annotations" / "instances_val.json"
    tables = json.loads(annotations.read_text())
    outline = tables["annotations"][0]["segmentation"]
    for annotation in tables["annotations"]:
        del annotation["segmentation"]
    annotations.write_text(json.dumps(tables))
    file.write_text(json.dumps([one | {"segmentation": outline} for one in results_of(data, "val")]))
    assert (
        f"masks are not evaluated: {annotations} has boxes without outlines"
        in compare(file, file, data, samples=0).warnings
    )


def save_model(folder: Path, name: str = "mask_rcnn_compact", *words: str, classes: Sequence[str] = CLASSES) -> Path:
    """A checkpoint with random weights."""
    tiny = TINY_KEYPOINT_MODEL if name.startswith("keypoint") else TINY_MODEL
    settings = [*tiny, f"num_classes={len(classes)}", "box.score_threshold=0.01", *words]
    config = override(model_config(name), settings)
    torch.manual_seed(0)
    save_checkpoint(folder, build_detector(config), config, classes)
    return folder


def refuse(*_: object, **more: object) -> None:
    raise AssertionError("evaluated")


def test_what_is_wrong_is_found_before_a_model_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcnn.evaluation.compare.evaluate", refuse)
    data = write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96))
    model, other = save_model(tmp_path / "a"), save_model(tmp_path / "b", classes=("square", "cup"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "compare.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"compare\.json exists and was not written by rcnn"):
        compare(model, model, data, output=tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"a has the classes square, disc, but \S+b has square, cup; .*rcnn eval MODEL"
    ):
        compare(model, other, data)
    for given in (data, open_dataset(data)):
        with pytest.raises(ValueError, match="data is the folder of the data set, and rcnn would put its files among"):
            compare(model, model, given, output=data)
    with pytest.raises(ValueError, match="data is a Dataset, so split, images would have no effect"):
        compare(model, model, open_dataset(data), split="val", images="x")
    with OutputFolder(tmp_path / "rpn") as folder:
        for kind in ("bbox", "proposals"):
            folder.write_json(f"results_{kind}.json", [])
    with pytest.raises(ValueError, match=r"a is a detector, but \S+rpn has proposals, which have no classes"):
        compare(model, tmp_path / "rpn", data)


def test_a_model_predicts_on_the_images_that_are_compared(tmp_path: Path) -> None:
    data, model = write_tiny_coco(tmp_path / "data", {"val": 2}, size=(64, 96)), save_model(tmp_path / "model")
    saved = tmp_path / "results.jsonl"  # of an evaluation that was stopped after the first image
    saved.write_text(json.dumps(results_of(data, "val")))
    (data / "val" / open_dataset(data).file_names[1]).write_bytes(b"")
    for pair in ((model, saved), (saved, model)):
        found = compare(*pair, data, samples=0, device="cpu")
        assert (found.images, found.failed) == (1, 0)
        assert f"{saved} has results for the first 1 image, so only these are compared" in found.warnings


def test_kinds_that_a_model_cannot_measure_are_not_compared(tmp_path: Path) -> None:
    """Keypoints with other names than those of the data set."""
    data = write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96))
    file = data / "annotations" / "instances_val.json"
    tables = json.loads(file.read_text())
    for annotation in tables["annotations"]:
        annotation["keypoints"] = [20, 20, 2, 30, 30, 2]
    for category in tables["categories"]:
        category["keypoints"] = ["nose", "tail"]
    file.write_text(json.dumps(tables))
    for names, kinds in (("[nose,tail]", ["bbox", "keypoints"]), ("[left,right]", ["bbox"])):
        words = [f"keypoint.names={names}", "keypoint.sigmas=[0.1,0.1]", "keypoint.flip_pairs=[]"]
        model = save_model(tmp_path / names, "keypoint_rcnn_compact", *words)
        found = compare(model, model, data, samples=0, device="cpu")
        assert list(found.kinds) == kinds
        assert any("keypoints are not evaluated" in line for line in found.warnings) == (len(kinds) == 1)


def test_the_data_set_of_a_run_is_the_default(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "minival": 2, "val": 3}, size=(64, 96))
    results, model = tmp_path / "results.json", tmp_path / "model"
    results.write_text(json.dumps(results_of(data, "minival")))
    config = override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.01"])
    torch.manual_seed(0)
    origin = {"data": str(data), "splits": ["train", "minival"]}
    save_checkpoint(model, build_detector(config), config, CLASSES, origin)
    found = compare(results, model, samples=0, device="cpu")
    assert (found.split, found.images) == ("minival", 2)
    assert found == compare(results, model, data, split="minival", samples=0, device="cpu")
    image = data / "minival" / open_dataset(data, "minival").file_names[0]
    kept = image.read_bytes()
    image.write_bytes(b"")
    found = compare(results, model, samples=0, device="cpu")
    assert found.failed == 1
    [reason, count] = [line for line in found.warnings if line.startswith(f"{model}: ")]
    assert str(image) in reason
    assert count == f"{model}: 1 of 2 images could not be evaluated and counts as having no detections"
    assert rcnn("compare", results, model, "--samples", 0, "--device", "cpu") == 1
    image.write_bytes(kept)
    with pytest.raises(ValueError, match=r"^give the data set \(data=, --data DIR\): neither A nor B records one"):
        compare(results, results, samples=0)
    shutil.move(data, tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"model was trained on .*data, which does not exist here; give the"):
        compare(results, model, samples=0)
