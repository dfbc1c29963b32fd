"""The listings and examples of docs/data/formats.md are right; and the commands take each format."""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

import rcnn as library
from rcnn.data.formats import layouts
from tests.command import rcnn
from tests.tiny_data import TINY_MODEL
from tests.unit.data.coco_folders import annotation, coco_tables, write_images
from tests.unit.data.format_folders import (
    reference,
    write_labelme,
    write_labelme_xml,
    write_lvis,
    write_masks,
    write_refer,
    write_sbd,
    write_voc,
    write_yolo,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data" / "formats.md"
BRIEF = ("train.steps=1", "train.batch_size=1", "train.workers=0", "box.score_threshold=0.01")
STEM = [[35, 5, 50, 5, 50, 25, 35, 25]]


def tables(names: list[str]) -> dict[str, Any]:
    """Images of these names, each with a leaf and a stem."""
    annotations: list[dict[str, Any]] = []
    for number in range(1, len(names) + 1):
        annotations.append(annotation(2 * number - 1, image_id=number))
        stem = {"bbox": [35, 5, 15, 20], "segmentation": copy.deepcopy(STEM), "area": 300.0}
        annotations.append(annotation(2 * number, image_id=number, category_id=7, **stem))
    found = coco_tables(annotations, len(names))
    found["categories"] = [{"id": 3, "name": "leaf"}, {"id": 7, "name": "stem"}]
    for image, name in zip(found["images"], names, strict=True):
        image["file_name"] = name
    write_images(Path("pictures"), names)
    return found


PICTURES = Path("pictures")


def labelme() -> tuple[str, str]:
    write_labelme(tables(["a.jpg"]), PICTURES, Path("plants/train"))
    write_labelme(tables(["b.jpg"]), PICTURES, Path("plants/val"))
    return "plants", "train"


def labelme_xml() -> tuple[str, str]:
    write_labelme_xml(tables(["a.jpg"]), PICTURES, Path("fields/train"))
    return "fields", "train"


def yolo() -> tuple[str, str]:
    write_yolo(tables(["a.jpg"]), PICTURES, Path("shapes"), "train", polygons=True)
    return "shapes", "train"


def voc() -> tuple[str, str]:
    write_voc(tables(["2007_000027.jpg"]), PICTURES, Path("VOCdevkit/VOC2012"), "train")
    return "VOCdevkit", "train_segmentation"


def sbd() -> tuple[str, str]:
    write_sbd(Path(), ["2008_000002"])
    return "benchmark_RELEASE", "train"


def refer() -> tuple[str, str]:
    content = tables([f"COCO_train2014_{number:012}.jpg" for number in (1, 2)])
    first, *_, last = content["annotations"]
    refs = [reference(1, first, "testA", ["Left leaf", "the green one"]), reference(2, last, "train", ["stem"])]
    write_refer(content, PICTURES, Path("refer"), refs)
    return "refer", "train"


def lvis() -> tuple[str, str]:
    write_lvis(tables([f"{number:012}.jpg" for number in (1, 2)]), PICTURES, Path("lvis"), "val")
    return "lvis", "val"


def mask_folders() -> tuple[str, str]:
    write_masks(tables(["a.jpg"]), PICTURES, Path("cells"))
    return "cells", "all"


FORMATS: dict[str, Callable[[], tuple[str, str]]] = {
    "labelme": labelme,
    "LabelMe XML": labelme_xml,
    "YOLO": yolo,
    "Pascal VOC": voc,
    "SBD": sbd,
    "REFER": refer,
    "LVIS": lvis,
    "Mask folders": mask_folders,
}


def sections() -> dict[str, str]:
    """The sections of the page by their titles."""
    parts = re.split(r"^## (.+)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_page_has_every_format() -> None:
    assert list(sections()) == list(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_one_format_recognises_a_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, split = FORMATS[name]()
    found = [one.NAME for one in layouts.FORMATS if one.recognises(Path(folder), split)]
    assert found == (["LVIS", "COCO"] if name == "LVIS" else [name.replace("Mask", "mask")])  # LVIS has COCO's tables


@pytest.mark.parametrize("name", FORMATS)
def test_the_listing_and_the_example_of_a_format(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FORMATS[name]()
    text = sections()[name]
    (listing,) = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    assert len(listing.split()) >= 3
    for path in listing.split():
        assert Path(path).is_file(), path
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(code, f"docs/data/formats.md, {name}", "exec"), {"rcnn": library})  # noqa: S102  the page is ours
    assert printed.getvalue().splitlines() == re.findall(r"^print\(.*\)  # (.*)$", code, flags=re.MULTILINE)


@pytest.mark.parametrize("name", FORMATS)
def test_the_commands_take_a_format(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, split = FORMATS[name]()
    where = ("--data", folder, "--split", split)
    words = ("--val-split", "none", "--output", "run", "--weights", "none", *TINY_MODEL, *BRIEF)
    assert rcnn("train", "mask_rcnn_compact", *where, *words) == 0
    assert rcnn("eval", "run", *where, "--output", "scores") == 0
    assert {"bbox", "segm"} <= json.loads(Path("scores/metrics.json").read_text()).keys()
    assert Path("scores/report.html").is_file()
    assert rcnn("predict", "run", *where, "--output", "found") == 0
    assert list(Path("found").glob("*.json"))
    assert rcnn("data", "browse", folder, "--split", split, "--output", "page") == 0
    assert Path("page/browse.html").is_file()
    assert rcnn("data", "check", folder, "--split", split, "--skip", "empty-category") == 0
