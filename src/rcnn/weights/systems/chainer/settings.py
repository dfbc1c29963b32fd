"""Settings of the two Chainer Mask R-CNNs: a params.yaml, flags of a command line, or KEY=VALUE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rcnn.weights.systems.settings import SettingsSource, Three, Typed, typed_settings

# pattern of settings that only describe the training, and the machine that it ran on
TRAINING = (
    "gpu|multi_node|initializer|max_epoch|batch_size(_per_gpu)?|dataset|logs_dir|n_node|n_gpu|seed|timestamp|out|lr"
    "|weight_decay|step_size|git_hash|hostname|batchsize|lr_step|lr_initialchange|pretrained|snapshot|validation|resume"
    "|iteration|gamma|modelfile|image|contour|background|filename|-[gbsl]"
)
SHORT = {"-r": "roi_size", "-m": "model", "-p": "pooling_func"}


@dataclass(frozen=True)
class Settings:
    """Settings that a detector has; None: not given."""

    model: str | None = None  # the tensors show it
    extractor: str | None = None
    pooling_func: Literal["align", "pooling", "resize"] | None = None
    roi_size: int | None = None
    min_size: int | None = None
    max_size: int | None = None
    anchor_scales: tuple[float, ...] | None = None
    mean: Three | None = None
    class_names: tuple[str, ...] | None = None
    score_thresh: float | None = None
    nms_thresh: float | None = None
    bn2affine: bool | None = None
    freeze_bn: bool | None = None
    roialign: bool | None = None  # DeNA's; its flag --roialign turns RoIAlign off


def read_chainer_settings(given: SettingsSource) -> Typed[Settings]:
    """The settings of either system. Raises ValueError if they cannot be read or a value has the wrong type."""
    return typed_settings(Settings, given, renamed=SHORT, switches={"roialign": False})
