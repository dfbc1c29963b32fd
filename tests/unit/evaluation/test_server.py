"""Results files of a split without ground truth."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from pycocotools.coco import COCO

import rcnn
from rcnn.evaluation.server import server_files
from tests.command import rcnn as command
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco

NAME = "detections_test-dev2017_mask-rcnn-compact-{}_results"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Mask R-CNN with random weights that keeps all detections."""
    words = [*TINY_MODEL, "num_classes=2", "box.score_threshold=0"]
    config = rcnn.override(rcnn.model_config("mask_rcnn_compact"), words)
    folder = tmp_path_factory.mktemp("checkpoint") / "m"
    rcnn.save_checkpoint(folder, rcnn.build_detector(config), config, CLASSES)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """COCO's layout of test images: image_info_test-dev2017.json, and the images in test2017/."""
    root = write_tiny_coco(tmp_path / "coco", {"test2017": 3}, size=(48, 64))
    file = root / "annotations" / "instances_test2017.json"
    tables = json.loads(file.read_text())
    del tables["annotations"]
    (root / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(tables))
    file.unlink()
    return root


def test_results_files_for_the_server(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ["predict", checkpoint, "--data", data, "--split", "test-dev2017", "--output", output, "--device", "cpu"]
    assert command(*words) == 0
    assert f"3 images of test-dev2017: wrote {output / NAME.format('bbox')}.json" in capsys.readouterr().out
    boxes = json.loads((output / f"{NAME.format('bbox')}.json").read_text())
    masks = json.loads((output / f"{NAME.format('segm')}.json").read_text())
    assert len(boxes) == len(masks) > 3
    assert all(result.keys() == {"image_id", "category_id", "score", "bbox"} for result in boxes)
    assert all(result.keys() == {"image_id", "category_id", "score", "segmentation"} for result in masks)
    assert {result["image_id"] for result in boxes} == {1, 2, 3}
    assert {result["category_id"] for result in boxes} <= {10, 20}
    predictor = rcnn.Predictor(checkpoint, device="cpu")
    single = predictor.predict(data / "test2017" / "test2017_2.png").to_coco(2, [10, 20])
    of_second = [result for result in boxes if result["image_id"] == 2]
    assert [result["bbox"] for result in of_second] == [result["bbox"] for result in single]
    assert command("data", "check", data) == 0
    assert "split test-dev2017 has no ground truth: `rcnn predict --data` uses it" in capsys.readouterr().out
    for kind in ("bbox", "segm"):
        name = NAME.format(kind)
        with zipfile.ZipFile(output / f"{name}.zip") as archive:
            assert archive.namelist() == [f"{name}.json"]
            assert archive.read(f"{name}.json").decode() == (output / f"{name}.json").read_text()

    high = max(result["score"] for result in boxes)
    assert command(*words, "--score", high) == 0
    again = json.loads((output / f"{NAME.format('bbox')}.json").read_text())
    assert again == [result for result in boxes if result["score"] >= high]


@pytest.mark.parametrize(
    ("split", "name"),
    [
        ("lists/ids.txt", "ids"), ("/data/my ids.txt", "my-ids"), ("val:lists/ids.txt", "ids"),
        ("val+lists/ids.txt", "val+ids"), ("val_2.0", "val_2.0"), ("a b/c", "a-b-c"),
    ],
)  # fmt: skip
def test_the_names_are_files_in_the_folder(split: str, name: str, checkpoint: Path) -> None:
    names = server_files(rcnn.Predictor(checkpoint, device="cpu"), split)
    assert names["bbox"] == f"detections_{name}_mask-rcnn-compact-bbox_results"


def without_the_second_class(data: Path) -> Path:
    """Remove it from the data set; returns the annotation file."""
    file = data / "annotations" / "image_info_test-dev2017.json"
    tables = json.loads(file.read_text())
    tables["categories"] = tables["categories"][:1]
    file.write_text(json.dumps(tables))
    return file


def test_detections_of_classes_that_the_data_set_lacks_are_not_written(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = without_the_second_class(data)
    tables = json.loads(file.read_text())
    words = ["predict", checkpoint, "--data", data, "--device", "cpu", "--limit", 1, "--output", tmp_path / "out"]
    assert command(*words) == 0
    assert f"{file} lacks 1 class of the model ({CLASSES[1]}): their detections are not" in capsys.readouterr().err
    for kind in ("bbox", "segm"):
        results = json.loads((tmp_path / "out" / f"{NAME.format(kind)}.json").read_text())
        assert {result["category_id"] for result in results} == {tables["categories"][0]["id"]}
    tables["categories"][0]["name"] = "fig"
    file.write_text(json.dumps(tables))
    assert command(*words) == 2
    assert f"{file} has none of the classes of the model, {', '.join(CLASSES)}; rename" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_and_wrong_requests(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "test2017" / "test2017_2.png").write_bytes(b"")
    words = ["predict", checkpoint, "--data", data, "--device", "cpu", "--output"]
    assert command(*words, tmp_path / "out") == 1
    assert "test2017_2.png" in capsys.readouterr().err
    boxes = json.loads((tmp_path / "out" / f"{NAME.format('bbox')}.json").read_text())
    assert {result["image_id"] for result in boxes} == {1, 3}
    assert command(*words, tmp_path / "first", "--limit", 1) == 0
    boxes = json.loads((tmp_path / "first" / f"{NAME.format('bbox')}.json").read_text())
    assert {result["image_id"] for result in boxes} == {1}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / f"{NAME.format('bbox')}.json").write_text("mine")
    assert command(*words, foreign) == 2
    assert (foreign / f"{NAME.format('bbox')}.json").read_text() == "mine"
    assert command("predict", checkpoint, "--split", "val") == 2
    assert "--split needs the folder of the data set: give it with --data" in capsys.readouterr().err
    assert command("predict", checkpoint, "photo.jpg", "--data", data) == 2
    assert "photo.jpg: give images or --data, not both" in capsys.readouterr().err
    assert command("eval", checkpoint, "--data", data, "--output", tmp_path / "eval", "--device", "cpu") == 2
    assert "3 images without ground truth, so it cannot be used for training or evaluation" in capsys.readouterr().err


def test_images_of_a_split_above_the_limit_of_pixels_are_refused(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ["predict", checkpoint, "--data", data, "--limit", 1, "--device", "cpu", "--output", output]
    assert command(*words, "--max-pixels", 48 * 64) == 0
    earlier = {path.name: path.read_bytes() for path in output.glob("*_results.*")}
    assert len(earlier) == 4
    assert command(*words, "--max-pixels", 48 * 64 - 1) == 2
    assert "none of 1 image could be predicted on; the first:" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in output.glob("*_results.*")} == earlier


def test_a_split_is_predicted_on_in_tiles(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ["predict", checkpoint, "--data", data, "--limit", 2, "--device", "cpu", "--score", 0.3]
    assert command(*words, "--tile", 40, "--output", output) == 0
    predictor = rcnn.Predictor(checkpoint, device="cpu")
    single = rcnn.predict_tiled(predictor, data / "test2017" / "test2017_2.png", tile=40, score=0.3)
    assert len(single)
    for kind, field in (("bbox", "bbox"), ("segm", "segmentation")):
        results = json.loads((output / f"{NAME.format(kind)}.json").read_text())
        of_second = [result[field] for result in results if result["image_id"] == 2]
        assert of_second == [result[field] for result in single.to_coco(2, [10, 20])]
    some = ["--tile", 40, "--classes", CLASSES[1], "--output", tmp_path / "some"]
    assert command(*words, *some) == 0
    boxes = json.loads((tmp_path / "some" / f"{NAME.format('bbox')}.json").read_text())
    assert {result["category_id"] for result in boxes} == {20}


def test_a_split_in_the_formats_of_other_tools(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same detections as in the results files for the server, with the ids of the data set."""
    file = data / "annotations" / "image_info_test-dev2017.json"
    tables = json.loads(file.read_text())
    for image in tables["images"]:
        image["id"] += 500
    tables["images"][1]["file_name"] = tables["images"][0]["file_name"]  # two images may share a file
    file.write_text(json.dumps(tables))
    words = ["predict", checkpoint, "--data", data, "--device", "cpu", "--score", 0.3, "--limit", 3, "--output"]
    assert command(*words, tmp_path / "server") == 0
    capsys.readouterr()
    output = tmp_path / "out"
    assert command(*words, output, "--format", "coco,csv,yolo", "--json") == 0
    images = json.loads(capsys.readouterr().out)["images"]
    expected = [json.loads((tmp_path / "server" / f"{NAME.format(k)}.json").read_text()) for k in ("bbox", "segm")]
    results = json.loads((output / "coco_results.json").read_text())
    assert results == [box | mask for box, mask in zip(*expected, strict=True)]
    assert {result["image_id"] for result in results} == {501, 502, 503}
    again = COCO(str(output / "coco.json"))
    assert [(one["image_id"], one["category_id"], one["score"]) for one in again.dataset["annotations"]] == [
        (result["image_id"], result["category_id"], result["score"]) for result in results
    ]
    assert {one["id"]: one["name"] for one in again.dataset["categories"]} == {10: CLASSES[0], 20: CLASSES[1]}
    first, last = (len(image["detections"]) for image in images)
    assert 2 * first + last == len(results)
    assert len((output / "predictions.csv").read_text().splitlines()) == 1 + first + last
    assert sum(len(record.boxes) for record in rcnn.open_dataset(output / "yolo")) == first + last
    assert not [*output.rglob("*.jpg")], "no pictures without --pictures"
    words = [*words[:-1], "--pictures", "--classes", CLASSES[1], "--output"]
    assert command(*words, tmp_path / "drawn") == 0
    assert len([*(tmp_path / "drawn").rglob("*.jpg")]) == 2


def test_skipped_images_of_a_split_are_exit_status_1_in_other_formats(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "test2017" / "test2017_2.png").unlink()
    words = ["predict", checkpoint, "--data", data, "--device", "cpu", "--format", "csv", "--output", tmp_path / "out"]
    assert command(*words) == 1
    shown = capsys.readouterr()
    assert "in 2 images; results in" in shown.out
    assert "warning: " in shown.err


def test_classes_that_the_data_set_lacks_are_not_in_other_formats(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = without_the_second_class(data)
    words = ["predict", checkpoint, "--data", data, "--device", "cpu", "--limit", 1, "--score", 0, "--format", "csv"]
    assert command(*words, "--output", tmp_path / "out") == 0
    assert f"{file} lacks 1 class of the model ({CLASSES[1]}): their detections are not" in capsys.readouterr().err
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1:]
    assert {row.split(",")[2] for row in rows} == {CLASSES[0]}
    assert command(*words, "--classes", CLASSES[1], "--output", tmp_path / "none") == 2
    assert f"{file} has none of the classes {CLASSES[1]}; choose others (--classes)" in capsys.readouterr().err
