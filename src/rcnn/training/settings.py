"""The training settings, each with its meaning and unit. On the command line they start with `train.`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from rcnn.arguments import MOST_IMAGES, MOST_WORKERS
from rcnn.data.transforms.steps import Step, require_steps
from rcnn.models.setting_ranges import require_range
from rcnn.models.setting_types import set_types
from rcnn.models.suggestions import SYNONYMS

PREFIX = "train."
BATCH_SIZE, AUTO = "train.batch_size", "auto"
MOST_STEPS = 10**9
SIDE = (1, 65_536)  # of an image, pixels
FRACTION = (0, 1)
RANGES: dict[str, tuple[float, float]] = {  # lowest and highest value of numbers, also in lists
    "steps": (1, MOST_STEPS), "epochs": (0, 1_000_000),
    "batch_size": (1, MOST_IMAGES), "accumulate": (1, MOST_IMAGES), "reference_batch": (1, MOST_IMAGES),
    "lr": (0, 100), "backbone_lr": (0, 100), "warmup_steps": (0, MOST_STEPS), "warmup_factor": FRACTION,
    "milestones": (0, MOST_STEPS), "decay": FRACTION, "final_lr": FRACTION, "layer_decay": FRACTION,
    "weight_decay": FRACTION, "norm_weight_decay": FRACTION, "clip_norm": (0, math.inf),
    "seed": (0, 2**31 - 1), "workers": (0, MOST_WORKERS),
    "repeat_threshold": FRACTION, "flip": FRACTION, "scales": SIDE, "scale_range": SIDE, "jitter": FRACTION,
    "nonfinite_limit": (1, MOST_STEPS), "watchdog": (0, 10**9), "log_every": (1, math.inf), "pictures": (0, math.inf),
    "checkpoint_every": (1, math.inf), "keep": (0, math.inf), "time_limit": (0, math.inf),
    "evaluate_every": (0, math.inf), "patience": (0, math.inf),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a run trains. On the command line, e.g. `train.steps=500`."""

    steps: int = 1000  # number of optimizer steps
    epochs: float = 0.0  # passes over the training images, which set `steps`; 0: `steps` is the length of the run
    # COCO's schedules, which set `steps` and `milestones` by the number of images: 1x is 1.44 million images (90,000
    # steps of 16), 2x is twice the number, ...; empty: `steps` or `epochs` is the length of the run
    schedule: Literal["", "1x", "2x", "3x", "4x", "5x", "6x", "7x", "8x", "9x"] = ""
    batch_size: int = 4  # images per forward pass, on each process; in a run also auto: the largest that fits
    accumulate: int = 1  # forward passes per step; their gradients are averaged
    sync_bn: bool = True  # with several processes, trained batch norms use the images of all of them
    # with several processes, each holds a part of the weights, gradients and optimizer state; for kind=vit backbones
    shard: bool = False
    # learning rate for `reference_batch` images per step; scaled in proportion to the images (Goyal et al. 2017)
    lr: float = 0.02
    reference_batch: int = 16
    backbone_lr: float = 1.0  # learning rate of the backbone, as a fraction of that of the other parts
    warmup_steps: int = 100  # the learning rate rises linearly over this many steps ...
    warmup_factor: float = 0.001  # ... from this fraction of its value
    # when the learning rate decays: fractions of the run (up to 1), or steps (above 1) ...
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    decay: float = 0.1  # ... by this factor
    cosine: bool = False  # in place of milestones: half a cosine (Loshchilov and Hutter 2017) ...
    final_lr: float = 0.0  # ... down to this fraction of the learning rate
    # learning rates of parameters by a pattern of their names, as fractions of the other parts' rate, e.g.
    # {"*.bias": 2, "mask_head.*": 0.1}; of several patterns that match, the last one counts
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    # ViT and ConvNeXt: each layer of the backbone has this fraction of the next layer's learning rate (Bao et al. 2022;
    # ViTDet: 0.7 for ViT-B); 1: all layers have the same
    layer_decay: float = 1.0
    # adamw (Loshchilov and Hutter 2019) is for training from random weights, with a learning rate of about 0.002
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9  # of SGD; beta1 of AdamW
    weight_decay: float = 1e-4
    norm_weight_decay: float = 0.0  # weight decay of the scales and shifts of norm layers
    # weight decay of parameters by a pattern of their names, e.g. {"*.bias": 0}; the last pattern that matches counts
    weight_decays: Mapping[str, float] = field(default_factory=dict)
    clip_norm: float = 0.0  # maximum norm of the gradient over all weights; 0: no clipping
    # decay per step of the exponential moving average (EMA) of the weights, e.g. 0.999 for about the last 1000 steps;
    # evaluations and best/ then use the EMA. 0: no EMA
    ema: float = 0.0
    bf16: bool = False  # features in bfloat16 (autocast); losses, boxes and weights stay float32
    channels_last: bool = True  # memory layout of feature maps that convolutions on CPUs and GPUs prefer
    # torch.compile of the forward and backward pass. cuda_graphs also records one CUDA graph per shape of the batches,
    # so it needs padding=bucket. Not yet run on a GPU
    compile: Literal["none", "default", "cuda_graphs"] = "none"
    fused_optimizer: bool = False  # one kernel for all weights in the optimizer's step. Not yet run on a GPU
    seed: int = 0  # of the order of the images, their augmentation, and the sampling of anchors and regions
    workers: int = 2  # processes that read and augment images; 0: the main process does it

    # images of classes that occur in a smaller fraction of the images than this are repeated (repeat-factor sampling,
    # Gupta et al. 2019: 0.001 for LVIS); 0: every image once per epoch
    repeat_threshold: float = 0.0
    filter_empty: bool = False  # images without objects are not trained on; else they are negative examples
    flip: float = 0.5  # probability of a horizontal flip
    scales: tuple[int, ...] = ()  # shorter sides to choose from at random, pixels; empty: the model's input.min_size
    scale_range: tuple[int, ...] = ()  # in place of scales: (smallest, largest) shorter side, every size in between
    jitter: float = 0.0  # maximum relative change of brightness, contrast and saturation; 0: none
    # further steps of augmentation, e.g. [crop, {kind: blur, probability: 0.2}, copy_paste]; see docs/augmentation.md
    augment: tuple[Step, ...] = ()
    padding: Literal["exact", "bucket"] = "exact"  # to a multiple of input.divisor, or to one of a few shapes

    # deterministic algorithms only: equal runs give equal weights, with the same number of threads; can be slower
    deterministic: bool = False
    nonfinite: Literal["stop", "skip"] = "stop"  # what to do at a step with a loss or gradient that is not finite
    nonfinite_limit: int = 20  # with nonfinite=skip: this number of skipped steps in a row ends the run with an error
    watchdog: float = 300.0  # seconds without progress after which every process prints its stacks; 0: never

    log_every: int = 20  # steps between lines of log.jsonl
    # programs that also get the numbers of the log; auto: TensorBoard if it is installed
    trackers: tuple[Literal["auto", "tensorboard", "wandb", "mlflow"], ...] = ("auto",)
    # each line of the log also has the accuracy of the RPN and the heads on the batch; takes one more forward pass
    diagnostics: bool = True
    validation_loss: bool = False  # each evaluation also computes the loss on the first validation set
    # validation images that are drawn at each evaluation, the same each time, in RUN/pictures; 0: none
    pictures: int = 4
    checkpoint_every: int = 200  # steps between saves of last/
    keep: int = 0  # steps between checkpoints that are kept beside last/ and best/, as step-N/; 0: none
    time_limit: float = 0.0  # hours of training after which the run is saved and stopped, to be resumed; 0: none
    evaluate_every: int = 500  # steps between evaluations, after which best/ may be saved; 0: only at the end
    # early stopping: the run ends after this number of evaluations without improvement, but not before the learning
    # rate has decayed for the last time (at the last of milestones; with cosine, nine tenths of the way down); 0: never
    patience: int = 0
    # definition of average precision; auto: that of the validation set's format
    metric: Literal["auto", "coco", "voc2007", "voc2012", "lvis"] = "auto"
    best: str = ""  # metric that best/ is chosen by, e.g. segm.AP; empty: AP of masks if there are any, else of boxes

    def __post_init__(self) -> None:
        """Raises ValueError, with the name of the setting, for a value of another type or out of range."""
        self._require_steps()
        set_types(self, PREFIX)
        for name, (least, most) in RANGES.items():
            require_range(PREFIX + name, getattr(self, name), least, most)
        for name in ("ema", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"train.{name} is {getattr(self, name)}; expected 0 or more and less than 1, e.g. 0.9; 0: off"
                )
        if self.compile == "cuda_graphs" and self.padding != "bucket":
            raise ValueError(
                "train.compile=cuda_graphs records a graph per shape of the batches, but train.padding is "
                f"{self.padding}; expected train.padding=bucket, which has few shapes"
            )
        if self.compile != "none" and self.shard:
            raise ValueError("train.compile does not work with train.shard; leave one of them out")
        fractions = sum(0 < part <= 1 for part in self.milestones)
        steps = sum(part > 1 and part == int(part) for part in self.milestones)
        if len(self.milestones) not in (fractions, steps) or list(self.milestones) != sorted(self.milestones):
            raise ValueError(
                f"train.milestones is {list(self.milestones)}; expected increasing fractions of the run in (0, 1], or "
                "increasing numbers of steps above 1"
            )
        if self.epochs and self.schedule:
            raise ValueError(
                f"train.epochs={self.epochs:g} and train.schedule={self.schedule} both set the length of the run; "
                "give one of them"
            )
        self._require_patterns()
        if self.scale_range and (len(self.scale_range) != 2 or self.scale_range[0] > self.scale_range[1]):
            raise ValueError(
                f"train.scale_range is {list(self.scale_range)}; expected the smallest and the largest shorter side in "
                "pixels, e.g. [640,800]"
            )
        if self.scales and self.scale_range:
            raise ValueError(
                "train.scales and train.scale_range both set the shorter sides; give one of them, and set the other "
                "to []"
            )
        require_steps(self.augment, self.scales or self.scale_range)
        if self.best and not self.best.startswith(("bbox.", "segm.", "keypoints.", "proposals.")):
            raise ValueError(f"train.best is {self.best!r}; expected a metric such as bbox.AP or segm.AP")

    def _require_steps(self) -> None:
        """Check the types of the steps: from Python, anything can be in the list."""
        listed = isinstance(self.augment, (tuple, list))
        if listed and all(isinstance(step, get_args(Step)) for step in self.augment):
            return
        raise ValueError(
            f"train.augment is {self.augment!r}; expected steps as made by rcnn.override(rcnn.TrainConfig(), "
            "'augment=[crop]'). Names, dicts and functions are for augment= of rcnn.train and rcnn.browse_dataset"
        )

    def _require_patterns(self) -> None:
        """Check the values of the patterns, because a mapping from a file can contain anything."""
        for name, values in (("lr_factors", self.lr_factors), ("weight_decays", self.weight_decays)):
            for pattern, value in values.items():
                if type(value) not in (int, float) or not 0 <= value < float("inf"):
                    raise ValueError(f"train.{name}: {pattern} is {value!r}; expected a number of 0 or more")

    @property
    def drawn_scales(self) -> tuple[int, ...]:
        """The shorter sides to choose from with equal probability: `scales`, or each size of `scale_range`."""
        if not self.scale_range:
            return self.scales
        return tuple(range(self.scale_range[0], self.scale_range[1] + 1))

    @property
    def chosen_metric(self) -> str:
        """`metric`, empty for auto, as `rcnn.evaluate` takes it."""
        return "" if self.metric == "auto" else self.metric

    def saves_at(self, step: int) -> bool:
        """Whether last/ is saved after `step` steps, apart from evaluations."""
        return step % self.checkpoint_every == 0 or self.keeps_at(step)

    def keeps_at(self, step: int) -> bool:
        """Whether the checkpoint after `step` steps is kept as step-N/."""
        return self.keep > 0 and step % self.keep == 0

    def images_per_step(self, processes: int = 1) -> int:
        """Images per optimizer step, over all processes."""
        return self.batch_size * self.accumulate * processes

    def scaled_lr(self, processes: int = 1) -> float:
        """The learning rate after warm-up, scaled to the images per step."""
        return self.lr * self.images_per_step(processes) / self.reference_batch


# The defaults for each start. What depends on the data (steps, evaluations, EMA, image sizes) is decided in advice.py.

# From a trained detector: few images, few steps, and weights that should change little. The learning rate of the papers
# would destroy a network with batch norm folded into its convolutions.
FINE_TUNING = TrainConfig(
    steps=300,
    batch_size=2,
    reference_batch=2,
    optimizer="adamw",
    lr=0.0002,
    ema=0.99,
    weight_decay=0.01,
    warmup_steps=20,
    clip_norm=5.0,
    jitter=0.2,
    evaluate_every=100,
)

# The lite0 models, which start from ImageNet weights and are for data sets of tens to hundreds of images: many small
# steps, and a backbone that changes slowly.
LITE = TrainConfig(
    steps=300,
    batch_size=2,
    reference_batch=2,
    optimizer="adamw",
    lr=0.001,
    backbone_lr=0.2,
    ema=0.99,
    weight_decay=0.02,
    warmup_steps=20,
    milestones=(0.7, 0.9),
    decay=0.2,
    clip_norm=5.0,
    jitter=0.2,
    evaluate_every=100,
)

# The compact models, which start from random weights.
FROM_SCRATCH = TrainConfig(
    steps=1000,
    batch_size=8,
    reference_batch=8,
    optimizer="adamw",
    lr=0.002,
    weight_decay=0.02,
    warmup_steps=30,
    milestones=(0.6, 0.85),
    decay=0.2,
    jitter=0.2,
)


def without_auto(overrides: Sequence[str]) -> tuple[list[str], bool]:
    """`KEY=VALUE` settings without train.batch_size=auto, and whether auto is the batch size that they set.

    ValueError for a batch size that is neither a number nor auto.
    """
    sizes = [word for word in overrides if word.partition("=")[0].strip() == BATCH_SIZE]
    automatic = [word for word in sizes if word.partition("=")[2].strip() == AUTO]
    for word in sizes:
        value = word.partition("=")[2].strip()
        if value != AUTO and not re.fullmatch(r"[-+]?[\d_.]+", value):
            raise ValueError(f"{BATCH_SIZE}: expected a number of images, or {AUTO}, got {value!r}")
    return [word for word in overrides if word not in automatic], bool(sizes) and sizes[-1] in automatic


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """`KEY=VALUE` settings, split into those of the model and those of training (which start with `train.`).

    ValueError for a training setting without its prefix.
    """
    model = [word for word in overrides if not word.startswith(PREFIX)]
    training = [word for word in overrides if word.startswith(PREFIX)]
    ours = {field.name for field in fields(TrainConfig)}
    for word in model:
        key, _, value = word.partition("=")
        if key.strip().lower().split(".")[0] == "train":
            raise ValueError(f"no setting {key.strip()!r}; expected {PREFIX}NAME=VALUE, e.g. train.steps=500")
        for name in (key.strip(), *SYNONYMS.get(key.strip(), ())):
            if name in ours:
                raise ValueError(f"the model has no setting {key.strip()!r}; did you mean {PREFIX}{name}={value}?")
    return model, training
