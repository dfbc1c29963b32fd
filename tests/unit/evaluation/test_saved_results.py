"""Results that were saved before: pictures without boxes, images without results, a file that is missing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.data import open_dataset
from rcnn.data.held_out import HeldOut
from rcnn.data.opening import DatasetOptions, open_with
from rcnn.drawing.pictures import draw_objects
from rcnn.evaluation import examples
from rcnn.evaluation.api import evaluate
from rcnn.evaluation.compare import compare
from rcnn.evaluation.examples import draw_spread, draw_worst
from rcnn.evaluation.opening import dataset_for
from rcnn.evaluation.results import evaluate_results
from rcnn.evaluation.thresholds import find_thresholds, read_thresholds
from rcnn.metrics.analysis import analyse
from rcnn.outputs import OutputFolder
from tests.tiny_data import CLASSES, write_tiny_coco

Entry = dict[str, Any]


def perfect(data: Path, *fields: str) -> list[Entry]:
    """The ground truth of the validation split as results with these fields."""
    tables = json.loads((data / "annotations" / "instances_val.json").read_text())
    keep = ("image_id", "category_id", *fields)
    return [{name: entry[name] for name in keep} | {"score": 0.9} for entry in tables["annotations"]]


@pytest.mark.parametrize("field", ["segmentation", "keypoints"])
def test_results_without_boxes_are_drawn(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The box is that around the mask or the keypoints; COCO's results of masks have no other."""

    data = write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96))
    file = data / "annotations" / "instances_val.json"
    tables = json.loads(file.read_text())
    for annotation in tables["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["keypoints"] = [x, y, 2, x + width, y + height, 2]
    for category in tables["categories"]:
        category |= {"keypoints": ["a", "b"], "skeleton": [[1, 2]]}
    file.write_text(json.dumps(tables))
    results, drawn = perfect(data, field), list[np.ndarray]()

    def draw(image: torch.Tensor, boxes: Any, *rest: Any, **more: Any) -> Image.Image:
        drawn.append(np.array(boxes))
        return draw_objects(image, boxes, *rest, **more)

    monkeypatch.setattr(examples, "draw_objects", draw)
    dataset = open_dataset(data, "val", keypoints=True)
    [example] = draw_spread(dataset, results, 8, 0, 0.5, skeleton=[(0, 1)], proposals=False, failed=(), log=print)
    assert example.note == "2 detections, 2 objects"
    expected = [[x, y, x + width, y + height] for x, y, width, height in (a["bbox"] for a in tables["annotations"])]
    [boxes] = drawn
    np.testing.assert_allclose(sorted(boxes.tolist()), sorted(expected), atol=1.01)


def test_results_of_a_part_of_the_images_are_reported(tmp_path: Path) -> None:
    data, found = write_tiny_coco(tmp_path / "data", {"val": 5}, size=(64, 96)), tmp_path / "found"
    dataset, results = open_dataset(data, "val"), perfect(data, "bbox")
    mine, other = tmp_path / "mine.json", tmp_path / "other.json"
    mine.write_text(json.dumps([one for one in results if one["image_id"] in (1, 4)]))
    (line,) = evaluate_results(mine, dataset).warnings
    assert line == (
        f"{mine} has results for 2 of the 5 images of the split; the other 3 count as images without detections. To "
        "evaluate only some images, give their ids: split=IDS.txt (--split)"
    )
    other.write_text(json.dumps([one for one in results if one["image_id"] != 5]))
    assert evaluate_results(other, dataset).warnings == (), "images without detections are usual"
    assert compare(other, mine, dataset, samples=0).warnings == (line,)
    (tmp_path / "ids.txt").write_text("1\n4\n")
    some = evaluate(mine, data, split=str(tmp_path / "ids.txt"))
    assert (some.metrics.images, some.metrics.kinds["bbox"]["AP"]) == (2, 1)
    assert not any("results for" in one for one in some.warnings)
    assert compare(mine, mine, data, split=tmp_path / "ids.txt", samples=0).images == 2
    with pytest.raises(ValueError, match="results have image_id 2, 3, which"):
        evaluate(other, data, split=str(tmp_path / "ids.txt"))
    with OutputFolder(found) as folder:  # as `rcnn predict --format coco` writes them
        folder.write_json("coco.json", {"images": [{"id": 1 + place} for place in range(4)]})
        folder.write_json("coco_results.json", results[:2])
        folder.path.joinpath("mine.json").write_text(json.dumps(results[:2]))
    (line,) = evaluate_results(found / "coco_results.json", dataset).warnings
    assert (
        "is of a prediction (see coco.json beside it) on 4 of the 5 images of the split; the other one counts" in line
    )
    assert "has results for 1 of the 5" in evaluate_results(found / "mine.json", dataset).warnings[0]
    with OutputFolder(found) as folder:
        folder.write_json("coco.json", {"images": [{"id": 1 + place} for place in range(5)]})
    assert evaluate_results(found / "coco_results.json", dataset).warnings == (), "the others have no detections"


def with_keypoints(data: Path) -> list[Entry]:
    """Two keypoints in every object of the validation split; returns the ground truth as results of boxes."""
    file = data / "annotations" / "instances_val.json"
    tables = json.loads(file.read_text())
    for annotation in tables["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["keypoints"] = [x, y, 2, x + width, y + height, 2]
    for category in tables["categories"]:
        category |= {"keypoints": [f"{category['name']} a", f"{category['name']} b"]}
    file.write_text(json.dumps(tables))
    return [one | {"keypoints": one["keypoints"]} for one in perfect(data, "bbox", "keypoints")]


def test_fields_that_are_not_measured_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keypoints of some results, and a mask of another size: boxes are measured, and what can be drawn is drawn."""
    data, drawn = write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96)), list[Any]()
    first, second = with_keypoints(data)
    del first["keypoints"]
    second["segmentation"] = {"size": [9, 9], "counts": [0, 81]}
    (tmp_path / "results.json").write_text(json.dumps([first, second]))

    def draw(*arguments: Any, keypoints: Any, **more: Any) -> Image.Image:
        drawn.append(keypoints)
        return draw_objects(*arguments, keypoints=keypoints, **more)

    monkeypatch.setattr(examples, "draw_objects", draw)
    done = evaluate(tmp_path / "results.json", data, output=tmp_path / "out")
    assert (list(done.metrics.kinds), done.metrics.kinds["bbox"]["AP"]) == (["bbox"], 1)
    [points] = drawn
    half = np.array([0.5, 0.5, 0])  # annotated keypoints count pixels, drawn ones are where these are
    np.testing.assert_allclose(points, [[half] * 2, np.array(second["keypoints"]).reshape(2, 3) + half])


def test_categories_with_other_keypoints_are_evaluated_by_their_boxes(tmp_path: Path) -> None:
    """AP-10K names the keypoints of each category differently."""
    data = write_tiny_coco(tmp_path / "data", {"val": 3}, size=(64, 96))
    results = with_keypoints(data)
    assert len({one["category_id"] for one in results}) == 2
    for name, fields in (("boxes", ("bbox",)), ("all", ("bbox", "keypoints"))):
        kept = [{key: one[key] for key in ("image_id", "category_id", "score", *fields)} for one in results]
        (tmp_path / f"{name}.json").write_text(json.dumps(kept))
        done = evaluate(tmp_path / f"{name}.json", data, output=None if name == "all" else tmp_path / "out")
        assert (list(done.metrics.kinds), done.metrics.kinds["bbox"]["AP"]) == (["bbox"], 1)
        assert any("keypoints are not evaluated: " in line for line in done.warnings) == (name == "all")
    assert list(compare(tmp_path / "all.json", tmp_path / "all.json", data, samples=0).kinds) == ["bbox"]


def test_results_of_which_nothing_can_be_measured_are_refused(tmp_path: Path) -> None:
    data, file = write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96)), tmp_path / "results.json"
    file.write_text(json.dumps(perfect(data, "segmentation")))
    annotations = data / "annotations" / "instances_val.json"
    tables = json.loads(annotations.read_text())
    for annotation in tables["annotations"]:
        del annotation["segmentation"]
    annotations.write_text(json.dumps(tables))
    with pytest.raises(
        ValueError, match=r"results\.json has no results that can be evaluated: masks are not evaluated"
    ):
        evaluate(file, data, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    both = perfect(data, "bbox")
    file.write_text(json.dumps([one | {"segmentation": []} for one in both]))  # no masks
    assert list(evaluate(file, data).metrics.kinds) == ["bbox"]


@pytest.mark.parametrize("score", [-3, 1e300])
def test_scores_that_are_no_probabilities(score: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """AP depends only on the order of the scores; only the calibration needs probabilities."""
    data, file = write_tiny_coco(tmp_path / "data", {"val": 3}, size=(64, 96)), tmp_path / "found.json"
    results = perfect(data, "bbox")
    results[0]["score"] = score
    file.write_text(json.dumps(results))
    done = evaluate(file, data, output=tmp_path / "out")
    assert done.metrics.kinds["bbox"]["AP"] == 1
    assert f"1 result of {file} has a score outside 0..1: no calibration" in done.warnings
    analysis = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert analysis["calibration"] == {"error": None, "largest_error": None, "bins": []}


def test_thresholds_that_no_prediction_can_use_are_not_written(tmp_path: Path) -> None:
    """They would be newer than best/thresholds.json, which `--score best` uses."""
    data, file, run = write_tiny_coco(tmp_path / "data", {"val": 3}, size=(64, 96)), tmp_path / "found.json", tmp_path
    results = perfect(data, "bbox")
    file.write_text(json.dumps(results))
    evaluate(file, data, output=run / "eval", pictures=0)
    assert find_thresholds(run) == run / "eval" / "thresholds.json"
    assert set(read_thresholds(run / "eval" / "thresholds.json").values()) == {0.9}
    (run / "best").mkdir()
    (run / "best" / "thresholds.json").write_bytes((run / "eval" / "thresholds.json").read_bytes())
    file.write_text(json.dumps([one | {"score": 7.5} for one in results]))
    done = evaluate(file, data, output=run / "eval", pictures=0)
    assert find_thresholds(run) == run / "best" / "thresholds.json"
    assert (
        "the score thresholds with the best F1 are not all in 0..1: no thresholds.json for predictions" in done.warnings
    )
    assert done.thresholds is not None
    assert set(done.thresholds.scores().values()) == {7.5}


def test_thresholds_of_another_checkpoint_are_not_taken(tmp_path: Path) -> None:
    def write(folder: Path, age: float) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "thresholds.json").write_text("{}")
        os.utime(folder / "thresholds.json", (age, age))
        return folder / "thresholds.json"

    models, run = tmp_path / "models", tmp_path / "run"
    (models / "best").mkdir(parents=True)
    own = write(models / "best", 1)
    write(models / "other", 2)
    assert find_thresholds(models / "best") == own, "the folder of several models is no run"
    (run / "last").mkdir(parents=True)
    (run / "log.jsonl").touch()
    best = write(run / "best", 1)
    with pytest.raises(FileNotFoundError):
        find_thresholds(run / "last")
    assert find_thresholds(run / "best") == find_thresholds(run) == best
    newer = write(run / "eval", 2)
    assert find_thresholds(run / "best") == find_thresholds(run / "last") == newer


@pytest.mark.parametrize("form", ["a result per line", "all in one line", "indented"])
def test_lines_of_another_program(form: str, tmp_path: Path) -> None:
    """Only the results.jsonl of rcnn has one image per line."""
    data, file = write_tiny_coco(tmp_path / "data", {"val": 3}, size=(64, 96)), tmp_path / "found.jsonl"
    results = perfect(data, "bbox")
    text = json.dumps(results, indent=1 if form == "indented" else None)
    file.write_text("\n".join(map(json.dumps, results)) if form == "a result per line" else text)
    done = evaluate(file, data)
    file.write_text(file.read_text() + "\n\n")  # blank lines at the end
    assert evaluate(file, data).results == done.results
    assert (done.metrics.images, done.metrics.kinds["bbox"]["AP"], done.limit) == (3, 1, 0)
    file.write_text("\n".join([*[json.dumps(results[0])] * 5, "{'image_id'", json.dumps(results[0])]))
    with pytest.raises(ValueError, match=r"found\.jsonl is not JSON in line 6; expected"):
        evaluate(file, data)
    file.write_text("\n".join(map(json.dumps, results))[:-10])  # only rcnn's own file may end within a line
    with pytest.raises(ValueError, match=rf"found\.jsonl is not JSON in line {len(results)}; expected"):
        evaluate(file, data)
    masks = [result | ({"segmentation": [[0, 0, 9, 0, 9, 9]]} if row else {}) for row, result in enumerate(results)]
    file.write_text(json.dumps(masks))
    expected = f"masks are not evaluated: only {len(results) - 1} of the {len(results)} results of {file} have a value"
    assert any(expected in line for line in evaluate(file, data).warnings)
    one = [result | {"segmentation": [] if row else [[0, 0, 9, 0, 9, 9]]} for row, result in enumerate(results)]
    file.write_text(json.dumps(one))
    expected = f"only 1 of the {len(results)} results of {file} has a value of segmentation; give it to all"
    assert any(expected in line for line in evaluate(file, data).warnings)
    file.write_text("[]")
    assert not any("keypoints" in line for line in evaluate(file, data).warnings)
    file.write_text(json.dumps([*results[:2], {k: v for k, v in results[2].items() if k != "bbox"}]))
    with pytest.raises(ValueError, match=r"found.jsonl: .*; result 2 \(image \d\) has none, those before it have bbox"):
        evaluate(file, data)
    file.write_text("{\n")
    with pytest.raises(ValueError, match=r"found\.jsonl is not JSON"):
        evaluate(file, data)


@pytest.mark.parametrize(("images", "limit"), [((1, 2), 2), ((1, 3), 0)])
def test_a_copy_of_the_file_of_a_stopped_evaluation(images: tuple[int, ...], limit: int, tmp_path: Path) -> None:
    """Its lines are the first images; the lines of another program may skip one."""
    data, file = write_tiny_coco(tmp_path / "data", {"val": 3}, size=(64, 96)), tmp_path / "run1.jsonl"
    results = perfect(data, "bbox")
    file.write_text("\n".join(json.dumps([one for one in results if one["image_id"] == image]) for image in images))
    done = evaluate(file, data)
    assert (done.limit, done.metrics.images) == (limit, limit or 3)
    assert (done.metrics.kinds["bbox"]["AP"] == 1) == (limit == 2)


def test_ground_truth_is_drawn_as_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without masks if boxes are measured, with them otherwise, in images without detections, too."""
    data, masks = write_tiny_coco(tmp_path / "data", {"val": 2}, size=(64, 96)), list[bool]()

    def draw(image: torch.Tensor, *_: Any, **options: Any) -> Image.Image:
        masks.append(options["masks"])
        return Image.new("RGB", (9, 9))

    monkeypatch.setattr(examples, "draw_ground_truth", draw)
    dataset = open_dataset(data, "val")
    found = [one for one in perfect(data, "bbox", "segmentation") if one["image_id"] == 1]
    for kind in ("bbox", "segm"):
        analysis = analyse("coco", dataset.to_coco(), found, kind)
        assert len(draw_worst(dataset, analysis, 8, skeleton=(), failed=(), log=print)) == 2
    assert masks == [False, False, True, True]


def test_saved_proposals_have_no_classes(tmp_path: Path) -> None:
    """COCO's first class, person, has the id 1 that proposals have."""
    data, out = write_tiny_coco(tmp_path / "data", {"val": 2}, size=(64, 96)), tmp_path / "out"
    file = data / "annotations" / "instances_val.json"
    file.write_text(
        file.read_text().replace('"id": 10,', '"id": 1,').replace('"category_id": 10,', '"category_id": 1,')
    )
    found = [one | {"category_id": 1} for one in perfect(data, "bbox")]
    with OutputFolder(out) as folder:
        for kind in ("bbox", "proposals"):
            folder.write_json(f"results_{kind}.json", found)
    for dataset in (data, open_dataset(data, "val")):
        for source in (out, out / "results_bbox.json", out / "results_proposals.json"):
            metrics = evaluate(source, dataset).metrics
            assert list(metrics.per_class) == ["object"]
            assert {metrics.kinds[kind]["AP" if kind == "bbox" else "AR100"] for kind in metrics.kinds} == {1}
        compared = compare(out, out, dataset, samples=0)
        assert compared.kinds["bbox"]["AP"].a == 1
        assert list(compared.per_class["bbox"]) == ["object"]
    (out / "results_proposals.json").unlink()
    assert list(evaluate(out, data).metrics.per_class) == list(CLASSES), "boxes of a detector"


def test_a_missing_file_of_results_is_named(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96))
    mine, missing = tmp_path / "mine.json", tmp_path / "coco_results.json"
    mine.write_text(json.dumps(perfect(data, "bbox")))
    for function in (lambda: evaluate(missing, data), lambda: compare(mine, missing, data)):
        with pytest.raises(FileNotFoundError, match=r"coco_results\.json does not exist; expected a file in COCO's"):
            function()


def test_results_are_scored_without_the_image_files(tmp_path: Path) -> None:
    """Two JSON files, as for pycocotools; the metrics are those with the images."""
    data = write_tiny_coco(tmp_path / "data", {"val": 3}, size=(64, 96))
    results = perfect(data, "bbox", "segmentation")
    results[0]["bbox"] = [0, 0, 5, 5]
    found, alone = tmp_path / "found.json", tmp_path / "alone"
    found.write_text(json.dumps(results[:-1]))
    alone.mkdir()
    truth = alone / "truth.json"
    truth.write_bytes((data / "annotations" / "instances_val.json").read_bytes())
    with_images = evaluate(found, data, split="val", output=tmp_path / "a").metrics
    without = evaluate(found, truth, output=tmp_path / "b").metrics
    assert without.kinds == with_images.kinds
    assert without.kinds["bbox"]["AP"] not in (None, 0, 1)
    assert "data:image/jpeg" in (tmp_path / "a" / "report.html").read_text()
    assert "data:image/jpeg" not in (tmp_path / "b" / "report.html").read_text()
    assert compare(found, found, truth, samples=0).images == 3

    options = DatasetOptions(optional_files=True)
    dataset = open_with(options, truth)
    assert dataset.notes == (
        f"{truth}: none of its 3 images is there: scored with the sizes in this file, without pictures. For pictures, "
        "name the folder of the images with images (--images)",
    )
    with pytest.raises(FileNotFoundError, match="lists 3 images"):
        evaluate(found, truth, images=alone)  # a folder that the user names must have them
    with pytest.raises(FileNotFoundError, match="lists 3 images"):
        open_dataset(truth)
    tables = json.loads(truth.read_text())
    del tables["images"][1]["width"]
    truth.write_text(json.dumps(tables))
    with pytest.raises(FileNotFoundError, match="lists 3 images"):
        evaluate(found, truth)


def test_results_of_held_out_images_are_scored_without_the_files(tmp_path: Path) -> None:
    """Held-out images are then known by their names only."""
    data = write_tiny_coco(tmp_path / "data", {"val": 3}, size=(64, 96))
    dataset = open_dataset(data, "val")
    held_out = HeldOut(split="val", fraction=0.5, files=dataset.file_names[:2], contents=("0" * 32, "1" * 32))
    for path in dataset.folder.glob("*.png"):
        path.unlink()
    opened = dataset_for(None, data, held_out=held_out, options=DatasetOptions(optional_files=True))
    assert opened.file_names == dataset.file_names[:2]


def test_results_of_another_split_get_a_warning(tmp_path: Path) -> None:
    """The images of both splits have the same ids."""
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "val": 1}, size=(64, 96))
    (tmp_path / "out").mkdir()
    (tmp_path / "results.json").write_text(json.dumps(perfect(data, "bbox")))
    scored = evaluate(tmp_path / "results.json", data, split="val", output=tmp_path / "out")
    assert scored.split == json.loads((tmp_path / "out" / "metrics.json").read_text())["split"] == "val"
    line = "the results are those of the split 'val', but the ground truth is that of 'train'"
    for split, expected in (("val", 0), ("train", 1), ("val+train", 0)):
        assert sum(line in one for one in evaluate(tmp_path / "out", data, split=split).warnings) == expected
        compared = compare(tmp_path / "out", tmp_path / "results.json", data, split=split, samples=0)
        assert sum(line in one for one in compared.warnings) == expected
