"""benchmarks/defaults.py compares runs as it says, and benchmarks/labelme24.py writes the objects of COCO's file."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcnn.data import open_dataset

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def runs(*last: float, best: float = 0.9) -> list[dict[str, Any]]:
    """A line per seed."""
    return [{"mask_ap": {"last": value, "best": best}} for value in last]


def test_the_last_evaluation_is_compared_by_the_error_of_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    defaults = importlib.import_module("defaults")
    assert defaults.last_and_best({20: 0.7, 100: 0.6, 40: 0.75}) == {"last": 0.6, "best": 0.75}
    # means .5 and .52, each with standard deviation .02 and error .02 / sqrt(3); that of the difference is .0163
    assert defaults.difference([0.48, 0.5, 0.52], [0.5, 0.52, 0.54]) == pytest.approx((-0.02, 0.02 * (2 / 3) ** 0.5))
    low, same, high = runs(0.48, 0.5, 0.52, best=0.1), runs(0.5, 0.51, 0.52), runs(0.5, 0.52, 0.54, best=0)
    assert not defaults.compare("balloon", "d2go", {"default": low, "tuned": same})
    assert capsys.readouterr().out.splitlines() == [
        "| balloon | d2go | default | 3 | 0.500 ± 0.012 | 0.100 ± 0.000 |",
        "| balloon | d2go | tuned | 3 | 0.510 ± 0.006 | 0.900 ± 0.000 | -0.010 ± 0.013 |",
    ]
    assert defaults.compare("balloon", "d2go", {"default": low, "tuned": same, "other": high})
    assert not defaults.compare("balloon", "d2go", {"default": low[:1], "tuned": high[:1]})  # one seed: no error


def test_every_tuned_command_is_in_the_documentation() -> None:
    defaults = importlib.import_module("defaults")
    pages = [BENCHMARKS.parent / "README.md", *(BENCHMARKS.parent / "docs").glob("*.md")]
    text = " ".join(page.read_text(encoding="utf-8") for page in pages)
    commands = [words for tuned in defaults.TUNED.values() for words in tuned.values()]
    assert [words for words in commands if " ".join(words) not in text] == []


def test_persons_of_coco_become_labelme_objects(tmp_path: Path) -> None:
    labelme24 = importlib.import_module("labelme24")
    square, part = [1.0, 2, 9, 2, 9, 12, 1, 12], [20.0, 2, 30, 2, 30, 8]
    person = {"image_id": 7, "category_id": 1, "iscrowd": 0}
    annotations = [
        person | {"segmentation": [square]},
        person | {"category_id": 3, "segmentation": [square]},
        person | {"iscrowd": 1, "segmentation": {"counts": [4], "size": [20, 40]}},
        person | {"segmentation": [square, part]},
        person | {"image_id": 8, "segmentation": [square]},
    ]
    images = [{"id": number, "file_name": f"{number}.jpg", "height": 20, "width": 40} for number in (7, 8)]
    coco = tmp_path / "instances.json"
    coco.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    Image.new("RGB", (40, 20)).save(tmp_path / "7.jpg")
    labelme24.write(coco, tmp_path, tmp_path / "out", photos=(7,))
    dataset = open_dataset(tmp_path / "out")
    assert (len(dataset), dataset.classes) == (1, ("person",))
    np.testing.assert_array_equal(dataset.objects.boxes, [[1, 2, 9, 12], [1, 2, 30, 12]])
    with pytest.raises(ValueError, match=r"lacks the images \[9\]; expected the file of all of val2017"):
        labelme24.write(coco, tmp_path, tmp_path / "other", photos=(7, 9))
