"""The listings and examples of docs/data.md are right: each listing is written, and each example runs."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

import rcnn as library
from tests.command import rcnn
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.data.coco_folders import annotation, coco_tables, write_images

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE))


def write(file: str, image: str, *, first: int = 1, group: str = "") -> None:
    """A COCO file with one image that is called `image`, and its categories with ids from `first`."""
    tables = coco_tables([annotation(1, category_id=first), annotation(2, category_id=first + 1)], images=1)
    tables["images"][0]["file_name"] = image
    tables["categories"] = [{"id": first, "name": "cup"}, {"id": first + 1, "name": "kite"}]
    if group:
        tables["categories"] = [
            {"id": 0, "name": group, "supercategory": "none"},
            *(category | {"supercategory": group} for category in tables["categories"]),
        ]
    if "image_info" in file:
        del tables["annotations"]
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(json.dumps(tables))


def coco(listing: list[str]) -> None:
    files, images = listing[:3], listing[3:]
    for file, image in zip(files, images, strict=True):
        write(file, Path(image).name)


def roboflow(listing: list[str]) -> None:
    for file, image in zip(listing[::2], listing[1::2], strict=True):
        write(file, Path(image).name, group="fruits")


def one_file(listing: list[str], first: int = 1) -> None:
    [file, image] = listing
    write(file, Path(image).name, first=first)


def label_studio(listing: list[str]) -> None:
    one_file(listing, first=0)


def via(listing: list[str]) -> None:
    [file, image] = listing
    polygon = {"name": "polygon", "all_points_x": [10, 30, 30], "all_points_y": [10, 10, 30]}
    region: dict[str, Any] = {"shape_attributes": polygon, "region_attributes": {}}
    entry: dict[str, Any] = {"filename": Path(image).name, "regions": [region]}
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(json.dumps({"1": entry}))


WRITERS: dict[str, Callable[[list[str]], None]] = {
    "COCO": coco,
    "Roboflow": roboflow,
    "CVAT": one_file,
    "Label Studio": label_studio,
    "FiftyOne": one_file,
    "One file": one_file,
    "VIA": via,
}


@pytest.mark.parametrize("title", WRITERS)
def test_each_format_is_read_as_its_section_says(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = SECTIONS[title]
    [listing] = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    files = listing.split()
    WRITERS[title](files)
    write_images(tmp_path, [file for file in files if not file.endswith(".json")])
    assert sorted(files) == sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(code, f"docs/data.md, {title}", "exec"), {"rcnn": library})  # noqa: S102  the page is ours
    expected = re.findall(r"# (.*)$", code, flags=re.MULTILINE)
    if expected and expected[0][0] in "(abcdefghijklmnopqrstuvwxyz" and title != "Roboflow":
        assert printed.getvalue().strip() == expected[0]


def test_the_examples_of_own_data_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", ["1.jpg", "2.jpg", "3.jpg"])
    names: dict[str, Any] = {"rcnn": library}
    examples = re.findall(r"```python\n(.*?)```", SECTIONS["Your own data sets in Python"], flags=re.DOTALL)
    assert len(examples) == 2
    for code in examples:
        exec(compile(code, "docs/data.md", "exec"), names)  # noqa: S102  the page is ours
    assert names["dataset"].class_counts == {"cat": 1, "dog": 1}
    assert names["training"].class_counts == {"square": 12}
    assert names["run"].best is not None


def test_the_commands_of_the_splits_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_coco(tmp_path / "photos", {"train": 2, "extra": 1, "val": 1, "night": 1}, size=(48, 64))
    write_tiny_coco(tmp_path / "one", {"labels": 12}, size=(48, 64))
    (tmp_path / "one" / "annotations" / "instances_labels.json").rename(tmp_path / "labels.json")
    (tmp_path / "one" / "labels").rename(tmp_path / "images")
    [block] = re.findall(r"```\n(.*?)```", SECTIONS["Splits"], flags=re.DOTALL)
    first, second, third = [line.split()[1:] for line in block.strip().splitlines()]
    assert rcnn(*first, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "3 images with 6 objects (train+extra)" in said
    assert "(val), 1 image with 2 objects (night)" in said
    brief = [*TINY_MODEL, "train.steps=1", "train.batch_size=1", "train.workers=0"]
    assert rcnn(*second, "--device", "cpu", *brief) == 0
    said = capsys.readouterr().out
    assert "(labels), evaluated on 1 image with 2 objects (held out of labels)" in said
    best = re.search(r"^best (?:bbox|segm)\.AP (0\.\d{4}), in run/best$", said, re.MULTILINE)
    assert best is not None
    assert ("is 0: train longer" in said) == (best[1] == "0.0000")
    assert rcnn(*third, "--output", "eval", "--device", "cpu") == 0
    assert "evaluating on the 1 image of labels that the run held out" in capsys.readouterr().out
    assert rcnn("eval", "eval", "--data", "labels.json", "--output", "again") == 0
    assert "evaluating on the 1 image of labels that the run held out" in capsys.readouterr().out
    assert (tmp_path / "eval" / "metrics.json").read_text() == (tmp_path / "again" / "metrics.json").read_text()
