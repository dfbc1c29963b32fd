"""The same validation images at each evaluation, with the detections beside the ground truth: RUN/pictures."""

from __future__ import annotations

import os
import re
from pathlib import Path

from PIL import Image

from rcnn.data import Dataset
from rcnn.data.messages import printable
from rcnn.data.targets import require_size
from rcnn.evaluation.examples import chosen_records, draw_example
from rcnn.models import Detector
from rcnn.predictor import Predictor
from rcnn.training.plan import RunPlan

SCORE = 0.5  # detections with a lower score are not drawn
HEIGHT = 480  # pixels of a picture at most
SHOWN_STEPS = 6  # pictures of each image on the page of the run


def write_pictures(detector: Detector, validation: Dataset, plan: RunPlan, folder: Path, step: int) -> None:
    """Write `folder`/IMAGE/step-N.jpg for `train.pictures` images: detections on the left, ground truth on the right.

    The images are spread evenly over those with objects. An image that cannot be read, or that has not the
    annotated size, is skipped; the evaluation reports it.
    """
    settings, classes = plan.settings, validation.classes
    predictor = Predictor(detector, classes=classes, device=str(plan.device), padding=settings.padding)
    for number, record in enumerate(chosen_records(validation, settings.pictures), start=1):
        try:
            pixels = record.read()
            require_size(record, (pixels.shape[1], pixels.shape[2]))
        except (OSError, ValueError):
            continue
        example = draw_example(predictor, record, pixels, predictor.predict(pixels, score=SCORE))
        assert example.ground_truth is not None
        own = folder / printable(f"{number}-{record.path.stem}")  # the page links to it
        own.mkdir(parents=True, exist_ok=True)
        new = own / "new.jpg"
        _beside(example.detections, example.ground_truth).save(new, quality=85)
        os.replace(new, own / f"step-{step}.jpg")


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures of the same size side by side, at most HEIGHT pixels high."""
    factor = min(1.0, HEIGHT / left.height)
    width, height = max(1, round(factor * left.width)), max(1, round(factor * left.height))
    both = Image.new("RGB", (2 * width, height))
    both.paste(left.convert("RGB").resize((width, height)), (0, 0))
    both.paste(right.convert("RGB").resize((width, height)), (width, 0))
    return both


def pictures_of(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """The latest pictures of each image, in the order of the steps: name -> [(step, path relative to the run)]."""
    found: dict[str, list[tuple[int, str]]] = {}
    for own in sorted(folder.iterdir(), key=_number) if folder.is_dir() else []:
        names = (re.fullmatch(r"step-(\d+)\.jpg", path.name) for path in own.glob("step-*.jpg"))
        steps = sorted(int(name[1]) for name in names if name is not None)  # not e.g. the user's copies
        if steps:
            found[own.name] = [(step, f"{folder.name}/{own.name}/step-{step}.jpg") for step in steps[-SHOWN_STEPS:]]
    return found


def _number(path: Path) -> tuple[int, str]:
    """The number with which the name of an image's folder begins, to sort by; 0 for other folders."""
    number = path.name.partition("-")[0]
    return int(number) if number.isdecimal() else 0, path.name
