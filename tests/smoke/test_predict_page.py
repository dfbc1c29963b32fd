"""The commands of docs/predict.md run, one after the other, on a tiny model."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image

from rcnn.data.opening import open_dataset
from rcnn.data.video import VideoWriter
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.weights.checkpoint import save_checkpoint
from tests.command import rcnn
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco

PAGE = Path(__file__).resolve().parents[2] / "docs" / "predict.md"


def write_video(path: Path) -> bool:
    """Write a video of two frames; False without PyAV."""
    if importlib.util.find_spec("av") is None:
        return False
    with VideoWriter(path, Fraction(10)) as writer:
        for _ in range(2):
            writer.write(Image.new("RGB", (96, 64), (90, 90, 90)))
    return True


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [shlex.split(line)[1:] for language, block in blocks if not language for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: the checkpoint RUN with random weights, and photos/."""
    monkeypatch.chdir(tmp_path)
    write_tiny_coco(tmp_path / "data", {"val": 2}, size=(64, 96))
    Path("photos").mkdir()
    for number in (1, 2):
        Image.open(tmp_path / "data" / "val" / f"val_{number}.png").save(f"photos/val_{number}.jpg")
    torch.manual_seed(0)
    config = override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.01"])
    save_checkpoint("RUN", build_detector(config), config, CLASSES)
    return tmp_path


def test_the_commands_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = commands()
    assert len(page) >= 6
    for words in page:
        if "video.mp4" in words and not write_video(Path("video.mp4")):
            continue
        scores = ["--score", "0"] if words[0] == "predict" and "--score" not in words else []
        assert rcnn(*words, *scores) == 0, words
    found = json.loads((folder / "found" / "predictions.json").read_text())["images"]
    assert len(found) == 2
    for name in ("coco.json", "coco_results.json", "predictions.csv", "masks/val_1.png", "val_1.jpg"):
        assert (folder / "found" / name).is_file(), name
    objects = sum(len(entry["detections"]) for entry in found)
    assert objects
    for name in ("labelme", "yolo"):
        assert sum(len(record.boxes) for record in open_dataset(folder / "found" / name)) == objects
    with Image.open(folder / "found" / "yolo" / "images" / "val_1.jpg") as copy:
        assert copy.size == (96, 64)
    assert len(list((folder / "stages").glob("*.jpg"))) == 2
    if (folder / "video.mp4").exists():
        assert len((folder / "watched" / "video.jsonl").read_text().splitlines()) == 2
    assert "disc" in capsys.readouterr().out
