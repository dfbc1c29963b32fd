"""`rcnn data check --fix`: the copy has no errors, keeps what was right, and nothing of the user's is overwritten."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.data import open_dataset
from rcnn.data.inspect import fix
from rcnn.data.inspect.fix import FixReport, fix_dataset
from rcnn.ops.coco_backend import as_rle, rle_mask
from tests.command import rcnn
from tests.tiny_data import write_tiny_coco
from tests.unit.data.coco_folders import SQUARE, annotation, coco_tables, write_coco, write_images
from tests.unit.data.inspect_faults import FAULTS, Data, Fault, changed, write_clean, write_tables

BEYOND_REPAIR = ("no-objects", "no-images", "no-categories")  # of a whole split
LEFT = ("box-form", "keypoint-count")  # boxes without outlines: nothing proves their form; names that are missing
# Ids of the training objects that each fault of a kind costs, with seed 3; the others cost none.
OBJECT, IMAGE_2, IMAGE_4, CUPS, KITES = (10,), (4, 5, 6), (10, 11, 12), range(1, 13, 2), range(2, 13, 2)
LOST: dict[str, tuple[Sequence[int], ...]] = {
    "no-objects": (range(1, 13), ()),
    "missing-field": (OBJECT, OBJECT, IMAGE_2, KITES),
    "bad-id": (IMAGE_2, KITES),
    "repeated-id": (IMAGE_4, CUPS),
    "unknown-reference": (OBJECT, OBJECT),
    "bad-file-name": (IMAGE_2,),
    "missing-image": (IMAGE_2,),
    "image-outside": (IMAGE_2,),
    "no-annotation-id": (OBJECT,),  # its id, see NEW
    "no-box": (OBJECT,),
    "empty-box": (OBJECT,),
    "box-outside": (OBJECT,),
    "unreadable-image": (IMAGE_4, IMAGE_4),
    "wrong-image-size": (IMAGE_4,),
    "leak": (IMAGE_2, IMAGE_2, IMAGE_2),
}
# Boxes that differ from those of the clean set.
NEW: dict[str, dict[int, list[float]]] = {
    "no-annotation-id": {13: [7, 65, 26, 27]},
    "tiny-outline": {10: [7, 65, 1.5, 1.5]},
    "box-differs": {10: [7, 65, 26 * 0.85, 27 * 0.85]},  # only a warning
}


def boxes_in(folder: Path, split: str) -> dict[int, list[float]]:
    """Id -> x, y, width, height of the annotations that were written."""
    tables = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
    return {one["id"]: one["bbox"] for one in tables["annotations"]}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data]:
    root = tmp_path_factory.mktemp("clean")
    return root, write_clean(root)


def test_crowds_become_objects(clean: tuple[Path, Data], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, data = tmp_path / "data", copy.deepcopy(clean[1])
    shutil.copytree(clean[0], root)
    for entry in data["train"]["annotations"]:
        entry["iscrowd"] = int(entry["id"] % 2)
    write_tables(root, data)
    dataset = open_dataset(root, "train")
    assert (dataset.num_training_objects, len(dataset.objects.labels)) == (6, 12)
    assert "6 annotations have iscrowd 1, of 12 objects" in dataset.warnings[0]
    assert "--fix OUT --crowds-as-objects" in dataset.warnings[0]
    assert rcnn("data", "check", root, "--crowds-as-objects") == 2
    assert rcnn("data", "check", root, "--fix", tmp_path / "out", "--crowds-as-objects") == 0
    assert "fix: split 'train': 6 crowds became ordinary objects" in capsys.readouterr().out
    assert open_dataset(tmp_path / "out", "train").num_training_objects == 12
    for entry in data["train"]["annotations"]:
        entry["iscrowd"] = 1
    write_tables(root, data)
    with pytest.raises(ValueError, match=r"only 12 crowds. To use crowds, write a copy .*--crowds-as-objects"):
        open_dataset(root, "train")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
def test_the_repaired_copy_has_no_errors(clean: tuple[Path, Data], tmp_path: Path, fault: Fault) -> None:
    root, data = tmp_path / "data", clean[1]
    shutil.copytree(clean[0], root)
    write_tables(root, changed(data, fault, root, seed=3))
    report = fix_dataset(root, tmp_path / "out")
    assert fault.kind in [one.kind for one in report.before.findings]
    left = {one.kind for one in report.after.errors}
    assert left <= {fault.kind} & {*BEYOND_REPAIR, *LEFT}, report.after.lines()
    if fault.kind not in BEYOND_REPAIR:
        assert list(report.after.images) == ["train", "val"]
    if fault.kind not in ("no-images", "no-categories"):
        number = [one for one in FAULTS if one.kind == fault.kind].index(fault)
        lost = LOST.get(fault.kind, ((), (), ()))[number]
        for split, missing in (("train", lost), ("val", ())):
            expected = {one["id"]: one["bbox"] for one in data[split]["annotations"] if one["id"] not in missing}
            expected |= NEW.get(fault.kind, {}) if split == "train" else {}
            found = boxes_in(tmp_path / "out", split)
            assert found.keys() == expected.keys()
            if (fault.kind, number) != ("box-form", 1):  # boxes without outlines, see LEFT
                assert found == {key: pytest.approx(box) for key, box in expected.items()}
    if report.before.errors and fault.kind != "no-objects":
        assert report.actions or report.left_out or report.not_fixed


def test_a_clean_set_is_copied_as_it_is(clean: tuple[Path, Data], tmp_path: Path) -> None:
    report = fix_dataset(clean[0], tmp_path / "out")
    assert (report.actions, report.before.findings, report.after.findings) == ((), (), ())
    for split in ("train", "val"):
        before, after = open_dataset(clean[0], split), open_dataset(tmp_path / "out", split)
        assert after.to_coco() == before.to_coco()
        assert after[0].path.read_bytes() == before[0].path.read_bytes()
    fix_dataset(clean[0], tmp_path / "out")  # again: its own files are replaced


def test_the_actions_are_what_was_done(clean: tuple[Path, Data], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(clean[0], root)
    write_tables(root, clean[1])
    (root / "train" / clean[1]["train"]["images"][1]["file_name"]).write_bytes(b"no image")
    report = fix_dataset(root, tmp_path / "out")
    assert [one.kind for one in report.before.errors] == ["unreadable-image"]
    file = root / "annotations" / "instances_train.json"
    assert report.actions == (f"{file}: removed 1 image with a file that cannot be decoded",)
    shutil.copytree(clean[0] / "train", tmp_path / "two")
    for name, label in (("labels", 7), ("old", 3)):
        tables = coco_tables([annotation(1, category_id=label)], images=1)
        (tmp_path / "two" / f"{name}.json").write_text(json.dumps(tables))
    write_images(tmp_path / "two", ["1.png"])
    report = fix_dataset(tmp_path / "two", tmp_path / "out of two")
    assert [one.kind for one in report.before.errors] == ["two-label-files"]
    assert report.actions == ()


def test_files_of_the_user_are_kept(clean: tuple[Path, Data], tmp_path: Path) -> None:
    mine = tmp_path / "annotations" / "instances_val.json"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(FileExistsError, match=r"has files that rcnn did not write \(annotations\)"):
        fix_dataset(clean[0], tmp_path)
    assert mine.read_text() == "mine"
    with pytest.raises(FileExistsError, match="would be read together with them, or instead of them"):
        fix_dataset(clean[0], clean[0])
    assert not (tmp_path / "train").exists()
    for split in ("ids.txt", "val+train:ids.txt", "train:ids.txt+val"):
        with pytest.raises(ValueError, match=r"is a list of images; expected splits, which are copied whole"):
            fix_dataset(clean[0], tmp_path / "out", split=split)


def test_a_training_split_that_is_a_copy_of_the_validation_split_stays(
    clean: tuple[Path, Data], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(clean[0], root)
    shutil.rmtree(root / "train")
    shutil.copytree(root / "val", root / "train")
    write_tables(root, {"train": clean[1]["val"], "val": clean[1]["val"]})
    report = fix_dataset(root, tmp_path / "out")
    assert [one.kind for one in report.before.errors] == ["leak"]
    assert report.after.images == report.before.images
    assert [one.kind for one in report.after.errors] == ["leak"]


def fixed(clean: tuple[Path, Data], tmp_path: Path, data: Data) -> FixReport:
    """The report for a copy of the clean set with other tables; the repaired copy is tmp_path/out."""
    root = tmp_path / "data"
    shutil.copytree(clean[0], root)
    write_tables(root, data)
    return fix_dataset(root, tmp_path / "out")


def test_of_two_objects_with_one_id_the_one_with_a_box_is_kept(clean: tuple[Path, Data], tmp_path: Path) -> None:
    data = copy.deepcopy(clean[1])
    first, second = data["train"]["annotations"][3:5]
    first["bbox"], second["id"] = [10, 34, 0, 31], first["id"]
    for one in (first, second):
        del one["segmentation"]
    fixed(clean, tmp_path, data)
    boxes = boxes_in(tmp_path / "out", "train")
    assert len(boxes) == 11
    assert boxes[4] == [48, 34, 26, 24]


def test_of_two_objects_with_one_id_only_the_box_that_contradicts_its_outline_is_replaced(
    clean: tuple[Path, Data], tmp_path: Path
) -> None:
    data = copy.deepcopy(clean[1])
    first, second = data["train"]["annotations"][3:5]
    second["id"] = first["id"]
    first["bbox"] = [10, 34, 12, 9]
    second["bbox"] = [48, 34, 25, 23]  # close to its outline
    fixed(clean, tmp_path, data)
    tables = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert [one["bbox"] for one in tables["annotations"][3:5]] == [[10, 34, 29, 31], [48, 34, 25, 23]]


def test_an_image_is_kept_if_an_earlier_entry_of_its_file_is_removed(clean: tuple[Path, Data], tmp_path: Path) -> None:
    data = copy.deepcopy(clean[1])
    first, second = data["train"]["images"][:2]
    first["file_name"], first["width"] = second["file_name"], 127
    report = fixed(clean, tmp_path, data)
    assert report.after.images["train"] == 3
    assert sorted(boxes_in(tmp_path / "out", "train")) == list(range(4, 13))
    assert report.after.errors == ()


def test_the_area_of_a_box_that_was_clipped_is_computed_again(clean: tuple[Path, Data], tmp_path: Path) -> None:
    data = copy.deepcopy(clean[1])
    first, second = data["train"]["annotations"][:2]
    for one in (first, second):
        del one["segmentation"]
    first |= {"bbox": [100, 20, 60, 10], "area": 600.0}
    second["area"] = 123.0
    fixed(clean, tmp_path, data)
    tables = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert [(one["bbox"], one["area"]) for one in tables["annotations"][:2]] == [
        ([100, 20, 28, 10], 280),
        (second["bbox"], 123),
    ]


def test_a_split_that_cannot_be_read_is_an_error_of_the_copy(
    clean: tuple[Path, Data], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(clean[0], root)
    (root / "annotations" / "instances_train.json").write_bytes(b"{")
    assert rcnn("data", "check", root, "--fix", tmp_path / "out") == 1
    assert "instances_train.json is not JSON" in capsys.readouterr().out


def test_a_copy_that_was_stopped_has_no_annotations(
    clean: tuple[Path, Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at_validation(source: Path, target: Path) -> None:
        if "val" in source.parts:
            raise KeyboardInterrupt
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(shutil, "copyfile", stop_at_validation)
    with pytest.raises(KeyboardInterrupt):
        fix_dataset(clean[0], tmp_path / "out")
    assert list((tmp_path / "out" / "train").iterdir())
    assert not (tmp_path / "out" / "annotations").exists()


def test_boxes_that_are_probably_corners_remain_a_fault_of_the_copy(tmp_path: Path) -> None:
    """Without outlines nothing proves their form; clipped to their images, they would look right."""
    root = write_tiny_coco(tmp_path / "data", {"train": 3}, size=(64, 96))
    file = root / "annotations" / "instances_train.json"
    tables = json.loads(file.read_text())
    for one in tables["annotations"]:
        one["bbox"] = [50, 40, 90, 60]  # x1, y1, x2, y2
        del one["segmentation"]
    file.write_text(json.dumps(tables))
    report = fix_dataset(root, tmp_path / "fixed")
    [finding] = [one for one in report.after.findings if one.kind == "box-form"]
    assert "probably [x1, y1, x2, y2] and must then be converted" in finding.action
    assert finding in report.after.errors


@pytest.mark.parametrize(
    ("parts", "left", "box", "area"),
    [
        ([[100, 100, 190, 100, 190, 150, 100, 150]], 1, [100, 100, 60, 20], 1200),
        # a triangle with its right angle at (100, 60), cut at x = 160: a trapezium of heights 60 and 30
        ([[100, 0, 220, 60, 100, 60]], 1, [100, 0, 60, 60], 60 * (60 + 30) / 2),
        ([[-40, 10, 20, 10, 20, 30, -40, 30], [-40, 50, -10, 50, -10, 70]], 1, [0, 10, 20, 20], 400),
    ],
)
def test_the_outline_of_a_box_that_was_clipped_is_clipped_too(
    tmp_path: Path, parts: list[list[float]], left: int, box: list[float], area: float
) -> None:
    image = {"id": 1, "file_name": "1.png", "height": 120, "width": 160}
    points = np.concatenate([np.reshape(part, (-1, 2)) for part in parts])
    around = [*points.min(axis=0).tolist(), *(points.max(axis=0) - points.min(axis=0)).tolist()]
    entry = annotation(1, bbox=around, segmentation=parts, area=9999)
    write_tables(tmp_path, {"train": coco_tables([entry]) | {"images": [image]}})
    write_images(tmp_path / "train", ["1.png"], size=(160, 120))
    assert not fix_dataset(tmp_path, tmp_path / "out").after.errors
    written = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())["annotations"][0]
    assert (written["bbox"], written["area"], len(written["segmentation"])) == (box, area, left)
    before, after = (rle_mask(as_rle(one, 120, 160)) for one in (parts, written["segmentation"]))
    assert (before == after).all()


def test_boxes_inside_their_images_and_their_areas_are_kept(tmp_path: Path) -> None:
    """x + width - x differs from width for half of the boxes with decimals; areas may be smaller than the boxes."""
    generator = np.random.default_rng(0)
    starts, sides = generator.uniform(0, 15, (40, 2)).round(2), generator.uniform(2, 25, (40, 2)).round(2)
    boxes = np.concatenate([starts, sides], axis=1).tolist()
    assert sum(x + width - x != width for x, _, width, _ in boxes) > 10
    entries = [annotation(n, bbox=box, area=1.5 + n, segmentation=None) for n, box in enumerate(boxes)]
    entries.append(annotation(40, bbox=[50.5, 30.25, 20, 5], area=7, segmentation=None))  # 60 pixels wide
    root = write_coco(tmp_path / "data", coco_tables(entries, images=1), "train")
    fix_dataset(root, tmp_path / "out")
    tables = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    found = {one["id"]: (one["bbox"], one["area"]) for one in tables["annotations"]}
    assert found == {n: (box, 1.5 + n) for n, box in enumerate(boxes)} | {40: ([50.5, 30.25, 9.5, 5], 47.5)}


def test_categories_keep_their_keypoints_and_verified_images_their_classes(tmp_path: Path) -> None:
    skeleton = {"keypoints": ["left", "right"], "skeleton": [[1, 2]]}
    points = {"keypoints": [12, 12, 2, 20, 20, 2], "num_keypoints": 2}
    test = coco_tables([annotation(1, category_id=1)], images=2)
    test["categories"] = [{"id": 1, "name": "kite"}]
    train = coco_tables([annotation(1, category_id=2, **points), annotation(2, image_id=2, category_id=1)], images=2)
    train["categories"] = [{"id": 1, "name": "cup"}, {"id": 2, "name": "kite"} | skeleton]
    for place, image in enumerate(train["images"]):
        image |= {"neg_category_ids": [1 + place], "not_exhaustive_category_ids": [1]}
    for split, tables in (("test", test), ("train", train)):
        write_coco(tmp_path / "data", tables, split)
        for number in (1, 2):  # not copies of each other
            noise = np.random.default_rng([number, len(split)]).integers(0, 256, (40, 60), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "data" / split / f"{number}.png")
    fix_dataset(tmp_path / "data", tmp_path / "out")
    for split in ("test", "train"):
        written = json.loads((tmp_path / "out" / "annotations" / f"instances_{split}.json").read_text())
        assert written["categories"] == [{"id": 1, "name": "kite"} | skeleton, {"id": 2, "name": "cup"}]
    assert [image["neg_category_ids"] for image in written["images"]] == [[2], [1]]
    assert [image["not_exhaustive_category_ids"] for image in written["images"]] == [[2], [2]]
    assert [one["category_id"] for one in written["annotations"]] == [1, 2]
    assert written["annotations"][0]["keypoints"] == points["keypoints"]


def test_a_folder_with_another_split_is_refused_before_images_are_read(
    clean: tuple[Path, Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_coco(tmp_path / "old", coco_tables([annotation(1)]), "old")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".DS_Store").write_bytes(b"of macOS")
    fix_dataset(old, tmp_path / "out")
    monkeypatch.setattr(fix, "read_splits", None)
    for split in ("", "train+val"):
        with pytest.raises(
            FileExistsError, match=r"instances_old\.json was written by an earlier command and would be"
        ):
            fix_dataset(clean[0], tmp_path / "out", split=split)


def test_a_training_split_of_copies_only_stays(tmp_path: Path) -> None:
    """data.yaml with the same folder as train and val; the fault remains."""
    write_tiny_coco(tmp_path / "drawn", {"train": 3})
    root = tmp_path / "data"
    shutil.copytree(tmp_path / "drawn" / "train", root / "images")
    (root / "labels").mkdir()
    for number in (1, 2, 3):
        (root / "labels" / f"train_{number}.txt").write_text("0 .5 .5 .2 .2\n")
    (root / "data.yaml").write_text("train: images\nval: images\nnames: [fig]\n")
    report = fix_dataset(root, tmp_path / "out", workers=1)
    assert (report.after.images, report.after.objects) == ({"train": 3, "val": 3}, {"train": 3, "val": 3})
    assert [one.kind for one in report.after.errors] == ["leak"]
    assert report.actions == ()
    [action] = report.not_fixed
    assert action.startswith("split 'train': every image is a copy of one in an evaluation split. None was removed, ")
    assert action.endswith(f"rcnn data split {root} --split train --fractions 0.8,0.2 --output OUT")


def test_what_was_not_repaired_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A repaired box, objects that the copy lacks, and a box in fractions, of which only the user knows the size."""
    entries = [annotation(n, image_id=1 + n % 2, bbox=[3 * n, 10, 20, 10], segmentation=None) for n in range(1, 7)]
    entries[0]["bbox"] = ["3", 10, 20, 10]
    entries[1] |= {"bbox": None}
    entries[2]["bbox"] = [9, 10, 0, 10]
    entries[3]["bbox"] = [0.25, 0.5, 0.5, 0.25]
    entries[4] |= {"bbox": [15, 10, 2, 2], "segmentation": SQUARE}
    root, out = write_coco(tmp_path / "data", coco_tables(entries)), tmp_path / "out"
    for number in (1, 2):  # not copies of each other
        noise = np.random.default_rng(number).integers(0, 256, (40, 60), dtype=np.uint8)
        Image.fromarray(noise).save(root / "val" / f"{number}.png")
    assert rcnn("data", "check", root, "--fix", out) == 1
    lines = capsys.readouterr().out.splitlines()
    file = root / "annotations" / "instances_val.json"
    assert lines[: lines.index(f"wrote {out}")] == [
        f"fix: {file}: 1 annotation has a bbox with numbers that are text (id 1): read as numbers",
        f"fix: {file}: 1 annotation has a bbox that contradicts its outline (IoU below 0.5) (id 5): the box around the "
        "outline was written",
        f"fix: {file}: removed 1 object of zero size or outside the image",
        f"left out: {file}: 1 annotation has no bbox and no segmentation that can be used (id 2): skipped",
        f"left out: {file}: 1 annotation has a box of zero size (id 3): skipped",
        f"not fixed: {file}: 1 annotation has a bbox from 0 to 1, of under 1 pixel, unlike the others: probably in "
        "fractions of the image (id 4): used as pixels; multiply it by the width and height of its image",
    ]
    boxes = boxes_in(out, "val")
    assert boxes == {1: [3, 10, 20, 10], 4: [0.25, 0.5, 0.5, 0.25], 5: [10, 10, 20, 20], 6: [18, 10, 20, 10]}
