"""`rcnn predict film.mp4`: a film with the detections, and a line of JSON per frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from PIL import Image

from rcnn.cli.predict_images import ImageOptions
from rcnn.cli.progress import progress_bar
from rcnn.data.messages import counted, few
from rcnn.data.video import VideoFrame, VideoWriter, is_video, read_video, video_rate
from rcnn.drawing.pictures import draw_objects
from rcnn.new_outputs import output_or_new
from rcnn.outputs import OutputFolder

if TYPE_CHECKING:
    from rcnn.predictor import Predictor
    from rcnn.results import ImageDetections


def videos_of(inputs: Sequence[str], options: ImageOptions) -> list[str]:
    """The films among the inputs. Raises ValueError for images beside films, and for options that films do not have."""
    films = [word for word in inputs if is_video(word) and "://" not in word]
    if not films:
        return []
    if len(films) < len(inputs):
        others = [word for word in inputs if word not in films]
        raise ValueError(
            f"one command predicts on videos or on images, not on both: leave {few(others)} to another command"
        )
    if options.given is not None or options.formats:
        raise ValueError(f"{few(films)}: --boxes and --format are for images, not for videos; leave them out")
    return films


def predict_videos(
    predictor: Predictor, films: Sequence[str], output: Path | None, checkpoint: Path, options: ImageOptions
) -> None:
    """Write NAME.mp4 and NAME.jsonl for each film. Exit status 1 if one cannot be read, or not to its end."""
    failed, names = 0, set[str]()
    with output_or_new(output, "predict", checkpoint) as path, OutputFolder(path) as folder:
        for film in films:
            name = folder.free_name(f"{Path(film).stem}.mp4", names)
            names.add(name.lower())
            try:
                frames, objects = _predict_film(predictor, film, folder, name, options)
            except (ValueError, OSError) as error:  # also VideoError
                failed += 1
                typer.echo(str(error), err=True)
            else:
                typer.echo(f"{film}: {counted(objects, 'object')} in {counted(frames, 'frame')}")
        typer.echo(f"results in {path}")
    if failed:
        typer.echo(f"{counted(failed, 'video')} failed", err=True)
        raise typer.Exit(1)


def _predict_film(
    predictor: Predictor, film: str, folder: OutputFolder, name: str, options: ImageOptions
) -> tuple[int, int]:
    """Predict on a film; the number of its frames and of the objects in them. What is done is kept if it is damaged."""
    rate, count = video_rate(film)
    limit = options.limit or count
    frames = objects = 0
    problem: ValueError | None = None
    with ExitStack() as stack:
        lines = stack.enter_context(folder.claim(Path(name).with_suffix(".jsonl")).open("w", encoding="utf-8"))
        writer = None
        if options.pictures:
            writer = stack.enter_context(VideoWriter(stack.enter_context(folder.writing(name)), rate))
        advance = stack.enter_context(progress_bar("predict", min(limit, count) or 1))
        try:
            for frame in read_video(film):
                result = options.keep.apply(_detect(predictor, frame, options))
                entry = {"file": film, "frame": frame.index, "time": round(frame.time, 6), "height": result.height}
                entry |= {"width": result.width, "detections": result.to_json()}
                lines.write(json.dumps(entry) + "\n")
                lines.flush()
                if writer is not None:
                    writer.write(_draw(predictor, result, frame, options))
                frames, objects = frames + 1, objects + len(result)
                advance()
                if frames == options.limit:
                    break
        except ValueError as error:
            problem = error
            if not frames:
                raise
    if problem is not None:
        raise ValueError(f"{problem} ({counted(frames, 'frame')} written)") from problem
    return frames, objects


def _detect(predictor: Predictor, frame: VideoFrame, options: ImageOptions) -> ImageDetections:
    if not options.tile:
        return predictor.predict(frame.pixels, max_pixels=options.max_pixels)
    from rcnn.tiles import predict_tiled

    return predict_tiled(
        predictor, frame.pixels, tile=options.tile, overlap=options.overlap, score=options.keep.score, max_pixels=0
    )


def _draw(predictor: Predictor, result: ImageDetections, frame: VideoFrame, options: ImageOptions) -> Image.Image:
    """The frame with the detections; colours follow the class, so that they do not change between frames."""
    return draw_objects(
        frame.pixels,
        result.boxes,
        result.labels,
        predictor.classes,
        scores=result.scores,
        masks=result.regions(),
        keypoints=result.keypoints,
        skeleton=predictor.skeleton,
        keypoint_score=options.keypoint_score,
        contour=options.contour,
        colour_by="class",
        with_names=options.labels,
        width=options.line_width,
    )
