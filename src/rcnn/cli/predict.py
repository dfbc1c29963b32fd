"""`rcnn predict`: what is in these images?"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcnn.cli.eval import Padding, Precision
from rcnn.cli.progress import progress_bar
from rcnn.cli.sources import Source, expand
from rcnn.cli.views import TTA, TTAFlip, predictor_from

if TYPE_CHECKING:
    from torch import Tensor

    from rcnn.predictor import Predictor
    from rcnn.results import ImageDetections

READ_AHEAD = 2  # images decoded before they are needed
QUALITY = 92  # of the pictures, JPEG's


def predict(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint, or of a run (its best).")],
    images: Annotated[
        list[str], typer.Argument(metavar="FILES_FOLDERS_OR_URLS", help="Folders are searched to the bottom.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the pictures and predictions.json.")],
    to_stdout: Annotated[
        bool, typer.Option("--json", help="Print predictions.json too (and nothing else) on stdout.")
    ] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw what was found; or write JSON alone.")
    ] = True,
    contour: Annotated[
        bool, typer.Option("--contour", help="Draw the outlines of masks in place of their areas.")
    ] = False,
    score: Annotated[float, typer.Option(help="Leave out detections scored lower.", min=0, max=1)] = 0.5,
    keypoint_score: Annotated[
        float, typer.Option(help="Leave keypoints scored lower out of the pictures; of persons, .05 is usual.", min=0)
    ] = 0.0,
    precision: Annotated[
        Precision, typer.Option(help="auto: bfloat16 where the hardware multiplies it.")
    ] = Precision.float32,
    padding: Annotated[
        Padding, typer.Option(help="exact: as the checkpoint's system did; bucket: few shapes, for speed.")
    ] = Padding.exact,
    tta: TTA = "",
    tta_flip: TTAFlip = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto: a GPU if there is one.")] = "auto",
) -> None:
    """Find objects in images; write pictures of them, and OUTPUT/predictions.json.

    An image that cannot be read is named on stderr and under "failed" in the JSON.

    The others are done all the same, and the exit status is 1.

    Example: rcnn predict runs/balloons photos/ --output found --score 0.7
    """  # fmt: skip
    from rcnn.data.warnings import counted

    predictor = predictor_from(
        checkpoint, tta, tta_flip, device=device, precision=precision.value, padding=padding.value
    )
    if score < predictor.config.box.score_threshold:
        lowest = predictor.config.box.score_threshold
        typer.echo(f"the checkpoint itself drops what it scores under {lowest:g} (box.score_threshold)", err=True)
    sources, failed = expand(images, output)
    for name, reason in failed:
        typer.echo(f"{name}: {reason}", err=True)
    output.mkdir(parents=True, exist_ok=True)
    done: list[dict[str, Any]] = []
    objects = 0
    with ThreadPoolExecutor(READ_AHEAD) as pool, progress_bar("predict", len(sources)) as advance:
        for source, image in _decoded(sources, pool):
            if isinstance(image, Exception):
                failed.append((source.name, _without(source.name, str(image))))
                typer.echo(f"{source.name}: {failed[-1][1]}", err=True)
            else:
                found = predictor.predict([image])[0].above(score)
                entry = {"file": source.name, "height": found.height, "width": found.width}
                done.append(entry | {"detections": found.to_json(predictor.classes)})
                objects += len(found)
                if pictures:
                    draw(
                        image, found, predictor, output / source.picture, contour=contour, keypoint_score=keypoint_score
                    )
            advance()
    written: dict[str, Any] = {"images": done}
    if failed:
        written["failed"] = [{"file": name, "error": reason} for name, reason in failed]
    text = json.dumps(written)
    (output / "predictions.json").write_text(text + "\n", encoding="utf-8")
    if to_stdout:
        typer.echo(text)
    else:
        found = f"{counted(objects, 'object')} in {counted(len(done), 'image')}"
        typer.echo(f"{found}; wrote {output / 'predictions.json'}" + _beside(done, pictures))
    if failed:
        typer.echo(f"{len(failed)} of {len(done) + len(failed)} could not be read", err=True)
        raise typer.Exit(1)


def draw(
    image: Tensor,
    found: ImageDetections,
    predictor: Predictor,
    path: Path,
    *,
    contour: bool,
    keypoint_score: float,
) -> None:
    """`path`: the image (3, H, W) uint8 RGB with what was found on it."""
    from rcnn.drawing.pictures import draw_objects

    picture = draw_objects(
        image,
        found.boxes,
        found.labels,
        predictor.classes,
        scores=found.scores,
        masks=found.regions(),
        keypoints=found.keypoints,
        skeleton=predictor.skeleton,
        keypoint_score=keypoint_score,
        contour=contour,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=QUALITY)


def _decoded(sources: Sequence[Source], pool: ThreadPoolExecutor) -> Iterator[tuple[Source, Tensor | Exception]]:
    """Each source with its image, or what is wrong with it; a few are read ahead."""
    from rcnn.data.images import read_image

    def read(source: Source) -> Tensor | Exception:
        try:
            return read_image(source.read())
        except (ValueError, OSError) as error:
            return error

    waiting: deque[tuple[Source, Future[Tensor | Exception]]] = deque()
    for source in sources:
        waiting.append((source, pool.submit(read, source)))
        if len(waiting) > READ_AHEAD:
            first, image = waiting.popleft()
            yield first, image.result()
    while waiting:
        first, image = waiting.popleft()
        yield first, image.result()


def _without(name: str, message: str) -> str:
    """`message` less the name that it begins with, which is said beside it."""
    return message.removeprefix(name).lstrip(": ") or message


def _beside(done: Sequence[object], pictures: bool) -> str:
    return " and the pictures beside it" if pictures and done else ""
