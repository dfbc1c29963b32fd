"""Videos: reads their frames as images, and writes pictures as a video. Only this module imports PyAV (extra `video`).

results = (predictor.predict(frame.pixels) for frame in read_video("video.mp4"))
write_video("drawn.mp4", (result.draw(colour_by="class") for result in results), rate="video.mp4")
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rcnn.arguments import as_path, plain, require_max_pixels
from rcnn.data.images import MAX_PIXELS
from rcnn.outputs import naming
from rcnn.text_files import missing_text

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
INSTALL = "videos need an extra: pip install 'rcnn[video]'"
CODEC = "libx264"
AGAIN = "copy or download it again, or convert it with ffmpeg"
USUAL_RATE = 25  # frames per second of a file that does not state its rate
MISSING, MISSING_PART = 0.5, 0.02  # seconds, and fraction of the duration, that may be missing: headers are rounded


class VideoError(ValueError):
    """A video that cannot be read, or not to its end. The message says which one, what is wrong, and what to do."""


@dataclass(frozen=True, kw_only=True)
class VideoFrame:
    """One frame of a video."""

    index: int  # from 0
    time: float  # seconds from the start
    pixels: Tensor  # (3, H, W) uint8 RGB, upright


def is_video(path: str) -> bool:
    """Whether the suffix of a file is that of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def require_pyav() -> None:
    """Raise ImportError, which says what to install, if PyAV is not installed."""
    _av()


def read_video(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[VideoFrame]:
    """The frames of a video, one after the other; only one is in memory.

    `max_pixels`: refuse videos of larger frames before one is decoded; 0: no limit.

    Raises FileNotFoundError if there is no file, VideoError if it is not a video, or, after the last frame that can be
    read, if it is damaged or cut short; ImportError, which says what to install, if PyAV is missing.
    """
    require_max_pixels(max_pixels)
    av = _av()
    with _opened(path) as video:
        stream = video.streams.video[0]
        if max_pixels and stream.width * stream.height > max_pixels:
            raise VideoError(
                f"{path} has frames of {stream.width} x {stream.height} pixels; the limit is {max_pixels:,.12g} "
                "pixels: shrink the video, or raise the limit (--max-pixels, max_pixels)"
            )
        stream.thread_type = "AUTO"
        index, start, end = 0, 0.0, 0.0
        expected = _shown_frames(video, stream)
        try:
            for frame in video.decode(stream):
                time = _time(frame, index, stream)
                start, end = (start if index else time), time + _shown_for(frame, stream)
                yield VideoFrame(index=index, time=time, pixels=_upright(frame))
                index += 1
        except av.FFmpegError as error:
            raise VideoError(f"{path}: frame {index} cannot be decoded ({_reason(error)}): {AGAIN}") from error
        seconds = _seconds(video, stream)
        if stream.frames and index < expected:
            raise VideoError(f"{path} ends after {index} of {expected} frames: it is cut short; {AGAIN}")
        complete = bool(stream.frames and index >= stream.frames)  # then the duration may be that of the whole file
        if index and not complete and seconds - (end - start) > _tolerance(seconds):
            raise VideoError(f"{path} ends after {end - start:.1f} of {seconds:.1f} seconds: it is cut short; {AGAIN}")
        if not index:
            raise VideoError(f"{path} has no frames: {AGAIN}")


def video_rate(path: str | Path) -> tuple[Fraction, int]:
    """Frames per second and number of frames of a video, from its header (0 frames: not stated).

    Raises the errors of `read_video`.
    """
    with _opened(path) as video:
        stream = video.streams.video[0]
        return Fraction(stream.average_rate or USUAL_RATE), int(stream.frames)


def write_video(path: str | Path, pictures: Iterable[Image.Image], rate: float | Fraction | str | Path) -> int:
    """Write pictures of one size to an MP4 file (H.264, no sound); returns their number. An existing file is replaced.

    `pictures` may be a generator, so that one picture is in memory at a time; it may read the video at `path`, which is
    replaced only after the last picture. After an error, an existing file is unchanged. `rate`: frames per second, or
    the path of a video that has it. Raises ValueError if there is no picture, VideoError for a picture of another type
    or size, ImportError without PyAV, and the errors of `VideoWriter.write`.
    """
    target = as_path(path, "the video").resolve()  # a symbolic link stays one
    frequency = _frequency(rate)
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file, e.g. {Path(path) / 'video.mp4'}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {target.parent} {missing_text(target.parent)}; create it first")
    waiting = iter(pictures)  # after all checks: the first picture may take long
    first, count = next(waiting, None), 0
    if first is None:
        raise ValueError(f"{path}: there are no pictures; a video needs at least one")
    # not a name of rcnn.outputs: a command that opens the folder for its output would remove the file
    temporary = target.with_name(f".{target.name}-{os.getpid()}.part")
    try:
        with naming(Path(path)), VideoWriter(temporary, frequency) as writer:
            for picture in chain([first], waiting):
                _require_picture(picture, count, first.size if isinstance(first, Image.Image) else None)
                writer.write(picture)
                count += 1
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _require_picture(picture: object, index: int, size: tuple[int, int] | None) -> None:
    """Raise VideoError unless picture `index` is a Pillow image of `size`, that of the first one (width, height)."""
    if not isinstance(picture, Image.Image):
        raise VideoError(
            f"picture {index} is of type {type(picture).__name__}; expected a Pillow image, e.g. Image.fromarray(array)"
        )
    if size is not None and picture.size != size:
        raise VideoError(
            f"picture {index} has {picture.width} x {picture.height} pixels, picture 0 has {size[0]} x {size[1]}; "
            "expected pictures of one size: resize them first"
        )


def _frequency(rate: float | Fraction | str | Path) -> Fraction:
    """Frames per second as a fraction. Raises ValueError for anything but a positive and finite number."""
    if isinstance(rate, str | Path):
        return video_rate(rate)[0]
    frequency, rate = Fraction(0), plain(rate)
    if isinstance(rate, Real) and not isinstance(rate, bool) and math.isfinite(rate):
        frequency = Fraction(float(rate)).limit_denominator(1001)
    if frequency <= 0:
        raise ValueError(f"rate={rate}; expected the number of frames per second, e.g. 25, or the path of a video")
    return frequency


class VideoWriter:
    """Writes pictures to an MP4 file (H.264, no sound), scaled to the size of the first. Use as a context manager."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        """`rate`: frames per second. Raises ImportError without PyAV."""
        self._path = path
        self._video = _av().open(str(path), "w", format="mp4")
        self._rate = rate
        self._stream: Any = None  # PyAV has no types for streams that are added by name

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_error: object) -> None:
        with self._naming():
            try:
                if self._stream is not None:
                    self._video.mux(self._stream.encode())
            finally:
                self._video.close()

    def write(self, picture: Image.Image) -> None:
        """Append a picture. An odd height or width loses its last row or column, because H.264 needs even sizes.

        Raises VideoError for a picture of less than 2 x 2 pixels, OSError if the file cannot be written.
        """
        width, height = picture.width // 2 * 2, picture.height // 2 * 2
        if not width or not height:
            raise VideoError(
                f"frames of {picture.width} x {picture.height} pixels cannot be written as a video; expected 2 x 2 or "
                "more. `rcnn predict --no-pictures` writes no video"
            )
        if self._stream is None:
            self._stream = self._video.add_stream(CODEC, rate=self._rate)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        cropped = picture if picture.size == (width, height) else picture.crop((0, 0, width, height))
        with self._naming():
            self._video.mux(self._stream.encode(_av().VideoFrame.from_image(cropped)))

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """An error of PyAV within the block becomes an OSError with the name of the file, e.g. on a full disk."""
        try:
            yield
        except _av().FFmpegError as error:
            raise OSError(error.errno, _reason(error), str(self._path)) from error


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    as_path(path, "the video")
    av = _av()
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} {missing_text(Path(path))}: check the path")
    try:
        video = av.open(os.path.abspath(path))  # FFmpeg takes a relative path with a colon for a URL
    except av.FFmpegError as error:
        raise VideoError(f"{path} cannot be read as a video ({_reason(error)}): {AGAIN}") from error
    with video:
        if not video.streams.video:
            raise VideoError(
                f"{path} has no video stream, only {', '.join(s.type for s in video.streams) or 'nothing'}; expected a "
                "video"
            )
        yield video


def _time(frame: Any, index: int, stream: Any) -> float:
    return float(index / (stream.average_rate or USUAL_RATE)) if frame.time is None else float(frame.time)


def _shown_for(frame: Any, stream: Any) -> float:
    """The seconds for which a frame is shown; of an ordinary frame, if the file does not say it."""
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return float(1 / (stream.average_rate or USUAL_RATE))


def _seconds(video: Any, stream: Any) -> float:
    """The duration of a video stream by the header; 0 if it has none, or only one for all streams together."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if parts := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):  # Matroska
        hours, minutes, seconds = map(float, parts.groups())
        return hours * 3600 + minutes * 60 + seconds
    return video.duration / 1e6 if video.duration and len(video.streams) == 1 else 0.0


def _tolerance(seconds: float) -> float:
    """The seconds that may be missing at the end of a video with this duration."""
    return max(MISSING, seconds * MISSING_PART)


def _shown_frames(video: Any, stream: Any) -> int:
    """Number of frames that are decoded from a complete file; 0: not stated.

    The header also counts frames before and after the part that an MP4 file shows (its edit list), and empty frames of
    AVI files. The index has neither, but it is incomplete in a damaged AVI file; PyAV before 16.1 does not return it.
    """
    index = getattr(stream, "index_entries", None) or ()
    shown = [entry.timestamp for entry in index if entry.size and not entry.is_discard]
    seconds = _seconds(video, stream)
    ends = bool(shown and seconds) and seconds - float((shown[-1] - shown[0]) * stream.time_base) <= _tolerance(seconds)
    return min(len(shown), stream.frames) if ends else stream.frames


def _upright(frame: Any) -> Tensor:
    """The pixels of a frame, turned as its display matrix says (phones)."""
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return av
