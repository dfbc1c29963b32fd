"""SBD's MATLAB files, REFER's pickles, and LVIS v1."""

from __future__ import annotations

import builtins
import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import open_dataset, splits
from rcnn.data.formats.plain_pickle import read_plain_pickle
from rcnn.data.formats.voc import CLASSES
from tests.unit.data.coco_folders import annotation, coco_tables, write_images
from tests.unit.data.format_folders import reference, write_refer, write_sbd

scipy_io = pytest.importorskip("scipy.io", reason="needs the extra sbd")


def test_sbd(tmp_path: Path) -> None:
    write_sbd(tmp_path, ["2008_000002", "2008_000003"])
    assert splits(tmp_path) == splits(tmp_path / "benchmark_RELEASE" / "dataset") == ["train"]
    dataset = open_dataset(tmp_path, "train")
    assert (dataset.classes, dataset.metric) == (CLASSES, "voc2007")
    record = dataset[1]
    assert (record.image_id, record.annotation_ids) == ("2008_000003", ("2008_000003:1", "2008_000003:2"))
    assert record.boxes.tolist() == [[10, 5, 30, 25], [30, 5, 50, 35]]
    assert [CLASSES[label] for label in record.labels] == ["cat", "dog"]
    assert record.areas.tolist() == [400, 600]


def test_sbd_files_that_cannot_be_used_are_skipped_and_counted(tmp_path: Path) -> None:
    place = write_sbd(tmp_path, ["a", "b", "c"], classes=(8, 21)) / "benchmark_RELEASE" / "dataset"
    (place / "inst" / "b.mat").write_bytes((place / "inst" / "b.mat").read_bytes()[:200])
    scipy_io.savemat(place / "inst" / "c.mat", {"GTcls": 1})
    (place / "train.txt").write_text("a\nb\nc\nd\n")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.image_ids == ("a",)
    text = "\n".join(dataset.warnings)
    assert (
        "2 images have a .mat file that is damaged, or has no GTinst with Segmentation and Categories (id b, c)" in text
    )
    assert "1 image has no .mat file in inst (id d): skipped" in text
    assert "no class from 1 to 20 in Categories (id a:2): skipped" in text


def test_sbd_without_scipy_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sbd(tmp_path, ["a"])
    importing = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return importing(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"need an extra: pip install 'rcnn\[sbd\]'"):
        open_dataset(tmp_path, "train")


@pytest.fixture
def tables() -> dict[str, Any]:
    """Three images with two objects each."""
    return coco_tables([annotation(n, image_id=1 + n // 3, category_id=(3, 7)[n % 2]) for n in (1, 2, 3, 4, 6, 7)], 3)


@pytest.fixture
def refer(tmp_path: Path, tables: dict[str, Any]) -> Path:
    """RefCOCO's layout: object 1 is in train, 3 in testA, and 7 in testA and testB."""
    write_images(tmp_path / "pictures", [image["file_name"] for image in tables["images"]])
    chosen = {entry["id"]: entry for entry in tables["annotations"]}
    refs = [
        reference(1, chosen[1], "train", ["Left kite", "the red one"]),
        reference(2, chosen[3], "testA", ["cup"]),
        reference(3, chosen[7], "testAB", ["kite on top"]),
        reference(4, chosen[1], "train", ["kite by the tree"]),
    ]
    write_refer(tables, tmp_path / "pictures", tmp_path / "refer", refs)
    return tmp_path / "refer"


def test_refer_splits_have_the_images_of_their_expressions_with_all_objects(refer: Path) -> None:
    for folder in (refer, refer / "refcoco"):
        assert splits(folder) == ["test", "testA", "testAB", "testB", "train"]
        dataset = open_dataset(folder, "train")
        assert dataset.image_ids == (1,)
        assert dataset[0].annotation_ids == (1, 2)
        assert dataset[0].expressions == (("left kite", "the red one", "kite by the tree"), ())
        assert dataset[0].path.is_file()
    both = open_dataset(refer, "testA")
    assert both.image_ids == (2, 3)
    assert [record.expressions for record in both] == [(("cup",), ()), ((), ("kite on top",))]
    assert open_dataset(refer, "testB").image_ids == (3,)
    assert [one.get("expressions") for one in both.to_coco()["annotations"]] == [["cup"], None, None, ["kite on top"]]


def test_refer_splits_are_named_by_what_tells_them_apart(refer: Path, tables: dict[str, Any]) -> None:
    write_refer(tables, refer, refer, [reference(1, tables["annotations"][0], "train", ["x"])], by="google")
    assert "testA_unc" in splits(refer)
    assert "train_google" in splits(refer / "refcoco")
    os.rename(refer / "refcoco", refer / "refcoco+")
    write_refer(tables, refer, refer, [reference(1, tables["annotations"][0], "val", ["x"])], by="umd")
    assert {"train_refcocoplus_google", "train_refcocoplus_unc", "val_refcoco"} <= set(splits(refer))
    assert open_dataset(refer, "val_refcoco").image_ids == (1,)


class Harmful:
    """Would run a command in Python's own reader of pickles."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("content", [[Harmful()], {"a": 1}, [], "text"])
def test_refer_pickles_are_not_run(
    refer: Path, content: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (refer / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p"):
        open_dataset(refer, "train")
    assert not (tmp_path / "harmed").exists()


def test_refer_entries_that_cannot_be_used_are_skipped_and_counted(refer: Path, tables: dict[str, Any]) -> None:
    good = reference(1, tables["annotations"][0], "train", ["left"])
    lost = copy.deepcopy(good) | {"ann_id": 99, "image_id": 98}
    entries = [good, lost, good | {"image_id": None, "ref_id": 5}, "x"]
    (refer / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(entries, protocol=0))
    dataset = open_dataset(refer, "train")
    assert dataset.image_ids == (1,)
    text = "\n".join(dataset.warnings)
    assert "2 references have no usable ids, split or sentences (id 5, 3): skipped" in text
    assert "1 annotation has expressions, but is not in instances.json (id 99): skipped" in text
    assert "1 image has expressions, but is not in instances.json (id 98): skipped" in text


def test_lvis(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1), annotation(2, image_id=2, category_id=7)])
    for image, folder in zip(tables["images"], ("train2017", "val2017"), strict=True):
        name = image.pop("file_name")
        image |= {"coco_url": f"http://images.cocodataset.org/{folder}/{name}", "flickr_url": "http://x/y.jpg"}
        image |= {"neg_category_ids": [7, 999], "not_exhaustive_category_ids": []}
        write_images(tmp_path / folder, [name])
    for entry, frequency in zip(tables["categories"], "rf", strict=True):
        entry |= {"frequency": frequency, "synset": "cup.n.01", "image_count": 1}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "lvis_v1_val.json").write_text(json.dumps(tables))
    assert splits(tmp_path) == ["val"]
    dataset = open_dataset(tmp_path, "val")
    assert [record.path.parent.name for record in dataset] == ["train2017", "val2017"]
    assert [entry["frequency"] for entry in dataset.categories] == ["f", "r"]
    truth = dataset.to_coco()
    assert [image["neg_category_ids"] for image in truth["images"]] == [[7], [7]]
    assert [image["not_exhaustive_category_ids"] for image in truth["images"]] == [[], []]
    assert (dataset.warnings, dataset.metric) == ((), "lvis")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", "a place 2147483647 in its memo, but only 9 bytes"),  # would reserve 32 GiB
        (b"(lp99999999999\n.", "a place 99999999999 in its memo"),
        (pickle.dumps([1], 4), "it has protocol 4 or later"),
        (b"cos\nsystem\n(S'x'\ntR.", "it names os.system, which plain values do not need"),
        (b"\x80\x02X\xff\xff\xff\x7fab.", "not a pickle of plain values"),
        (b"", "not a pickle of plain values"),
    ],
)
def test_pickles_that_could_do_harm_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "refs.p").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_plain_pickle(tmp_path / "refs.p")
