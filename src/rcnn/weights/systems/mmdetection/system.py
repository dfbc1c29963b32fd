"""MMDetection's checkpoints (2.x and 3.x), import and export: Faster, Mask and Cascade R-CNN and RPN on ResNets.

Since 2.0 its conventions are ours: background last, half-open boxes, deltas dx dy dw dh per class. But the anchors of a
cell are ordered by ratio, then size, and deltas are divided by standard deviations; ours are multiplied by weights.
The config in the file's `meta`, or the one given, is parsed and never run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.models import config as cfg
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.classes import class_names, given_names
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.detectron2.export import with_trunk_eps
from rcnn.weights.systems.layout import anchors_from_ratio_outer, anchors_to_ratio_outer
from rcnn.weights.systems.mmdetection.config import parse_config, read_config
from rcnn.weights.systems.mmdetection.names import back, rules
from rcnn.weights.systems.mmdetection.settings import inverse, with_settings
from rcnn.weights.systems.renaming import count
from rcnn.weights.systems.resnets import blocks_of, known_depth
from rcnn.weights.systems.settings import SettingsSource
from rcnn.weights.systems.system import Export, Plan, System, all_of

BGR = cfg.InputConfig(channel_order="bgr", pixel_mean=(103.53, 116.28, 123.675), pixel_std=(1.0, 1.0, 1.0))
CASCADE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))  # of the base config


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of an MMDetection file.

    `settings` is its config file. None: the config in the `meta` of the file, or else MMDetection's base configs.
    """
    meta = found.extras.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    placed = rules().place(found.state, found.source, SYSTEM.name)
    shapes = {name: torch.empty(found.shape(name), device="meta") for name in placed.ours}
    config = _of_tensors(shapes, found.source)
    text = meta.get("config", meta.get("cfg"))
    notes: list[str] = []
    assumed: tuple[Assumption, ...] = ()
    if settings is not None or isinstance(text, str):
        where = f"{found.source}: the config in its meta" if settings is None else str(settings)[:200]
        values, skipped = parse_config(str(text), where) if settings is None else read_config(settings)
        config, unknown = with_settings(config, values, where)
        notes = [f"unknown, ignored: {what}" for what in [*skipped, *unknown]]
    else:
        assumed = _assumed(config)
    names, unused = given_names(_classes(meta), config.num_classes, "CLASSES in its meta")
    return Plan(
        config=config,
        placed=placed,
        tensor=anchors_from_ratio_outer,
        classes=class_names(config.num_classes, names),
        assumed=assumed,
        notes=(*notes, *unused),
    )


def to_mmdetection(state: Mapping[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """The state dict of MMDetection's network for our `state`. Raises ValueError if it does not support the network."""
    expected = {  # what MMDetection expects -> whether `config` does not have it
        "Faster, Mask or Cascade R-CNN on a ResNet": config.keypoint is not None
        or config.fcis is not None
        or not isinstance(config.backbone, cfg.ResNetConfig),
        "a mask head for each stage of a cascade": config.cascade is not None
        and config.mask is not None
        and config.cascade.mask_heads == "one",
        "one score per anchor": config.rpn.legacy.objectness == "softmax",
    }
    if missing := [what for what, wrong in expected.items() if wrong]:
        raise ValueError(f"{config.name} cannot be exported to MMDetection: expected {missing[0]}")
    names = back(config)
    theirs: dict[str, Tensor] = {}
    for name, value in state.items():
        new = names.required(name, SYSTEM.name)
        theirs[new] = anchors_to_ratio_outer(name, with_trunk_eps(name, value, config), config)
        if new.endswith("running_var"):  # its batch norms count their batches
            theirs.setdefault(f"{new.removesuffix('running_var')}num_batches_tracked", torch.tensor(0))
    return theirs


def _of_tensors(state: Mapping[str, Tensor], source: str) -> DetectorConfig:
    """The config from names and shapes; other settings are those of MMDetection's base configs."""
    names = list(state)
    pyramid = any(name.startswith("neck.") for name in names)
    shared = any(name.startswith("roi_head.shared_head.") for name in names)
    heads = [name for name in names if name.startswith("roi_head.bbox_head.")]
    cascade = "roi_head.bbox_head.0.fc_cls.weight" in state
    masks = [name for name in names if name.startswith("roi_head.mask_head.")]
    stage = "0." if cascade else ""
    classes = len(state[f"roi_head.bbox_head.{stage}fc_cls.weight"]) - 1 if heads else 1
    backbone = _resnet(state, source, pyramid=pyramid, dilated=not pyramid and not shared)
    words = [word for word, there in (("cascade", cascade), ("mask", masks)) if there] or ["faster"]
    family = "_".join([*words, "rcnn"]) if heads else "rpn"
    kind = "fpn" if pyramid else "c4" if shared else "dc5"
    conv = "x" if backbone.groups > 1 else "r"
    cells = len(state["rpn_head.rpn_cls.weight"])
    sizes = tuple((float(size),) for size in (32, 64, 128, 256, 512))
    neck, lateral = "neck.lateral_convs.0.", "neck.lateral_convs.0.conv.weight"
    box_prefix = f"roi_head.bbox_head.{stage}"
    rows = len(state.get(f"{box_prefix}fc_reg.weight", torch.empty(0)))
    return DetectorConfig(
        name=f"{family}_{conv}{backbone.depth}_{kind}",
        num_classes=classes,
        input=replace(cfg.InputConfig() if pyramid else BGR, resize="opencv", divisor=32),
        backbone=backbone,
        fpn=cfg.FPNConfig(channels=len(state[lateral]), norm=_norm(names, neck)) if pyramid else None,
        rpn=cfg.RPNConfig(
            convs=max(1, count(names, r"rpn_head\.rpn_conv\.\d+\.conv\.weight")),
            width=_width(state),
            smooth_l1_beta=1 / 9 if cascade else 0.0,
            anchors=cfg.AnchorConfig(sizes=sizes if pyramid else ((32.0, 64.0, 128.0, 256.0, 512.0)[: cells // 3],)),
            legacy=cfg.LegacyRPNConfig(low_quality="overruled", normalizer="sampled"),
            proposals=cfg.ProposalConfig(
                pre_nms_train=2000 if pyramid else 12000,
                pre_nms=(1000 if heads else 2000) if pyramid else 6000,
                post_nms_train=1000 if pyramid and not cascade else 2000,
            ),
        ),
        proposals_only=not heads,
        box=cfg.BoxHeadConfig(
            trunk="res5" if shared else "fc",
            convs=count(names, rf"{re.escape(box_prefix)}shared_convs\.(\d+)\.conv\.weight"),
            norm=_norm(names, f"{box_prefix}shared_convs.0."),
            fcs=count(names, rf"{re.escape(box_prefix)}shared_fcs\.(\d+)\.weight") if heads else 2,
            fc_width=len(state.get(f"{box_prefix}shared_fcs.0.bias", torch.empty(1024))),
            class_agnostic=bool(heads) and rows == 4,
            smooth_l1_beta=1.0 if cascade else 0.0,
            pooler=cfg.PoolerConfig(size=14 if shared else 7),
        ),
        cascade=_cascade(names) if cascade else None,
        mask=_mask(state, f"roi_head.mask_head.{stage}", shared=shared) if masks else None,
    )


def _resnet(state: Mapping[str, Tensor], source: str, *, pyramid: bool, dilated: bool) -> cfg.ResNetConfig:
    inner = state["backbone.layer1.0.conv2.weight"].shape  # (groups * width, width, 3, 3)
    norm: cfg.Norm = "gn" if "backbone.gn1.weight" in state else "frozen_bn"
    depth = known_depth(blocks_of(state, r"backbone\.layer(\d)\.(\d+)\..+", (1, 2, 3)), source)
    return cfg.ResNetConfig(
        depth=depth,
        groups=inner[0] // inner[1],
        width_per_group=inner[1],
        stages=(2, 3, 4, 5) if pyramid or dilated else (2, 3, 4),
        stride_in_1x1=not pyramid,
        norm=norm,
        trained_affine=pyramid and norm == "frozen_bn",
        res5_dilation=2 if dilated else 1,
    )


def _width(state: Mapping[str, Tensor]) -> int:
    """Channels of the RPN's convolutions, 0 if they equal the input channels."""
    name = "rpn_head.rpn_conv.weight" if "rpn_head.rpn_conv.weight" in state else "rpn_head.rpn_conv.0.conv.weight"
    out, into = state[name].shape[:2] if name in state else (0, 0)
    return 0 if out == into else out


def _cascade(names: list[str]) -> cfg.CascadeConfig:
    stages = count(names, r"roi_head\.bbox_head\.(\d+)\.fc_cls\.weight")
    return cfg.CascadeConfig(
        ious=(0.5, 0.6, 0.7)[:stages],
        delta_weights=tuple(inverse(stds) for stds in CASCADE_STDS[:stages]),
        loss_weights=(1.0, 0.5, 0.25)[:stages],
        feature_gradient=1.0,
        average="logits",
        resample=True,
        mask_heads="each",
    )


def _mask(state: Mapping[str, Tensor], prefix: str, *, shared: bool) -> cfg.MaskHeadConfig:
    names = list(state)
    upsample, logits = state.get(f"{prefix}upsample.weight"), state.get(f"{prefix}conv_logits.weight")
    return cfg.MaskHeadConfig(
        trunk="res5" if shared else "convs",
        convs=count(names, rf"{re.escape(prefix)}convs\.(\d+)\.conv\.weight"),
        width=256 if upsample is None else upsample.shape[1],
        norm=_norm(names, f"{prefix}convs.0."),
        class_agnostic=logits is not None and len(logits) == 1,
        target="bitmap",
    )


def _norm(names: list[str], prefix: str) -> cfg.Norm:
    if f"{prefix}gn.weight" in names:
        return "gn"
    return "bn" if f"{prefix}bn.weight" in names else "none"


def _assumed(config: DetectorConfig) -> tuple[Assumption, ...]:
    source = "its base configs; give yours with config (--config)"
    caffe = isinstance(config.backbone, cfg.ResNetConfig) and config.backbone.stride_in_1x1
    style = "caffe (stride in the 1x1 convolutions)" if caffe else "pytorch (stride in the 3x3 convolutions)"
    assumed = [
        Assumption(f"backbone style {style}", source, ("backbone.stride_in_1x1",)),
        Assumption("pixels", source, ("input.channel_order", "input.pixel_mean", "input.pixel_std")),
        Assumption("image size", source, ("input.min_size", "input.max_size")),
        Assumption("anchors", source, ("rpn.anchors.sizes", "rpn.anchors.ratios")),
        Assumption(
            "detections", source, ("box.score_threshold", "box.selection.nms_iou", "box.selection.max_detections")
        ),
    ]
    if config.cascade is not None:
        assumed.append(Assumption("cascade stages", source, ("cascade.ious", "cascade.delta_weights")))
    return tuple(assumed)


def _classes(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names in the file; empty if there are none."""
    data = meta.get("dataset_meta")
    names = meta.get("CLASSES", data.get("classes", data.get("CLASSES")) if isinstance(data, Mapping) else None)
    known = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    return tuple(names) if known else ()


SYSTEM = System(
    name="MMDetection",
    files=".pth of 2.x and 3.x",
    settings="its config, a .py file",
    recognises=all_of(r"rpn_head\.rpn_cls\.weight", r"backbone\.layer1\..+"),
    read=read,
    export=Export(
        option="mmdetection",
        suffixes=(".pth",),
        state=to_mmdetection,
        content=lambda state, classes: {
            "state_dict": state,
            "meta": {"CLASSES": classes, "dataset_meta": {"classes": classes}},
        },
    ),
)
