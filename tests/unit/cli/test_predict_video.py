"""Videos that fail: what is left in the output folder."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import typer

from rcnn.cli import predict_video
from rcnn.cli.image_outcomes import ImageOptions
from rcnn.cli.predict_video import predict_videos
from rcnn.cli.scores import Filter
from rcnn.data.video import VideoFrame
from rcnn.outputs import PARTIAL
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections
from rcnn.stopping import Stopped

OPTIONS = ImageOptions(keep=Filter(score=0.0), pictures=False)


class NoObjects:
    """A predictor that finds nothing."""

    def predict(self, pixels: torch.Tensor, score: float, max_pixels: int) -> ImageDetections:
        none = np.zeros((0, 4), np.float32)
        return ImageDetections(
            height=8, width=8, boxes=none, scores=none[:, 0], labels=none[:, 0].astype(int), classes=("cat",)
        )


@pytest.mark.parametrize("frames", [0, 1])
def test_an_error_of_the_system_leaves_the_frames_so_far_and_names_them(
    frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(path: str, max_pixels: int) -> Iterator[VideoFrame]:
        yield from [VideoFrame(index=0, time=0.0, pixels=torch.zeros(3, 8, 8, dtype=torch.uint8))] * frames
        raise OSError(errno.EIO, "Input/output error")

    def rate(path: str) -> tuple[float, int]:
        return 25.0, 0

    monkeypatch.setattr(predict_video, "read_video", read)
    monkeypatch.setattr(predict_video, "video_rate", rate)
    predictor = cast("Predictor", NoObjects())
    partial = tmp_path / "out" / PARTIAL
    with pytest.raises(OSError if frames else typer.Exit):
        predict_videos(predictor, ["a.mp4"], tmp_path / "out", Path("run"), OPTIONS)
    assert partial.exists() == bool(frames)
    assert (f"the results so far are in {partial}" in capsys.readouterr().err) == bool(frames)


def test_results_of_an_earlier_command_do_not_stop_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(path: str, max_pixels: int) -> Iterator[VideoFrame]:
        yield VideoFrame(index=0, time=0.0, pixels=torch.zeros(3, 8, 8, dtype=torch.uint8))
        if path == "stopped.mp4":
            raise OSError(errno.EIO, "Input/output error")

    def rate(path: str) -> tuple[float, int]:
        if path == "gone.mp4":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return 25.0, 0

    monkeypatch.setattr(predict_video, "read_video", read)
    monkeypatch.setattr(predict_video, "video_rate", rate)
    predictor = cast("Predictor", NoObjects())
    output = tmp_path / "out"
    with pytest.raises(OSError, match="Input/output error"):
        predict_videos(predictor, ["stopped.mp4"], output, Path("run"), OPTIONS)
    assert (output / PARTIAL).exists()
    capsys.readouterr()
    with pytest.raises(typer.Exit):
        predict_videos(predictor, ["gone.mp4", "good.mp4"], output, Path("run"), OPTIONS)
    assert (output / "good.jsonl").read_text().count("\n") == 1
    assert "results so far" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [Stopped(2), OSError(errno.ENOSPC, "No space left on device")])
def test_a_stop_before_a_video_is_read_does_not_name_results_of_an_earlier_command(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rate(path: str) -> tuple[float, int]:
        (tmp_path / "out" / PARTIAL).write_text("of an earlier command")
        raise error

    monkeypatch.setattr(predict_video, "video_rate", rate)
    with pytest.raises(type(error)):
        predict_videos(cast("Predictor", NoObjects()), ["a.mp4"], tmp_path / "out", Path("run"), OPTIONS)
    assert "results so far" not in capsys.readouterr().err
