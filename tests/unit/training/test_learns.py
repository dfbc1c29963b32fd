"""Training works: it overfits two images, and reduces the loss on a small data set in sixty steps."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest

from rcnn.training.log import read_log
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.training.runs import run

SMALL = (
    *TINY_MODEL,
    "fpn.channels=32",
    "fpn.norm=none",  # of batches of two images: statistics too rough to be used on their own
    "rpn.proposals.pre_nms_train=200",
    "rpn.proposals.post_nms_train=100",
    "rpn.proposals.pre_nms=100",
    "rpn.proposals.post_nms=50",
    "box.fc_width=64",
    "box.sampling.batch_size=64",
    "mask.width=32",
    "train.batch_size=2",
    "train.reference_batch=2",
    "train.lr=0.02",
    "train.clip_norm=5",
    "train.warmup_steps=20",
    "train.workers=0",
)


@pytest.mark.slow
def test_training_overfits_two_images(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 2}, size=(96, 128))
    words = [*SMALL, "input.min_size=96", "input.max_size=128", "train.steps=160", "train.flip=0"]
    outcome = run("mask_rcnn_compact", data, tmp_path / "run", words, splits=("train", "train"))
    assert outcome.metrics is not None
    assert outcome.metrics["segm"]["AP"] > 0.9
    assert outcome.metrics["bbox"]["AP"] > 0.9


def test_the_loss_falls_in_sixty_steps(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 16}, size=(96, 128))
    words = [*SMALL, "train.steps=60", "train.log_every=1", "train.warmup_steps=5"]
    run("mask_rcnn_compact", data, tmp_path / "run", words, splits=("train", "none"))
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert len(lines) == 60
    # box_delta rises at first: it is taken over the regions that are objects, of which more are found
    for name, fall in (("loss", 0.85), ("rpn_objectness", 0.3), ("box_class", 0.8), ("mask", 0.6)):
        first, last = (mean(line[name] for line in part) for part in (lines[:10], lines[-10:]))
        assert last < fall * first, f"{name} went from {first:.3f} to {last:.3f}"
