"""`--score` and `--classes` of `rcnn predict`: which detections are kept, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rcnn.cli.scores import Filter, chosen_filter
from rcnn.evaluation.thresholds import read_thresholds
from rcnn.results import ImageDetections

CLASSES = ("person", "dog", "kite")
MODEL = Path("model")


def detections() -> ImageDetections:
    """Four detections: person .9, dog .6, person .4, kite .3."""
    return ImageDetections(
        height=20,
        width=30,
        boxes=np.array([[0, 0, 5, 5]] * 4, dtype=np.float32),
        scores=np.array([0.9, 0.6, 0.4, 0.3], dtype=np.float32),
        labels=np.array([0, 1, 0, 2]),
        classes=CLASSES,
    )


def kept(score: str | None, classes: str = "") -> list[tuple[str, float]]:
    found = chosen_filter(score, classes, MODEL, CLASSES).apply(detections())
    return [(name, round(value, 2)) for name, value in zip(found.names, found.scores.tolist(), strict=True)]


def thresholds(path: Path, **scores: float | None) -> Path:
    """A thresholds.json with an overall threshold of .35."""
    path.parent.mkdir(parents=True, exist_ok=True)
    per_class = {name: None if score is None else {"score": score} for name, score in scores.items()}
    path.write_text(json.dumps({"overall": {"score": 0.35}, "per_class": per_class}))
    return path


def test_the_forms_of_score_and_classes() -> None:
    assert kept(None) == [("person", 0.9), ("dog", 0.6)]
    assert kept("0.4") == [("person", 0.9), ("dog", 0.6), ("person", 0.4)]
    assert kept("0", "kite, dog") == [("dog", 0.6), ("kite", 0.3)]
    assert kept("dog=0.7,kite=0.2") == [("person", 0.9), ("kite", 0.3)], "others: the default, 0.5"
    assert kept("dog=0.7,0.3") == [("person", 0.9), ("person", 0.4), ("kite", 0.3)]


def test_best_takes_the_newest_thresholds_of_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    old, new = thresholds(run / "a" / "thresholds.json", dog=0.1), thresholds(run / "b" / "thresholds.json", dog=0.65)
    os.utime(old, (1, 1))
    (run / "log.jsonl").touch()
    for checkpoint in (run, run / "best"):
        found = chosen_filter("best", "", checkpoint, CLASSES)
        assert found.score == {"person": 0.35, "dog": 0.65, "kite": 0.35}
    assert list(found.apply(detections()).names) == ["person", "person"]
    assert chosen_filter(str(old), "", MODEL, CLASSES) == chosen_filter(str(old.parent), "", MODEL, CLASSES)
    assert found.lowest == 0.35
    assert found.of("dog") == 0.65
    assert Filter(classes=("dog",)).of("kite") == float("inf")
    new.unlink()
    assert chosen_filter("best", "", run, CLASSES).of("dog") == 0.1


@pytest.mark.parametrize("score", ["1.5", "half", "nan", "dog=x", "-0.1"])
def test_a_score_out_of_range_is_refused(score: str) -> None:
    with pytest.raises(ValueError, match=f"--score {score}: expected a number from 0 to 1, NAME=NUMBER"):
        chosen_filter(score, "", MODEL, CLASSES)


def test_unknown_classes_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no class 'dgo' \(similar: 'dog'\); it has person, dog, kite"):
        chosen_filter(None, "person,dgo", MODEL, CLASSES)
    with pytest.raises(ValueError, match="the model has no class 'cat'; it has"):
        chosen_filter("cat=0.5", "", MODEL, CLASSES)
    with pytest.raises(ValueError, match=r"--score dog=0\.5,dog=0\.6: dog has two scores; expected one per class"):
        chosen_filter("dog=0.5,dog=0.6", "", MODEL, CLASSES)
    with pytest.raises(FileNotFoundError, match=r"has no thresholds\.json with the best scores; write it with: rcnn"):
        chosen_filter("best", "", tmp_path, CLASSES)
    (tmp_path / "my run").mkdir()
    with pytest.raises(
        FileNotFoundError, match=f"rcnn eval '{tmp_path}/my run' --data DIR --output '{tmp_path}/my run/e"
    ):
        chosen_filter("best", "", tmp_path / "my run", CLASSES)
    advice = r"rcnn eval mask_rcnn --data DIR --output FOLDER, and give that folder \(--score FOLDER"
    with pytest.raises(FileNotFoundError, match=advice):  # not the name: a folder would hide the weights
        chosen_filter("best", "", Path("mask_rcnn"), CLASSES)
    with pytest.raises(ValueError, match="has thresholds of the classes cup, but the model has person, dog, kite"):
        chosen_filter(str(thresholds(tmp_path / "a.json", cup=0.5)), "", MODEL, CLASSES)
    for content, message in (
        ("{}", "has no 'per_class'; expected the thresholds.json"),
        ('{"per_class": {}}', "has no class in 'per_class'; expected the thresholds.json"),
        ('{"per_class": {"dog": 3}}', "class 'dog' is 3; expected {'score': 0.7, ...}"),
        ('{"per_class": {"dog": {"score": 7}}}', "class 'dog': score=7; expected a number from 0 to 1"),
        ('{"overall": null, "per_class": {"dog": null}}', "no detection of that evaluation was correct"),
    ):
        (tmp_path / "b.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_thresholds(tmp_path / "b.json", CLASSES)
    (tmp_path / "b.json").write_text('{"per_class": {}}')
    with pytest.raises(ValueError, match="has no class in 'per_class'"):
        read_thresholds(tmp_path / "b.json")


def test_a_threshold_for_each_class_in_python() -> None:
    found = detections().above({"person": 0.5})
    assert list(found.names) == ["person", "dog", "kite"]
    assert list(detections().of_classes(["kite"]).names) == ["kite"]
    with pytest.raises(ValueError, match="no class 'cat'"):
        detections().above({"cat": 0.5})
    with pytest.raises(ValueError, match="expected a number from 0 to 1"):
        detections().above({"dog": 2})
