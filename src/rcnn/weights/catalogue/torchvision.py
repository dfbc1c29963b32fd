"""torchvision's files, from the Weights enums of the installed version: COCO detectors and ImageNet backbones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from torchvision import models

from rcnn.weights.catalogue.entry import Entry

LICENCE = "not stated (code: BSD-3-Clause)"
SEEN = "torchvision's Weights enums: url, and in meta _file_size and _metrics"
# our model -> the enum of its weights
DETECTORS: dict[str, type[Enum]] = {
    "faster_rcnn_r50_fpn": models.detection.FasterRCNN_ResNet50_FPN_Weights,
    "faster_rcnn_r50_fpn_v2": models.detection.FasterRCNN_ResNet50_FPN_V2_Weights,
    "faster_rcnn_mobilenet_v3_large_fpn": models.detection.FasterRCNN_MobileNet_V3_Large_FPN_Weights,
    "faster_rcnn_mobilenet_v3_large_320_fpn": models.detection.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights,
    "mask_rcnn_r50_fpn": models.detection.MaskRCNN_ResNet50_FPN_Weights,
    "mask_rcnn_r50_fpn_v2": models.detection.MaskRCNN_ResNet50_FPN_V2_Weights,
    "keypoint_rcnn_r50_fpn": models.detection.KeypointRCNN_ResNet50_FPN_Weights,
}
BACKBONES: dict[str, type[Enum]] = {
    "resnet50": models.ResNet50_Weights,
    "resnet101": models.ResNet101_Weights,
    "resnet152": models.ResNet152_Weights,
    "resnext50_32x4d": models.ResNeXt50_32X4D_Weights,
    "resnext101_32x8d": models.ResNeXt101_32X8D_Weights,
    "resnext101_64x4d": models.ResNeXt101_64X4D_Weights,
    "wide_resnet50_2": models.Wide_ResNet50_2_Weights,
    "wide_resnet101_2": models.Wide_ResNet101_2_Weights,
    "mobilenet_v3_large": models.MobileNet_V3_Large_Weights,
}
TAGS = {
    "COCO_V1": "torchvision",
    "COCO_LEGACY": "torchvision-legacy",
    "IMAGENET1K_V1": "torchvision",
    "IMAGENET1K_V2": "torchvision-v2",
}


def entries() -> Iterator[Entry]:
    """An entry for each file."""
    for model, weights in DETECTORS.items():
        for member in _known(weights):
            metrics: Mapping[str, float] = member.value.meta["_metrics"]["COCO-val2017"]
            yield _entry(
                model, member, box=metrics["box_map"], mask=metrics.get("mask_map"), keypoints=metrics.get("kp_map")
            )
    for model, weights in BACKBONES.items():
        for member in _known(weights):
            yield _entry(model, member, kind="backbone", data="ImageNet")


def _known(weights: type[Enum]) -> list[Enum]:
    """The members that have a name here; a later version of torchvision may have more."""
    return [member for member in weights if member.name in TAGS]


def _entry(model: str, member: Enum, **more: Any) -> Entry:
    url: str = member.value.url
    digest = re.search(r"-([0-9a-f]{8})\.pth$", url)  # torch.hub checks the file against it
    return Entry(
        model=model,
        tag=TAGS[member.name],
        system="torchvision",
        url=url,
        licence=LICENCE,
        seen=SEEN,
        digest=f"sha256:{digest[1]}" if digest else "",
        mib=member.value.meta["_file_size"],
        **more,
    )
