"""`rcnn.write_video`: pictures of one size and type, a rate, and names that are not taken for something else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcnn.data.video import VideoError, read_video, video_rate, write_video
from rcnn.outputs import OutputFolder


@pytest.fixture(autouse=True)
def _pyav() -> None:
    pytest.importorskip("av", reason="needs rcnn[video]")


def picture(width: int = 64, height: int = 48) -> Image.Image:
    return Image.new("RGB", (width, height), (90, 90, 90))


def test_pictures_of_two_sizes_or_types_are_refused_by_their_number(tmp_path: Path) -> None:
    wrong: list[tuple[list[Any], str]] = [
        (
            [picture(), picture(128, 32)],
            "picture 1 has 128 x 32 pixels, picture 0 has 64 x 48; expected pictures of one",
        ),
        ([np.zeros((48, 64, 3), np.uint8)], "picture 0 is of type ndarray; expected a Pillow image"),
        ([picture(), None], "picture 1 is of type NoneType; expected a Pillow image"),
    ]
    for pictures, message in wrong:
        with pytest.raises(VideoError, match=message):
            write_video(tmp_path / "a.mp4", pictures, 25)
    assert not [*tmp_path.iterdir()]


def test_a_rate_is_a_number(tmp_path: Path) -> None:
    for rate in (None, [25], True):
        with pytest.raises(ValueError, match=r"rate=.*; expected the number of frames per second"):
            write_video(tmp_path / "a.mp4", [picture()], rate)  # type: ignore[arg-type]
    for number, rate in enumerate((np.float32(12.5), np.int64(10), Fraction(30000, 1001))):
        write_video(tmp_path / f"{number}.mp4", [picture()] * 2, rate)  # type: ignore[arg-type]
    assert [video_rate(tmp_path / f"{number}.mp4")[0] for number in range(3)] == [
        Fraction(25, 2), 10, Fraction(30000, 1001)
    ]  # fmt: skip


def test_a_relative_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video("12:30:00.mp4", [picture()] * 2, 25)
    assert len([*read_video("12:30:00.mp4")]) == 2


def test_a_command_that_opens_the_folder_leaves_the_unfinished_video(tmp_path: Path) -> None:
    def pictures() -> Iterator[Image.Image]:
        yield from [picture()] * 100  # the encoder waits for some 50 before it writes the first
        with OutputFolder(tmp_path):
            assert len([name for name in os.listdir(tmp_path) if "a.mp4" in name]) == 1
        yield picture()

    assert write_video(tmp_path / "a.mp4", pictures(), 25) == 101
    assert (tmp_path / "a.mp4").is_file()
