"""SBD's MATLAB files."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import open_dataset, splits
from rcnn.data.formats.voc import CLASSES
from tests.unit.data.format_folders import write_sbd

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
