"""SBD's MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from rcnn.data import open_dataset, splits
from rcnn.data.formats.matlab import read_struct
from rcnn.data.formats.voc import CLASSES
from tests.unit.data.format_folders import write_sbd


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
    savemat(place / "inst" / "c.mat", {"GTcls": 1})
    (place / "train.txt").write_text("a\nb\nc\nd\n")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.image_ids == ("a",)
    text = "\n".join(dataset.warnings)
    assert (
        "2 images have a .mat file that is damaged, or has no GTinst with Segmentation and Categories (id b, c)" in text
    )
    assert "1 image has no .mat file in inst (id d): skipped" in text
    assert "no class from 1 to 20 in Categories (id a:2): skipped" in text


def test_a_split_of_damaged_files_is_refused_with_the_reason(tmp_path: Path) -> None:
    place = write_sbd(tmp_path, ["a", "b"]) / "benchmark_RELEASE" / "dataset"
    for name in ("a", "b"):
        (place / "inst" / f"{name}.mat").write_bytes(b"nothing")
    (place / "train.txt").write_text("a\nb\nc\n")
    with pytest.raises(ValueError, match=r"lists 3 images, none of them with a \.mat file .* 1 missing, 2 damaged"):
        open_dataset(tmp_path, "train")
    (place / "train.txt").write_text("")
    with pytest.raises(ValueError, match=r"train\.txt lists no images: export the split again"):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_structs_equal_those_that_scipy_reads(dtype: str, compressed: bool, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    fields = {"Segmentation": generator.integers(0, 100, (5, 7)).astype(dtype), "Categories": np.array([[8], [12]])}
    others = {"Boundaries": np.array([[1, "text"]], dtype=object), "Name": "text", "Z": np.array([[1 + 2j]])}
    file = tmp_path / "a.mat"
    savemat(file, {"first": np.eye(3), "GTinst": others | fields}, do_compression=compressed)
    expected = loadmat(file)["GTinst"][0, 0]
    found = read_struct(file, "GTinst")
    assert found.keys() == fields.keys()
    for name, values in found.items():
        assert values.dtype == expected[name].dtype
        assert np.array_equal(values, expected[name])


def test_damaged_structs_are_refused(tmp_path: Path) -> None:
    """Each part of a file is cut off or overwritten."""
    file = tmp_path / "a.mat"
    savemat(file, {"GTinst": {"Segmentation": np.ones((4, 4), np.uint8), "Categories": np.array([[8]])}})
    content = file.read_bytes()
    refused = 0
    for place in range(len(content)):
        for damaged in (content[:place], content[:place] + b"\xff" + content[place + 1 :]):
            file.write_bytes(damaged)
            try:
                read_struct(file, "GTinst")
            except ValueError:
                refused += 1
    assert refused > len(content)
