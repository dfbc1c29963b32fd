"""Videos: read, written and predicted on, with real files of PyAV; damaged ones are one message."""

from __future__ import annotations

import csv
import errno
import json
import re
import sys
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import rcnn as public
from rcnn.cli.frame_formats import require_copies
from rcnn.cli.image_outcomes import ImageOptions
from rcnn.cli.predict_video import predict_videos, videos_of
from rcnn.cli.scores import Filter
from rcnn.data.video import VideoError, VideoWriter, read_video, write_video
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.outputs import PARTIAL, OutputFolder
from rcnn.predictor import Predictor
from rcnn.stopping import Stopped
from tests.command import rcnn
from tests.tiny_data import TINY_MODEL

RATE, COUNT = Fraction(10), 6


def picture(index: int) -> Image.Image:
    """A bright square that moves by 8 pixels per frame; 99 pixels wide."""
    image = np.full((64, 99, 3), 40, np.uint8)
    image[20:40, 8 * index : 8 * index + 20] = 220
    return Image.fromarray(image)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    pytest.importorskip("av", reason="needs rcnn[video]")
    with VideoWriter(tmp_path / "video.mp4", RATE) as writer:
        for index in range(COUNT):
            writer.write(picture(index))
    return tmp_path / "video.mp4"


def test_a_video_is_read_as_it_was_written(video: Path) -> None:
    import av

    frames = list(read_video(video))
    assert [frame.index for frame in frames] == list(range(COUNT))
    assert [frame.time for frame in frames] == pytest.approx([index / 10 for index in range(COUNT)])
    with av.open(str(video)) as opened:
        theirs = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
    for frame, their, index in zip(frames, theirs, range(COUNT), strict=True):
        pixels = frame.pixels.permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(pixels, their)
        expected = np.asarray(picture(index))[:, :98]  # an even width
        assert np.abs(pixels.astype(int) - expected).mean() < 6


def test_videos_that_cannot_be_read(video: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4 does not exist"):
        next(read_video(tmp_path / "gone.mp4"))
    half = tmp_path / "half.mp4"
    half.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"half\.mp4 cannot be read as a video \(.*\): copy or download it again"):
        next(read_video(half))
    sound = tmp_path / "sound.avi"
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    with pytest.raises(VideoError, match=r"sound\.avi has no video stream, only audio"):
        next(read_video(sound))


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"videos need an extra: pip install 'rcnn\[video\]'"):
        next(read_video(tmp_path / "video.mp4"))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    words = [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.01"]
    return Predictor(build_detector(override(model_config("mask_rcnn_compact"), words)), device="cpu")


def test_a_video_gets_a_video_and_a_line_per_frame(
    predictor: Predictor, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ImageOptions(keep=Filter(score=0.0))
    predict_videos(predictor, [str(video)], tmp_path / "out", Path("run"), options)
    lines = [json.loads(line) for line in (tmp_path / "out" / "video.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(COUNT))
    assert [line["time"] for line in lines] == [index / 10 for index in range(COUNT)]
    frames = list(read_video(video))
    assert lines[2]["detections"] == predictor.predict(frames[2].pixels).to_json()
    drawn = list(read_video(tmp_path / "out" / "video.mp4"))
    assert len(drawn) == COUNT
    assert drawn[0].pixels.shape == frames[0].pixels.shape
    assert (drawn[0].pixels.int() - frames[0].pixels.int()).abs().max() > 50  # something is drawn
    page = (Path(__file__).resolve().parents[3] / "docs" / "predict.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"rcnn": public, "predictor": predictor}
    exec(compile(example, "docs/predict.md", "exec"), names)  # noqa: S102  the page is ours
    assert repr(names["result"]) == repr(predictor.predict(frames[-1].pixels, score=0.3))
    again = list(read_video(tmp_path / "drawn.mp4"))
    assert [frame.time for frame in again] == [frame.time for frame in drawn]
    for one, other in zip(again, drawn, strict=True):
        assert torch.equal(one.pixels, other.pixels)
    limited = ImageOptions(keep=Filter(score=0.0), limit=2, pictures=False)
    predict_videos(predictor, [str(video)], tmp_path / "two", Path("run"), limited)
    assert len((tmp_path / "two" / "video.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "two" / "video.mp4").exists()


def test_a_video_needs_pictures_and_a_rate(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs rcnn[video]")
    with pytest.raises(ValueError, match=r"drawn\.mp4: there are no pictures"):
        write_video(tmp_path / "drawn.mp4", [], 25)
    with pytest.raises(ValueError, match="rate=0; expected the number of frames per second"):
        write_video(tmp_path / "drawn.mp4", [picture(0)], 0)
    for rate in (float("inf"), float("nan"), 1e-9):
        with pytest.raises(ValueError, match=f"rate={rate}; expected the number of frames per second"):
            write_video(tmp_path / "drawn.mp4", [picture(0)], rate)
    with pytest.raises(VideoError, match=r"expected 2 x 2 or more\. `rcnn predict --no-pictures` writes no video"):
        write_video(tmp_path / "drawn.mp4", [Image.new("RGB", (1, 8))], 25)
    with pytest.raises(IsADirectoryError, match="is a folder; expected the name of a file"):
        write_video(tmp_path, [picture(0)], 25)
    with pytest.raises(FileNotFoundError, match=r"drawn\.mp4: the folder .*none does not exist; create it first"):
        write_video(tmp_path / "none" / "drawn.mp4", [picture(0)], 25)
    assert not [*tmp_path.iterdir()]
    assert write_video(tmp_path / "drawn.mp4", [picture(0), picture(1)], 12.5) == 2
    assert [frame.time for frame in read_video(tmp_path / "drawn.mp4")] == [0, 0.08]


def test_a_video_is_replaced_only_by_a_complete_one(video: Path) -> None:
    """Also where the frames of the old one are still being read; a symbolic link to it stays a link."""

    def drawn(stop: int) -> Iterator[Image.Image]:
        for frame in read_video(video):
            if frame.index == stop:
                raise RuntimeError("stopped")
            yield Image.fromarray(255 - frame.pixels.permute(1, 2, 0).numpy())

    old = video.read_bytes()
    with pytest.raises(RuntimeError, match="stopped"):
        write_video(video, drawn(3), video)
    assert video.read_bytes() == old
    link = video.with_name("link.mp4")
    link.symlink_to(video)
    assert write_video(link, drawn(COUNT), link) == COUNT
    frames = list(read_video(video))
    assert [frame.time for frame in frames] == [index / 10 for index in range(COUNT)]
    assert (frames[0].pixels.float().mean() - (255 - 43)).abs() < 10
    assert link.is_symlink()
    assert {path.name for path in video.parent.iterdir()} == {"video.mp4", "link.mp4"}


def test_frames_above_the_limit_of_pixels_are_refused(
    predictor: Predictor, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(list(read_video(video, max_pixels=64 * 98))) == COUNT
    options = ImageOptions(keep=Filter(score=0.0), max_pixels=64 * 98 - 1)
    with pytest.raises(typer.Exit):
        predict_videos(predictor, [str(video)], tmp_path / "out", Path("run"), options)
    assert "frames of 98 x 64 pixels; the limit is 6,271 pixels: shrink" in " ".join(capsys.readouterr().err.split())


def test_a_video_that_is_cut_short_keeps_what_was_done(
    predictor: Predictor, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import av

    cut = tmp_path / "cut.mp4"
    with av.open(str(video)) as source, av.open(str(cut), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    cut.write_bytes(cut.read_bytes()[:-40])  # the frames are at the end of the file
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    videos = [str(tmp_path / "broken.mp4"), str(cut), str(video)]
    with pytest.raises(typer.Exit) as stopped:
        predict_videos(predictor, videos, tmp_path / "out", Path("run"), ImageOptions(keep=Filter(score=0.0)))
    assert stopped.value.exit_code == 1
    shown = capsys.readouterr()
    assert "broken.mp4 cannot be read as a video" in shown.err
    done = len((tmp_path / "out" / "cut.jsonl").read_text().splitlines())
    assert 0 < done < COUNT
    assert f"({done} frames written)" in shown.err
    assert len(list(read_video(tmp_path / "out" / "cut.mp4"))) == done
    assert len((tmp_path / "out" / "video.jsonl").read_text().splitlines()) == COUNT
    print(shown.err)


def test_videos_are_not_mixed_with_images(video: Path) -> None:
    with pytest.raises(ValueError, match=r"leave photo\.jpg to another command"):
        videos_of([str(video), "photo.jpg"], given=False)
    with pytest.raises(ValueError, match="--boxes are for images, not for videos"):
        videos_of([str(video)], given=True)
    assert videos_of(["photo.jpg", "https://host/video.jpg"], given=False) == []
    assert rcnn("predict", video.parent / "no_model", video, "--output", video.parent / "out") == 2


def write_noise(target: Path, size: tuple[int, int] = (64, 48), count: int = 30, rate: int = 10) -> None:
    """A video of noise; `rate`: frames per second."""
    import av

    with av.open(str(target), "w") as file:
        stream = file.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(count):
            frame = np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def test_a_video_whose_header_has_no_number_of_frames_is_cut_short(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs rcnn[video]")
    whole, half = tmp_path / "whole.mkv", tmp_path / "half.mkv"
    write_noise(whole)
    assert len(list(read_video(whole))) == 30
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"half\.mkv ends after 1\.\d of 3\.0 seconds: it is cut short"):
        list(read_video(half))


@pytest.mark.parametrize(("suffix", "count"), [("mp4", 1), ("mp4", 3), ("mkv", 1), ("mkv", 3)])
def test_a_complete_video_of_one_frame_per_second(tmp_path: Path, suffix: str, count: int) -> None:
    """The duration of a video includes that of its last frame."""
    pytest.importorskip("av", reason="needs rcnn[video]")
    write_noise(tmp_path / f"slow.{suffix}", count=count, rate=1)
    assert [frame.time for frame in read_video(tmp_path / f"slow.{suffix}")] == list(range(count))


def test_frames_that_a_video_does_not_show_are_not_missing(video: Path, tmp_path: Path) -> None:
    """The header counts frames before the start of an MP4 file's edit list, and empty frames of an AVI file."""
    import av

    trimmed, gaps = tmp_path / "trimmed.mp4", tmp_path / "gaps.avi"
    with av.open(str(video)) as source, av.open(str(trimmed), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = (
                    int(time - Fraction(2, 10) / stream.time_base) for time in (packet.pts, packet.dts)
                )
                packet.stream = copy
                target.mux(packet)
    with av.open(str(gaps), "w") as target:
        stream = target.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for time in (0, 1, 4, 5):
            frame = av.VideoFrame.from_image(picture(time).resize((64, 48)))
            frame.pts = time
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    for file, shown in ((trimmed, COUNT - 2), (gaps, 4)):
        with av.open(str(file)) as opened:
            assert opened.streams.video[0].frames == COUNT, "otherwise this test shows nothing"
            assert len(list(opened.decode(video=0))) == shown
        assert len(list(read_video(file))) == shown


def test_a_full_disk_ends_the_command(
    predictor: Predictor, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(VideoWriter, "write", full)
    with pytest.raises(OSError, match="No space left") as error:
        predict_videos(predictor, [str(video)], tmp_path / "out", Path("run"), ImageOptions())
    assert error.value.filename == str(tmp_path / "out" / "video.mp4")


def test_names_and_messages_of_videos(
    predictor: Predictor,
    video: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "video.jsonl").write_text("of the user")
    predict_videos(predictor, [str(video)], out, Path("run"), ImageOptions(limit=1, pictures=False))
    assert (out / "video-2.jsonl").is_file()
    assert (out / "video.jsonl").read_text() == "of the user"
    capsys.readouterr()
    with pytest.raises(typer.Exit):
        predict_videos(predictor, [str(tmp_path / "gone.mp4")], tmp_path / "none", Path("run"), ImageOptions())
    assert "results in" not in capsys.readouterr().out

    def tiny(*_: object) -> Image.Image:
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("rcnn.cli.predict_video._draw", tiny)
    with pytest.raises(typer.Exit):
        predict_videos(predictor, [str(video)], tmp_path / "small", Path("run"), ImageOptions())
    assert "video.mp4: frames of 1 x 1 pixels cannot be written" in capsys.readouterr().err

    def stopped(*_: object) -> None:
        raise Stopped(2)

    monkeypatch.setattr("rcnn.cli.predict_video._draw", stopped)
    with pytest.raises(Stopped):
        predict_videos(predictor, [str(video)], tmp_path / "stop", Path("run"), ImageOptions())
    assert f"the results so far are in {tmp_path / 'stop' / PARTIAL}" in capsys.readouterr().err


def test_the_lines_of_a_video_are_replaced_only_by_complete_ones(
    predictor: Predictor, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "out", ImageOptions(pictures=False, limit=1)
    predict_videos(predictor, [str(video)], out, Path("run"), options)
    earlier = (out / "video.jsonl").read_text()

    def stopped(*_: object) -> None:
        raise Stopped(2)

    with monkeypatch.context() as patch:
        patch.setattr("rcnn.cli.predict_video._detect", stopped)
        with pytest.raises(Stopped):
            predict_videos(predictor, [str(video)], out, Path("run"), options)
    assert (out / "video.jsonl").read_text() == earlier
    with pytest.raises(typer.Exit):  # at the first frame
        predict_videos(predictor, [str(video)], out, Path("run"), ImageOptions(max_pixels=1))
    assert (out / "video.jsonl").read_text() == earlier
    assert not (out / PARTIAL).exists()
    (out / "video.jsonl").write_text("edited")
    predict_videos(predictor, [str(video)], out, Path("run"), options)
    assert (out / "video.jsonl").read_text() == "edited"
    assert (out / "video-2.jsonl").read_text() == earlier


def test_a_pattern_of_videos_and_the_url_of_one(video: Path, tmp_path: Path) -> None:
    (tmp_path / "a[1].mp4").write_bytes(video.read_bytes())
    with OutputFolder(tmp_path) as folder:
        folder.claim("of_rcnn.mp4").write_bytes(video.read_bytes())
    found = [str(tmp_path / name) for name in ("a[1].mp4", "video.mp4")]
    assert videos_of([str(tmp_path / "*.mp4")], given=False) == found
    assert videos_of([found[0]], given=False) == found[:1], "a file that exists is no pattern"
    assert videos_of([str(tmp_path / "*.mov")], given=False) == [str(tmp_path / "*.mov")]
    for name in found:
        Path(name).unlink()
    with pytest.raises(ValueError, match=r"\*\.mp4 matches only videos that rcnn wrote .*, give its path"):
        videos_of([str(tmp_path / "*.mp4")], given=False)
    for url in ("https://host/a.mp4?size=1", "http://[host/a.mp4#t=1"):
        with pytest.raises(ValueError, match=r"a\.mp4.*: rcnn reads videos from files only: download them and give"):
            videos_of([url], given=False)


def test_the_frames_of_videos_in_the_formats_of_other_tools(
    predictor: Predictor, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = tmp_path / "other.mp4", tmp_path / "out"
    other.write_bytes(video.read_bytes())
    options = ImageOptions(keep=Filter(score=0.0), limit=2, pictures=False, formats=("coco", "csv", "yolo"))
    predict_videos(predictor, [str(video), str(other)], out, Path("run"), options)
    lines = [json.loads(line) for line in (out / "video.jsonl").read_text().splitlines()]
    counts = [len(line["detections"]) for line in lines]
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    places = [(row["file"], row["frame"], row["time"]) for row in rows]
    assert [places.count((f"video/00000{i}.jpg", str(i), str(i / 10))) for i in range(2)] == counts
    assert len(rows) == 2 * sum(counts) > 0
    frame = next(read_video(video)).pixels.permute(1, 2, 0).numpy().astype(int)
    for name, folder in (("yolo", "yolo/images"), ("coco.json", "coco_images")):
        dataset = public.open_dataset(out / name)
        files = sorted(record.path.relative_to(out / folder).as_posix() for record in dataset)
        assert files == [f"{stem}/00000{i}.jpg" for stem in ("other", "video") for i in range(2)]
        copy = np.asarray(Image.open(out / folder / "video" / "000000.jpg")).astype(int)
        assert np.abs(copy - frame).mean() < 4
    predict_videos(predictor, [str(other)], out, Path("run"), options)
    assert "of an earlier prediction on other images" in capsys.readouterr().err
    assert len(public.open_dataset(out / "yolo")) == 2
    with pytest.raises(ValueError, match="with videos, because their frames are not image files: leave it out"):
        require_copies(("yolo",), copies=False)
    require_copies(("csv", "masks"), copies=False)
