"""The keypoints of a data set: names, pairs, lines and sigmas as its file has them, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import open_dataset, splits
from rcnn.data.skeletons import require_names, skeleton_of
from rcnn.models.config import COCO_FLIP_PAIRS, COCO_KEYPOINTS, COCO_SIGMAS, DEFAULT_SIGMA, KeypointHeadConfig
from rcnn.training.keypoints import describe_keypoints, keypoints_of
from tests.unit.data.coco_folders import annotation, coco_tables, write_coco

NAMES = ["left_wing", "right_wing", "tail"]
POINTS = [12, 12, 2, 20, 14, 1, 0, 0, 0]


def tables(*annotations: dict[str, Any], kite: dict[str, Any] | None = None, cup: dict[str, Any] | None = None) -> Any:
    """Kites (3) and cups (7) with what their categories say besides."""
    made = coco_tables(list(annotations))
    for category in made["categories"]:
        category |= (kite if category["id"] == 3 else cup) or {}
    return made


def test_what_the_file_says(tmp_path: Path) -> None:
    said = {"keypoints": NAMES, "skeleton": [[1, 3], [2, 3]], "sigmas": [0.05, 0.05, 0.1]}
    dataset = open_dataset(write_coco(tmp_path, tables(annotation(1, keypoints=POINTS), kite=said)), "val")
    skeleton = skeleton_of(dataset)
    assert skeleton.names == tuple(NAMES)
    assert skeleton.pairs == ((0, 1),)
    assert skeleton.lines == ((0, 2), (1, 2))
    assert skeleton.sigmas == (0.05, 0.05, 0.1)
    config = keypoints_of(dataset, KeypointHeadConfig(width=64))
    assert (config.names, config.flip_pairs, config.width) == (tuple(NAMES), ((0, 1),), 64)
    assert (config.skeleton, config.sigmas) == (((0, 2), (1, 2)), (0.05, 0.05, 0.1))
    assert len(describe_keypoints(dataset, config)) == 1


def test_sigmas_that_nobody_gave_are_told(tmp_path: Path) -> None:
    dataset = open_dataset(
        write_coco(tmp_path, tables(annotation(1, keypoints=POINTS), kite={"keypoints": NAMES})), "val"
    )
    config = keypoints_of(dataset, KeypointHeadConfig())
    assert config.sigmas == (DEFAULT_SIGMA,) * 3
    assert config.skeleton == ()
    assert "each has 0.067, the mean of COCO's" in describe_keypoints(dataset, config)[1]


def test_cocos_person_has_cocos_sigmas_and_pairs(tmp_path: Path) -> None:
    said = {"keypoints": list(COCO_KEYPOINTS)}
    dataset = open_dataset(write_coco(tmp_path, tables(annotation(1, keypoints=[12, 12, 2] * 17), kite=said)), "val")
    config = keypoints_of(dataset, KeypointHeadConfig(names=("a",), flip_pairs=(), sigmas=(1.0,)))
    assert (config.names, config.sigmas, config.flip_pairs) == (COCO_KEYPOINTS, COCO_SIGMAS, COCO_FLIP_PAIRS)


@pytest.mark.parametrize(("count", "first"), [(17, "nose"), (3, "keypoint_0")])
def test_keypoints_without_names(tmp_path: Path, count: int, first: str) -> None:
    dataset = open_dataset(write_coco(tmp_path, tables(annotation(1, keypoints=[12, 12, 2] * count))), "val")
    assert not skeleton_of(dataset).named
    config = keypoints_of(dataset, KeypointHeadConfig())
    assert (len(config.names), config.names[0]) == (count, first)
    told = " ".join(describe_keypoints(dataset, config))
    assert ("taken for COCO's" in told) == (count == 17)


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
        (tables(annotation(1)), r"has no keypoints, and this model learns them: take a file .*person_keypoints_SPLIT"),
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
            r"2 annotations have keypoints of different or odd counts \(6, 9 numbers\)",
        ),
        (
            tables(annotation(1, keypoints=POINTS), kite={"keypoints": NAMES[:2]}),
            r"category 'kite' names 2 keypoints, its annotations have 3",
        ),
        (tables(annotation(1, keypoints=POINTS), kite={"keypoints": ["a", "b", "a"]}), r"names two keypoints alike"),
        (
            tables(annotation(1, keypoints=POINTS), kite={"keypoints": NAMES, "skeleton": [[0, 1]]}),
            r"skeleton \[\[0, 1\]\]; wanted pairs of keypoints, counted from 1 to 3",
        ),
        (
            tables(annotation(1, keypoints=POINTS), kite={"keypoints": NAMES, "sigmas": [0.1, 0]}),
            r"has the sigmas \[0.1, 0\]; wanted 3 numbers above 0",
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
    with pytest.raises(ValueError, match="left_wing, right_wing, tail; the model's are tail, left_wing, right_wing"):
        require_names(dataset, ["tail", "left_wing", "right_wing"])
    nameless = open_dataset(write_coco(tmp_path / "b", tables(annotation(1, keypoints=POINTS))), "val")
    require_names(nameless, NAMES)
    with pytest.raises(ValueError, match="has 3 keypoints an object, the model 2"):
        require_names(nameless, NAMES[:2])


def test_keypoints_are_asked_for_where_both_of_cocos_files_are_there(tmp_path: Path) -> None:
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
    with pytest.raises(FileNotFoundError, match=r"has no labels/val\.json, the annotations asked for"):
        open_dataset(root, "val", annotations="labels/{split}.json")
    with pytest.raises(FileNotFoundError, match=r"looked in it for labels/SPLIT\.json"):
        splits(root, "labels/{split}.json")
    with pytest.raises(ValueError, match=r"annotations 'a\.json' are one file: write \{split\}"):
        splits(root, "a.json")
