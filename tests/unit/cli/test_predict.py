"""`rcnn predict`: the files of a run in which something fails, and the warning about a --score that is too low."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rcnn.cli.image_outcomes import ImageOptions
from rcnn.cli.predict import split_overrides
from rcnn.cli.predict_images import ImageRun, predict_images
from rcnn.cli.scores import Filter, lowest_score
from rcnn.cli.sources import expand
from rcnn.data.given_boxes import read_boxes
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.models.setting_tables import settings_table
from rcnn.outputs import PARTIAL, OutputFolder
from rcnn.predictor import Predictor
from rcnn.preprocess import Frame
from rcnn.region_features import RegionFeatures
from rcnn.results import ImageDetections
from rcnn.runtime.processes import ALONE
from tests.tiny_data import TINY_MODEL


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("mask_rcnn_compact", "box.score_threshold"),
        ("fcis_compact", "fcis.score_threshold"),
        ("rpn_r50_fpn", "rpn.proposals.score_threshold"),
    ],
)
def test_the_threshold_of_the_model_is_named(model: str, key: str) -> None:
    config = override(model_config(model), [f"{key}=0.25"])
    assert lowest_score(config) == (key, 0.25)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """A tiny Mask R-CNN with random weights."""
    torch.manual_seed(0)
    words = [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.01"]
    return Predictor(build_detector(override(model_config("mask_rcnn_compact"), words)), device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Three images, the second one 50 pixels wide."""
    (tmp_path / "photos").mkdir()
    names = [str(tmp_path / "photos" / f"{number}.png") for number in range(3)]
    for name, width in zip(names, (96, 50, 96), strict=True):
        noise = np.random.default_rng(width).integers(0, 256, (64, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(name)
    return names


def run_of(predictor: Predictor, folder: OutputFolder, boxes: Path | None = None) -> ImageRun:
    given = None if boxes is None else read_boxes(boxes)
    features = None if given is None else folder.path / "features.npz"
    options = ImageOptions(keep=Filter(score=0.0), given=given, features=features)
    return ImageRun(predictor=predictor, folder=folder, options=options)


def test_an_image_that_cannot_be_drawn_is_failed_only(
    predictor: Predictor, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = ImageDetections.draw

    def fail(result: ImageDetections, **options: object) -> Image.Image:
        if result.width == 50:
            raise ValueError("no font")
        return draw(result, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDetections, "draw", fail)
    with OutputFolder(tmp_path / "out") as folder:
        sources = expand(photos, folder)
        done = run_of(predictor, folder).predict_all(sources, ALONE)
        partial = (tmp_path / "out" / PARTIAL).read_text().splitlines()
    assert [entry["file"] for entry in done] == [photos[0], photos[2]]
    assert sources.failed == [(photos[1], "no font")]
    assert [json.loads(line) for line in partial] == done
    assert {path.name for path in (tmp_path / "out").glob("*.jpg")} == {"0.jpg", "2.jpg"}


def test_a_fault_is_named_and_raised_with_debug(
    predictor: Predictor, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(result: ImageDetections, **options: object) -> Image.Image:
        raise KeyError("x") if result.width == 50 else MemoryError("9 GiB")

    monkeypatch.setattr(ImageDetections, "draw", fail)
    with OutputFolder(tmp_path / "out") as folder:
        sources = expand(photos[:2], folder)
        run_of(predictor, folder).predict_all(sources, ALONE)
        assert sources.failed == [
            (
                photos[0],
                "not enough memory (9 GiB): predict on tiles (--tile), or use a smaller input.max_size or model",
            ),
            (photos[1], "KeyError: 'x' (--debug shows where)"),
        ]
        options = ImageOptions(keep=Filter(score=0.0), debug=True)
        with pytest.raises(KeyError, match="x"):
            ImageRun(predictor=predictor, folder=folder, options=options).predict_all(expand(photos[1:], folder), ALONE)


def test_an_image_without_features_is_failed_only(
    predictor: Predictor, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Predictor.predict_with_features

    def fail(self: Predictor, image: torch.Tensor, boxes: object) -> tuple[ImageDetections, RegionFeatures]:
        if image.shape[2] == 50:
            raise ValueError("out of memory")
        return predict(self, image, boxes)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "predict_with_features", fail)
    (tmp_path / "boxes.json").write_text(json.dumps({Path(name).name: [[5, 5, 40, 40]] for name in photos}))
    with OutputFolder(tmp_path / "out") as folder:
        sources = expand(photos, folder)
        run = run_of(predictor, folder, tmp_path / "boxes.json")
        done = run.predict_all(sources, ALONE)
    assert [entry["file"] for entry in done] == [name for name, _ in run.features] == [photos[0], photos[2]]
    assert sources.failed == [(photos[1], "out of memory")]
    assert [found.vectors.shape[0] for _, found in run.features] == [1, 1]


def test_an_image_is_drawn_while_the_model_works_on_the_next(
    predictor: Predictor, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model waits, at the second image, until the first one is drawn: one after the other, that would never end."""
    drawn, calls = threading.Event(), list[int]()
    detect, draw = Predictor.detect, ImageDetections.draw

    def waiting(
        self: Predictor, images: Sequence[Tensor], frames: Sequence[Frame], score: float
    ) -> list[ImageDetections]:
        calls.append(len(images))
        assert len(calls) < 2 or drawn.wait(60)
        return detect(self, images, frames, score)

    def tell(result: ImageDetections, **options: Any) -> Image.Image:
        picture = draw(result, **options)
        drawn.set()
        return picture

    monkeypatch.setattr(Predictor, "detect", waiting)
    monkeypatch.setattr(ImageDetections, "draw", tell)
    done = predict_images(predictor, photos, tmp_path / "out", Path("run"), ImageOptions(keep=Filter(score=0.0)), ALONE)
    monkeypatch.undo()
    assert calls == [1, 1, 1]
    assert [entry["file"] for entry in done.images] == photos
    assert [entry["detections"] for entry in done.images] == [predictor.predict(name).to_json() for name in photos]


def test_the_number_of_images_is_limited(predictor: Predictor, photos: list[str], tmp_path: Path) -> None:
    options = ImageOptions(keep=Filter(score=0.0), pictures=False, limit=2)
    done = predict_images(predictor, photos, tmp_path / "out", Path("run"), options, ALONE)
    assert [entry["file"] for entry in done.images] == photos[:2]


@pytest.mark.parametrize("model", ["mask_rcnn_r50_c4", "mask_rcnn_r50_fpn", "keypoint_rcnn_r50_fpn", "fcis_r101_coco"])
def test_every_setting_of_a_model_is_told_from_images(model: str) -> None:
    words = [f"{row.path}=1" for row in settings_table(model_config(model))]
    assert "backbone.stride_in_1x1=1" in words
    photos = ["a.jpg", "https://host/a?size=1"]
    assert split_overrides([*photos, *words]) == (photos, words)


def test_earlier_results_stay_if_every_image_fails(predictor: Predictor, photos: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "boxes.json").write_text(json.dumps({Path(name).name: [[5, 5, 40, 40]] for name in photos}))
    options = ImageOptions(formats=("coco", "csv", "yolo"), given=read_boxes(tmp_path / "boxes.json"))
    options = replace(options, pictures=False, features=out / "features.npz")
    predict_images(predictor, photos, out, Path("run"), options, ALONE)
    names = ("predictions.json", "coco.json", "coco_results.json", "predictions.csv", "yolo/data.yaml", "features.npz")
    earlier = {name: (out / name).read_bytes() for name in names}
    for name in photos:
        Path(name).write_bytes(b"damaged")
    done = predict_images(predictor, photos, out, Path("run"), options, ALONE)
    assert len(done.failed) == 3
    assert {name: (out / name).read_bytes() for name in names} == earlier


def test_damaged_lines_of_a_list_of_files_among_the_images_are_counted(
    predictor: Predictor, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = Path(photos[0]).with_name(".rcnn-files")
    marker.write_text('{"file": "2.png", "sha256": "any"}\ndamaged\n')
    options = ImageOptions(keep=Filter(score=0.0))
    found = predict_images(predictor, [str(marker.parent)], tmp_path / "out", Path("model"), options, ALONE)
    assert [entry["file"] for entry in found.images] == photos[:2]
    line = "warning: 1 line of `.rcnn-files` among the images is no entry and was skipped"
    assert f"{line}: {marker}:2. " in capsys.readouterr().err


def test_boxes_of_a_folder_go_to_its_own_images(predictor: Predictor, photos: list[str], tmp_path: Path) -> None:
    deep = tmp_path / "photos" / "sub" / "0.png"
    deep.parent.mkdir()
    shutil.copyfile(photos[0], deep)
    boxes = {"0.png": [[1, 2, 30, 40], [5, 5, 20, 20]], "sub/0.png": [[9, 9, 50, 50]]}

    def predict(content: dict[str, list[list[int]]], out: Path) -> list[dict[str, Any]]:
        (tmp_path / "boxes.json").write_text(json.dumps(content))
        options = ImageOptions(keep=Filter(score=0.0), pictures=False, given=read_boxes(tmp_path / "boxes.json"))
        return predict_images(predictor, [str(tmp_path / "photos")], out, Path("run"), options, ALONE).images

    found = {entry["file"]: [one["box"] for one in entry["detections"]] for entry in predict(boxes, tmp_path / "out")}
    assert found == {photos[0]: boxes["0.png"], str(deep): boxes["sub/0.png"]}
    del boxes["sub/0.png"]
    with pytest.raises(ValueError, match=r"'0\.png' fit 2 images"):
        predict(boxes, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_boxes_that_reach_outside_are_clipped_with_a_warning(
    predictor: Predictor, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = {"0.png": [[-0.5, 0, 96.5, 64], [-1.5, 2, 30, 40]], "1.png": [[1, 2, 30, 65.5]], "2.png": [[0, 0, 9, 9]]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    options = ImageOptions(pictures=False, given=read_boxes(tmp_path / "boxes.json"))
    done = predict_images(predictor, photos, tmp_path / "out", Path("run"), options, ALONE)
    [warning] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: 2 boxes of ")
    assert warning.endswith(
        f"reach more than a pixel outside the image, and were clipped to it: {photos[0]}, {photos[1]}"
    )
    assert done.images[0]["detections"][1]["box"] == [0, 2, 30, 40]


def test_pictures_of_an_earlier_call_are_removed_and_files_of_other_formats_are_named(
    predictor: Predictor, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    deep = tmp_path / "photos" / "sub" / "0.png"
    deep.parent.mkdir()
    shutil.copyfile(photos[0], deep)
    with OutputFolder(out) as folder:
        folder.write_text("pictures/0.jpg", "of another command")

    def predict(*images: str, pictures: bool = True, formats: tuple[str, ...] = ()) -> tuple[list[str], str]:
        options = ImageOptions(keep=Filter(score=0.0), pictures=pictures, formats=formats)
        predict_images(predictor, images, out, Path("run"), options, ALONE)
        names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.jpg"))
        return names, capsys.readouterr().err

    assert predict(str(tmp_path / "photos"), str(deep), formats=("coco", "yolo"))[0] == [
        "0-2.jpg", "0.jpg", "1.jpg", "2.jpg", "pictures/0.jpg", "sub/0.jpg",
    ]  # fmt: skip
    (out / "1.jpg").write_bytes(b"changed")
    names, error = predict(photos[2], formats=("coco",))
    assert names == ["1.jpg", "2.jpg", "pictures/0.jpg"]
    assert f"{out}: removed 7 files of an earlier prediction on other images" in error  # 3 pictures, 4 copies
    assert f"{out}: of an earlier prediction, not written again: yolo/data.yaml, yolo/labels/\n" in error
    names, error = predict(photos[0], pictures=False, formats=("coco", "yolo"))
    assert names == ["1.jpg", "2.jpg", "pictures/0.jpg"]
    assert f"{out}: of an earlier prediction, not written again: 2.jpg\n" in error


def test_what_an_earlier_call_wrote_for_an_image_that_fails_now_is_kept(
    predictor: Predictor, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def predict() -> None:
        options = ImageOptions(keep=Filter(score=0.0), formats=("labelme",))
        predict_images(predictor, photos, out, Path("run"), options, ALONE)

    predict()
    before = sorted(path.relative_to(out) for path in out.rglob("1.*"))
    Path(photos[1]).write_bytes(b"not readable for a moment")
    capsys.readouterr()
    predict()
    assert sorted(path.relative_to(out) for path in out.rglob("1.*")) == before
    assert len(before) == 3, "the picture, the labels and the copy"
    assert "removed" not in capsys.readouterr().err


@pytest.mark.parametrize("copies", [True, False])
def test_a_labelme_file_without_an_image_is_failed_only(
    predictor: Predictor, photos: list[str], tmp_path: Path, copies: bool
) -> None:
    labels = str(tmp_path / "photos" / "0.json")
    Path(labels).write_text(json.dumps({"shapes": [], "imagePath": "0.png", "imageData": None}))
    options = ImageOptions(formats=("coco", "labelme", "yolo"), copies=copies, pictures=False)
    done = predict_images(predictor, [*photos, labels], tmp_path / "out", Path("run"), options, ALONE)
    assert [entry["file"] for entry in done.images] == photos
    [(name, reason)] = done.failed
    assert name == labels
    assert "nor a labelme file with an image in it" in reason


def test_a_picture_that_is_too_wide_for_jpeg_is_made_smaller(
    predictor: Predictor, photos: list[str], tmp_path: Path
) -> None:
    wide = str(tmp_path / "wide.png")
    Image.new("RGB", (70_000, 1)).save(wide)
    options = ImageOptions(keep=Filter(score=0.0))
    done = predict_images(predictor, [wide], tmp_path / "out", Path("run"), options, ALONE)
    assert done.failed == []
    with Image.open(tmp_path / "out" / "wide.jpg") as picture:
        assert picture.size == (65_500, 1)
