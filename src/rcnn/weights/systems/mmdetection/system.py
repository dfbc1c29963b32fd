"""MMDetection's checkpoints (2.x and 3.x), both ways: Faster, Mask and Cascade R-CNN and RPN on ResNet and ResNeXt.

Since 2.0 its conventions are ours: background last, boxes half open, deltas dx dy dw dh of each class in turn. The
anchors of one cell stand in another order (ratio outer), and deltas are divided by standard deviations where ours are
multiplied by weights. The config that training put into the file's `meta` is read (never run), or the one given.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rcnn.models import DetectorConfig, build_detector
from rcnn.models.config import (
    AnchorConfig,
    BoxHeadConfig,
    CascadeConfig,
    FPNConfig,
    InputConfig,
    LegacyRPNConfig,
    MaskHeadConfig,
    Norm,
    PoolerConfig,
    ProposalConfig,
    ResNetConfig,
    RPNConfig,
)
from rcnn.weights.systems.converted import Converted, class_names, require_fit, unplaced
from rcnn.weights.systems.layout import ratio_outer, reorder_anchors
from rcnn.weights.systems.mmdetection.config import parse_config, read_config
from rcnn.weights.systems.mmdetection.names import mmdetection_name
from rcnn.weights.systems.mmdetection.settings import inverse, with_settings

DEPTHS: dict[int, Literal[50, 101, 152]] = {6: 50, 23: 101, 36: 152}  # blocks of layer3
BGR = InputConfig(channel_order="bgr", pixel_mean=(103.53, 116.28, 123.675), pixel_std=(1.0, 1.0, 1.0))
CASCADE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))  # its configs'
STRANGE = re.compile(r"conv_offset|context_block|downsample\.2|backbone\.stem")  # of networks that we do not have
AVERAGED = "ema_"  # before the names that an EMA hook adds; their dots are underscores


def recognises(names: Collection[str]) -> bool:
    """Whether tensors of these names are of an MMDetection R-CNN (2.0 or later)."""
    return "rpn_head.rpn_cls.weight" in names and any(name.startswith("backbone.layer1.") for name in names)


def from_mmdetection(
    state: Mapping[str, Tensor],
    config_file: str | Path | None = None,
    source: str = "",
    extras: Mapping[str, Any] | None = None,
) -> Converted:
    """MMDetection's `state`; settings from its `config_file`, else from `extras["meta"]`, else its base configs'.

    Raises FileNotFoundError for the config, or ValueError that names `source` and what of the network is not ours.
    """
    source = source or "the state dict"
    meta = (extras or {}).get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    theirs = {name: value for name, value in state.items() if not name.startswith(AVERAGED)}
    left = [name for name in state if name.startswith(AVERAGED)]
    config = _of_tensors(theirs, source)
    said: list[str] = []
    text = meta.get("config", meta.get("cfg"))
    if config_file is not None:
        values, skipped = read_config(Path(config_file))
        where = str(config_file)
    elif isinstance(text, str):
        where = f"{source}: the config in its meta"
        values, skipped = parse_config(text, where)
    else:
        values, skipped, where = {}, [], ""
        said += _assumptions(config)
    if values:
        config, unknown = with_settings(config, values, where)
        said += [f"not understood and left out: {what}" for what in [*skipped, *unknown]]
    with torch.device("meta"):
        wanted = list(build_detector(config).state_dict())
    names = {name: mmdetection_name(name, config) for name in wanted}
    known = set(names.values())
    counters = [name for name in theirs if name.endswith("num_batches_tracked") and name not in known]
    if unknown := [name for name in theirs if name not in known and name not in counters]:
        raise ValueError(f"{source} looks like MMDetection's, but has {unplaced(unknown)}")
    order = ratio_outer(config).argsort()
    ours = {name: reorder_anchors(name, theirs[their], order) for name, their in names.items() if their in theirs}
    require_fit(config, ours, source)
    return Converted(
        config=config,
        state=ours,
        classes=_classes(meta, config.num_classes),
        system="MMDetection",
        assumed=tuple(said),
        left=tuple(left + counters),
        report=f"MMDetection {config.name}, {len(ours)} tensors, {config.num_classes} classes",
    )


def to_mmdetection(state: Mapping[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """The state dict of MMDetection's network for our `state`. ValueError for a network that it does not build."""
    if config.keypoint is not None or config.fcis is not None or not isinstance(config.backbone, ResNetConfig):
        raise ValueError(f"MMDetection builds no {config.name}: want Faster, Mask or Cascade R-CNN on a ResNet")
    if config.cascade is not None and config.mask is not None and config.cascade.mask_heads == "one":
        raise ValueError(f"MMDetection builds no {config.name}: its cascades have a mask head for each stage, not one")
    if config.rpn.legacy.objectness != "sigmoid":
        raise ValueError(f"MMDetection builds no {config.name}: its RPNs have one score for an anchor, not two")
    order = ratio_outer(config)
    theirs: dict[str, Tensor] = {}
    for name, value in state.items():
        their = mmdetection_name(name, config)
        theirs[their] = reorder_anchors(name, value, order)
        if their.endswith("running_var"):  # which its batch norms count beside
            theirs.setdefault(f"{their.removesuffix('running_var')}num_batches_tracked", torch.tensor(0))
    return theirs


def _of_tensors(state: Mapping[str, Tensor], source: str) -> DetectorConfig:
    """What names and shapes tell; the rest as in MMDetection's base configs."""
    names = list(state)
    blocks = {name.split(".")[2] for name in names if name.startswith("backbone.layer3.")}
    if len(blocks) not in DEPTHS:
        raise ValueError(
            f"{source} has a backbone with {len(blocks)} blocks in layer3; known: 6 (R-50), 23 (R-101), 36 (R-152)"
        )
    if strange := [
        name for name in names if re.search(r"conv_offset|context_block|downsample\.2|backbone\.stem", name)
    ]:
        raise ValueError(f"{source} has a backbone that is none of ours ({strange[0]}): want a plain ResNet or ResNeXt")
    pyramid = any(name.startswith("neck.") for name in names)
    shared = any(name.startswith("roi_head.shared_head.") for name in names)
    heads = [name for name in names if name.startswith("roi_head.bbox_head.")]
    cascade = "roi_head.bbox_head.0.fc_cls.weight" in state
    masks = [name for name in names if name.startswith("roi_head.mask_head.")]
    stage = "0." if cascade else ""
    classes = len(state[f"roi_head.bbox_head.{stage}fc_cls.weight"]) - 1 if heads else 1
    backbone = _resnet(state, pyramid=pyramid, dilated=not pyramid and not shared)
    family = "rpn" if not heads else "cascade_mask_rcnn" if cascade and masks else None
    family = family or ("cascade_rcnn" if cascade else "mask_rcnn" if masks else "faster_rcnn")
    kind = "fpn" if pyramid else "c4" if shared else "dc5"
    conv = "x" if backbone.groups > 1 else "r"
    cells = len(state["rpn_head.rpn_cls.weight"])
    sizes = tuple((float(size),) for size in (32, 64, 128, 256, 512))
    box_prefix = f"roi_head.bbox_head.{stage}"
    rows = len(state.get(f"{box_prefix}fc_reg.weight", torch.empty(0)))
    return DetectorConfig(
        name=f"{family}_{conv}{backbone.depth}_{kind}",
        num_classes=classes,
        input=replace(InputConfig() if pyramid else BGR, resize="opencv", divisor=32),
        backbone=backbone,
        fpn=_fpn(state) if pyramid else None,
        rpn=RPNConfig(
            convs=max(1, sum(bool(re.fullmatch(r"rpn_head\.rpn_conv\.\d+\.conv\.weight", name)) for name in names)),
            width=_width(state),
            smooth_l1_beta=1 / 9 if cascade else 0.0,
            anchors=AnchorConfig(sizes=sizes if pyramid else ((32.0, 64.0, 128.0, 256.0, 512.0)[: cells // 3],)),
            legacy=LegacyRPNConfig(low_quality="overruled", normalizer="sampled"),
            proposals=ProposalConfig(
                pre_nms_train=2000 if pyramid else 12000,
                pre_nms=(1000 if heads else 2000) if pyramid else 6000,
                post_nms_train=1000 if pyramid and not cascade else 2000,
            ),
        ),
        proposals_only=not heads,
        box=BoxHeadConfig(
            trunk="res5" if shared else "fc",
            convs=_count(names, rf"{re.escape(box_prefix)}shared_convs\.(\d+)\.conv\.weight"),
            norm=_norm(names, f"{box_prefix}shared_convs.0."),
            fcs=_count(names, rf"{re.escape(box_prefix)}shared_fcs\.(\d+)\.weight") if heads else 2,
            fc_width=len(state.get(f"{box_prefix}shared_fcs.0.bias", torch.empty(1024))),
            class_agnostic=bool(heads) and rows == 4,
            smooth_l1_beta=1.0 if cascade else 0.0,
            pooler=PoolerConfig(size=14 if shared else 7),
        ),
        cascade=_cascade(names) if cascade else None,
        mask=_mask(state, f"roi_head.mask_head.{stage}", shared=shared) if masks else None,
    )


def _resnet(state: Mapping[str, Tensor], *, pyramid: bool, dilated: bool) -> ResNetConfig:
    inner = state["backbone.layer1.0.conv2.weight"].shape  # (groups * width, width, 3, 3)
    norm: Norm = "gn" if "backbone.gn1.weight" in state else "frozen_bn"
    depth = DEPTHS[len({name.split(".")[2] for name in state if name.startswith("backbone.layer3.")})]
    return ResNetConfig(
        depth=depth,
        groups=inner[0] // inner[1],
        width_per_group=inner[1],
        stages=(2, 3, 4, 5) if pyramid or dilated else (2, 3, 4),
        stride_in_1x1=not pyramid,
        norm=norm,
        trained_affine=pyramid and norm == "frozen_bn",
        res5_dilation=2 if dilated else 1,
    )


def _fpn(state: Mapping[str, Tensor]) -> FPNConfig:
    return FPNConfig(
        channels=len(state["neck.lateral_convs.0.conv.weight"]), norm=_norm(list(state), "neck.lateral_convs.0.")
    )


def _width(state: Mapping[str, Tensor]) -> int:
    """Channels between the RPN's convolutions, 0 where they are as many as come in."""
    name = "rpn_head.rpn_conv.weight" if "rpn_head.rpn_conv.weight" in state else "rpn_head.rpn_conv.0.conv.weight"
    if name not in state:
        return 0
    out, into = state[name].shape[:2]
    return 0 if out == into else out


def _cascade(names: list[str]) -> CascadeConfig:
    stages = _count(names, r"roi_head\.bbox_head\.(\d+)\.fc_cls\.weight")
    weights = tuple(inverse(stds) for stds in CASCADE_STDS)
    return CascadeConfig(
        ious=(0.5, 0.6, 0.7)[:stages],
        delta_weights=weights[:stages],
        loss_weights=(1.0, 0.5, 0.25)[:stages],
        feature_gradient=1.0,
        average="logits",
        resample=True,
        mask_heads="each",
    )


def _mask(state: Mapping[str, Tensor], prefix: str, *, shared: bool) -> MaskHeadConfig:
    names = list(state)
    upsample, logits = state.get(f"{prefix}upsample.weight"), state.get(f"{prefix}conv_logits.weight")
    return MaskHeadConfig(
        trunk="res5" if shared else "convs",
        convs=_count(names, rf"{re.escape(prefix)}convs\.(\d+)\.conv\.weight"),
        width=256 if upsample is None else upsample.shape[1],
        norm=_norm(names, f"{prefix}convs.0."),
        class_agnostic=logits is not None and len(logits) == 1,
        target="bitmap",
    )


def _norm(names: list[str], prefix: str) -> Norm:
    if f"{prefix}gn.weight" in names:
        return "gn"
    return "bn" if f"{prefix}bn.weight" in names else "none"


def _count(names: list[str], pattern: str) -> int:
    return sum(bool(re.fullmatch(pattern, name)) for name in names)


def _assumptions(config: DetectorConfig) -> list[str]:
    backbone = config.backbone
    caffe = isinstance(backbone, ResNetConfig) and backbone.stride_in_1x1
    style = "caffe (stride in the 1x1, BGR, means only)" if caffe else "pytorch (stride in the 3x3, RGB, mean and std)"
    said = [
        f"backbone style {style}: its base config's; give yours with --config",
        f"input {config.input.min_size} to {config.input.max_size} pixels, thresholds, anchors: its base configs'",
    ]
    if config.cascade is not None:
        said.append("cascade stages at IoU .5 .6 .7, deltas' deviations .1, .05, .033: its base config's")
    return said


def _classes(meta: Mapping[str, Any], count: int) -> tuple[str, ...]:
    told = meta.get("dataset_meta")
    names = meta.get("CLASSES", told.get("classes", told.get("CLASSES")) if isinstance(told, Mapping) else None)
    if isinstance(names, list | tuple) and len(names) == count and all(isinstance(name, str) for name in names):
        return tuple(names)
    return class_names(count)
