"""`rcnn data minus-refer` against a slow loop with the rule of the original tool."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import open_dataset
from rcnn.data.inspect.minus_refer import minus_refer
from tests.command import rcnn
from tests.unit.data.coco_folders import annotation, coco_tables, write_images

RESULT = "annotations/instances_train_minus_refer_valtest2014.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """COCO 2014 with 60 images, and references to most of them."""
    names = [f"{number}.png" for number in range(1, 61)]
    annotations = [annotation(number, image_id=1 + number % 60, category_id=3) for number in range(1, 121)]
    tables = coco_tables(annotations, images=60) | {"info": {"year": 2014}, "licenses": [{"id": 1}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2014.json").write_text(json.dumps(tables))
    write_images(tmp_path / "train2014", names)
    chance = random.Random(0)
    for name, by, splits in (
        ("refcoco", "unc", ["train", "train", "val", "testA", "testB", "testAB"]),
        ("refcocog", "umd", ["train", "train", "train", "val", "test"]),
        ("refcoco+", "unc", ["val", "testA"]),  # not read
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "instances.json").write_text(json.dumps(tables))
        references = [
            {
                "ref_id": number, "ann_id": number, "category_id": 3, "image_id": chance.randint(1, 60),
                "split": chance.choice(splits), "sent_ids": [number],
                "sentences": [{"raw": "The cup", "sent": "the cup", "sent_id": number, "tokens": ["the", "cup"]}],
            }
            for number in range(1, 26)
        ]  # fmt: skip
        (tmp_path / name / f"refs({by}).p").write_bytes(pickle.dumps(references, protocol=0))
    return tmp_path


def slow_result(folder: Path) -> dict[str, Any]:
    """As make_coco_minus_refer_instances.py: ref["split"] is compared with a list; only `images` is changed."""
    excluded: list[int] = []
    for file, splits in (("refcoco/refs(unc).p", ["testA", "testB", "val"]), ("refcocog/refs(umd).p", ["test", "val"])):
        references = pickle.loads((folder / file).read_bytes())  # noqa: S301
        excluded += [one["image_id"] for one in references if one["split"] in splits]
    tables = json.loads((folder / "annotations" / "instances_train2014.json").read_text())
    tables["images"] = [image for image in tables["images"] if image["id"] not in excluded]
    return tables


def test_the_file_is_that_of_the_original_tool(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = slow_result(folder)
    assert rcnn("data", "minus-refer", folder) == 0
    written = json.loads((folder / RESULT).read_text())
    assert written == expected
    assert 30 < len(written["images"]) < 55
    assert len(written["annotations"]) == 120
    removed = 60 - len(written["images"])
    assert f"{len(written['images'])} images, without {removed} of REFER's" in capsys.readouterr().out


def test_it_can_be_trained_on(folder: Path) -> None:
    assert rcnn("data", "minus-refer", folder) == 0
    dataset = open_dataset(folder, "train_minus_refer_valtest2014")
    own = {image["id"] for image in slow_result(folder)["images"]}
    assert set(dataset.image_ids) == own
    assert dataset.num_training_objects == 2 * len(own)
    assert dataset.warnings == ()
    assert any("annotations of images that were removed" in line for line in dataset.notes)
    assert len(dataset.to_coco()["annotations"]) == 2 * len(own)


def test_what_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rcnn("data", "minus-refer", folder, "--refer", folder / "train2014") == 2
    assert "refs(unc).p does not exist; get it with: rcnn data download refcoco --output" in capsys.readouterr().err
    (folder / RESULT).write_text("mine")
    assert rcnn("data", "minus-refer", folder) == 2
    assert "exists and was not written by rcnn" in capsys.readouterr().err
    assert (folder / RESULT).read_text() == "mine"


@pytest.mark.parametrize("tables", [[], {"images": 3}, {"images": [{"file_name": "1.png"}]}, {"images": [None]}])
def test_a_damaged_annotation_file_is_refused(folder: Path, tables: object) -> None:
    (folder / "annotations" / "instances_train2014.json").write_text(json.dumps(tables))
    with pytest.raises(ValueError, match=r"instances_train2014\.json has no list of images with ids; download"):
        minus_refer(folder)
    assert not (folder / RESULT).exists()


def test_images_with_ids_that_are_no_ids_are_refused(folder: Path) -> None:
    file = folder / "annotations" / "instances_train2014.json"
    tables = json.loads(file.read_text())
    tables["images"][3]["id"] = [1]
    file.write_text(json.dumps(tables))
    with pytest.raises(ValueError, match="has no list of images with ids; download COCO's annotations again"):
        minus_refer(folder)
