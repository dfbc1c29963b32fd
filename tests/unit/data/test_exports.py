"""The same 24 photos as Roboflow, CVAT, Label Studio and COCO files alone write them: equal tables, equal AP.

The shapes are those of real exports: Roboflow's renamed files and unused category 0, CVAT's instances_default.json
with attributes, Label Studio's result.json, which counts from 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcnn.data import Dataset, open_dataset, splits
from rcnn.metrics.coco import evaluate

Tables = dict[str, Any]
PHOTOS = 24


@pytest.fixture(scope="module")
def photos(shared: Path) -> tuple[Path, Tables]:
    """The folder of the photos, and their tables: 24 images of val2017, objects with polygons, classes in use."""
    folder = shared / "data" / "coco449"
    tables = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    images = sorted(tables["images"], key=lambda image: image["file_name"])[:PHOTOS]
    ids = {image["id"] for image in images}
    annotations = [a for a in tables["annotations"] if a["image_id"] in ids and not a["iscrowd"]]
    used = {a["category_id"] for a in annotations}
    categories = [category for category in tables["categories"] if category["id"] in used]
    return folder / "val2017", {"images": images, "annotations": annotations, "categories": categories}


def rewritten(
    tables: Tables,
    *,
    first: int,
    image: Callable[[str], dict[str, Any]],
    annotation: dict[str, Any],
    category: Callable[[str], dict[str, Any]],
    alphabetical: bool,
) -> Tables:
    """The tables with ids that count from `first`, and the fields that a tool writes."""
    names = [entry["name"] for entry in tables["categories"]]
    names = sorted(names) if alphabetical else names
    category_ids = {name: first + place for place, name in enumerate(names)}
    own = {entry["id"]: category_ids[entry["name"]] for entry in tables["categories"]}
    image_ids = {entry["id"]: first + place for place, entry in enumerate(tables["images"])}
    sizes = ("height", "width")
    return {
        "images": [
            {"id": image_ids[one["id"]]} | {side: one[side] for side in sizes} | image(one["file_name"])
            for one in tables["images"]
        ],
        "annotations": [
            {field: one[field] for field in ("bbox", "area", "segmentation", "iscrowd")}
            | {"id": first + place, "image_id": image_ids[one["image_id"]], "category_id": own[one["category_id"]]}
            | annotation
            for place, one in enumerate(tables["annotations"])
        ],
        "categories": [{"id": category_ids[name], "name": name} | category(name) for name in names],
    }


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(source.resolve(), target)


def write(file: Path, content: Tables) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def one_json(root: Path, source: Path, tables: Tables) -> None:
    """A COCO file alone, with the images beside it."""
    write(root / "labels.json", tables)
    for image in tables["images"]:
        link(source / image["file_name"], root / image["file_name"])


def roboflow_name(name: str) -> str:
    stem, suffix = name.split(".")
    return f"{stem}_{suffix}.rf.0123456789abcdef0123456789abcdef.{suffix}"


def roboflow(root: Path, source: Path, tables: Tables) -> None:
    """train/_annotations.coco.json beside the images; category 0 is the name of the project, without objects."""
    content = rewritten(
        tables,
        first=0,
        image=lambda name: {"license": 1, "file_name": roboflow_name(name), "extra": {"name": name}},
        annotation={},
        category=lambda name: {"supercategory": "street"},
        alphabetical=True,
    )
    for category in content["categories"]:
        category["id"] += 1
    for entry in content["annotations"]:
        entry["category_id"] += 1
    content["categories"].insert(0, {"id": 0, "name": "street", "supercategory": "none"})
    info = {"year": "2026", "version": "1", "description": "Exported from roboflow.com", "contributor": ""}
    write(
        root / "train" / "_annotations.coco.json",
        {"info": info, "licenses": [{"id": 1, "name": "CC BY 4.0"}]} | content,
    )
    for image in tables["images"]:
        link(source / image["file_name"], root / "train" / roboflow_name(image["file_name"]))


def cvat(root: Path, source: Path, tables: Tables) -> None:
    """annotations/instances_default.json and images/default/, as datumaro writes them."""
    extra = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
    content = rewritten(
        tables,
        first=1,
        image=lambda name: {"file_name": name} | extra,
        annotation={"attributes": {"occluded": False}},
        category=lambda name: {"supercategory": ""},
        alphabetical=False,
    )
    info = {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""}
    content |= {"licenses": [{"name": "", "id": 0, "url": ""}], "info": info}
    write(root / "annotations" / "instances_default.json", content)
    for image in tables["images"]:
        link(source / image["file_name"], root / "images" / "default" / image["file_name"])


def label_studio(root: Path, source: Path, tables: Tables) -> None:
    """result.json and images/, whose names got a prefix; ids count from 0, labels are in alphabetical order."""
    content = rewritten(
        tables,
        first=0,
        image=lambda name: {"file_name": f"images/1a2b3c4d-{name}"},
        annotation={"ignore": 0},
        category=lambda name: {},
        alphabetical=True,
    )
    info = {"year": 2026, "version": "1.0", "description": "", "contributor": "Label Studio", "url": ""}
    write(root / "result.json", content | {"info": info})
    for image in tables["images"]:
        link(source / image["file_name"], root / "images" / f"1a2b3c4d-{image['file_name']}")


TOOLS = {"one_json": one_json, "roboflow": roboflow, "cvat": cvat, "label_studio": label_studio}


def original_name(record_name: str) -> str:
    """The name that the photo had before a tool renamed it."""
    return record_name.split("1a2b3c4d-")[-1].split("_jpg.rf.")[0].removesuffix(".jpg") + ".jpg"


def by_photo(dataset: Dataset) -> dict[str, list[str]]:
    """The objects of each photo, without ids."""
    truth = dataset.to_coco()
    names = {entry["id"]: entry["name"] for entry in truth["categories"]}
    photos: dict[str, list[tuple[Any, ...]]] = {}
    of = {image["id"]: original_name(image["file_name"].split("/")[-1]) for image in truth["images"]}
    for image in truth["images"]:
        photos[of[image["id"]]] = [(image["height"], image["width"])]
    for entry in truth["annotations"]:
        outline = json.dumps(entry["segmentation"])
        values = (names[entry["category_id"]], tuple(entry["bbox"]), entry["area"], entry["iscrowd"], outline)
        photos[of[entry["image_id"]]].append(values)
    return {name: sorted(map(str, objects)) for name, objects in photos.items()}


def average_precision(dataset: Dataset) -> dict[str, float | None]:
    """AP of the same detections, which are the ground truth with shifted boxes and some classes exchanged."""
    truth = dataset.to_coco()
    names = {entry["id"]: entry["name"] for entry in truth["categories"]}
    ids = {name: number for number, name in names.items()}
    of = {image["id"]: original_name(image["file_name"].split("/")[-1]) for image in truth["images"]}
    results: list[dict[str, Any]] = []
    for entry in sorted(truth["annotations"], key=lambda entry: (of[entry["image_id"]], str(entry["bbox"]))):
        generator = np.random.default_rng([int(sum(entry["bbox"])), len(results)])
        x, y, width, height = entry["bbox"]
        shift = generator.normal(0, 0.06, 2) * (width, height)
        name = names[entry["category_id"]] if generator.uniform() < 0.8 else "person"
        results.append(
            {
                "image_id": entry["image_id"],
                "category_id": ids[name],
                "score": float(generator.uniform()),
                "bbox": [x + shift[0], y + shift[1], width, height],
            }
        )
    return evaluate(truth, results, ("bbox",)).kinds["bbox"]


@pytest.mark.parametrize("tool", TOOLS)
def test_each_tool_gives_equal_tables_and_equal_ap(tmp_path: Path, photos: tuple[Path, Tables], tool: str) -> None:
    source, tables = photos
    write(tmp_path / "coco" / "annotations" / "instances_val2017.json", tables)
    link(source, tmp_path / "coco" / "val2017")
    TOOLS[tool](tmp_path / tool, source, tables)
    coco, theirs = open_dataset(tmp_path / "coco"), open_dataset(tmp_path / tool)
    expected = {"one_json": "labels", "roboflow": "train", "cvat": "default", "label_studio": "all"}
    assert splits(tmp_path / tool) == [expected[tool]]
    assert (coco.warnings, theirs.warnings) == ((), ())
    assert set(theirs.classes) == set(coco.classes)
    assert by_photo(theirs) == by_photo(coco)
    assert sum(map(len, by_photo(coco).values())) > 4 * PHOTOS
    ours = average_precision(coco)
    assert 0.2 < (ours["AP"] or 0) < 0.9
    assert average_precision(theirs) == pytest.approx(ours, abs=1e-12)
