"""How a detector is trained: every setting with its meaning and unit. On the command line they begin `train.`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from rcnn.models.suggestions import SYNONYMS

PREFIX = "train."


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The recipe of a run. On the command line `train.steps=500`."""

    steps: int = 1000  # optimizer steps in all
    batch_size: int = 4  # images a forward pass, on each process
    accumulate: int = 1  # forward passes whose gradients are averaged into one step
    # learning rate for `reference_batch` images a step; a run of other size scales it in proportion (Goyal et al. 2017)
    lr: float = 0.02
    reference_batch: int = 16
    warmup_steps: int = 100  # the rate rises linearly over so many steps ...
    warmup_factor: float = 0.001  # ... from this part of itself
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)  # parts of the run after which the rate falls ...
    decay: float = 0.1  # ... to this part of itself
    # adamw (Loshchilov and Hutter 2019): for training from scratch, with a rate of about 0.002
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9  # AdamW: of its first moment
    weight_decay: float = 1e-4
    norm_weight_decay: float = 0.0  # of the scales and shifts of norm layers
    clip_norm: float = 0.0  # longest gradient over all weights; 0: as it comes
    # an average of the weights is kept, of which this part stays at each step (.999: about the last 1000 steps); it is
    # what is evaluated and may be best. 0: no average
    ema: float = 0.0
    bf16: bool = False  # features and products in bfloat16; losses, boxes and weights stay float32
    channels_last: bool = True  # feature maps with channels innermost, which convolutions on CPUs and GPUs prefer
    seed: int = 0  # draws the order of the images, their augmentation, and what is sampled for the losses
    workers: int = 2  # processes that read and augment images; 0: none but the main one

    # images of a class that is in a smaller part of all images than this are shown oftener, by the root of how much
    # rarer it is (Gupta et al. 2019: .001 for LVIS); 0: every image once a pass
    repeat_threshold: float = 0.0
    flip: float = 0.5  # probability of mirroring left to right
    scales: tuple[int, ...] = ()  # shorter sides to draw from, pixels; none given: the model's input.min_size
    jitter: float = 0.0  # brightness, contrast and saturation change by at most this part; 0: not at all
    padding: Literal["exact", "bucket"] = "exact"  # to a multiple of input.divisor, or to one of a few shapes

    log_every: int = 20  # steps between lines of log.jsonl
    checkpoint_every: int = 200  # steps between writes of last/
    evaluate_every: int = 500  # steps between evaluations, which may write best/; 0: only at the end
    best: str = ""  # what best/ is the best of, as "segm.AP"; empty: AP of masks where there are any, else of boxes

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "accumulate": 1, "reference_batch": 1, "warmup_steps": 0, "workers": 0}
        least |= {"log_every": 1, "checkpoint_every": 1, "evaluate_every": 0, "seed": 0}
        least |= {"lr": 0, "clip_norm": 0, "jitter": 0, "warmup_factor": 0, "decay": 0, "momentum": 0}
        least |= {"weight_decay": 0, "norm_weight_decay": 0}
        for name, minimum in least.items():
            if not getattr(self, name) >= minimum:  # written so that nan is refused too
                raise ValueError(f"train.{name} is {getattr(self, name)}, wanted {minimum} or more")
        if not 0 <= self.ema < 1:
            raise ValueError(
                f"train.ema is {self.ema}, wanted a part that stays from step to step, as .999; 0: no average"
            )
        if not 0 <= self.repeat_threshold <= 1:
            raise ValueError(f"train.repeat_threshold is {self.repeat_threshold}, wanted a part of the images, 0 to 1")
        if self.seed >= 2**31:
            raise ValueError(f"train.seed is {self.seed}, wanted less than {2**31}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"train.flip is {self.flip}, wanted a probability between 0 and 1")
        if any(not 0 < part <= 1 for part in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"train.milestones are {self.milestones}, wanted rising parts of the run, each in (0, 1]")
        if any(side < 1 for side in self.scales):
            raise ValueError(f"train.scales are {self.scales}, wanted shorter sides in pixels")
        if self.best and not self.best.startswith(("bbox.", "segm.", "keypoints.", "proposals.")):
            raise ValueError(f"train.best is {self.best!r}, wanted bbox.NAME or segm.NAME, as in segm.AP")

    def images_per_step(self, world: int = 1) -> int:
        """Images that one optimizer step learns from, over `world` processes."""
        return self.batch_size * self.accumulate * world

    def scaled_lr(self, world: int = 1) -> float:
        """The learning rate after warm-up for the batch that this run really has."""
        return self.lr * self.images_per_step(world) / self.reference_batch


# What a run begins with that starts from a checkpoint: few pictures, few steps, weights that are to be kept in most. A
# step of the papers' full rate would throw a network off whose norms are folded.
FINE_TUNING = TrainConfig(
    steps=300,
    batch_size=2,
    reference_batch=2,
    optimizer="adamw",
    lr=0.0002,
    weight_decay=0.01,
    warmup_steps=20,
    clip_norm=5.0,
    evaluate_every=100,
)


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """`KEY=VALUE` words parted into (the model's, the training's, which begin `train.`).

    Raises ValueError for a setting of training that lacks its prefix.
    """
    model = [word for word in overrides if not word.startswith(PREFIX)]
    training = [word for word in overrides if word.startswith(PREFIX)]
    ours = {field.name for field in fields(TrainConfig)}
    for word in model:
        key, _, value = word.partition("=")
        for name in (key.strip(), *SYNONYMS.get(key.strip(), ())):
            if name in ours:
                raise ValueError(f"no setting {key.strip()!r} of the model; did you mean {PREFIX}{name}={value}?")
    return model, training
