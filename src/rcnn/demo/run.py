"""The demo: draw a data set, train a small Mask R-CNN on it, measure it, look at what it finds. Read `run_demo`.

Every step is the one that `rcnn train`, `rcnn eval` and `rcnn predict` take.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rcnn import __version__
from rcnn.data import Dataset, open_dataset
from rcnn.demo.synthetic import SPLITS, make_shapes
from rcnn.drawing.report import Example, write_report
from rcnn.evaluation.evaluate import evaluate_dataset
from rcnn.evaluation.examples import example_of
from rcnn.metrics.coco import Metrics
from rcnn.predictor import Predictor
from rcnn.training.log import read_log
from rcnn.training.plan import NO_SPLIT, RunRequest
from rcnn.training.run import Log, run_training
from rcnn.training.run_folder import LOG
from rcnn.training.settings import TrainConfig

MODEL = "mask_rcnn_compact"
IMAGES = SPLITS
RECIPE = TrainConfig(
    steps=950,
    batch_size=8,
    optimizer="adamw",
    lr=0.002,
    reference_batch=8,
    weight_decay=0.02,
    warmup_steps=30,
    milestones=(0.6, 0.85),
    decay=0.2,
    jitter=0.2,
    workers=1,
    checkpoint_every=500,
    evaluate_every=0,
)
SIZE = (320, 400)  # height, width of the images to learn and to measure on
FINE = 2  # the unseen images are so many times larger, to be looked at
SCORE = 0.5  # what is scored lower is not shown
MARK = ".rcnn-demo"  # says that a folder is the demo's, which may then be emptied
MADE = ("data", "run", "pictures", "results.json", "predictions.json", "report.html", "overview.jpg")

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo made."""

    metrics: Metrics  # on the validation images
    seconds: Mapping[str, float]  # that each part took
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
    say: Log = print,
    progress: Progress = lambda what, total: nullcontext(lambda: None),
) -> Demo:
    """Data, training, evaluation, prediction and a report in `output`; what an earlier demo left there goes first.

    The steps are counted, not timed: a slower machine takes longer and ends where any other does. `progress` gives
    the bar of a part, from its name and its pieces.
    """
    clear(output)
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(part: str) -> None:
        nonlocal clock
        before, clock = clock, time.perf_counter()
        seconds[part] = round(clock - before, 1)

    learnt = {split: count for split, count in images.items() if split != "unseen"}
    with progress("data", sum(images.values())) as advance:
        data = make_shapes(output / "data", learnt, size=SIZE, seed=seed, advance=advance)
        fine = (SIZE[0] * FINE, SIZE[1] * FINE)
        make_shapes(data, {"unseen": images["unseen"]}, size=fine, seed=seed, advance=advance)
    lap("data")
    say(f"drew {sum(images.values())} images into {data} in {seconds['data']:.0f} s")

    run = output / "run"
    recipe = replace(recipe, seed=seed)
    splits = ("train", NO_SPLIT)
    request = RunRequest(
        model=MODEL,
        data=data,
        output=run,
        overrides=tuple(overrides),
        settings=recipe,
        splits=splits,
        device=device,
    )
    outcome = run_training(request, log=say)
    if not outcome.finished:
        raise KeyboardInterrupt
    lap("training")
    say(f"trained {outcome.step} steps in {seconds['training']:.0f} s")

    predictor = Predictor.from_checkpoint(run, device=device)
    validation = open_dataset(data, "val", classes=predictor.classes)
    with progress("eval", len(validation)) as advance:
        evaluation = evaluate_dataset(predictor, validation, on_image=lambda image: advance())
    lap("evaluation")

    unseen = open_dataset(data, "unseen", classes=predictor.classes)
    with progress("predict", len(unseen)) as advance:
        examples, predictions = look(predictor, unseen, advance)
    pictures = tuple(_saved(example.detections, output / "pictures" / example.name) for example in examples)
    overview = _saved(tiled([example.detections for example in examples]), output / "overview.jpg")
    write_json(output / "predictions.json", {"images": predictions})
    lap("prediction")

    versions = {"rcnn": __version__, "torch": torch.__version__, "python": sys.version.split()[0]}
    threads = torch.get_num_threads()
    made = {"versions": versions, "threads": threads, "seed": seed, "seconds": seconds, "steps": outcome.step}
    write_json(output / "results.json", evaluation.to_dict() | made)
    report = write_report(
        output / "report.html",
        title="A Mask R-CNN trained from scratch",
        lead=f"{MODEL} learnt {images['train']} synthetic images in {seconds['training']:.0f} seconds on {device}; "
        f"measured on {images['val']} others. The pictures below are of {images['unseen']} more that it has not seen.",
        metrics=evaluation.to_dict(),
        examples=examples,
        log=read_log(run / LOG),
        details={
            "Command": f"rcnn demo --output {output} --seed {seed}",
            "Seconds": ", ".join(f"{part} {time:.0f}" for part, time in seconds.items()),
            "Training": f"{outcome.step} steps, {threads} threads",
            "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        },
    )
    return Demo(
        metrics=evaluation.metrics,
        seconds=seconds,
        report=report,
        results=output / "results.json",
        pictures=pictures,
        overview=overview,
    )


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """So many threads compute. With one, sums (and so results) are the same whatever the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clear(output: Path) -> None:
    """Make `output` ready for a demo: empty but for files that are not the demo's, and marked as its own.

    Raises ValueError where something else is in it that carries a name of ours.
    """
    there = [name for name in MADE if (output / name).exists()]
    if there and not (output / MARK).exists():
        raise ValueError(f"{output} has {', '.join(there)}, not made by rcnn demo: give another --output")
    for name in there:
        path = output / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    output.mkdir(parents=True, exist_ok=True)
    (output / MARK).write_text("Made by `rcnn demo`, which may empty this folder and fill it again.\n")


def look(
    predictor: Predictor, dataset: Dataset, advance: Callable[[], None]
) -> tuple[list[Example], list[dict[str, Any]]]:
    """Each image with what was found on it beside the truth, and the `images` of a predictions.json."""
    examples, predictions = [], []
    for record in dataset:
        example, found = example_of(predictor, record, SCORE)
        examples.append(example)
        entry = {"file": str(record.path), "height": found.height, "width": found.width}
        predictions.append(entry | {"detections": found.to_json(predictor.classes)})
        advance()
    return examples, predictions


def write_json(path: Path, value: object) -> None:
    """Write `value` to the JSON file `path`."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def tiled(pictures: Sequence[Image.Image], columns: int = 4, cell: tuple[int, int] = (400, 320)) -> Image.Image:
    """The pictures side by side, each within `cell` (width, height), those that lie before those that stand."""
    ordered = sorted(pictures, key=lambda picture: picture.width < picture.height)
    rows = -(-len(ordered) // columns)
    sheet = Image.new("RGB", (min(columns, len(ordered)) * cell[0], rows * cell[1]), (255, 255, 255))
    for place, picture in enumerate(ordered):
        small = picture.copy()
        small.thumbnail(cell)
        x, y = place % columns * cell[0], place // columns * cell[1]
        sheet.paste(small, (x + (cell[0] - small.width) // 2, y + (cell[1] - small.height) // 2))
    return sheet


def _saved(picture: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=90)
    return path
