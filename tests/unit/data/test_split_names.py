"""Names of splits in any case: folders of splits are no data sets of their own, test splits need no objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rcnn.data import splits
from rcnn.data.inspect.check import check_dataset
from tests.unit.data.coco_folders import write_coco
from tests.unit.data.test_layouts import TABLES, place


def test_usual_names_of_splits_in_any_case_are_not_data_sets(tmp_path: Path) -> None:
    for name in ("Train", "Valid"):
        place(tmp_path, f"{name}/_annotations.coco.json", name)
    write_coco(tmp_path / "older", TABLES)
    assert splits(tmp_path) == ["Train", "Valid"]


@pytest.mark.parametrize(("split", "kinds"), [("Test", set()), ("test", set()), ("Part", {"no-objects"})])
def test_a_test_split_in_any_case_needs_no_objects(tmp_path: Path, split: str, kinds: set[str]) -> None:
    place(tmp_path, f"{split}/_annotations.coco.json", split)
    (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(TABLES | {"annotations": []}))
    found = {one.kind for one in check_dataset(tmp_path).findings}
    assert found & {"no-objects"} == kinds
