"""The keypoints of a data set: names, flip pairs, skeleton and sigmas, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import open_dataset, splits
from rcnn.data.skeletons import describe_flip, flip_pairs, require_names, skeleton_of
from rcnn.models.config import COCO_FLIP_PAIRS, COCO_KEYPOINTS, COCO_SIGMAS, DEFAULT_SIGMA, KeypointHeadConfig
from rcnn.training.keypoints import describe_keypoints, keypoints_of
from tests.unit.data.coco_folders import annotation, coco_tables, write_coco

NAMES = ["left_wing", "right_wing", "tail"]
POINTS = [12, 12, 2, 20, 14, 1, 0, 0, 0]


def tables(*annotations: dict[str, Any], kite: dict[str, Any] | None = None, cup: dict[str, Any] | None = None) -> Any:
    """Kites (3) and cups (7) with further fields of their categories."""
    made = coco_tables(list(annotations))
    for category in made["categories"]:
        category |= (kite if category["id"] == 3 else cup) or {}
    return made


def test_names_skeleton_and_sigmas_are_read(tmp_path: Path) -> None:
    fields = {"keypoints": NAMES, "skeleton": [[1, 3], [2, 3]], "sigmas": [0.05, 0.05, 0.1]}
    dataset = open_dataset(write_coco(tmp_path, tables(annotation(1, keypoints=POINTS), kite=fields)), "val")
    skeleton = skeleton_of(dataset)
    assert skeleton.names == tuple(NAMES)
    assert skeleton.pairs == ((0, 1),)
    assert skeleton.lines == ((0, 2), (1, 2))
    assert skeleton.sigmas == (0.05, 0.05, 0.1)
    config = keypoints_of(dataset, KeypointHeadConfig(width=64))
    assert (config.names, config.flip_pairs, config.width) == (tuple(NAMES), ((0, 1),), 64)
    assert (config.skeleton, config.sigmas) == (((0, 2), (1, 2)), (0.05, 0.05, 0.1))
    assert len(describe_keypoints(dataset, config)) == 1


def test_sigmas_that_the_file_lacks_are_reported(tmp_path: Path) -> None:
    dataset = open_dataset(
        write_coco(tmp_path, tables(annotation(1, keypoints=POINTS), kite={"keypoints": NAMES})), "val"
    )
    config = keypoints_of(dataset, KeypointHeadConfig())
    assert config.sigmas == (DEFAULT_SIGMA,) * 3
    assert config.skeleton == ()
    assert "each is 0.067, the mean of COCO's" in describe_keypoints(dataset, config)[1]


def test_cocos_person_has_cocos_sigmas_and_pairs(tmp_path: Path) -> None:
    fields = {"keypoints": list(COCO_KEYPOINTS)}
    dataset = open_dataset(write_coco(tmp_path, tables(annotation(1, keypoints=[12, 12, 2] * 17), kite=fields)), "val")
    config = keypoints_of(dataset, KeypointHeadConfig(names=("a",), flip_pairs=(), sigmas=(1.0,)))
    assert (config.names, config.sigmas, config.flip_pairs) == (COCO_KEYPOINTS, COCO_SIGMAS, COCO_FLIP_PAIRS)


@pytest.mark.parametrize(("count", "first"), [(17, "nose"), (3, "keypoint_0")])
def test_keypoints_without_names(tmp_path: Path, count: int, first: str) -> None:
    dataset = open_dataset(write_coco(tmp_path, tables(annotation(1, keypoints=[12, 12, 2] * count))), "val")
    assert not skeleton_of(dataset).named
    config = keypoints_of(dataset, KeypointHeadConfig())
    assert (len(config.names), config.names[0]) == (count, first)
    lines = " ".join(describe_keypoints(dataset, config))
    assert ("assumed to be COCO's" in lines) == (count == 17)


def test_classes_may_share_their_keypoints_or_have_none(tmp_path: Path) -> None:
    both = tables(
        annotation(1, keypoints=POINTS),
        annotation(2, category_id=7),
        kite={"keypoints": NAMES},
        cup={"keypoints": NAMES},
    )
    assert skeleton_of(open_dataset(write_coco(tmp_path / "a", both), "val")).names == tuple(NAMES)
    one = tables(annotation(1, keypoints=POINTS), annotation(2, category_id=7), kite={"keypoints": NAMES})
    assert skeleton_of(open_dataset(write_coco(tmp_path / "b", one), "val")).names == tuple(NAMES)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            tables(annotation(1)),
            r"has no keypoints, and this model is trained on them: use a file .*person_keypoints_SPLIT",
        ),
        (
            tables(
                annotation(1, keypoints=POINTS),
                annotation(2, category_id=7, keypoints=POINTS),
                kite={"keypoints": NAMES},
                cup={"keypoints": ["handle", "rim", "foot"]},
            ),
            r"categories with different keypoints \(kite: 3 \(left_wing, .*cup: 3 \(handle, .*split the file",
        ),
        (
            tables(annotation(1, keypoints=POINTS), annotation(2, keypoints=POINTS[:6])),
            r"has objects with different numbers of keypoints; expected the same number",
        ),
        (
            tables(annotation(1, keypoints=POINTS), kite={"keypoints": NAMES[:2]}),
            r"category 'kite' names 2 keypoints, but its annotations have 3",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, made: Any, message: str) -> None:
    dataset = open_dataset(write_coco(tmp_path, made), "val")
    with pytest.raises(ValueError, match=message):
        skeleton_of(dataset)


def test_another_data_set_must_have_the_same_keypoints_in_their_order(tmp_path: Path) -> None:
    dataset = open_dataset(
        write_coco(tmp_path, tables(annotation(1, keypoints=POINTS), kite={"keypoints": NAMES})), "val"
    )
    require_names(dataset, NAMES)
    with pytest.raises(ValueError, match="left_wing, right_wing, tail; the model has tail, left_wing, right_wing"):
        require_names(dataset, ["tail", "left_wing", "right_wing"])
    nameless = open_dataset(write_coco(tmp_path / "b", tables(annotation(1, keypoints=POINTS))), "val")
    require_names(nameless, NAMES)
    with pytest.raises(ValueError, match="has 3 keypoints per object, the model has 2"):
        require_names(nameless, NAMES[:2])


def test_keypoints_choose_between_cocos_two_files(tmp_path: Path) -> None:
    root = write_coco(tmp_path, tables(annotation(1)))
    plain = root / "annotations" / "instances_val.json"
    other = root / "annotations" / "person_keypoints_val.json"
    assert open_dataset(root, "val", keypoints=True).annotation_file == plain
    other.write_text(json.dumps(tables(annotation(1, keypoints=POINTS))))
    assert open_dataset(root, "val", keypoints=True).annotation_file == other
    assert open_dataset(root, "val").annotation_file == plain
    named = "annotations/person_keypoints_{split}.json"
    assert open_dataset(root, "val", annotations=named).annotation_file == other
    assert splits(root, named) == ["val"]
    with pytest.raises(FileNotFoundError, match=r"has no labels/val\.json, the given annotation file"):
        open_dataset(root, "val", annotations="labels/{split}.json")
    with pytest.raises(FileNotFoundError, match=r"has no labels/\{split\}\.json, the given annotation file"):
        splits(root, "labels/{split}.json")
    with pytest.raises(ValueError, match=r"annotations 'a\.json' \(--annotations\) is one file; .* write \{split\}"):
        splits(root, "a.json")


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (list(COCO_KEYPOINTS), COCO_FLIP_PAIRS),
        (["tl", "tr", "br", "bl"], ((0, 1), (3, 2))),
        (["top_left", "top_right", "bottom-right", "bottom-left"], ((0, 1), (3, 2))),
        (["LEye", "REye", "eyeL", "eyeR", "nose"], ((0, 1), (2, 3))),
        (["l_hip", "r_hip", "foot.l", "foot.r", "hip l 2", "hip r 2"], ((0, 1), (2, 3), (4, 5))),
        (["leftElbow", "rightElbow", "Left Knee", "Right Knee"], ((0, 1), (2, 3))),
        (["lsho", "rsho", "leftankle", "rightankle"], ((0, 1), (2, 3))),
        (["L1", "R1", "L2", "R2", "C"], ((0, 1), (2, 3))),
        (["nw", "ne", "se", "sw", "左目", "右目"], ((0, 1), (3, 2), (4, 5))),
        (["RIGHT_EYE", "LEFT_EYE"], ((1, 0),)),
        (["left", "right"], ((0, 1),)),
        (["nose", "left_eye", "right_eye", "tail", "Left_Paw", "right_paw", "left_wing"], ((1, 2), (4, 5))),
        (["0", "1", "2", "3"], ()),
        (["tail", "nail", "left_eye", "cleft"], ()),
    ],
)
def test_flip_pairs_of_the_usual_spellings(names: list[str], pairs: tuple[tuple[int, int], ...]) -> None:
    assert flip_pairs(names) == pairs


@pytest.mark.parametrize(
    ("category", "lines", "warning"),
    [
        ({"skeleton": [[1, 2], [2, 3]]}, ((0, 1), (1, 2)), ""),
        ({"skeleton": [[0, 1], [1, 2]]}, ((0, 1), (1, 2)), "a skeleton that counts keypoints from 0 (id 3): 1 was"),
        ({"skeleton": [[16, 14], [1, 2]]}, ((0, 1),), "a skeleton with 1 of 2 lines that do not join two of the"),
        ({"skeleton": [[0, 1], [1, 3]]}, ((0, 2),), "a skeleton with 1 of 2 lines that do not join two of the"),
        ({"skeleton": [["left_wing", "tail"]]}, ((0, 2),), ""),
        ({"skeleton": [[1, 1], [1], "ab", [1, "x"], [1, 2.5], [1, True], [2, 1]]}, ((1, 0),), "with 6 of 7 lines"),
        ({"skeleton": "none"}, (), "a skeleton that is not a list of pairs"),
        ({"skeleton": None}, (), ""),
        ({"sigmas": [0.1, 0, 0.1]}, (), "sigmas that are not 3 numbers above 0, one per keypoint"),
        ({"sigmas": [0.1, 0.1]}, (), "sigmas that are not 3 numbers above 0"),
        ({"sigmas": "x"}, (), "sigmas that are not 3 numbers above 0"),
    ],
)
def test_skeletons_and_sigmas_that_cannot_be_used(
    tmp_path: Path, category: dict[str, Any], lines: tuple[tuple[int, int], ...], warning: str
) -> None:
    made = tables(annotation(1, keypoints=POINTS), kite={"keypoints": NAMES} | category)
    dataset = open_dataset(write_coco(tmp_path, made), "val")
    skeleton = skeleton_of(dataset)
    assert (skeleton.lines, skeleton.sigmas) == (lines, None)
    assert len(dataset.warnings) == bool(warning)
    assert all(f"1 category has {warning}" in line or warning in line for line in dataset.warnings)


def test_repeated_and_invalid_keypoint_names(tmp_path: Path) -> None:
    made = tables(annotation(1, keypoints=POINTS), kite={"keypoints": ["a", "b", "a"]})
    dataset = open_dataset(write_coco(tmp_path / "twice", made), "val")
    assert skeleton_of(dataset).names == ("a (1)", "b", "a (3)")
    assert "1 category has two keypoints with the same name (id 3)" in dataset.warnings[0]
    made = tables(annotation(1, keypoints=POINTS), kite={"keypoints": {"0": "a"}})
    dataset = open_dataset(write_coco(tmp_path / "none", made), "val")
    assert not skeleton_of(dataset).named
    assert "1 category has keypoints that are not a list of names (id 3)" in dataset.warnings[0]


READ = [[12, 12, 2], [20, 14, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("keypoints", "expected", "warning"),
    [
        ([[12, 12, 2], [20, 14, 1], [0, 0, 0]], READ, "keypoints as a list of points (id 2): read as x, y"),
        ([[12, 12], [20, 14], [5, 5]], [[12, 12, 2], [20, 14, 2], [5, 5, 2]], "keypoints without visibility"),
        (["12", "12", "2", 20, 14, 1, 0, 0, 0], READ, "keypoints with numbers that are text (id 2)"),
        ([12, 12, 2, 20, 14, 1], [[0, 0, 0]] * 3, "keypoints that are not 9 numbers (x, y, visibility of 3 points)"),
        (
            [12, 12, 2, 20, 14, 1, None, 3, 2],
            READ,
            "a keypoint that is not 3 finite numbers, or far outside the image (id 2)",
        ),
        (
            [12, 12, 2, 20, 14, 1, math.inf, 3, 2],
            READ,
            "a keypoint that is not 3 finite numbers, or far outside the image (id 2)",
        ),
        ([12, 12, 7, 20, 14, 1, 0, 0, -1], READ, "a keypoint with a visibility other than 0, 1 and 2 (id 2)"),
        ("12 12 2", [[0, 0, 0]] * 3, "keypoints that are not a list [x, y, visibility, ...] (id 2)"),
        (None, [[0, 0, 0]] * 3, ""),
    ],
)
def test_keypoints_in_other_forms(tmp_path: Path, keypoints: Any, expected: list[list[int]], warning: str) -> None:
    made = tables(annotation(1, keypoints=POINTS), annotation(2, keypoints=keypoints), kite={"keypoints": NAMES})
    dataset = open_dataset(write_coco(tmp_path, made), "val")
    assert dataset[0].keypoints is not None
    assert dataset[0].keypoints.tolist() == [READ, expected]
    assert len(dataset.warnings) == bool(warning)
    assert all(f"1 annotation has {warning}" in line for line in dataset.warnings)
    truth = dataset.to_coco()["annotations"]
    assert [entry["num_keypoints"] for entry in truth] == [2, sum(point[2] > 0 for point in expected)]


def test_keypoints_without_visibility_are_taken_for_visible(tmp_path: Path) -> None:
    made = tables(*(annotation(n, keypoints=[12, 12, 20, 14, 5, 5]) for n in (1, 2)), kite={"keypoints": NAMES})
    dataset = open_dataset(write_coco(tmp_path, made), "val")
    assert dataset[0].keypoints is not None
    assert dataset[0].keypoints.tolist() == [[[12, 12, 2], [20, 14, 2], [5, 5, 2]]] * 2
    assert "2 annotations have keypoints without visibility (id 1, 2)" in dataset.warnings[0]


def test_counts_that_contradict_the_keypoints(tmp_path: Path) -> None:
    made = tables(annotation(1, keypoints=POINTS, num_keypoints=3), annotation(2, keypoints=POINTS, num_keypoints=2))
    dataset = open_dataset(write_coco(tmp_path, made), "val")
    line = dataset.warnings[0]
    assert "1 annotation has a num_keypoints that is not the number of its labelled keypoints (id 1)" in line


def test_keypoints_of_two_counts_without_names(tmp_path: Path) -> None:
    points = [annotation(1, keypoints=[1, 2, 2] * 3), annotation(2, keypoints=[1, 2, 2] * 4), annotation(3)]
    dataset = open_dataset(write_coco(tmp_path / "two", tables(*points)), "val")
    assert dataset[0].keypoints is None
    assert "2 annotations have keypoints of different counts (9, 12 numbers)" in dataset.warnings[0]
    dataset = open_dataset(write_coco(tmp_path / "one", tables(points[0], points[2])), "val")
    assert dataset[0].keypoints is not None
    assert dataset[0].keypoints.tolist() == [[[1, 2, 2]] * 3, [[0, 0, 0]] * 3]


def test_the_pairs_of_a_flip_are_printed_and_none_is_warned_of() -> None:
    assert describe_flip(["tl", "tr", "br", "bl"], ((0, 1), (3, 2)), 0.5).endswith("exchanges tl and tr, bl and br")
    assert describe_flip(["0", "1"], (), 0.5).startswith("warning: a horizontal flip exchanges no keypoints")
    assert not describe_flip(["0", "1"], (), 0).startswith("warning:")
