"""Class and keypoint names: most weight files contain none, so those of the data set of the training are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rcnn.data.messages import counted
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

# COCO's id of each of them: 1 to 90, with ten ids that are not used
COCO_CATEGORY_IDS = tuple(id for id in range(1, 91) if id not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))

# Pascal VOC and SBD
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
CITYSCAPES_CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")


def category_ids(names: Sequence[str]) -> tuple[int, ...]:
    """COCO's ids of COCO's 80 classes in COCO's order, else 1, 2, ..."""
    return COCO_CATEGORY_IDS if tuple(names) == COCO_CLASSES else tuple(range(1, len(names) + 1))


def class_names(count: int, *known: Sequence[str]) -> tuple[str, ...]:
    """The first of the lists `known` and COCO's that has `count` names, else class_0, class_1, ..."""
    for names in (*known, COCO_CLASSES):
        if len(names) == count:
            return tuple(str(name) for name in names)
    return tuple(f"class_{i}" for i in range(count))


def given_names(names: Sequence[str], count: int, key: str) -> tuple[Sequence[str], tuple[str, ...]]:
    """`names`, which setting `key` gives, for `count` classes, without the background that some systems put first.

    If there are more or fewer, none, and a sentence that says so.
    """
    if len(names) == count + 1 and names[0].strip("_").lower() in ("bg", "background"):
        names = names[1:]
    if len(names) in (0, count):
        return names, ()
    found = f"{counted(len(names), 'name')} for {counted(count, 'class')}"
    return (), (f"{key} has {found} and is not used: give the names with classes (--classes)",)


def unnamed_keypoints(config: KeypointHeadConfig, count: int) -> KeypointHeadConfig:
    """`config` for `count` keypoints: COCO's person keypoints for 17, else keypoint_0, keypoint_1, ...

    For unnamed keypoints, there are no flip pairs and no skeleton, and all have the same OKS sigma.
    """
    if count == len(COCO_KEYPOINTS):
        return config
    names = tuple(f"keypoint_{number}" for number in range(count))
    return replace(config, names=names, flip_pairs=(), sigmas=(DEFAULT_SIGMA,) * count, skeleton=())
