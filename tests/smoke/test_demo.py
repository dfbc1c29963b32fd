"""The demo on a few images and steps: its files, a second run, and figures equal to those of `rcnn eval`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from pycocotools import mask as pycoco

from rcnn.demo.run import RECIPE, Demo, run_demo
from rcnn.demo.synthetic import CLASSES
from tests.command import rcnn
from tests.tiny_data import TINY_MODEL

IMAGES = {"train": 4, "val": 2, "unseen": 2}
BRIEF = replace(RECIPE, steps=2, batch_size=2, workers=0, warmup_steps=0)
WORDS = (*TINY_MODEL, "box.score_threshold=0.01")


def tiny_demo(output: Path) -> Demo:
    return run_demo(output, images=IMAGES, recipe=BRIEF, overrides=WORDS, log=lambda line: None)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo has run."""
    folder = tmp_path_factory.mktemp("demo") / "output"
    tiny_demo(folder)
    return folder


def test_report_is_one_file_that_fetches_nothing(output: Path) -> None:
    page = (output / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert len(sources) == 2 * IMAGES["unseen"]
    assert all(source.startswith("data:image/") for source in sources)
    assert all(name in page for name in CLASSES)


def test_pictures_are_of_the_unseen_images(output: Path) -> None:
    names = sorted(path.name for path in (output / "pictures").iterdir())
    assert names == sorted(path.name for path in (output / "data" / "unseen").iterdir())
    for name in names:
        with Image.open(output / "pictures" / name) as drawn, Image.open(output / "data/unseen" / name) as image:
            assert drawn.size == image.size
            assert sorted(drawn.size) == [640, 800]
    assert (output / "overview.jpg").exists()


def test_predictions_are_in_original_pixels(output: Path) -> None:
    document = json.loads((output / "predictions.json").read_text())
    assert len(document["images"]) == IMAGES["unseen"]
    for image in document["images"]:
        for found in image["detections"]:
            x1, y1, x2, y2 = found["box"]
            assert 0 <= x1 < x2 <= image["width"]
            assert 0 <= y1 < y2 <= image["height"]
            assert CLASSES[found["label"]] == found["name"]
            assert pycoco.decode(found["mask"]).shape == (image["height"], image["width"])


def test_results_are_those_of_the_eval_command(output: Path, tmp_path: Path) -> None:
    results = json.loads((output / "results.json").read_text())
    words = ("eval", output / "run", "--data", output / "data", "--split", "val", "--output", tmp_path)
    assert rcnn(*words) == 0
    measured = json.loads((tmp_path / "metrics.json").read_text())
    assert set(measured["per_class"]) == set(CLASSES)
    assert {key: results[key] for key in measured} == measured
    assert results["steps"] == BRIEF.steps
    assert set(results["seconds"]) == {"data", "training", "evaluation", "prediction"}


def test_a_second_demo_starts_over(output: Path) -> None:
    own = [output / "notes.txt", output / "data" / "train" / "mine.jpg", output / "run" / "mine.txt"]
    for path in own:
        path.write_text("the user's")
    before = json.loads((output / "results.json").read_text())
    again = tiny_demo(output)
    assert {path.read_text() for path in own} == {"the user's"}
    after = json.loads(again.results.read_text())
    assert after["bbox"] == before["bbox"]
    assert after["segm"] == before["segm"]


def test_a_folder_of_another_program_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"data exists and was not written by rcnn: choose another output"):
        tiny_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine.txt"]
