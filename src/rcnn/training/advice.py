"""The defaults of a new run that depend on its data: each setting that the user did not give, with its reason.

The numbers are those of the tuned commands in the docs, made to depend on the data (docs/results.md, "The defaults").
Anchors belong to the weights of the RPN, so they change only if it starts from random values. Image statistics never
change: those of the weights fit the weights, and random weights learn any shift and scale.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data import Dataset
from rcnn.data.messages import counted
from rcnn.data.transforms.steps import scale_jitter_of
from rcnn.models import DetectorConfig
from rcnn.models.config import FBNetConfig
from rcnn.models.overrides import override
from rcnn.training.length import IMAGES_OF_1X, LENGTHS
from rcnn.training.settings import FINE_TUNING, LITE, PREFIX, TrainConfig
from rcnn.weights.checkpoint import empty_detector

EPOCHS = 12  # COCO's schedule 1x
FEW_OBJECTS = 5  # objects per image; a run on images with fewer objects trains on more images ...
MOST_MORE_IMAGES = 5 / 3  # ... by up to this factor
EVALUATIONS = 10  # per run
PATIENCE = 4  # evaluations
AVERAGED = 1 / 3  # fraction of a run that the EMA averages over
SHORTEST_AVERAGED = 100  # steps of a run; the EMA of a shorter one would lag behind the weights
LONGEST_EMA = 0.999
MOST_WARMUP, SHORT_WARMUP = 0.25, 0.2  # fractions of the steps: a longer warm-up is shortened to the second
WARMUP = PREFIX + "warmup_steps"
WARMUP_REASON = f"{SHORT_WARMUP:.0%} of the steps"
SMALL_OBJECTS = 20  # percentile of the object sizes: smaller objects count as small
LARGE_OBJECTS = 80  # ... and larger ones as large
CELLS = 4  # cells of the finest feature map that the side of a small object should cover
LARGEST = 2  # input size, as a multiple of the model's own
SIDES = 32  # chosen sides are multiples of this, pixels
SMALLER = (0.6, 0.73, 0.87)  # shorter sides in training, as fractions of those in prediction (Touvron et al. 2019)
ANCHOR_STEP = 2.0  # largest ratio of an anchor's side to the next one's, unless the objects need more (Lin et al. 2017)
NO_ANCHOR = math.sqrt(2)  # two squares with the same centre and sides of this ratio have an IoU of 0.5
PROPOSALS_PER_OBJECT = 10
MOST_PROPOSALS = 1000  # as in the papers
FEW_IMAGES = 200
FROZEN_BLOCKS = 8  # of FBNet's 15
JITTERED_IMAGES = 1000
MOST_WORKERS = 8  # per process; one of them prepares about 80 photos of 800 pixels per second (docs/results.md)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Settings for the data of a run, with the reason for each; `model` and `training` hold KEY -> value."""

    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)  # without the prefix
    reasons: dict[str, str] = field(default_factory=dict)  # by the name on the command line

    def and_also(self, other: Advice) -> Advice:
        """The settings and reasons of both."""
        return Advice(
            model=self.model | other.model,
            training=self.training | other.training,
            reasons=self.reasons | other.reasons,
        )


def advise_model(config: DetectorConfig, dataset: Dataset, given: Collection[str], *, pretrained: bool) -> Advice:
    """Settings of the model that depend on the data, without those that the user has `given`.

    `config`: the model without these settings. `pretrained`: the run starts from the weights of a whole detector, not
    only of a backbone.
    """
    own = ~dataset.objects.ignored
    if not own.any():
        return Advice()
    values, reasons = dict[str, Any](), dict[str, str]()
    if not {"input.min_size", "input.max_size"}.intersection(given) and not config.input.canvas:
        chosen, reason = _input_size(config, dataset)
        if chosen:
            size, limit = config.input.min_size, config.input.max_size
            values |= {"input.min_size": chosen, "input.max_size": round(limit * chosen / size)}
            reasons |= {"input.min_size": reason, "input.max_size": f"input.min_size x {limit / size:.3g}"}
    if not pretrained and "rpn.anchors.sizes" not in given:
        sizes, reason = _anchor_sizes(override(config, values), dataset)
        if sizes:
            values["rpn.anchors.sizes"], reasons["rpn.anchors.sizes"] = sizes, reason
    most = int(np.bincount(dataset.objects.image_index[own]).max())
    wanted = min(MOST_PROPOSALS, config.rpn.proposals.pre_nms, PROPOSALS_PER_OBJECT * most)
    if wanted > config.rpn.proposals.post_nms and "rpn.proposals.post_nms" not in given:
        values["rpn.proposals.post_nms"] = wanted
        reasons["rpn.proposals.post_nms"] = f"an image has up to {counted(most, 'object')}"
    backbone = config.backbone
    trained = isinstance(backbone, FBNetConfig) and not backbone.frozen_blocks and "backbone.frozen_blocks" not in given
    if trained and pretrained and len(dataset) < FEW_IMAGES:
        values["backbone.frozen_blocks"] = FROZEN_BLOCKS
        reasons["backbone.frozen_blocks"] = f"fewer than {FEW_IMAGES} training images"
    return Advice(model=values, reasons=reasons)


def advise_training(
    settings: TrainConfig,
    start: TrainConfig,
    dataset: Dataset,
    validation_images: int,
    given: Collection[str],
    *,
    min_size: int,
    processes: int,
) -> Advice:
    """Training settings that depend on the data, without those that the user has `given` (names without prefix).

    `settings`: the settings that include the given ones. `start`: the defaults for the weights that the run starts
    from. `min_size`: shorter side of the network's input in prediction, pixels.
    """
    values, reasons = dict[str, Any](), dict[str, str]()
    steps, each = settings.steps, settings.images_per_step(processes)
    if not set(LENGTHS).intersection(given):
        total, reason = _images_of_run(start, dataset)
        values["steps"] = steps = max(1, round(total / each))
        reasons["steps"] = f"{reason}, {each} per step"
        if validation_images:
            values["patience"] = PATIENCE
            reasons["patience"] = (
                f"the run ends early after {counted(PATIENCE, 'evaluation')} without improvement, but not before the "
                "learning rate has decayed for the last time"
            )
    if validation_images:
        least = math.ceil(validation_images / each)
        values["evaluate_every"] = max(1, round(steps / EVALUATIONS), least)
        reasons["evaluate_every"] = f"up to {EVALUATIONS} evaluations in the run"
        if values["evaluate_every"] == least:
            reasons["evaluate_every"] = "an evaluation has no more images than are trained on before it"
    if start.warmup_steps > steps * MOST_WARMUP:
        values["warmup_steps"], reasons["warmup_steps"] = int(steps * SHORT_WARMUP), WARMUP_REASON
    if start.ema:
        values["ema"] = _ema(steps)
        averaged = f"averages about the last {AVERAGED * steps:.0f} steps"
        reasons["ema"] = averaged if values["ema"] else f"the run has fewer than {SHORTEST_AVERAGED} steps"
    if start in (FINE_TUNING, LITE) and not (settings.scale_range or scale_jitter_of(settings.augment)):
        values["scales"] = tuple(max(1, round(part * min_size / 16)) * 16 for part in SMALLER)
        reasons["scales"] = "smaller than in prediction: faster, with almost the same AP (Touvron et al. 2019)"
    if start.jitter and len(dataset) >= JITTERED_IMAGES:
        values["jitter"], reasons["jitter"] = 0.0, f"{JITTERED_IMAGES} training images or more"
    kept = {name: value for name, value in values.items() if name not in given}
    return Advice(training=kept, reasons={PREFIX + name: reasons[name] for name in kept})


def advise_workers(cores: int, processes: int) -> tuple[int, str]:
    """The worker processes of each training process on a machine with GPUs, and the reason.

    They are as many as its share of the `cores`, from the default up to MOST_WORKERS. `processes`: on this machine.
    """
    workers = min(MOST_WORKERS, max(TrainConfig().workers, cores // processes))
    shared = f" for {processes} training processes" if processes > 1 else ""
    return workers, f"{counted(cores, 'CPU core')}{shared}, and a GPU needs images faster than a CPU"


def is_long_warmup(settings: TrainConfig) -> bool:
    """Whether the warm-up takes so large a part of the steps that a run of this length would have a shorter one."""
    return settings.warmup_steps > settings.steps * MOST_WARMUP


def rescaled(settings: TrainConfig, before: int, advised: Collection[str]) -> TrainConfig:
    """`settings` with the `advised` values, which were chosen for `before` steps, adapted to its number of steps."""
    factor = settings.steps / before
    if PREFIX + "evaluate_every" in advised:
        settings = replace(settings, evaluate_every=max(1, round(factor * settings.evaluate_every)))
    if PREFIX + "ema" in advised:
        settings = replace(settings, ema=_ema(settings.steps))
    if WARMUP in advised:
        settings = replace(settings, warmup_steps=int(settings.steps * SHORT_WARMUP))
    return settings


def _ema(steps: int) -> float:
    """The decay for a run of `steps`; 0: no EMA."""
    return min(LONGEST_EMA, round(1 - 1 / (AVERAGED * steps), 4)) if steps >= SHORTEST_AVERAGED else 0.0


def _images_of_run(start: TrainConfig, dataset: Dataset) -> tuple[int, str]:
    """The number of images that a run trains on, over all epochs, and the reason."""
    images, objects = max(1, len(dataset)), dataset.num_training_objects
    least = start.steps * start.images_per_step()
    epochs = min(EPOCHS * images, IMAGES_OF_1X)
    per_image = objects / images
    more = min(MOST_MORE_IMAGES, max(1.0, FEW_OBJECTS / max(per_image, 1.0)))
    total = max(round(more * least), epochs)
    if total == epochs:
        reason = f"{EPOCHS} epochs of" if epochs < IMAGES_OF_1X else "COCO's schedule 1x for"
    else:
        reason = f"{total / images:,.0f} epochs of"
    return total, f"{reason} {counted(images, 'image')} with {per_image:.1f} objects each"


def _input_size(config: DetectorConfig, dataset: Dataset) -> tuple[int, str]:
    """A larger shorter side of the input, if small objects need it, and the reason; 0: the model's is large enough.

    It does not exceed the resolution of the images, because enlarging them adds no detail.
    """
    size = config.input.min_size
    short = dataset.sizes.min(axis=1)  # (I,) pixels of the files
    small = float(np.percentile(_sides(config, dataset), SMALL_OBJECTS))
    stride = _finest_stride(config)
    needed = size * CELLS * stride / max(small, 1.0)
    most = min(LARGEST * size, float(np.median(short)))
    chosen = int(min(math.ceil(needed / SIDES), most // SIDES)) * SIDES
    if chosen <= size:
        return 0, ""
    return chosen, (
        f"a fifth of the objects are smaller than {small:.0f} pixels at {size}; a cell of the finest feature map "
        f"covers {stride} pixels, and an object should span at least {CELLS} cells"
        + ("" if needed <= most else "; limited by the size of the images" if most < LARGEST * size else "")
    )


def _anchor_sizes(config: DetectorConfig, dataset: Dataset) -> tuple[tuple[tuple[float, ...], ...], str]:
    """Sides of as many anchors as `config` has, in equal ratios, for the objects of the data, and the reason.

    (): the anchors of `config` suit the data: a square object at SMALL_OBJECTS, and one at LARGE_OBJECTS, has an IoU
    of 0.5 with a square anchor of the same centre. Otherwise the anchors reach from the small objects to the large
    ones. None is smaller than a cell of the finest feature map. Where the objects do not need it, the other end moves
    only as far as ANCHOR_STEP requires.
    """
    anchors = config.rpn.anchors.sizes
    usual = [side for level in anchors for side in level]
    if (
        len(usual) < 2
        or len({len(level) for level in anchors}) > 1
        or any(after <= before for before, after in pairwise(usual))
    ):
        return (), ""
    small, large = np.percentile(_sides(config, dataset), [SMALL_OBJECTS, LARGE_OBJECTS]).tolist()
    first, last, span = usual[0], usual[-1], ANCHOR_STEP ** (len(usual) - 1)
    if small < first / NO_ANCHOR:
        first = min(first, max(small, _finest_stride(config)))
        last = min(last, max(large, first * span))
    if large > last * NO_ANCHOR:
        last = large
        first = max(first, min(small, last / span))
    if (first, last) == (usual[0], usual[-1]):
        return (), ""
    sides = np.geomspace(first, last, len(usual)).round().tolist()
    rows = len(anchors[0])
    return tuple(tuple(sides[i : i + rows]) for i in range(0, len(sides), rows)), (
        f"the RPN starts from random weights, and three fifths of the objects have sides of {small:.0f} to {large:.0f} "
        f"pixels at {config.input.min_size}; the anchors of the model have {usual[0]:g} to {usual[-1]:g}"
    )


def _sides(config: DetectorConfig, dataset: Dataset) -> npt.NDArray[np.floating[Any]]:
    """The sides (N,) of squares with the areas of the objects' boxes, pixels of the network's input in prediction."""
    objects = dataset.objects
    own = ~objects.ignored
    short, long = dataset.sizes.min(axis=1), dataset.sizes.max(axis=1)  # (I,) pixels of the files
    factor = np.minimum(config.input.min_size / short, config.input.max_size / long)[objects.image_index[own]]
    areas = np.prod(objects.boxes[own, 2:] - objects.boxes[own, :2], axis=1)
    return np.asarray(np.sqrt(areas) * factor)


def _finest_stride(config: DetectorConfig) -> int:
    """The stride of the finest feature map with anchors, pixels of the network's input."""
    return min(empty_detector(config).rpn.anchors.strides.values())
