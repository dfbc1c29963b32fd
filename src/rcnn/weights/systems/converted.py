"""What a converter gives back, and the class names of the data set that most old weights were trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rcnn.models import DetectorConfig, build_detector
from rcnn.models.config import COCO_KEYPOINTS, DEFAULT_SIGMA, KeypointHeadConfig

# COCO's categories in order of id: what label i of 80 means
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip

# VOC's, and SBD's
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


MOST_LISTED = 1000  # tensors that a message lists by name


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Weights of another system in our terms."""

    config: DetectorConfig
    state: dict[str, Tensor]  # fits build_detector(config), name for name
    classes: tuple[str, ...]
    report: str  # for people: what it was, in a line
    system: str = ""  # whose file it was: "Detectron2", "tensorpack"
    assumed: tuple[str, ...] = ()  # a sentence for each default that the file could not say
    left: tuple[str, ...] = ()  # names of tensors left behind on purpose: optimiser, averaged weights, anchors


def class_names(count: int) -> tuple[str, ...]:
    """COCO's names for 80 classes, else class_0, class_1, ...: these files carry no names."""
    return COCO_CLASSES if count == len(COCO_CLASSES) else tuple(f"class_{i}" for i in range(count))


def unnamed_keypoints(config: KeypointHeadConfig, count: int) -> KeypointHeadConfig:
    """`config` for `count` keypoints: COCO's of a person where they are 17, else names without meaning.

    Weights carry no names: which keypoints change places in a mirror, and how exact each is, is then not known.
    """
    if count == len(COCO_KEYPOINTS):
        return config
    names = tuple(f"keypoint_{number}" for number in range(count))
    return replace(config, names=names, flip_pairs=(), sigmas=(DEFAULT_SIGMA,) * count, skeleton=())


class DoesNotFit(ValueError):
    """A state that is not its config's; what is `missing` alone may be allowed."""

    def __init__(self, message: str, config: DetectorConfig, state: Mapping[str, Tensor], missing: list[str]) -> None:
        super().__init__(message)
        self.config, self.state, self.missing = config, state, missing  # missing: empty where more is wrong


def require_fit(config: DetectorConfig, state: Mapping[str, Tensor], source: str, part: str = "") -> None:
    """DoesNotFit (a ValueError), naming the tensors, unless `state` is what a detector of `config` holds.

    With `part`, of the detector's tensors only those whose names begin so are wanted.
    """
    with torch.device("meta"):  # shapes alone: nothing is drawn or stored
        wanted = build_detector(config).state_dict()
    wanted = {name: value for name, value in wanted.items() if name.startswith(part)}
    problems = {
        "missing": [name for name in wanted if name not in state],
        "without a place": [name for name in state if name not in wanted],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} (want {tuple(value.shape)})"
            for name, value in wanted.items()
            if name in state and state[name].shape != value.shape
        ],
    }
    found = "; ".join(f"{word}: {few(names, MOST_LISTED)}" for word, names in problems.items() if names)
    if found:
        only_missing = problems["missing"] if not problems["without a place"] + problems["of another shape"] else []
        raise DoesNotFit(
            f"{source} does not fit {config.name}, which it was taken for: {found} (in our names)",
            config,
            state,
            only_missing,
        )


def few(names: Sequence[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def unplaced(names: Sequence[str]) -> str:
    """All tensors of a file that nothing here holds, and how to leave them behind."""
    listed = few(names, MOST_LISTED)
    return f"tensors without a counterpart here: {listed} (--allow-unused PATTERN leaves those behind that match)"
