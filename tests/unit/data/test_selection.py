"""Several splits as one set, lists of images as a split, and parts of a data set."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcnn.data import Dataset, open_dataset
from tests.tiny_data import write_tiny_coco
from tests.unit.data.coco_folders import annotation, coco_tables, write_annotations, write_coco, write_images
from tests.unit.data.format_folders import write_sbd


def two_splits(root: Path, second: dict[str, Any] | None = None) -> Path:
    """The splits train and val, which use the same ids; `second` replaces the tables of val."""
    write_coco(root, coco_tables([annotation(1), annotation(2, image_id=2, category_id=7)]), "train")
    return write_coco(root, second or coco_tables([annotation(1, image_id=2), annotation(2, image_id=2)]), "val")


def test_two_splits_are_one_set_with_unique_ids(tmp_path: Path) -> None:
    dataset = open_dataset(two_splits(tmp_path), "train+val")
    assert (dataset.split, dataset.classes) == ("train+val", ("kite", "cup"))
    assert dataset.image_ids == (1, 2, 11, 12)
    assert [record.path.resolve() for record in dataset] == [
        (tmp_path / split / f"{number}.png").resolve() for split in ("train", "val") for number in (1, 2)
    ]
    assert [record.annotation_ids for record in dataset] == [(1,), (2,), (), (11, 12)]
    assert [record.labels.tolist() for record in dataset] == [[0], [1], [], [0, 0]]
    [note] = dataset.notes
    assert "image ids of split val are used by another split too" in note
    assert note.endswith("so results have new ids, e.g. 11 for its image 1")
    truth = dataset.to_coco()
    assert [(entry["id"], entry["image_id"]) for entry in truth["annotations"]] == [(1, 1), (2, 2), (11, 12), (12, 12)]
    again: Dataset = pickle.loads(pickle.dumps(dataset))  # noqa: S301  our own bytes; workers receive data sets
    assert again.to_coco() == truth


def test_several_splits_are_named_by_the_path_that_the_user_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_splits(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    dataset = open_dataset("data", "train+val")
    assert dataset.annotation_file == Path("data/annotations")
    assert dataset[3].path.is_file()


def test_ids_that_differ_are_kept(tmp_path: Path) -> None:
    tables = coco_tables([annotation(5, image_id=9)])
    tables["images"] = [{"id": 9, "file_name": "9.png", "height": 40, "width": 60}]
    dataset = open_dataset(two_splits(tmp_path, tables), "val+train")
    assert dataset.image_ids == (9, 1, 2)
    assert dataset.notes == ()


def test_text_ids_get_the_name_of_their_split(tmp_path: Path) -> None:
    tables = coco_tables([annotation("x", image_id="a")])
    tables["images"] = [{"id": "a", "file_name": "9.png", "height": 40, "width": 60}]
    write_coco(tmp_path, tables, "train")
    write_coco(tmp_path, tables, "val")
    dataset = open_dataset(tmp_path, "train+val")
    assert dataset.image_ids == ("a", "val/a")
    assert [record.annotation_ids for record in dataset] == [("x",), ("val/x",)]


def test_classes_are_joined_by_name(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1, category_id=1), annotation(2, category_id=3)])
    tables["categories"] = [{"id": 1, "name": "cup"}, {"id": 3, "name": "boat"}]
    dataset = open_dataset(two_splits(tmp_path, tables), "train+val")
    assert dataset.classes == ("kite", "cup", "boat")
    assert dataset.category_ids == (3, 7, 8)
    assert dataset[2].labels.tolist() == [1, 2]
    assert dataset.class_counts == {"kite": 1, "cup": 2, "boat": 1}


def test_trainval35k_is_two_files_of_coco_2014(tmp_path: Path) -> None:
    for split, folder, first in (("train2014", "train2014", 0), ("valminusminival2014", "val2014", 10)):
        tables = coco_tables([annotation(first + 1, image_id=first + 1)])
        for image in tables["images"]:
            image["id"] += first
            image["file_name"] = f"COCO_{folder}_{image['id']:012d}.png"
        write_annotations(tmp_path, tables, split)
        write_images(tmp_path / folder, [image["file_name"] for image in tables["images"]])
    dataset = open_dataset(tmp_path, "trainval35k")
    assert dataset.image_ids == (1, 2, 11, 12)
    assert dataset.split == "trainval35k"
    assert dataset[2].path.parts[-2:] == ("val2014", "COCO_val2014_000000000011.png")
    assert dataset[2].path.is_file()


@pytest.mark.parametrize(
    "lines", ["3\n1\n", "1.png\n3.png", "# chosen\n\n1\n3\n", "old/folder/1.png\n3", "\ufeff1\r\n3\r\n"]
)
def test_a_text_file_of_images_is_a_split(tmp_path: Path, lines: str) -> None:
    root = write_coco(tmp_path, coco_tables([annotation(n, image_id=n) for n in (1, 2, 3)], images=3), "train")
    (root / "ids.txt").write_text(lines)
    for split in ("ids.txt", "train:ids.txt", str(root / "ids.txt")):
        dataset = open_dataset(root, split)
        assert dataset.image_ids == (1, 3)
        assert [entry["id"] for entry in dataset.to_coco()["annotations"]] == [1, 3]


def test_the_split_of_a_list_is_the_one_that_has_its_images(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1, image_id=9)])
    tables["images"] = [{"id": 9, "file_name": "9.png", "height": 40, "width": 60}]
    root = two_splits(tmp_path, tables)
    (root / "one.txt").write_text("9")
    (root / "both.txt").write_text("9\n1")
    assert open_dataset(root, "one.txt")[0].path == root / "val" / "9.png"
    assert open_dataset(root, "train+one.txt").image_ids == (1, 2, 9)
    with pytest.raises(ValueError, match=r"none of train, val has all of its images; say which .*train:.*both.txt"):
        open_dataset(root, "both.txt")


def test_errors_of_selections(tmp_path: Path) -> None:
    root = two_splits(tmp_path)
    (root / "ids.txt").write_text("1\n77")
    (root / "empty.txt").write_text("\n# nothing\n")
    (root / "one.txt").write_text("1\n")
    (root / "binary.txt").write_bytes(b"\xff\xfe\xfd")
    for split, message in {
        "": r"has the splits train, val; choose one with split \(--split\), or several, e\.g\. train\+val",
        "train+": r"an empty name between the \+",
        "train+train": "has train twice",
        "train+train:one.txt": r"has train twice: as a whole, and its images in .*one\.txt; leave",
        "train+test": r"has no split 'test'.*; it has train, val\. Searched for annotations/instances_test\.json",
        "absent.txt": r"absent.txt does not exist.*expected a text file with an image id or file name per line",
        "train:ids.txt": r"ids.txt: 77: not an id or file name of the 2 images; expected e.g. 1 or 1.png",
        "train:empty.txt": "lists no images",
        "train:binary.txt": "is not a text file",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            open_dataset(root, split)
    tables = coco_tables([annotation(1)])
    for image, folder in zip(tables["images"], "ab", strict=True):
        image["file_name"] = f"{folder}/same.png"
    (root / "same.txt").write_text("same.png")
    write_coco(root, tables, "test")
    with pytest.raises(ValueError, match=r"same.png is the name of 2 images; give their ids or paths"):
        open_dataset(root, "test:same.txt")


def test_an_image_that_a_list_names_again_is_used_once(tmp_path: Path) -> None:
    root = two_splits(tmp_path)
    (root / "a.txt").write_text("2\n1.png\n2\n1\n")
    (root / "b.txt").write_text("1\n1\n")
    lines = [
        f"{root / 'a.txt'}: 2 lines name an image of an earlier line: it is used once",
        f"{root / 'b.txt'}: 1 line names an image of an earlier line: it is used once",
    ]
    dataset = open_dataset(root, "train:a.txt")
    assert (dataset.image_ids, dataset.notes) == ((1, 2), (lines[0],))
    both = open_dataset(root, "train:a.txt+train:b.txt")  # lists may share images
    assert (both.image_ids, both.notes) == ((1, 2), tuple(lines))
    (root / "c.txt").write_text("1\n2\n")
    assert open_dataset(root, "train:c.txt").notes == ()


def test_an_image_whose_id_is_its_name_is_one_example(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "classes.txt").write_text("kite\n")
    (tmp_path / "ids.txt").write_text("77\n")
    with pytest.raises(ValueError, match=r"of the 1 images; expected e\.g\. images/a\.png$"):
        open_dataset(tmp_path, "ids.txt")


def test_a_line_that_is_an_id_and_the_name_of_another_image_is_refused(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1)])
    tables["images"] = [
        {"id": number, "file_name": name, "height": 40, "width": 60} for number, name in ((1, "2.png"), (2, "10.png"))
    ]
    root = write_coco(tmp_path, tables, "train")
    (root / "ids.txt").write_text("2")
    with pytest.raises(ValueError, match=r"2 is the id of 10.png and the name of 2.png; give file names"):
        open_dataset(root, "train:ids.txt")
    (root / "ids.txt").write_text("2.png")
    assert open_dataset(root, "train:ids.txt").image_ids == (1,)


def test_a_part_of_a_data_set(tmp_path: Path) -> None:
    polygons = [[10, 10, 30, 10, 30, 30], [1, 1, 5, 1, 5, 5, 1, 5]]
    rle = {"size": [40, 60], "counts": [100, 20, 2280]}
    entries = [
        annotation(1, segmentation=polygons),
        annotation(2, image_id=2, segmentation=rle, area=None, bbox=[2, 20, 1, 20]),
        annotation(3, image_id=3, segmentation=None),
        annotation(4, image_id=3, category_id=7),
        annotation(5, image_id=4),
    ]
    whole = open_dataset(write_coco(tmp_path, coco_tables(entries, images=5)))
    part = whole.subset([3, 1, 4, 2], "some")
    assert part.split == "some"
    for mine, place in zip(part, [3, 1, 4, 2], strict=True):
        theirs = whole[place]
        assert (mine.path, mine.image_id, mine.annotation_ids) == (theirs.path, theirs.image_id, theirs.annotation_ids)
        for name in ("boxes", "labels", "ignored", "difficult", "areas"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        assert str(mine.segmentations) == str(theirs.segmentations)
    truth = part.to_coco()
    assert [image["id"] for image in truth["images"]] == [4, 2, 5, 3]
    assert sorted(entry["id"] for entry in truth["annotations"]) == [2, 3, 4, 5]
    assert part.subset([0]).image_ids == (4,)
    assert len(whole.subset([])) == 0
    for wrong in ([0, 0], [5], [-1]):
        with pytest.raises(ValueError, match="expected different numbers from 0 to 4"):
            whole.subset(wrong)


def test_parts_of_keypoints(tmp_path: Path) -> None:
    points = [[1, 2, 2, 3, 4, 2], [5, 6, 2, 7, 8, 1]]
    tables = coco_tables([annotation(n + 1, image_id=n + 1, keypoints=points[n]) for n in range(2)])
    for category in tables["categories"]:
        category["keypoints"] = ["left", "right"]
    whole = open_dataset(write_coco(tmp_path, tables))
    keypoints = whole.subset([1])[0].keypoints
    assert keypoints is not None
    assert keypoints.reshape(-1).tolist() == points[1]
    (tmp_path / "annotations" / "instances_other.json").write_text(json.dumps(coco_tables([annotation(1)])))
    write_images(tmp_path / "other", ["1.png", "2.png"])
    expected = "category 'kite' has other keypoints than in another split: 0 here and 2 there; number 1 (from 1) is "
    with pytest.raises(ValueError, match=re.escape(f"{expected}missing here and 'left' there; splits that")):
        open_dataset(tmp_path, "val+other")
    tables["categories"][0]["keypoints"] = ["left", "middle"]
    (tmp_path / "annotations" / "instances_other.json").write_text(json.dumps(tables))
    with pytest.raises(
        ValueError, match=r"2 here and 2 there; number 2 \(from 1\) is 'middle' here and 'right' there;"
    ):
        open_dataset(tmp_path, "val+other")


def test_objects_without_keypoints_get_zeros_beside_a_split_with_keypoints(tmp_path: Path) -> None:
    names = {"keypoints": ["left", "right"]}
    tables = coco_tables([annotation(1, keypoints=[1, 2, 2, 3, 4, 2])], images=1)
    other = coco_tables([annotation(1)], images=1)
    for one in (tables, other):
        one["categories"] = [{"id": 3, "name": "kite"} | names]
    write_coco(tmp_path, other, "val")
    whole = open_dataset(write_coco(tmp_path, tables, "points"), "points+val")
    found = [record.keypoints.tolist() for record in whole if record.keypoints is not None]
    assert found == [[[[1, 2, 2], [3, 4, 2]]], [[[0, 0, 0], [0, 0, 0]]]]
    assert [entry.get("num_keypoints") for entry in whole.to_coco()["annotations"]] == [2, 0]


def test_a_name_with_a_plus_is_one_split_if_it_exists(tmp_path: Path) -> None:
    write_coco(two_splits(tmp_path), coco_tables([annotation(1)]), "train+val")
    assert len(open_dataset(tmp_path, "train+val")) == 2
    (tmp_path / "a+b").mkdir()
    (tmp_path / "a+b" / "ids.txt").write_text("2\n")
    for split in (f"val:{tmp_path}/a+b/ids.txt", "val:a+b/ids.txt"):
        assert open_dataset(tmp_path, split).image_ids == (2,)


def test_a_list_of_images_must_be_a_txt_file(tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path, {"train": 2, "val": 1})
    with pytest.raises(ValueError, match=r"split=train:ids1 \(--split\): .* ends in \.txt, got ids1; rename it"):
        open_dataset(root, "train:ids1")


def test_a_list_of_the_images_of_one_annotation_file(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_tables([annotation(n, image_id=n) for n in (1, 2, 3)], images=3), "train")
    (root / "labels.json").write_text((root / "annotations" / "instances_train.json").read_text())
    (root / "ids.txt").write_text("3\n1\n")
    for split in ("ids.txt", "some:ids.txt", root / "ids.txt"):
        dataset = open_dataset(root, split, annotations="labels.json", images="train")
        assert dataset.image_ids == (1, 3)
        assert [entry["id"] for entry in dataset.to_coco()["annotations"]] == [1, 3]
    assert open_dataset(root, "some", annotations="labels.json", images="train").image_ids == (1, 2, 3)
    for split in ("absent.txt", "some:absent.txt"):
        with pytest.raises(
            FileNotFoundError, match=r"absent\.txt does not exist, neither in the working directory nor"
        ):
            open_dataset(root, split, annotations="labels.json", images="train")


def test_lists_of_the_images_of_one_annotation_file_are_one_set(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_tables([annotation(n, image_id=n) for n in (1, 2, 3)], images=3), "train")
    (root / "annotations" / "instances_train.json").rename(root / "labels.json")
    for name, line in (("a.txt", "3"), ("b.txt", "1"), ("c+d.txt", "2")):
        (root / name).write_text(line)
    opened = partial(open_dataset, root, annotations="labels.json", images="train")
    assert [record.path.name for record in opened("a.txt+x:b.txt")] == ["1.png", "3.png"]
    assert opened("c+d.txt").image_ids == (2,)
    assert opened("train+val").image_ids == (1, 2, 3)
    (root / "d.txt").write_text("2\n3")
    shared = opened("a.txt+d.txt")  # each lists image 3
    assert (shared.image_ids, shared.notes) == ((2, 3), ())
    for split, message in {
        "val:ids.lst": r"split=val:ids\.lst \(--split\): .* ends in \.txt, got ids\.lst; rename it",
        "train+b.txt": r"labels\.json is one file for all splits, so train is all of its images; expected lists",
        "a.txt+a.txt": r"split=a\.txt\+a\.txt \(--split\) has \S+a\.txt twice; name each",
        "a.txt+": r"an empty name between the \+ of split \(--split\)",
        "train+": r"an empty name between the \+",
    }.items():
        with pytest.raises(ValueError, match=message):
            opened(split)


def test_a_listed_image_with_a_missing_file_is_left_out(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_tables([annotation(n, image_id=n) for n in range(1, 6)], images=5), "train")
    (root / "train" / "3.png").unlink()
    for lines in ("2\n3\n5\n", "2.png\n3.png\n5.png\n", "old/folder/2.png\nold/folder/3.png\n5"):
        (root / "ids.txt").write_text(lines)
        dataset = open_dataset(root, "ids.txt")
        assert dataset.image_ids == (2, 5)
        assert any("1 image has no file" in line and "(id 3): skipped" in line for line in dataset.warnings)
    write_sbd(tmp_path / "sbd", ["a", "b"])  # ids without the suffix of the image
    (tmp_path / "sbd" / "benchmark_RELEASE" / "dataset" / "train.txt").write_text("a\nb\ngone\n")
    (tmp_path / "sbd.txt").write_text("b.jpg\ngone.jpg\n")
    assert open_dataset(tmp_path / "sbd", f"{tmp_path}/sbd.txt").image_ids == ("b",)
    (root / "ids.txt").write_text("2\n3\n6\n")
    with pytest.raises(ValueError, match=r"ids\.txt: 6: not an id or file name of the 4 images"):
        open_dataset(root, "ids.txt")
    (root / "ids.txt").write_text("3\n")
    with pytest.raises(ValueError, match=r"ids\.txt: 3: not an id or file name"):
        open_dataset(root, "ids.txt")


def test_the_split_of_a_list_is_found_though_another_one_cannot_be_read(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1, image_id=9)])
    tables["images"] = [{"id": 9, "file_name": "9.png", "height": 40, "width": 60}]
    root = two_splits(tmp_path, tables)
    (root / "one.txt").write_text("9")
    shutil.rmtree(root / "train")  # its photos are not downloaded
    assert open_dataset(root, "one.txt").image_ids == (9,)
    (root / "one.txt").write_text("1")
    with pytest.raises(ValueError, match=r"none of train, val has .* \(train: .*lists 2 images .* none of them in"):
        open_dataset(root, "one.txt")
    (root / "one.txt").write_text("9\n9.png\n8\n")  # two names of val, and a wrong one
    with pytest.raises(ValueError, match=r"none of train, val has .* \(val: .*one\.txt: 8: not an id or file name"):
        open_dataset(root, "one.txt")
    (root / "one.txt").write_text("# none\n")
    with pytest.raises(ValueError, match="lists no images"):
        open_dataset(root, "one.txt")


def test_the_nearest_split_says_which_names_it_lacks(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_tables([annotation(1)], images=2), "train")
    write_coco(root, coco_tables([annotation(1)], images=9), "val")
    (root / "ids.txt").write_text("7\n8\n77\n")
    with pytest.raises(ValueError, match=r"\(val: .*ids\.txt: 77: not an id or file name of the 9 images"):
        open_dataset(root, "ids.txt")


def test_a_split_may_have_the_name_of_a_set_of_papers(tmp_path: Path) -> None:
    root = write_coco(two_splits(tmp_path), coco_tables([annotation(1)], images=5), "trainval35k")
    assert len(open_dataset(root, "trainval35k")) == 5
    assert len(open_dataset(root, "val+trainval35k")) == 7
    (root / "annotations" / "instances_trainval35k.json").unlink()
    for split in ("train2014", "valminusminival2014"):
        write_coco(root, coco_tables([annotation(1)], images=3), split)
    assert len(open_dataset(root, "trainval35k+val")) == 8
