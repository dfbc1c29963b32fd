"""The commands on a tiny data set, in the forms that scripts rely on: train, eval, predict, convert, models, doctor."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as pycoco
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from rcnn.cli.predict_images import ImageRun
from rcnn.weights.checkpoint import load_checkpoint
from tests.command import rcnn
from tests.tiny_data import TINY_MODEL, write_tiny_coco

BRIEF = ("train.steps=2", "train.batch_size=2", "train.workers=0", "box.score_threshold=0.01")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training images and two validation images."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train2017": 3, "val2017": 2}, size=(64, 96))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    output = tmp_path_factory.mktemp("runs") / "run"
    assert rcnn("train", "mask_rcnn_compact", "--data", data, "--output", output, *TINY_MODEL, *BRIEF) == 0
    return output


def test_eval_writes_metrics_and_results(
    data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "eval"
    assert rcnn("eval", trained, "--data", data, "--split", "val2017", "--output", output) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    for kind in ("bbox", "segm"):
        assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"} <= set(metrics[kind])
        assert 0 <= metrics[kind]["AP"] <= 1
        results = json.loads((output / f"results_{kind}.json").read_text())
        assert results
        assert {entry["category_id"] for entry in results} <= {10, 20}
        assert {entry["image_id"] for entry in results} <= {1, 2}
    assert set(metrics["per_class"]) == {"square", "disc"}
    assert "square" in capsys.readouterr().out
    thresholds = [json.loads((folder / "thresholds.json").read_text()) for folder in (output, trained / "best")]
    assert thresholds[0] == thresholds[1]  # of the last evaluation in training
    assert thresholds[0]["kind"] == "segm"


def check_predictions(path: Path, files: list[Path]) -> list[dict[str, Any]]:
    """Check the images of a predictions.json; return them."""
    images = json.loads(path.read_text())["images"]
    assert [entry["file"] for entry in images] == [str(file) for file in files]
    for entry, file in zip(images, files, strict=True):
        with Image.open(file) as picture:
            assert (entry["height"], entry["width"]) == (picture.height, picture.width)
        for found in entry["detections"]:
            assert set(found) == {"label", "name", "score", "box", "mask"}
            assert found["name"] == ("square", "disc")[found["label"]]
            x1, y1, x2, y2 = found["box"]
            assert 0 <= x1 < x2 <= entry["width"]
            assert 0 <= y1 < y2 <= entry["height"]
            ys, xs = np.nonzero(pycoco.decode(found["mask"]))
            if len(xs):  # a mask lies in its box
                assert x1 - 1 <= xs.min()
                assert xs.max() <= x2
                assert y1 - 1 <= ys.min()
                assert ys.max() <= y2
    return images


@pytest.mark.parametrize("options", [(), ("--json",), ("--json", "--contour"), ("--no-pictures",)])
def test_predict_writes_json_and_pictures(
    data: Path, trained: Path, tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data / "val2017"
    single = data / "train2017" / "train2017_1.png"
    assert rcnn("predict", trained, folder, single, "--output", tmp_path, "--score", "0.02", *options) == 0
    files = [*sorted(folder.iterdir()), single]
    images = check_predictions(tmp_path / "predictions.json", files)
    assert any(entry["detections"] for entry in images)
    assert all(found["score"] >= 0.02 for entry in images for found in entry["detections"])
    out = capsys.readouterr().out
    if "--json" in options:
        assert json.loads(out) == {"images": images}
    pictures = sorted(path.name for path in tmp_path.glob("*.jpg"))
    assert pictures == ([] if "--no-pictures" in options else sorted(f"{file.stem}.jpg" for file in files))
    for entry in images:
        if pictures and entry["detections"]:
            with (
                Image.open(tmp_path / f"{Path(entry['file']).stem}.jpg") as picture,
                Image.open(entry["file"]) as photo,
            ):
                assert picture.size == photo.size
                difference = np.abs(np.asarray(picture, int) - np.asarray(photo.convert("RGB"), int)).max(axis=2)
                assert (difference > 60).mean() > 0.01  # something is drawn


def test_a_high_score_threshold_removes_all_detections(data: Path, trained: Path, tmp_path: Path) -> None:
    assert rcnn("predict", trained, data / "val2017", "--output", tmp_path, "--score", "1.0") == 0
    assert [entry["detections"] for entry in json.loads((tmp_path / "predictions.json").read_text())["images"]] == [
        [],
        [],
    ]


def test_a_bad_image_is_named_and_the_others_are_done(
    data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    whole = (data / "val2017" / "val2017_1.png").read_bytes()
    (folder / "a_good.png").write_bytes(whole)
    (folder / "b_cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "c_text.jpg").write_text("not an image")
    (folder / "d_empty.jpg").touch()
    (folder / "e_good.png").write_bytes(whole)
    (folder / "notes.txt").write_text("skipped")
    gone = tmp_path / "gone.jpg"
    assert rcnn("predict", trained, folder, gone, "ftp://host/a.jpg", "--output", tmp_path / "out") == 1
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(entry["file"]).name for entry in written["images"]] == ["a_good.png", "e_good.png"]
    bad = [str(folder / name) for name in ("b_cut.png", "c_text.jpg", "d_empty.jpg")]
    assert {entry["file"] for entry in written["failed"]} == {*bad, str(gone), "ftp://host/a.jpg"}
    err = capsys.readouterr().err
    for name in (*bad, str(gone), "ftp://host/a.jpg"):
        assert name in err
    assert f"not images, skipped: {folder / 'notes.txt'}\n" in err
    assert "Traceback" not in err


def test_an_image_of_a_url(data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=str(data / "val2017"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        status = rcnn("predict", trained, f"{address}/val2017_1.png", f"{address}/gone.png", "--output", tmp_path)
        server.shutdown()
    assert status == 1
    written = json.loads((tmp_path / "predictions.json").read_text())
    assert [(entry["file"], entry["height"], entry["width"]) for entry in written["images"]] == [
        (f"{address}/val2017_1.png", 64, 96)
    ]
    [failed] = written["failed"]
    assert failed["file"] == f"{address}/gone.png"
    assert "404" in failed["error"]
    assert [path.name for path in tmp_path.glob("*.jpg")] == ["val2017_1.jpg"]


def test_convert_a_torchvision_file(tmp_path: Path) -> None:
    """A small one: docs/python.md converts the published network."""
    torch.manual_seed(0)
    blocks = ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=8, norm_layer=FrozenBatchNorm2d)
    model = MaskRCNN(_resnet_fpn_extractor(blocks, trainable_layers=5), num_classes=4)
    model.roi_heads.box_head = TwoMLPHead(256 * 7 * 7, 32)
    model.roi_heads.box_predictor = FastRCNNPredictor(32, 4)
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    assert rcnn("convert", tmp_path / "theirs.pth", "box.fc_width=32", "--output", tmp_path / "ours") == 0
    checkpoint = load_checkpoint(tmp_path / "ours")
    assert torch.equal(checkpoint.state["box_head.trunk.fc1.bias"], model.state_dict()["roi_heads.box_head.fc6.bias"])
    assert checkpoint.config.num_classes == 3  # without background
    assert checkpoint.config.mask is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict", "gone", "{data}", "--output", "out"), "gone does not exist"),
        (("eval", "gone", "--data", "{data}", "--split", "val", "--output", "out"), "gone does not exist"),
        (("train", "mask_rcnn_compat", "--data", "{data}", "--output", "out"), "mask_rcnn_compact"),
        (("train", "mask_rcnn_compact", "--data", "gone", "--output", "out"), "gone"),
        (("train", "mask_rcnn_compact", "--data", "{data}", "--output", "out", "steps=3"), "train.steps=3"),
        (("convert", "gone.pth", "--output", "out"), "gone.pth"),
        (("models", "show", "mask_rcnn_compat"), "mask_rcnn_compact"),
    ],
)
def test_a_wrong_argument_gives_one_line_and_status_2(
    words: tuple[str, ...],
    said: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rcnn(*(word.replace("{data}", str(data)) for word in words)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1, err


def test_eval_of_a_split_that_is_not_there(
    data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rcnn("eval", trained, "--data", data, "--split", "test", "--output", tmp_path) == 2
    assert "val2017" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["train", "eval", "predict", "convert", "models", "download", "push", "doctor", "demo"]
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert rcnn(command, "--help") == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_models_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert rcnn("models") == 0
    assert rcnn("models", "list") == 0
    listed = capsys.readouterr().out
    assert listed.count("\nmask_rcnn_r50_fpn ") == 2
    assert re.search(r"^mask_rcnn_r50_fpn +44\.3 M +\d+\.\d +37\.9 +34\.6 +-  torchvision \+13$", listed, re.MULTILINE)
    assert all(len(line) <= 100 for line in listed.splitlines())
    assert rcnn("models", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["mask_rcnn_r50_fpn"]["paper"] == "He et al. 2017"
    assert rcnn("models", "cost", "faster_rcnn_compact", "num_classes=3", "--height", "128", "--width", "128") == 0
    assert "parameters" in capsys.readouterr().out
    assert rcnn("models", "show", "mask_rcnn_r50_fpn") == 0
    shown = capsys.readouterr().out
    assert "rpn.proposals.nms_iou=0.7" in shown
    assert "train.momentum=0.9" in shown
    assert rcnn("doctor") == 0
    assert torch.__version__ in capsys.readouterr().out


def test_the_installed_command_runs() -> None:
    command = Path(sys.executable).with_name("rcnn")
    if not command.exists():
        pytest.skip("rcnn is not installed beside this Python")
    answer = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=120, check=True)
    assert "predict" in answer.stdout


def test_predict_without_an_image_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    assert rcnn("predict", trained, tmp_path / "photos", tmp_path / "gone.jpg", "--output", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert f"no image to predict on: {tmp_path / 'photos'} contains no image" in message
    assert f"{tmp_path / 'gone.jpg'} does not exist" in message
    assert not (tmp_path / "out").exists()


def test_predict_overwrites_nothing_of_the_user(data: Path, trained: Path, tmp_path: Path) -> None:
    folder, original = tmp_path / "photos", tmp_path / "original.jpg"
    folder.mkdir()
    Image.open(data / "val2017" / "val2017_1.png").convert("RGB").save(original)
    for name in ("a.jpg", "other.jpg"):
        (folder / name).write_bytes(original.read_bytes())
    (folder / "b.jpg").symlink_to(original)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for _ in range(2):  # the second call replaces its own pictures, and does not predict on them
        assert rcnn("predict", trained, folder / "a.jpg", folder, "--output", folder) == 0
        written = json.loads((folder / "predictions.json").read_text())
        assert len(written["images"]) == 4
        assert {name: (folder / name).read_bytes() for name in before} == before
    assert original.read_bytes() == before["a.jpg"]
    assert sorted(path.name for path in folder.glob("*-*.jpg")) == ["a-2.jpg", "a-3.jpg", "b-2.jpg", "other-2.jpg"]


def test_predict_refuses_to_replace_predictions_of_the_user(
    data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "predictions.json").write_text("mine")
    assert rcnn("predict", trained, data / "val2017", "--output", tmp_path) == 2
    assert (tmp_path / "predictions.json").read_text() == "mine"
    assert "predictions.json exists and was not written by rcnn" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]


def test_predict_keeps_earlier_results_if_nothing_could_be_read(data: Path, trained: Path, tmp_path: Path) -> None:
    assert rcnn("predict", trained, data / "val2017", "--output", tmp_path) == 0
    before = (tmp_path / "predictions.json").read_text()
    assert rcnn("predict", trained, tmp_path / "gone.jpg", "--output", tmp_path) == 2
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert rcnn("predict", trained, tmp_path / "broken.jpg", "--output", tmp_path) == 1
    assert (tmp_path / "predictions.json").read_text() == before


def test_a_full_disk_stops_the_command_and_keeps_what_is_there(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, drawn = ImageRun._write_file, list[object]()

    def full(run: ImageRun, name: str, picture: bytes) -> None:
        if drawn:
            raise OSError(errno.ENOSPC, "No space left on device")
        drawn.append(name)
        write(run, name, picture)

    monkeypatch.setattr(ImageRun, "_write_file", full)
    assert rcnn("predict", trained, data / "val2017", "--output", tmp_path) == 2
    message = capsys.readouterr().err
    free = r"\(\d+\.\d MB free\)"
    assert re.match(rf"rcnn: {tmp_path} cannot be written: No space left on device {free}. Free some space", message)
    [line] = (tmp_path / "predictions.partial.jsonl").read_text().splitlines()
    assert json.loads(line)["file"].endswith("val2017_1.png")


def test_every_bad_input_is_listed_and_the_rest_goes_on(data: Path, trained: Path, tmp_path: Path) -> None:
    good, folder = data / "val2017" / "val2017_1.png", tmp_path / "bad"
    folder.mkdir()
    long = [folder / ("x" * 251 + suffix) for suffix in (".png", ".jpg")]
    for path in long:
        path.write_bytes(good.read_bytes())
    Image.fromarray(np.zeros((70_000, 3000), np.bool_)).save(folder / "huge.png")
    bad = [folder / "huge.png", "http://[/a.jpg", "http://127.0.0.1:9/%00.jpg", "x" * 300, "a\0b"]
    status = rcnn("predict", trained, *bad, *long, good, "box.score_threshold=0.3", "--output", tmp_path / "out")
    assert status == 1
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["file"] for entry in written["images"]] == [str(path) for path in (*long, good)]
    assert {entry["file"] for entry in written["failed"]} == {str(path) for path in bad}
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 3
    assert not (tmp_path / "out" / "predictions.partial.jsonl").exists()


def test_output_defaults_to_a_new_folder(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        assert rcnn("predict", trained, data / "val2017") == 0
        assert (tmp_path / "runs" / f"predict-run-{number}" / "predictions.json").exists()
        assert f"runs/predict-run-{number}" in capsys.readouterr().out
    assert rcnn("predict", trained, data / "val2017", "--precision", "float16") == 2
    assert rcnn("predict", trained, data / "val2017", "--device", "gpu") == 2
    assert len(list((tmp_path / "runs").iterdir())) == 2
