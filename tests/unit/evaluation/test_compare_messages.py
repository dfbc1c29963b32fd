"""`rcnn.compare`: the message about wrong results names the file that has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rcnn.data.opening import open_dataset
from rcnn.evaluation.compare import compare
from tests.tiny_data import write_tiny_coco


def test_the_side_that_is_wrong_is_named(tmp_path: Path) -> None:
    data = open_dataset(write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96)))
    category = data.to_coco()["categories"][0]["id"]
    result = {"image_id": data.image_ids[0], "category_id": category, "bbox": [1, 1, 20, 20], "score": 0.5}
    (tmp_path / "good.json").write_text(json.dumps([result]))
    (tmp_path / "bad.json").write_text(json.dumps([result | {"image_id": 987}]))
    with pytest.raises(ValueError, match=r"bad\.json: results have image_id 987, which"):
        compare(tmp_path / "good.json", tmp_path / "bad.json", data, samples=0)
