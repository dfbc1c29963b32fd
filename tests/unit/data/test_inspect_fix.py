"""`rcnn data check --fix`: the copy has no errors, keeps what was right, and nothing of the user's is overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rcnn.data import open_dataset
from rcnn.data.inspect.fix import fix_dataset
from tests.unit.data.inspect_faults import FAULTS, Data, Fault, changed, write_clean, write_tables

BEYOND_REPAIR = ("no-objects", "no-images", "no-categories")  # of a whole split
LEFT = ("box-form",)  # boxes without outlines: nothing proves their form


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data]:
    root = tmp_path_factory.mktemp("clean")
    return root, write_clean(root)


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
        assert sum(report.after.objects.values()) >= 24 - 9
    if report.before.errors and fault.kind != "no-objects":
        assert report.actions


def test_a_clean_set_is_copied_as_it_is(clean: tuple[Path, Data], tmp_path: Path) -> None:
    report = fix_dataset(clean[0], tmp_path / "out")
    assert (report.actions, report.before.findings, report.after.findings) == ((), (), ())
    for split in ("train", "val"):
        before, after = open_dataset(clean[0], split), open_dataset(tmp_path / "out", split)
        assert after.to_coco() == before.to_coco()
        assert after[0].path.read_bytes() == before[0].path.read_bytes()
    fix_dataset(clean[0], tmp_path / "out")  # again: its own files are replaced


def test_files_of_the_user_are_kept(clean: tuple[Path, Data], tmp_path: Path) -> None:
    mine = tmp_path / "annotations" / "instances_val.json"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(FileExistsError, match=r"instances_val\.json exists and was not written by rcnn"):
        fix_dataset(clean[0], tmp_path)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "train").exists()


def test_a_training_split_that_is_a_copy_of_the_validation_split_is_not_written(
    clean: tuple[Path, Data], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(clean[0], root)
    shutil.rmtree(root / "train")
    shutil.copytree(root / "val", root / "train")
    write_tables(root, {"train": clean[1]["val"], "val": clean[1]["val"]})
    report = fix_dataset(root, tmp_path / "out")
    assert [one.kind for one in report.before.errors] == ["leak"]
    assert list(report.after.images) == ["val"]
    assert "split 'train' has no images left and was not written" in report.actions
