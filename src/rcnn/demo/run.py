"""The demo: draw a data set, train a small Mask R-CNN on it, evaluate it, and write pictures and a report.

Read `run_demo` first. It calls the same functions as `rcnn train`, `rcnn eval` and `rcnn predict`.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image

from rcnn import __version__
from rcnn.commands import as_typed
from rcnn.data import open_dataset
from rcnn.data.messages import counted
from rcnn.demo.synthetic import SPLITS, make_shapes
from rcnn.drawing.report import Example, write_report
from rcnn.evaluation.evaluate import Evaluation, evaluate_dataset
from rcnn.evaluation.examples import draw_example
from rcnn.evaluation.run import SCORE, Log
from rcnn.metrics.values import Metrics
from rcnn.outputs import OutputFolder, files_of_rcnn
from rcnn.predictor import Predictor
from rcnn.progress import Progress, no_progress
from rcnn.stopping import Stopped
from rcnn.training.found_run import LOG
from rcnn.training.log import read_log
from rcnn.training.request import RunRequest
from rcnn.training.run import run_training
from rcnn.training.run_data import NO_SPLIT
from rcnn.training.settings import FROM_SCRATCH, TrainConfig

MODEL = "mask_rcnn_compact"
IMAGES = SPLITS
# The default settings of the compact models, except these; the number of steps is fixed, not the time.
RECIPE = replace(FROM_SCRATCH, steps=950, workers=1, checkpoint_every=500, evaluate_every=0)
SIZE = (320, 400)  # (height, width) of the images for training and validation, pixels
FINE = 2  # the unseen images are larger by this factor, for better pictures
RUN, DATA, PICTURES = "run", "data", "pictures"
RESULTS, PREDICTIONS, REPORT, OVERVIEW = "results.json", "predictions.json", "report.html", "overview.jpg"


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The results of the demo."""

    metrics: Metrics  # on the validation images
    seconds: Mapping[str, float]  # of each part
    report: Path
    results: Path
    pictures: tuple[Path, ...]
    overview: Path  # all pictures in one


def run_demo(
    output: Path,
    *,
    seed: int = 0,
    images: Mapping[str, int] = IMAGES,
    recipe: TrainConfig = RECIPE,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    log: Log = print,
    progress: Progress = no_progress,
) -> Demo:
    """Data, training, evaluation, prediction and a report in `output`; files of an earlier demo there are replaced.

    `images`: number of images per split. The number of steps is fixed, not the time, so that a slow computer gets the
    same model as a fast one. Raises FileExistsError for files in `output` that rcnn did not write, Stopped if a signal
    stops the training, ValueError if train.time_limit does.
    """
    with OutputFolder(output) as folder:
        folder.require_free(RUN, RESULTS, PREDICTIONS, REPORT, OVERVIEW)
        timer = Timer()

        data = draw_data_set(folder, images, seed, progress)
        log(f"drew {sum(images.values())} images into {data} in {timer.lap('data'):.0f} s")

        run = empty_run(folder)
        request = RunRequest(
            model=MODEL,
            data=data,
            output=run,
            overrides=tuple(overrides),
            settings=replace(recipe, seed=seed),
            split="train",
            val_splits=(NO_SPLIT,),
            device=device,
        )
        outcome = run_training(request, log=log)
        if not outcome.finished:
            if outcome.signal is None:
                raise ValueError(
                    f"train.time_limit stopped the training after {counted(outcome.step, 'step')}; the demo needs all "
                    "steps of its training: leave train.time_limit out, or lower train.steps"
                )
            raise Stopped(outcome.signal)
        log(f"trained {outcome.step} steps in {timer.lap('training'):.0f} s")

        predictor = Predictor(run, device=device)
        evaluation = evaluate_validation(predictor, data, progress)
        timer.lap("evaluation")

        examples, predictions = predict_unseen(predictor, data, progress)
        pictures = tuple(save(folder, f"{PICTURES}/{one.name}", one.detections) for one in examples)
        overview = save(folder, OVERVIEW, tiled([one.detections for one in examples]))
        folder.write_json(PREDICTIONS, {"images": predictions}, indent=2)
        timer.lap("prediction")

        facts = {"versions": versions(), "threads": torch.get_num_threads(), "seed": seed, "steps": outcome.step}
        results = folder.write_json(RESULTS, evaluation.to_dict() | facts | {"seconds": timer.seconds}, indent=2)
        with folder.writing(REPORT) as path:
            write_report(
                path,
                title="A Mask R-CNN trained from scratch",
                lead=_lead(images, timer.seconds["training"], device),
                metrics=evaluation.to_dict(),
                examples=examples,
                log=read_log(run / LOG),
                details=_details(command_of(output, seed, overrides, device), outcome.step, timer.seconds),
            )
    return Demo(
        metrics=evaluation.metrics,
        seconds=timer.seconds,
        report=output / REPORT,
        results=results,
        pictures=pictures,
        overview=overview,
    )


def _lead(images: Mapping[str, int], seconds: float, device: str) -> str:
    return (
        f"{MODEL} was trained on {images['train']} synthetic images in {seconds:.0f} seconds on {device} and evaluated "
        f"on {images['val']} other images. The pictures show its detections in {images['unseen']} more images that "
        "were not used in training."
    )


def command_of(output: Path, seed: int, overrides: Sequence[str], device: str) -> str:
    """The command that runs this demo again."""
    options = ("--output", output, "--seed", seed, "--device", device, "--threads", torch.get_num_threads())
    return as_typed("rcnn", "demo", *options, *overrides)


def _details(command: str, steps: int, seconds: Mapping[str, float]) -> dict[str, str]:
    return {
        "Command": command,
        "Seconds": ", ".join(f"{part} {value:.0f}" for part, value in seconds.items()),
        "Training": f"{steps} steps, {torch.get_num_threads()} threads",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


class Timer:
    """The time of each part, seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, part: str) -> float:
        """Record the seconds since the end of the previous part as the time of `part`, and return them."""
        now = time.perf_counter()
        self.seconds[part] = round(now - self._start, 1)
        self._start = now
        return self.seconds[part]


def draw_data_set(folder: OutputFolder, images: Mapping[str, int], seed: int, progress: Progress) -> Path:
    """Draw the splits for training and validation, and larger images for prediction only; returns the folder."""
    data = folder.claim(DATA)
    usual = {split: count for split, count in images.items() if split != "unseen"}
    with progress("data", sum(images.values())) as advance:
        make_shapes(data, usual, size=SIZE, seed=seed, advance=advance)
        fine = (SIZE[0] * FINE, SIZE[1] * FINE)
        make_shapes(data, {"unseen": images["unseen"]}, size=fine, seed=seed, advance=advance)
    return data


def empty_run(folder: OutputFolder) -> Path:
    """The folder of the run, after the files of an earlier demo are removed. Files of the user are kept."""
    run = folder.claim(RUN)
    written = files_of_rcnn(run)
    if written:
        with OutputFolder(run) as earlier:
            earlier.require_free(*written)
        for path in (run / name for name in written):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return run


def evaluate_validation(predictor: Predictor, data: Path, progress: Progress) -> Evaluation:
    """The metrics on the validation images."""
    validation = open_dataset(data, "val", classes=predictor.classes)
    with progress("eval", len(validation)) as advance:
        return evaluate_dataset(predictor, validation, on_image=lambda image: advance())


def predict_unseen(predictor: Predictor, data: Path, progress: Progress) -> tuple[list[Example], list[dict[str, Any]]]:
    """Each unseen image with its detections beside the ground truth, and the `images` of a predictions.json."""
    examples: list[Example] = []
    predictions: list[dict[str, Any]] = []
    unseen = open_dataset(data, "unseen", classes=predictor.classes)
    with progress("predict", len(unseen)) as advance:
        for record in unseen:
            image = record.read()
            found = predictor.predict(image, score=SCORE)
            examples.append(draw_example(predictor, record, image, found))
            entry = {"file": str(record.path), "height": found.height, "width": found.width}
            predictions.append(entry | {"detections": found.to_json(predictor.classes)})
            advance()
    return examples, predictions


def save(folder: OutputFolder, name: str, picture: Image.Image) -> Path:
    """Write a picture as a JPEG file, and return its path."""
    with folder.writing(PurePosixPath(name)) as path:
        picture.save(path, quality=90)
    return folder.path / name


def tiled(pictures: Sequence[Image.Image], columns: int = 4, cell: tuple[int, int] = (400, 320)) -> Image.Image:
    """The pictures in a grid, each within `cell` (width, height; pixels), with landscape formats first."""
    ordered = sorted(pictures, key=lambda picture: picture.width < picture.height)
    rows = -(-len(ordered) // columns)
    sheet = Image.new("RGB", (min(columns, len(ordered)) * cell[0], rows * cell[1]), (255, 255, 255))
    for index, picture in enumerate(ordered):
        small = picture.copy()
        small.thumbnail(cell)
        x, y = index % columns * cell[0], index // columns * cell[1]
        sheet.paste(small, (x + (cell[0] - small.width) // 2, y + (cell[1] - small.height) // 2))
    return sheet


def versions() -> dict[str, str]:
    """The versions of the software that the result depends on."""
    return {"rcnn": __version__, "torch": torch.__version__, "python": sys.version.split()[0]}


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Use `count` threads of torch. With one, sums, and so the results, do not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
