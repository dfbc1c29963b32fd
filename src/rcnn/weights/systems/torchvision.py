"""torchvision's R-CNNs, import and export: Faster, Mask and Keypoint, versions 1 and 2, ResNets and MobileNetV3.

torchvision puts background first and gives it a box and a mask that nothing uses; here it is last, without either. The
COCO heads have 91 rows, one for each category id up to 90. Ten ids were never used: K = 90 here, and those ten have
the unique names "N/A 12", "N/A 26", ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from rcnn.data.messages import few
from rcnn.models import DetectorConfig, model_config
from rcnn.models import config as cfg
from rcnn.models.zoo.torchvision import BOX, LEGACY, MASK, RPN, faster_rcnn_r50_fpn_v2
from rcnn.outputs import sha256_of
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.classes import class_names, unnamed_keypoints
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.detectron2.export import with_trunk_eps
from rcnn.weights.systems.layout import (
    anchors_from_ratio_outer,
    anchors_to_ratio_outer,
    background_first,
    background_last,
)
from rcnn.weights.systems.renaming import Rules, count
from rcnn.weights.systems.resnets import blocks_of, depth_and_blocks, torch_blocks
from rcnn.weights.systems.settings import SettingsSource
from rcnn.weights.systems.system import Export, Plan, System, all_of

# published files: the start of their SHA-256 -> their names; the tensors alone do not show these settings
NO_EPS = {  # eps of the frozen norms is 0: torchvision sets it when it loads these files
    "258fb6c6": ("fasterrcnn_resnet50_fpn_coco", "fasterrcnn_resnet50_fpn_coco-258fb6c6"),
    "bf2d0c1e": ("maskrcnn_resnet50_fpn_coco", "maskrcnn_resnet50_fpn_coco-bf2d0c1e"),
    "fc266e95": ("keypointrcnn_resnet50_fpn_coco-fc266e95",),  # not the older file of that name
}
SMALL_IMAGES = {  # for images of 320 to 640 pixels
    "907ea3f9": ("fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9"),
}
CONSTRUCTORS = "torchvision's constructors"


def rules(config: DetectorConfig) -> Rules:
    """torchvision's names -> ours, in a network of `config`.

    The names from before torchvision 0.13, which the published files keep, are last.
    """
    level = f"{{1+{lowest_level(config)}}}"
    convs = config.box.convs
    # a box head with 4 convolutions: convolutions 0 to 3, flatten 4, fc1 5, ReLU 6, fc2 7, ReLU 8, ...
    fcs = {str(convs - 1 + 2 * fc): str(fc) for fc in range(1, 9)}
    box_head = (
        (r"roi_heads\.box_head\.(\d+)\.1\.(.+)", "box_head.trunk.conv{1+1}.norm.{2}"),
        (r"roi_heads\.box_head\.(\d+)\.0\.(.+)", "box_head.trunk.conv{1+1}.{2}"),
        (rf"roi_heads\.box_head\.({'|'.join(fcs)})\.(weight|bias)", "box_head.trunk.fc{1:fc}.{2}"),
    )
    return Rules(
        (  # norms before convolutions: in the other direction, the name of a norm matches both rules
            (r"backbone\.body\.conv1\.weight", "backbone.stem.conv1.weight"),
            (r"backbone\.body\.bn1\.(.+)", "backbone.stem.conv1.norm.{1}"),
            *torch_blocks(r"backbone\.body\.layer(\d)\.(\d+)", "backbone.res{1+1}.{2}"),
            (r"backbone\.body\.(\d+\..+)", "backbone.features.{1}"),  # MobileNetV3
            (r"backbone\.fpn\.inner_blocks\.(\d)\.1\.(.+)", f"fpn.lateral{level}.norm.{{2}}"),
            (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.(.+)", f"fpn.lateral{level}.{{2}}"),
            (r"backbone\.fpn\.layer_blocks\.(\d)\.1\.(.+)", f"fpn.output{level}.norm.{{2}}"),
            (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.(.+)", f"fpn.output{level}.{{2}}"),
            (r"rpn\.head\.conv\.(\d+)\.0\.(.+)", "rpn.convs.{1}.{2}"),
            (r"rpn\.head\.cls_logits\.(.+)", "rpn.objectness.{1}"),
            (r"rpn\.head\.bbox_pred\.(.+)", "rpn.deltas.{1}"),
            (r"roi_heads\.box_predictor\.cls_score\.(.+)", "box_head.logits.{1}"),
            (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", "box_head.deltas.{1}"),
            *(box_head if convs else ((r"roi_heads\.box_head\.fc([67])\.(.+)", "box_head.trunk.fc{1-5}.{2}"),)),
            (r"roi_heads\.mask_head\.(\d)\.1\.(.+)", "mask_head.trunk.conv{1+1}.norm.{2}"),
            (r"roi_heads\.mask_head\.(\d)\.0\.(.+)", "mask_head.trunk.conv{1+1}.{2}"),
            (r"roi_heads\.mask_predictor\.conv5_mask\.(.+)", "mask_head.deconv.{1}"),
            (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.+)", "mask_head.logits.{1}"),
            (r"roi_heads\.keypoint_head\.(\d+)\.(.+)", "keypoint_head.trunk.conv{1:conv}.{2}"),
            (r"roi_heads\.keypoint_predictor\.kps_score_lowres\.(.+)", "keypoint_head.logits.{1}"),
            (r"backbone\.fpn\.inner_blocks\.(\d)\.(weight|bias)", f"fpn.lateral{level}.{{2}}"),
            (r"backbone\.fpn\.layer_blocks\.(\d)\.(weight|bias)", f"fpn.output{level}.{{2}}"),
            (r"rpn\.head\.conv\.(weight|bias)", "rpn.convs.0.{1}"),
            (r"roi_heads\.mask_head\.mask_fcn(\d)\.(.+)", "mask_head.trunk.conv{1}.{2}"),
        ),
        words={"fc": fcs, "conv": {str(2 * i): str(i + 1) for i in range(32)}},  # a ReLU follows each convolution
    )


def lowest_level(config: DetectorConfig) -> int:
    """Number of the lowest level of the FPN: p2 with a ResNet, p4 with MobileNetV3."""
    return 2 if isinstance(config.backbone, cfg.ResNetConfig) else 4


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of a torchvision state dict, which holds no settings: those of its constructors are used."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights  # slow

    small_images, no_eps = (_is_published(found.source, files) for files in (SMALL_IMAGES, NO_EPS))
    config = _config(found, small_images=small_images, no_eps=no_eps)
    placed = rules(config).place(found.state, found.source, f"{SYSTEM.name} ({config.name})")
    is_resnet = isinstance(config.backbone, cfg.ResNetConfig)
    persons = config.keypoint is not None and config.num_classes == 1
    categories = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    names = tuple(f"N/A {i}" if name == "N/A" else name for i, name in enumerate(categories) if i)
    published = f"torchvision's published file, known by its name {Path(found.source).name} or its content"
    size_source = published if small_images else CONSTRUCTORS
    eps_source = published if no_eps else CONSTRUCTORS
    return Plan(
        config=config,
        placed=placed,
        tensor=lambda name, value, config: anchors_from_ratio_outer(name, background_last(name, value), config),
        classes=("person",) if persons else class_names(config.num_classes, names),
        assumed=(
            Assumption("image size", size_source, ("input.min_size", "input.max_size")),
            Assumption("anchors", CONSTRUCTORS, ("rpn.anchors.sizes", "rpn.anchors.ratios")),
            Assumption(
                "detections",
                CONSTRUCTORS,
                ("box.score_threshold", "box.selection.nms_iou", "box.selection.max_detections"),
            ),
            *([Assumption("eps of the norms", eps_source, ("backbone.norm_eps",))] if is_resnet else []),
        ),
    )


def to_torchvision(state: Mapping[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """The state dict of torchvision's network for our `state`; the box and mask of background, unused there, are zeros.

    Raises ValueError for a network that torchvision does not build.
    """
    if expected := _unmet_requirement(config):
        raise ValueError(f"{config.name} cannot be exported to torchvision: expected {expected}")
    back = rules(config).inverted()
    exported: dict[str, Tensor] = {}
    for name, value in state.items():
        with_background = background_first(name, with_trunk_eps(name, value, config))
        exported[back.required(name, SYSTEM.name)] = anchors_to_ratio_outer(name, with_background, config)
    return exported


def _unmet_requirement(config: DetectorConfig) -> str:
    """What torchvision expects and `config` does not have, as part of a message; empty if torchvision can build it."""
    backbone = config.backbone
    if config.fpn is None:
        return "a feature pyramid"
    if not isinstance(backbone, cfg.ResNetConfig | cfg.MobileNetConfig):
        return "a ResNet or MobileNetV3"
    if isinstance(backbone, cfg.ResNetConfig) and backbone.stride_in_1x1:
        return "the stride in the 3x3 convolutions"
    if config.cascade is not None or config.fcis is not None or config.proposals_only:
        return "Faster, Mask or Keypoint R-CNN"
    if config.rpn.legacy.objectness == "softmax":
        return "one score per anchor"
    if config.box.class_agnostic or (config.mask is not None and config.mask.class_agnostic):
        return "boxes and masks per class"
    norms = {getattr(backbone, "norm", ""), config.fpn.norm, config.box.norm, config.mask.norm if config.mask else ""}
    return "batch norm, frozen or not" if norms & {"gn"} else ""


def _config(found: Found, *, small_images: bool, no_eps: bool) -> DetectorConfig:
    """The config of a file; `small_images` and `no_eps` say whether it is a published file with these settings."""
    state, source = found.state, found.source
    classifier = state.get("roi_heads.box_predictor.cls_score.weight")  # (K + 1, channels)
    mobile = "backbone.body.0.0.weight" in state
    blocks = blocks_of(state, r"backbone\.body\.layer(\d)\.(\d+)\.conv3\.weight", (1, 2, 3, 4))
    if classifier is None or not (mobile or all(blocks)):
        backbone = few([name for name in state if name.startswith("backbone.")], 2)
        raise ValueError(
            f"{source} is a torchvision detector on a network that rcnn does not support ({backbone}); expected "
            "Faster, Mask or Keypoint R-CNN with an FPN on a ResNet of bottleneck blocks (also ResNeXt, wide) or "
            "MobileNetV3"
        )
    masks = any(name.startswith("roi_heads.mask_") for name in state)
    keypoint = _keypoint(state)
    kind = "keypoint" if keypoint is not None else "mask" if masks else "faster"
    trained = any(name.startswith("backbone.body.") and name.endswith("num_batches_tracked") for name in state)
    norm: Literal["bn", "frozen_bn"] = "bn" if trained else "frozen_bn"
    if mobile:
        base = model_config(f"faster_rcnn_mobilenet_v3_large_{'320_' if small_images else ''}fpn")
        return replace(
            base,
            num_classes=len(classifier) - 1,
            backbone=cfg.MobileNetConfig(norm=norm, frozen_stages=0 if trained else 3),
        )
    depth, unusual = depth_and_blocks(blocks)
    width, width_per_group = found.shape("backbone.body.layer1.0.conv2.weight")[:2]
    groups = width // width_per_group
    resnet = f"r{depth}" if groups == 1 else f"x{depth}_{groups}x{width_per_group}d"
    convs = count(state, r"roi_heads\.box_head\.\d+\.0\.weight")
    is_v2 = convs > 0
    name = f"{kind}_rcnn_{resnet}_fpn{'_v2' if is_v2 else ''}"
    base = faster_rcnn_r50_fpn_v2() if is_v2 else model_config("faster_rcnn_r50_fpn")
    fpn_norm: cfg.Norm = "bn" if "backbone.fpn.inner_blocks.0.1.weight" in state else "none"
    mask_norm: cfg.Norm = "bn" if "roi_heads.mask_head.0.1.weight" in state else "none"
    return replace(
        base,
        name=name,
        num_classes=len(classifier) - 1,
        input=cfg.InputConfig(resize="bilinear"),
        backbone=cfg.ResNetConfig(
            depth=depth,
            blocks=unusual,
            groups=groups,
            width_per_group=width_per_group,
            norm=norm,
            norm_eps=0.0 if no_eps else 1e-5,
        ),
        fpn=cfg.FPNConfig(norm=fpn_norm),
        rpn=replace(RPN, convs=max(1, count(state, r"rpn\.head\.conv\.\d+\.0\.weight"))),
        box=replace(BOX, convs=convs, fcs=1 if is_v2 else 2, norm="bn" if is_v2 else "none"),
        legacy=LEGACY,
        mask=replace(MASK, norm=mask_norm) if masks else None,
        keypoint=keypoint,
    )


def _keypoint(state: Mapping[str, Tensor]) -> cfg.KeypointHeadConfig | None:
    last = state.get("roi_heads.keypoint_predictor.kps_score_lowres.weight")  # (512, J, 4, 4)
    if last is None:
        return None
    convs = count(state, r"roi_heads\.keypoint_head\.\d+\.weight")
    config = cfg.KeypointHeadConfig(
        convs=convs, width=last.shape[0], pooler=cfg.PoolerConfig(size=14, sampling_ratio=2, aligned=False)
    )
    return unnamed_keypoints(config, last.shape[1])


def _is_published(source: str, files: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether file `source` is one of the published `files`, by its exact name or by its content."""
    path = Path(source)
    if any(path.stem in names for names in files.values()):
        return True
    return path.is_file() and sha256_of(path)[:8] in files


SYSTEM = System(
    name="torchvision",
    files=".pth",
    recognises=all_of(r"rpn\.head\.cls_logits\.weight", r"roi_heads\.box_predictor\..+"),
    read=read,
    export=Export(
        option="torchvision",
        suffixes=(".pth", ".pt"),
        state=to_torchvision,
        content=lambda state, classes: state,
    ),
)
