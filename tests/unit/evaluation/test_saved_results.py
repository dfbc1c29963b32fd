"""Results that were saved before: pictures without boxes, images without results, a file that is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.data import open_dataset
from rcnn.drawing.pictures import draw_objects
from rcnn.evaluation import examples
from rcnn.evaluation.api import evaluate
from rcnn.evaluation.compare import compare
from rcnn.evaluation.examples import draw_spread
from rcnn.evaluation.results import evaluate_results
from rcnn.outputs import OutputFolder
from tests.tiny_data import write_tiny_coco

Entry = dict[str, Any]


def perfect(data: Path, *fields: str) -> list[Entry]:
    """The ground truth of the validation split as results with these fields."""
    tables = json.loads((data / "annotations" / "instances_val.json").read_text())
    keep = ("image_id", "category_id", *fields)
    return [{name: entry[name] for name in keep} | {"score": 0.9} for entry in tables["annotations"]]


@pytest.mark.parametrize("field", ["segmentation", "keypoints"])
def test_results_without_boxes_are_drawn(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The box is that around the mask or the keypoints; COCO's results of masks have no other."""

    data = write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96))
    file = data / "annotations" / "instances_val.json"
    tables = json.loads(file.read_text())
    for annotation in tables["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["keypoints"] = [x, y, 2, x + width, y + height, 2]
    for category in tables["categories"]:
        category |= {"keypoints": ["a", "b"], "skeleton": [[1, 2]]}
    file.write_text(json.dumps(tables))
    results, drawn = perfect(data, field), list[np.ndarray]()

    def draw(image: torch.Tensor, boxes: Any, *rest: Any, **more: Any) -> Image.Image:
        drawn.append(np.array(boxes))
        return draw_objects(image, boxes, *rest, **more)

    monkeypatch.setattr(examples, "draw_objects", draw)
    dataset = open_dataset(data, "val", keypoints=True)
    [example] = draw_spread(dataset, results, 8, 0, 0.5, skeleton=[(0, 1)], proposals=False, failed=(), log=print)
    assert example.note == "2 detections, 2 objects"
    expected = [[x, y, x + width, y + height] for x, y, width, height in (a["bbox"] for a in tables["annotations"])]
    [boxes] = drawn
    np.testing.assert_allclose(sorted(boxes.tolist()), sorted(expected), atol=1.01)


def test_results_of_a_part_of_the_images_are_reported(tmp_path: Path) -> None:
    data, found = write_tiny_coco(tmp_path / "data", {"val": 5}, size=(64, 96)), tmp_path / "found"
    dataset, results = open_dataset(data, "val"), perfect(data, "bbox")
    mine, other = tmp_path / "mine.json", tmp_path / "other.json"
    mine.write_text(json.dumps([one for one in results if one["image_id"] in (1, 4)]))
    (line,) = evaluate_results(mine, dataset).warnings
    assert line == (
        f"{mine} has results for 2 of the 5 images of the split; the other 3 count as images without detections. To "
        "evaluate only some images, give their ids: --split IDS.txt"
    )
    other.write_text(json.dumps([one for one in results if one["image_id"] != 5]))
    assert evaluate_results(other, dataset).warnings == (), "images without detections are usual"
    assert compare(other, mine, dataset, samples=0).warnings == (line,)
    (tmp_path / "ids.txt").write_text("1\n4\n")
    some = evaluate(mine, data, split=str(tmp_path / "ids.txt"))
    assert (some.metrics.images, some.metrics.kinds["bbox"]["AP"]) == (2, 1)
    assert not any("results for" in one for one in some.warnings)
    with pytest.raises(ValueError, match="results have image_id 2, 3, which"):
        evaluate(other, data, split=str(tmp_path / "ids.txt"))
    with OutputFolder(found) as folder:  # as `rcnn predict --format coco` writes them
        folder.write_json("coco.json", {"images": [{"id": 1 + place} for place in range(4)]})
        folder.write_json("coco_results.json", results[:2])
        folder.path.joinpath("mine.json").write_text(json.dumps(results[:2]))
    (line,) = evaluate_results(found / "coco_results.json", dataset).warnings
    assert (
        "is of a prediction (see coco.json beside it) on 4 of the 5 images of the split; the other one counts" in line
    )
    assert "has results for 1 of the 5" in evaluate_results(found / "mine.json", dataset).warnings[0]
    with OutputFolder(found) as folder:
        folder.write_json("coco.json", {"images": [{"id": 1 + place} for place in range(5)]})
    assert evaluate_results(found / "coco_results.json", dataset).warnings == (), "the others have no detections"


def test_a_missing_file_of_results_is_named(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96))
    mine, missing = tmp_path / "mine.json", tmp_path / "coco_results.json"
    mine.write_text(json.dumps(perfect(data, "bbox")))
    for function in (lambda: evaluate(missing, data), lambda: compare(mine, missing, data)):
        with pytest.raises(FileNotFoundError, match=r"coco_results\.json does not exist; expected a file in COCO's"):
            function()
