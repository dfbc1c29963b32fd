"""torchvision's R-CNNs both ways: Faster, Mask and Keypoint, versions 1 and 2, any ResNet depth, MobileNetV3.

Theirs puts background first and gives it a box and a mask that nothing uses; ours puts it last, without either. Their
COCO heads have 91 rows, one for each category id up to 90, of which ten were never used: K = 90 here, and those ten are
called "N/A 12", "N/A 26", ... so that names stay different.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from rcnn.models import DetectorConfig, build_detector, model_config
from rcnn.models.config import (
    FPNConfig,
    InputConfig,
    KeypointHeadConfig,
    MobileNetConfig,
    Norm,
    PoolerConfig,
    ResNetConfig,
)
from rcnn.models.zoo.torchvision import BOX, LEGACY, MASK, RPN, faster_rcnn_r50_fpn_v2
from rcnn.weights.systems.converted import Converted, class_names, few, require_fit, unnamed_keypoints
from rcnn.weights.systems.layout import ratio_outer, reorder_anchors

PARTS = {  # ours -> theirs, where no number changes
    "backbone.stem.conv1.weight": "backbone.body.conv1.weight",
    "backbone.stem.conv1.norm.": "backbone.body.bn1.",
    "backbone.features.": "backbone.body.",  # MobileNetV3
    "rpn.objectness.": "rpn.head.cls_logits.",
    "rpn.deltas.": "rpn.head.bbox_pred.",
    "box_head.trunk.fc1.": "roi_heads.box_head.fc6.",
    "box_head.trunk.fc2.": "roi_heads.box_head.fc7.",
    "box_head.logits.": "roi_heads.box_predictor.cls_score.",
    "box_head.deltas.": "roi_heads.box_predictor.bbox_pred.",
    "mask_head.deconv.": "roi_heads.mask_predictor.conv5_mask.",
    "mask_head.logits.": "roi_heads.mask_predictor.mask_fcn_logits.",
    "keypoint_head.logits.": "roi_heads.keypoint_predictor.kps_score_lowres.",
}
# names from before torchvision 0.13, which its published files keep -> those since
OLD_NAMES = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    *((rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.(.+)", rf"roi_heads.mask_head.{i}.0.\1") for i in range(4)),
)
DEPTHS: dict[int, Literal[50, 101, 152]] = {6: 50, 23: 101, 36: 152}  # blocks of layer3
# these were trained with a frozen norm that adds nothing to the variance: torchvision sets that when it loads them
NO_EPS = (
    "fasterrcnn_resnet50_fpn_coco",
    "maskrcnn_resnet50_fpn_coco",
    "keypointrcnn_resnet50_fpn_coco-fc266e95",  # not the older file of that name
)


def is_torchvision(names: Collection[str]) -> bool:
    """Whether tensors of these names are of a torchvision R-CNN."""
    return any(name.startswith("backbone.body.") for name in names) and "rpn.head.cls_logits.weight" in names


def torchvision_name(name: str, config: DetectorConfig) -> str:
    """torchvision's name for our `name` in a detector of `config`; a ValueError if it has none."""
    convs = config.box.convs
    if convs and (found := re.fullmatch(r"box_head\.trunk\.fc(\d+)\.(.+)", name)):
        return f"roi_heads.box_head.{convs - 1 + 2 * int(found[1])}.{found[2]}"  # after the convolutions and a flatten
    for ours, theirs in PARTS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    if found := re.fullmatch(r"backbone\.res(\d)\.(\d+)\.(\w+)\.(.+)", name):
        stage, block, conv, rest = found.groups()
        place = f"backbone.body.layer{int(stage) - 1}.{block}"
        is_norm = rest.startswith("norm.")
        if conv == "shortcut":
            return f"{place}.downsample.{int(is_norm)}.{rest.removeprefix('norm.')}"
        return f"{place}.{conv.replace('conv', 'bn') if is_norm else conv}.{rest.removeprefix('norm.')}"
    if found := re.fullmatch(r"fpn\.(lateral|output)(\d)\.(.+)", name):
        kind, level, rest = found.groups()
        lowest = 2 if isinstance(config.backbone, ResNetConfig) else 4
        place = f"backbone.fpn.{'inner' if kind == 'lateral' else 'layer'}_blocks.{int(level) - lowest}"
        return f"{place}.{_in_block(rest)}"
    if found := re.fullmatch(r"(box|mask)_head\.trunk\.conv(\d)\.(.+)", name):
        return f"roi_heads.{found[1]}_head.{int(found[2]) - 1}.{_in_block(found[3])}"
    if found := re.fullmatch(r"rpn\.convs\.(\d+)\.(.+)", name):
        return f"rpn.head.conv.{found[1]}.0.{found[2]}"
    if found := re.fullmatch(r"keypoint_head\.trunk\.conv(\d+)\.(.+)", name):
        return f"roi_heads.keypoint_head.{2 * (int(found[1]) - 1)}.{found[2]}"  # a ReLU stands between
    raise ValueError(f"torchvision has no counterpart of our tensor {name!r}")


def _in_block(rest: str) -> str:
    """Inside its convolution blocks: the convolution, or the norm after it."""
    return f"1.{rest.removeprefix('norm.')}" if rest.startswith("norm.") else f"0.{rest}"


def from_torchvision(state: Mapping[str, Tensor], source: str = "") -> Converted:
    """torchvision's `state`; `source` names its file. ValueError for a network that is none of its R-CNNs.

    The state holds no settings: those of torchvision's constructors are taken.
    """
    source = source or "the state dict"
    theirs = {_new_name(name): value for name, value in state.items()}
    config = _config(theirs, source)
    with torch.device("meta"):
        wanted = list(build_detector(config).state_dict())
    names = {name: torchvision_name(name, config) for name in wanted}
    if unknown := [name for name in theirs if name not in set(names.values())]:
        raise ValueError(
            f"{source} looks like torchvision's {config.name}, but has tensors of another: {', '.join(unknown)}"
        )
    order = ratio_outer(config).argsort()
    ours = {
        name: reorder_anchors(name, _background_last(name, theirs[their]), order)
        for name, their in names.items()
        if their in theirs
    }
    require_fit(config, ours, source)
    report = f"torchvision {config.name}, {len(ours)} tensors, {config.num_classes} classes"
    return Converted(
        config=config,
        state=ours,
        classes=_classes(config.num_classes, persons=config.keypoint is not None and config.num_classes == 1),
        report=report,
        system="torchvision",
        assumed=(
            "input 800 to 1333 pixels (320 to 640 where the file's name says 320), anchors, thresholds: torchvision's "
            "constructors'",
            f"norm eps {_eps(source):g}: torchvision's for a file of this name",
        ),
    )


def to_torchvision(state: Mapping[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """The state dict of torchvision's network for our `state`; the box and mask of background, unused there, are zeros.

    Raises ValueError for a network that torchvision does not build.
    """
    if reason := _why_not(config):
        raise ValueError(f"torchvision has no {config.name}: {reason}")
    order = ratio_outer(config)
    return {
        torchvision_name(name, config): reorder_anchors(name, _background_first(name, value), order)
        for name, value in state.items()
    }


def _why_not(config: DetectorConfig) -> str:
    """What of a detector torchvision does not build, in words; empty if it does."""
    backbone = config.backbone
    if config.fpn is None:
        return "want a feature pyramid"
    if not isinstance(backbone, ResNetConfig | MobileNetConfig):
        return "want a ResNet or MobileNetV3"
    if isinstance(backbone, ResNetConfig) and backbone.stride_in_1x1:
        return "want the stride in the 3x3 convolutions"
    if config.cascade is not None or config.fcis is not None or config.proposals_only:
        return "want Faster, Mask or Keypoint R-CNN"
    if config.rpn.legacy.objectness != "sigmoid":
        return "want one score for an anchor"
    if config.box.class_agnostic or (config.mask is not None and config.mask.class_agnostic):
        return "want boxes and masks of each class"
    norms = {getattr(backbone, "norm", ""), config.fpn.norm, config.box.norm, config.mask.norm if config.mask else ""}
    return "want batch norm, frozen or not" if norms & {"gn"} else ""


def _new_name(name: str) -> str:
    for old, new in OLD_NAMES:
        if re.fullmatch(old, name):
            return re.sub(old, new, name)
    return name


def _background_last(name: str, value: Tensor) -> Tensor:
    part = name.rpartition(".")[0]
    if part == "box_head.logits":
        return torch.cat([value[1:], value[:1]])
    if part == "box_head.deltas":
        return value[4:].clone()
    return value[1:].clone() if part == "mask_head.logits" else value


def _background_first(name: str, value: Tensor) -> Tensor:
    part = name.rpartition(".")[0]
    if part == "box_head.logits":
        return torch.cat([value[-1:], value[:-1]])
    if part == "box_head.deltas":
        return torch.cat([torch.zeros_like(value[:4]), value])
    return torch.cat([torch.zeros_like(value[:1]), value]) if part == "mask_head.logits" else value


def _config(state: Mapping[str, Tensor], source: str) -> DetectorConfig:
    scores = state.get("roi_heads.box_predictor.cls_score.weight")
    mobile = "backbone.body.0.0.weight" in state
    blocks = {name.split(".")[3] for name in state if name.startswith("backbone.body.layer3.")}
    if scores is None or not (mobile or len(blocks) in DEPTHS):
        raise ValueError(
            f"{source} looks like torchvision's, but is none of its R-CNNs on ResNet-50, 101, 152 or MobileNetV3: "
            f"{len(blocks)} blocks in layer3 (want 6, 23 or 36), {few([n for n in state if '.box_' in n], 2)}"
        )
    masks = any(name.startswith("roi_heads.mask_") for name in state)
    keypoint = _keypoint(state)
    kind = "keypoint" if keypoint is not None else "mask" if masks else "faster"
    trained = any(name.startswith("backbone.body.") and name.endswith("num_batches_tracked") for name in state)
    norm: Literal["bn", "frozen_bn"] = "bn" if trained else "frozen_bn"
    if mobile:
        small = "320" in Path(source).name
        base = model_config(f"faster_rcnn_mobilenet_v3_large_{'320_' if small else ''}fpn")
        return replace(
            base, num_classes=len(scores) - 1, backbone=MobileNetConfig(norm=norm, frozen_stages=0 if trained else 3)
        )
    depth = DEPTHS[len(blocks)]
    convs = sum(re.fullmatch(r"roi_heads\.box_head\.\d+\.0\.weight", name) is not None for name in state)
    second = convs > 0
    name = f"{kind}_rcnn_r{depth}_fpn{'_v2' if second else ''}"
    base = faster_rcnn_r50_fpn_v2() if second else model_config("faster_rcnn_r50_fpn")
    group: Norm = "bn" if "backbone.fpn.inner_blocks.0.1.weight" in state else "none"
    mask_norm: Norm = "bn" if "roi_heads.mask_head.0.1.weight" in state else "none"
    return replace(
        base,
        name=name,
        num_classes=len(scores) - 1,
        input=InputConfig(resize="bilinear"),
        backbone=ResNetConfig(depth=depth, norm=norm, norm_eps=_eps(source)),
        fpn=FPNConfig(norm=group),
        rpn=replace(RPN, convs=sum(re.fullmatch(r"rpn\.head\.conv\.\d+\.0\.weight", n) is not None for n in state)),
        box=replace(BOX, convs=convs, fcs=1 if second else 2, norm="bn" if second else "none"),
        legacy=LEGACY,
        mask=replace(MASK, norm=mask_norm) if masks else None,
        keypoint=keypoint,
    )


def _keypoint(state: Mapping[str, Tensor]) -> KeypointHeadConfig | None:
    last = state.get("roi_heads.keypoint_predictor.kps_score_lowres.weight")  # (512, J, 4, 4)
    if last is None:
        return None
    convs = sum(re.fullmatch(r"roi_heads\.keypoint_head\.\d+\.weight", name) is not None for name in state)
    config = KeypointHeadConfig(
        convs=convs, width=last.shape[0], pooler=PoolerConfig(size=14, sampling_ratio=2, aligned=False)
    )
    return unnamed_keypoints(config, last.shape[1])


def _eps(source: str) -> float:
    return 0.0 if any(name in source for name in NO_EPS) else 1e-5


def _classes(count: int, persons: bool) -> tuple[str, ...]:
    if persons:
        return ("person",)
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    if count != len(names) - 1:
        return class_names(count)
    return tuple(f"N/A {i}" if name == "N/A" else name for i, name in enumerate(names) if i)
