"""VOC's lists of one class, `CLASS_SPLIT.txt`: they are not splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from rcnn.data.formats import voc

ANNOTATION = "<annotation><size><width>9</width><height>8</height></size></annotation>"
SPACES = "\u00c9t\u00e9 0  1\nIMG 1 (1) -1\nplain  0\n"


def splits_with(folder: Path, lists: dict[str, str]) -> set[str]:
    """The splits of a folder with these files in ImageSets/Main."""
    (folder / "Annotations").mkdir()
    for name in ("\u00c9t\u00e9 0", "IMG 1 (1)", "plain"):
        (folder / "Annotations" / f"{name}.xml").write_text(ANNOTATION, encoding="utf-8")
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for name, text in lists.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(text, encoding="utf-8")
    return voc.splits(folder)


@pytest.mark.parametrize("text", [SPACES, "", "\n", '"IMG 1 (1)"  1\n', "plain  1\n"])
def test_a_list_beside_that_of_the_split_is_of_a_class(text: str, tmp_path: Path) -> None:
    lists = {"train_a": "plain\n", "date_train_a": text, "dried fig_train_a": text}
    assert splits_with(tmp_path, lists) == {"train_a"}


def test_other_lists_are_splits(tmp_path: Path) -> None:
    lists = {"train": "plain\n", "day_train": "plain\nIMG 1 (1)\n", "date_val": SPACES, "night_test": ""}
    assert splits_with(tmp_path, lists) == set(lists)
