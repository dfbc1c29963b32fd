"""The COCO copies of VOC's and SBD's data sets are evaluated like the originals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rcnn.data import Dataset, open_dataset
from rcnn.data.inspect.divide import split_dataset
from rcnn.data.inspect.fix import fix_dataset
from rcnn.evaluation.results import evaluate_results
from tests.unit.data.coco_folders import annotation, coco_tables, write_coco, write_images
from tests.unit.data.format_folders import voc_file, voc_object, write_sbd

IDS = [f"2008_{number:06}" for number in range(10)]


def write_voc(root: Path) -> None:
    """VOC 2010 with a cat, and a dog that is difficult, in each image."""
    place = root / "VOC2010"
    write_images(place / "JPEGImages", [f"{one}.jpg" for one in IDS])
    (place / "Annotations").mkdir()
    for one in IDS:
        objects = [voc_object("cat", (11, 6, 30, 25)), voc_object("dog", (31, 6, 50, 35), 1)]
        (place / "Annotations" / f"{one}.xml").write_text(voc_file(f"{one}.jpg", (40, 60), objects))
    (place / "ImageSets" / "Main").mkdir(parents=True)
    (place / "ImageSets" / "Main" / "train.txt").write_text("\n".join(IDS))


def fix(root: Path, out: Path) -> None:
    fix_dataset(root, out, workers=1)


def divide(root: Path, out: Path) -> None:
    split_dataset(root, (0.5, 0.5), out, workers=1)


def evaluated(dataset: Dataset, file: Path) -> tuple[str, float | None, set[str]]:
    """Metric, AP and classes with counted objects, for detections that find every cat, and no dog."""
    cat = dataset.category_ids[dataset.classes.index("cat")]
    found = [{"image_id": one, "category_id": cat, "bbox": [10, 5, 20, 20], "score": 0.9} for one in dataset.image_ids]
    file.write_text(json.dumps(found))
    metrics = evaluate_results(file, dataset).metrics
    return metrics.metric, metrics.kinds["bbox"]["AP"], {name for name, count in metrics.objects.items() if count}


@pytest.mark.parametrize(("copy", "place"), [(fix, "out"), (divide, "out"), (divide, "data")])
def test_copies_of_voc_keep_the_metric_and_ignore_difficult_objects(
    copy: Callable[[Path, Path], None], place: str, tmp_path: Path
) -> None:
    write_voc(tmp_path / "data")
    expected = ("voc2012", 1.0, {"cat"})  # AP .5 and two classes if the difficult dogs counted
    assert evaluated(open_dataset(tmp_path / "data", "train"), tmp_path / "results.json") == expected
    copy(tmp_path / "data", tmp_path / place)
    copied = open_dataset(tmp_path / place, "train")
    assert evaluated(copied, tmp_path / "results.json") == expected
    assert copied.num_training_objects == len(copied)  # the cats


def test_copies_of_sbd_keep_the_metric_and_those_of_coco_have_none(tmp_path: Path) -> None:
    write_sbd(tmp_path / "sbd", IDS)
    write_coco(tmp_path / "coco", coco_tables([annotation(1)]))
    for name, expected, info in (("sbd", "voc2007", {"metric": "voc2007"}), ("coco", "coco", None)):
        fix(tmp_path / name, out := tmp_path / f"{name} out")
        (file,) = (out / "annotations").iterdir()
        assert json.loads(file.read_text()).get("info") == info
        assert open_dataset(out, file.stem.removeprefix("instances_")).metric == expected


@pytest.mark.parametrize("info", [None, [], {"metric": None}, {"metric": "mAP"}, {"metric": ["voc2012"]}])
def test_other_contents_of_info_do_not_change_the_metric(info: object, tmp_path: Path) -> None:
    write_coco(tmp_path, coco_tables([annotation(1)]) | {"info": info})
    assert open_dataset(tmp_path, "val").metric == "coco"
