"""`rcnn eval`: options that saved results cannot have, and the data set of a run as the default."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from rcnn import Predictor, compare, evaluate, open_dataset, save_checkpoint
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from tests.command import rcnn
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco


def test_options_of_a_model_are_refused_with_saved_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results_bbox.json"
    results.write_text('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}]')
    assert rcnn("eval", results, "--data", tmp_path, "--tta", "640,800", "--padding", "bucket", "--compile") == 2
    assert capsys.readouterr().err == (
        f"rcnn: --tta, --padding, --compile cannot be used with saved results ({results}); leave them out, or give "
        "the model instead of its results\n"
    )


def test_the_data_set_of_the_run_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the images, annotation file and validation split of the run; what the user gives is used instead."""
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "minival": 2, "val": 3}, size=(64, 96))
    (data / "annotations").rename(data / "labels")
    model, output = tmp_path / "model", tmp_path / "out"
    config = override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.01"])
    torch.manual_seed(0)
    detector = build_detector(config)
    pattern = "labels/instances_{split}.json"
    record = {"data": str(data), "splits": ["train", "minival"], "annotations": pattern}
    save_checkpoint(model, detector, config, CLASSES, record)
    expected = evaluate(Predictor(model, device="cpu"), open_dataset(data, "minival", annotations=pattern))
    assert (expected.split, len(expected.ground_truth["images"])) == ("minival", 2)
    found = evaluate(model, device="cpu")
    assert (found.metrics, found.split) == (expected.metrics, "minival")
    assert evaluate(model, split="val", device="cpu").split == "val"
    capsys.readouterr()
    assert rcnn("eval", model, "--output", output, "--pictures", 0, "--device", "cpu") == 0
    line = f"data set: {data}, split minival, as in the training of {model} (--data and --split choose others)"
    assert line in capsys.readouterr().out.splitlines()
    assert rcnn("eval", model, "--output", data, "--device", "cpu") == 2
    assert "is the folder of the data set, and rcnn would put its files among" in capsys.readouterr().err
    results = output / "results_bbox.json"
    with pytest.raises(ValueError, match="a Predictor does not record what it was trained on; give the data set"):
        evaluate(Predictor(model, device="cpu"))
    said = (
        f"give the data set (data=, --data DIR): {results} does not record one; only models that rcnn trained record it"
    )
    assert rcnn("eval", results) == 2
    assert said in capsys.readouterr().err
    shutil.move(data, tmp_path / "moved")
    with pytest.raises(
        FileNotFoundError, match=r"model was trained on \S+data, which does not exist here; give the data"
    ):
        evaluate(model, device="cpu")
    assert rcnn("eval", model) == 2
    assert "which does not exist here; give the data set (data=, --data DIR)" in capsys.readouterr().err


def test_changed_data_and_data_sets_from_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The record of a Dataset names no data; data that changed are not called those of the training."""
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "val": 2}, size=(64, 96))
    config = override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2"])
    record = {"data": str(data), "splits": ["train", "val"], "data_identity": {"val": {"images": 5}}}
    detector, model = build_detector(config), tmp_path / "model"
    save_checkpoint(model, detector, config, CLASSES, record)
    warning = "the data of split val changed since the run was started: number of images was 5, now 2; "
    assert evaluate(model, device="cpu").warnings[0].startswith(warning)
    assert compare(model, model, samples=0, device="cpu").warnings[0].startswith(warning)
    assert rcnn("eval", model, "--output", tmp_path / "out", "--pictures", 0, "--device", "cpu") == 0
    printed = capsys.readouterr()
    assert f"data set: {data}, split val (--data and --split choose others)" in printed.out.splitlines()
    assert f"warning: {warning}" in printed.err
    model = tmp_path / "other_model"
    save_checkpoint(model, detector, config, CLASSES, {**record, "dataset_given": True})
    said = "model was trained on a Dataset from Python: give the data (data=, --data DIR)"
    for function in (lambda: evaluate(model), lambda: compare(model, model)):
        with pytest.raises(ValueError, match=re.escape(said)):
            function()
    assert rcnn("eval", model) == 2
    assert said in capsys.readouterr().err
