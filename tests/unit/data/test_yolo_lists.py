"""YOLO's list files with several lines of one image."""

from __future__ import annotations

from pathlib import Path

import pytest

from rcnn.data import Dataset, open_dataset
from tests.unit.data.coco_folders import write_images


def opened(root: Path, lines: list[str]) -> Dataset:
    """The data set of images/a.png, b.png and c.png, with one object each, and a list of these `lines`."""
    write_images(root / "images", ["a.png", "b.png", "c.png"])
    (root / "labels").mkdir()
    for name in "abc":
        (root / "labels" / f"{name}.txt").write_text("0 .5 .5 .2 .2\n")
    (root / "photos").symlink_to(root / "images")
    (root / "train.txt").write_text("".join(f"{line}\n" for line in lines))
    (root / "data.yaml").write_text("train: train.txt\nval:\nnames: [kite]\n")
    return open_dataset(root, "train")


@pytest.mark.parametrize("again", ["images/a.png", "./images//a.png", "images\\a.png", "photos/a.png"])
def test_an_image_with_two_lines_is_used_once(again: str, tmp_path: Path) -> None:
    """Also where the second path leads through a linked folder."""
    dataset = opened(tmp_path, ["images/a.png", "images/b.png", again, again])
    assert (dataset.file_names, len(dataset.objects.labels)) == (("images/a.png", "images/b.png"), 2)
    [finding] = dataset.findings
    assert (finding.kind, finding.ids) == ("shared-image-file", ("images/a.png",))
    assert "1 image has more than one line in train.txt (id images/a.png): used once" in finding.line()


def test_paths_that_lead_to_one_image_without_their_folders_are_reported(tmp_path: Path) -> None:
    """old/a.png may be another image than new/a.png, but only images/a.png is there."""
    lines = ["/old/images/a.png", "/new/images/a.png", "/old/images/b.png", "/old/images/b.png", "images/c.png"]
    dataset = opened(tmp_path, [*lines, "elsewhere/images/c.png"])
    assert dataset.file_names == ("images/a.png", "images/b.png", "images/c.png")
    repeated, differ = dataset.findings
    assert (repeated.kind, repeated.ids) == ("shared-image-file", ("images/b.png",))
    assert (differ.kind, differ.ids) == ("shared-image-file", ("images/a.png", "images/c.png"))
    expected = "2 images have paths in train.txt that differ in folders which do not exist here (id images/a.png, "
    assert expected in differ.line()


def test_a_list_with_one_path_per_image_has_no_findings(tmp_path: Path) -> None:
    dataset = opened(tmp_path, ["/old/images/a.png", "images/b.png", "../kites/images/c.png"])
    assert (len(dataset), dataset.findings) == (3, ())
