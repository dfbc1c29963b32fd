"""`rcnn predict video.mp4`: a video with the detections, and one JSON line per frame."""

from __future__ import annotations

import glob
import json
import re
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from PIL import Image

from rcnn.cli.frame_formats import FrameFormats
from rcnn.cli.image_outcomes import ImageOptions
from rcnn.cli.predict_images import OUTPUT_ERRORS
from rcnn.cli.progress import progress_bar
from rcnn.cli.sources import is_url
from rcnn.data.messages import counted, few
from rcnn.data.video import VideoFrame, VideoWriter, is_video, read_video, require_pyav, video_rate
from rcnn.new_outputs import output_or_new
from rcnn.outputs import PARTIAL, OutputFolder, readable_entries
from rcnn.stopping import Stopped

if TYPE_CHECKING:
    from rcnn.predictor import Predictor
    from rcnn.results import ImageDetections


def videos_of(inputs: Sequence[str], *, given: bool) -> list[str]:
    """The videos among the inputs. `given`: whether there are --boxes, which are for images only.

    Raises ValueError for images together with videos, URLs of videos, or boxes for them; ImportError without PyAV.
    """
    if urls := [word for word in inputs if is_url(word) and is_video(re.split("[?#]", word)[0])]:
        raise ValueError(f"{few(urls)}: rcnn reads videos from files only: download them and give their paths")
    inputs = [path for word in inputs for path in _expanded(word)]
    videos = [word for word in inputs if is_video(word) and not is_url(word)]
    if not videos:
        return []
    if len(videos) < len(inputs):
        others = [word for word in inputs if word not in videos]
        raise ValueError(
            f"one command predicts on videos or on images, not on both: leave {few(others)} to another command"
        )
    if given:
        raise ValueError(f"{few(videos)}: --boxes are for images, not for videos; leave them out")
    require_pyav()
    return videos


def _expanded(word: str) -> list[str]:
    """The videos that a pattern matches, sorted, except those that rcnn wrote. Any other word is returned unchanged.

    Raises ValueError for a pattern that matches only videos that rcnn wrote.
    """
    if not is_video(word) or is_url(word) or Path(word).exists() or not glob.has_magic(word):
        return [word]
    found = [Path(path) for path in sorted(glob.glob(word, recursive=True))]
    videos = [str(path) for path in found if path.name not in readable_entries(path.parent)[0]]
    if found and not videos:
        raise ValueError(
            f"{word} matches only videos that rcnn wrote ({few(list(map(str, found)))}), which patterns skip; to "
            "predict on one of them, give its path"
        )
    return videos or [word]


def predict_videos(
    predictor: Predictor, videos: Sequence[str], output: Path | None, checkpoint: Path, options: ImageOptions
) -> None:
    """Write NAME.mp4 and NAME.jsonl for each video. Exit status 1 if a video cannot be read completely."""
    failed, written = 0, False
    names = {str(Path(PARTIAL).with_suffix(".mp4"))}  # not for a video, because its .jsonl would be PARTIAL
    with output_or_new(output, "predict", checkpoint) as path, OutputFolder(path) as folder:
        folder.require_free(PARTIAL)
        files = FrameFormats(folder=folder, formats=options.formats)
        for video in videos:
            name = _free_name(folder, Path(video), names)
            started = False
            try:
                rate = video_rate(video)
                started = True  # PARTIAL is of this video, not of an earlier command
                frames, objects, problem = _predict_one(predictor, video, rate, folder, name, options, files)
            except Stopped:
                if started:
                    _tell_of_partial(path)
                raise
            except (ValueError, OSError) as error:  # also VideoError
                unfinished = started and (path / PARTIAL).exists()
                if isinstance(error, OSError) and (error.errno in OUTPUT_ERRORS or unfinished):
                    if started:
                        _tell_of_partial(path)
                    raise
                failed += 1
                typer.echo(_named(video, str(error)), err=True)
            else:
                written = True
                if problem:
                    failed += 1
                    typer.echo(_named(video, problem), err=True)
                else:
                    typer.echo(f"{video}: {counted(objects, 'object')} in {counted(frames, 'frame')}")
        files.finish(predictor)
        if written:
            typer.echo(f"results in {path}")
    if failed:
        typer.echo(f"{counted(failed, 'video')} failed", err=True)
        raise typer.Exit(1)


def _tell_of_partial(output: Path) -> None:
    with suppress(OSError):  # there are none, or the terminal is gone (SIGHUP)
        if (output / PARTIAL).stat().st_size:
            typer.echo(f"the results so far are in {output / PARTIAL}", err=True)


def _named(video: str, problem: str) -> str:
    return problem if video in problem else f"{video}: {problem}"


def _free_name(folder: OutputFolder, video: Path, names: set[str]) -> str:
    """NAME.mp4 for a video, numbered if it or NAME.jsonl belongs to another video or the user; added to `names`."""
    name = folder.free_name(f"{video.stem}.mp4", names)
    names.add(name.lower())
    return name if folder.is_free(Path(name).with_suffix(".jsonl")) else _free_name(folder, video, names)


def _predict_one(
    predictor: Predictor,
    video: str,
    timing: tuple[Fraction, int],
    folder: OutputFolder,
    name: str,
    options: ImageOptions,
    files: FrameFormats,
) -> tuple[int, int, str]:
    """Predict on a video; returns the numbers of frames and of objects, and what is wrong with the video, if anything.

    `timing` is the result of `video_rate`. The frames before a damaged one are written, each to PARTIAL at once.
    ValueError if there is none.
    """
    rate, count = timing
    total = min(options.limit or count, count or options.limit)  # 0: not known
    frames = objects = 0
    problem: ValueError | None = None
    with ExitStack() as stack:
        partial_results = folder.claim(PARTIAL)
        lines = stack.enter_context(partial_results.open("w", encoding="utf-8"))
        writer = None
        if options.pictures:
            writer = stack.enter_context(VideoWriter(stack.enter_context(folder.writing(name)), rate))
        advance = stack.enter_context(progress_bar("predict", total or 1))
        try:
            for frame in read_video(video, max_pixels=options.max_pixels):
                result = options.keep.apply(_detect(predictor, frame, options))
                entry = {"file": video, "frame": frame.index, "time": round(frame.time, 6), "height": result.height}
                entry |= {"width": result.width, "detections": result.to_json()}
                lines.write(json.dumps(entry) + "\n")
                lines.flush()
                files.add(name, frame, result, entry)
                if writer is not None:
                    writer.write(_draw(result, frame, options))
                frames, objects = frames + 1, objects + len(result)
                advance()
                if frames == options.limit:
                    break
        except (ValueError, OSError) as error:
            if not frames:
                lines.close()
                folder.discard(PARTIAL)
                raise
            if isinstance(error, OSError):  # of the output: nothing more can be written
                raise
            problem = error
    with folder.writing(Path(name).with_suffix(".jsonl")) as path:
        shutil.copyfile(partial_results, path)
    folder.discard(PARTIAL)
    return frames, objects, f"{problem} ({counted(frames, 'frame')} written)" if problem else ""


def _detect(predictor: Predictor, frame: VideoFrame, options: ImageOptions) -> ImageDetections:
    if not options.tile:
        return predictor.predict(frame.pixels, score=options.keep.score, max_pixels=0)
    from rcnn.tiles import predict_tiled

    return predict_tiled(
        predictor, frame.pixels, tile=options.tile, overlap=options.overlap, score=options.keep.score, max_pixels=0
    )


def _draw(result: ImageDetections, frame: VideoFrame, options: ImageOptions) -> Image.Image:
    """The frame with the detections; colours follow the class, so that they do not change between frames."""
    return result.draw(
        frame.pixels,
        contour=options.contour,
        keypoint_score=options.keypoint_score,
        labels=options.labels,
        line_width=options.line_width,
        colour_by="class",
    )
