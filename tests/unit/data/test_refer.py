"""REFER: expressions, splits, and pickles that are read without running them."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import open_dataset, splits
from rcnn.data.formats.plain_pickle import read_plain_pickle
from tests.unit.data.coco_folders import annotation, coco_tables, write_images
from tests.unit.data.format_folders import reference, write_refer


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


def test_images_that_training_shares_with_other_splits_are_noted(refer: Path, tables: dict[str, Any]) -> None:
    assert open_dataset(refer, "train").notes == open_dataset(refer, "testA").notes == ()
    first, second = tables["annotations"][:2]
    assert first["image_id"] == second["image_id"]
    refs = [reference(1, first, "train", ["x"]), reference(2, second, "val", ["y"])]
    (refer / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    for split, others in (("train", "other splits"), ("val", "split train")):
        (note,) = open_dataset(refer, split).notes
        assert f"1 image of split {split} is also in {others}, with other objects" in note


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
    assert "1 annotation has expressions, but no entry in instances.json (id 99): skipped" in text
    assert "1 image has expressions, but no entry in instances.json (id 98): skipped" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", "memo entry 2147483647, but has only 9 bytes"),  # would reserve 32 GiB
        (b"(lp99999999999\n.", "memo entry 99999999999"),
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


@pytest.mark.parametrize("length", [*range(140, 160), 114, 255])
def test_texts_of_python_2_may_have_any_length(tmp_path: Path, length: int) -> None:
    """Python 2 writes str as SHORT_BINSTRING: the length in a byte, which may equal an instruction."""
    content = b"\x80\x02U" + bytes([length]) + b"x" * length + b"q\x00."
    assert pickle.loads(content) == "x" * length  # noqa: S301
    (tmp_path / "a.p").write_bytes(content)
    assert read_plain_pickle(tmp_path / "a.p") == "x" * length
    (tmp_path / "b.p").write_bytes(pickle.dumps("x" * length, protocol=4))
    with pytest.raises(ValueError, match="it has protocol 4 or later"):
        read_plain_pickle(tmp_path / "b.p")
