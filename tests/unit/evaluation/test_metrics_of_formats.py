"""`rcnn eval` and `rcnn train` on VOC and LVIS folders use the metric of the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import open_dataset
from tests.command import rcnn
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.data.coco_folders import annotation, coco_tables, write_images
from tests.unit.data.format_folders import voc_file, voc_object

SIZE = (64, 96)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """VOC2007 with a cat and a difficult dog in each of two images, for training and for validation."""
    root = tmp_path / "VOC2007"
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    objects = [voc_object("cat", (11, 6, 50, 45)), voc_object("dog", (51, 6, 90, 55), 1)]
    for one in ("000005", "000007"):
        (root / "Annotations" / f"{one}.xml").write_text(voc_file(f"{one}.jpg", SIZE, objects))
    for split in ("train", "val"):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("000005\n000007\n")
    write_images(root / "JPEGImages", ["000005.jpg", "000007.jpg"], (SIZE[1], SIZE[0]))
    return root


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def test_saved_results_on_voc(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of two cats is found; the dog that is found is difficult, so it is not wrong."""
    dataset = open_dataset(voc, "val")
    cat, dog = (dataset.category_ids[dataset.classes.index(name)] for name in ("cat", "dog"))
    results = [
        {"image_id": "000005", "category_id": cat, "score": 0.9, "bbox": [10, 5, 40, 40]},
        {"image_id": "000005", "category_id": dog, "score": 0.8, "bbox": [50, 5, 40, 50]},
        {"image_id": "000007", "category_id": cat, "score": 0.7, "bbox": [60, 40, 20, 20]},
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    words = ["eval", tmp_path / "results.json", "--data", voc, "--split", "val", "--output"]
    assert rcnn(*words, tmp_path / "own") == 0
    table = capsys.readouterr().out
    assert "VOC 2007's: at IoU .50, mean over 11 recalls" in table
    found = metrics_of(tmp_path / "own")
    assert found["metric"] == "voc2007"
    assert found["bbox"] == {"AP": pytest.approx(6 / 11), "AP50": pytest.approx(6 / 11)}  # recalls 0 to .5
    assert found["per_class"]["dog"]["bbox"]["AP"] is None
    assert found["counts"]["objects"]["dog"] == 0
    assert rcnn(*words, tmp_path / "area", "--metric", "voc2012") == 0
    assert metrics_of(tmp_path / "area")["bbox"]["AP"] == pytest.approx(0.5)
    assert rcnn(*words, tmp_path / "coco", "--metric", "coco") == 0
    assert {"AP75", "AR100"} <= metrics_of(tmp_path / "coco")["bbox"].keys()
    assert rcnn(*words, tmp_path / "no", "--max-detections", 5) == 2
    assert "the metric voc2007 counts all detections" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("words", "names"), [((), {"bbox_AP", "bbox_AP50"}), (("train.metric=coco",), {"bbox_AP75"})])
def test_training_on_voc_logs_and_chooses_by_its_metric(
    voc: Path, tmp_path: Path, words: tuple[str, ...], names: set[str]
) -> None:
    small = [word for word in TINY_MODEL if not word.startswith("mask.")]
    brief = ("train.steps=1", "train.batch_size=2", "train.workers=0", "mask=null", "--weights", "none")
    run = tmp_path / "run"
    assert rcnn("train", "mask_rcnn_compact", "--data", voc, "--output", run, *small, *brief, *words) == 0
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    evaluated = next(line for line in lines if "bbox_AP" in line)
    assert names <= evaluated.keys()
    assert ("bbox_AP75" in evaluated) == bool(words)
    assert (run / "best" / "config.json").exists()


def test_the_metric_of_lvis_needs_its_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error comes before the first step, not at the first evaluation."""
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "val": 1}, size=SIZE)
    words = ("--data", data, "--weights", "none", "--dry-run")
    assert rcnn("train", "faster_rcnn_compact", *words, "train.metric=lvis") == 2
    assert "image 1 has no neg_category_ids" in " ".join(capsys.readouterr().err.split())
    assert rcnn("train", "faster_rcnn_compact", *words) == 0


def test_saved_results_on_lvis(tmp_path: Path) -> None:
    """The class of the second image's detection was not annotated there, so it is dropped."""
    tables = coco_tables([annotation(1), annotation(2, image_id=2, category_id=7)])
    names = [image["file_name"] for image in tables["images"]]
    for image in tables["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for entry, frequency in zip(tables["categories"], "rf", strict=True):
        entry |= {"frequency": frequency}
    write_images(tmp_path / "val", names)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "lvis_v1_val.json").write_text(json.dumps(tables))
    first, second = tables["annotations"]
    results = [
        {key: one[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5} for one in (first, second)
    ]
    results.append({"image_id": 2, "category_id": first["category_id"], "bbox": first["bbox"], "score": 0.9})
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert (
        rcnn("eval", tmp_path / "results.json", "--data", tmp_path, "--split", "val", "--output", tmp_path / "out") == 0
    )
    found = metrics_of(tmp_path / "out")
    assert found["metric"] == "lvis"
    assert found["bbox"]["AP"] == found["bbox"]["APr"] == found["bbox"]["APf"] == pytest.approx(1)
    assert found["bbox"]["APc"] is None
    assert found["max_detections"] == {"bbox": 300}
