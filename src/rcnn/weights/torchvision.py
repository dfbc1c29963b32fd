"""torchvision's `fasterrcnn_`, `maskrcnn_` and `keypointrcnn_resnet50_fpn` (version 1, also ResNet-101), both ways.

Theirs puts background first and gives it a box and a mask that nothing uses; ours puts it last, without either. Their
COCO heads have 91 rows, one for each category id up to 90, of which ten were never used: K = 90 here, and those ten are
called "N/A 12", "N/A 26", ... so that names stay different.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from rcnn.models import DetectorConfig, build_detector, model_config
from rcnn.models.config import (
    BoxHeadConfig,
    InputConfig,
    KeypointHeadConfig,
    MaskHeadConfig,
    ResNetConfig,
    RPNConfig,
)
from rcnn.weights.converted import Converted, class_names, few, require_fit, unnamed_keypoints

PARTS = {  # ours -> theirs, where no number changes
    "backbone.stem.conv1.weight": "backbone.body.conv1.weight",
    "backbone.stem.conv1.norm.": "backbone.body.bn1.",
    "rpn.convs.0.": "rpn.head.conv.0.0.",
    "rpn.objectness.": "rpn.head.cls_logits.",
    "rpn.deltas.": "rpn.head.bbox_pred.",
    "box_head.features.fc1.": "roi_heads.box_head.fc6.",
    "box_head.features.fc2.": "roi_heads.box_head.fc7.",
    "box_head.scores.": "roi_heads.box_predictor.cls_score.",
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
DEPTHS: dict[int, Literal[50, 101]] = {6: 50, 23: 101}  # blocks of layer3
# these were trained with a frozen norm that adds nothing to the variance: torchvision sets that when it loads them
NO_EPS = (
    "fasterrcnn_resnet50_fpn_coco",
    "maskrcnn_resnet50_fpn_coco",
    "keypointrcnn_resnet50_fpn_coco-fc266e95",  # not the older file of that name
)


def is_torchvision(names: Collection[str]) -> bool:
    """Whether tensors of these names are of a torchvision R-CNN."""
    return any(name.startswith("backbone.body.") for name in names) and "rpn.head.cls_logits.weight" in names


def torchvision_name(name: str) -> str:
    """torchvision's name for our `name`."""
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
        return f"backbone.fpn.{'inner' if kind == 'lateral' else 'layer'}_blocks.{int(level) - 2}.0.{rest}"
    if found := re.fullmatch(r"mask_head\.features\.conv(\d)\.(.+)", name):
        return f"roi_heads.mask_head.{int(found[1]) - 1}.0.{found[2]}"
    if found := re.fullmatch(r"keypoint_head\.features\.conv(\d+)\.(.+)", name):
        return f"roi_heads.keypoint_head.{2 * (int(found[1]) - 1)}.{found[2]}"  # a ReLU stands between
    raise ValueError(f"torchvision has no counterpart of our tensor {name!r}")


def from_torchvision(state: Mapping[str, Tensor], source: str = "") -> Converted:
    """torchvision's `state`; `source` names its file. ValueError for a network that is not one of the three.

    The state holds no settings: those of torchvision's constructors are taken.
    """
    source = source or "the state dict"
    theirs = {_new_name(name): value for name, value in state.items()}
    config = _config(theirs, source)
    with torch.device("meta"):
        wanted = list(build_detector(config).state_dict())
    names = {name: torchvision_name(name) for name in wanted}
    if unknown := [name for name in theirs if name not in set(names.values())]:
        raise ValueError(f"{source} looks like torchvision's {config.name}, but has tensors of another: {few(unknown)}")
    ours = {name: _background_last(name, theirs[their]) for name, their in names.items() if their in theirs}
    require_fit(config, ours, source)
    report = (
        f"torchvision {config.name}, {len(ours)} tensors, {config.num_classes} classes; settings of torchvision's "
        f"constructor, norm eps {_eps(source):g}"
    )
    return Converted(
        config=config,
        state=ours,
        classes=_classes(config.num_classes, persons=config.keypoint is not None and config.num_classes == 1),
        report=report,
    )


def to_torchvision(state: Mapping[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """The state dict of torchvision's network for our `state`; the box and mask of background, unused there, are zeros.

    Raises ValueError for a network that torchvision does not build.
    """
    if config.fpn is None or not isinstance(config.backbone, ResNetConfig) or config.backbone.stride_in_1x1:
        raise ValueError(f"torchvision has no {config.name}: want a ResNet with stride in the 3x3, and a pyramid")
    return {torchvision_name(name): _background_first(name, value) for name, value in state.items()}


def _new_name(name: str) -> str:
    for old, new in OLD_NAMES:
        if re.fullmatch(old, name):
            return re.sub(old, new, name)
    return name


def _background_last(name: str, value: Tensor) -> Tensor:
    part = name.rpartition(".")[0]
    if part == "box_head.scores":
        return torch.cat([value[1:], value[:1]])
    if part == "box_head.deltas":
        return value[4:].clone()
    return value[1:].clone() if part == "mask_head.logits" else value


def _background_first(name: str, value: Tensor) -> Tensor:
    part = name.rpartition(".")[0]
    if part == "box_head.scores":
        return torch.cat([value[-1:], value[:-1]])
    if part == "box_head.deltas":
        return torch.cat([torch.zeros_like(value[:4]), value])
    return torch.cat([torch.zeros_like(value[:1]), value]) if part == "mask_head.logits" else value


def _config(state: Mapping[str, Tensor], source: str) -> DetectorConfig:
    blocks = {name.split(".")[3] for name in state if name.startswith("backbone.body.layer3.")}
    scores = state.get("roi_heads.box_predictor.cls_score.weight")
    if len(blocks) not in DEPTHS or "roi_heads.box_head.fc6.weight" not in state or scores is None:
        raise ValueError(
            f"{source} looks like torchvision's, but is not fasterrcnn_resnet50_fpn or maskrcnn_resnet50_fpn: "
            f"{len(blocks)} blocks in layer3 (want 6, or 23), {few([n for n in state if '.box_head.' in n], 2)}"
        )
    masks = any(name.startswith("roi_heads.mask_") for name in state)
    keypoint = _keypoint(state)
    kind = "keypoint" if keypoint is not None else "mask" if masks else "faster"
    depth = DEPTHS[len(blocks)]
    sizes = [(float(size),) for size in (32, 64, 128, 256, 512)]
    return replace(
        model_config(f"{kind}_rcnn_r{depth}_fpn"),
        num_classes=len(scores) - 1,
        input=InputConfig(resize="bilinear"),
        backbone=ResNetConfig(
            depth=depth,
            norm="bn" if any(name.endswith("num_batches_tracked") for name in state) else "frozen_bn",
            norm_eps=_eps(source),
        ),
        rpn=RPNConfig(
            sizes=tuple(sizes),
            rounded_anchors=True,
            floored_strides=True,
            post_nms_train=2000,
            min_size=1e-3,
            smooth_l1_beta=1 / 9,
            normalizer="sampled",
        ),
        box=BoxHeadConfig(sampling_ratio=2, aligned=False, level_eps_inside=False, smooth_l1_beta=1 / 9, min_size=1e-2),
        mask=MaskHeadConfig(sampling_ratio=2, aligned=False, target="soft_bitmap") if masks else None,
        keypoint=keypoint,
    )


def _keypoint(state: Mapping[str, Tensor]) -> KeypointHeadConfig | None:
    last = state.get("roi_heads.keypoint_predictor.kps_score_lowres.weight")  # (512, J, 4, 4)
    if last is None:
        return None
    convs = sum(re.fullmatch(r"roi_heads\.keypoint_head\.\d+\.weight", name) is not None for name in state)
    config = KeypointHeadConfig(convs=convs, width=last.shape[0], sampling_ratio=2, aligned=False)
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
