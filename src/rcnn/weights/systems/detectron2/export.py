"""Writes our config as Detectron2's YAML, which is saved beside the weights."""

from __future__ import annotations

from typing import Any

import yaml
from torch import Tensor
from typing_extensions import override

from rcnn.models import DetectorConfig
from rcnn.models.config import PoolerConfig, ResNetConfig
from rcnn.weights.setting_texts import setting_values
from rcnn.weights.systems.detectron2.config import NORMS, PYRAMID, config_of, skipped_settings
from rcnn.weights.systems.detectron2.settings import Settings
from rcnn.weights.systems.settings import field_of, listed, same_values

WORDS = {ours: theirs for theirs, ours in reversed(NORMS.items())}
# settings without effect on predictions, or kept in the weights: variances are adjusted to the eps of Detectron2
NOT_COMPARED = ("name", "keypoint.names", "keypoint.skeleton", "backbone.norm_eps")
SECTIONS = (
    "INPUT.", "TEST.", "MODEL.ANCHOR_GENERATOR.", "MODEL.BACKBONE.", "MODEL.FPN.", "MODEL.PROPOSAL_GENERATOR.",
    "MODEL.RESNETS.", "MODEL.ROI_BOX_CASCADE_HEAD.", "MODEL.ROI_BOX_HEAD.", "MODEL.ROI_HEADS.",
    "MODEL.ROI_KEYPOINT_HEAD.", "MODEL.ROI_MASK_HEAD.", "MODEL.RPN.", "MODEL.",
)  # fmt: skip
EPS = 1e-5  # eps of every norm in Detectron2


class _Plain(yaml.SafeDumper):
    """YAML without anchors and aliases."""

    @override
    def ignore_aliases(self, data: Any) -> bool:
        return True


def settings_of(config: DetectorConfig) -> str:
    """A Detectron2 YAML (text) for a detector of `config`; comments at the top list what it cannot express.

    Raises ValueError if Detectron2 has no such network.
    """
    tree: dict[str, Any] = {}
    for key, value in sorted(_flat(config).items()):
        node = tree
        *sections, last = key.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    head = [f"# Detectron2 YAML of {config.name}, written by rcnn"]
    head += [f"# not a setting of Detectron2: {line}" for line in not_expressed(config)]
    return "\n".join(head) + "\n" + yaml.dump(tree, Dumper=_Plain, sort_keys=True, default_flow_style=None)


def not_expressed(config: DetectorConfig) -> tuple[str, ...]:
    """Our settings that a Detectron2 YAML cannot express, e.g. `rpn.legacy.anchors='torchvision'`."""
    ours, theirs = setting_values(config), setting_values(config_of(_flat(config), config.name))
    return tuple(
        f"{key}={value!r}" for key, value in ours.items() if key not in NOT_COMPARED and value != theirs.get(key)
    )


def resnet_of(config: DetectorConfig) -> ResNetConfig:
    """The ResNet of `config`. Raises ValueError that names what Detectron2 does not support."""
    trunk, rpn, box = config.backbone, config.rpn, config.box
    if not isinstance(trunk, ResNetConfig):
        raise ValueError(f"{config.name} has a backbone of kind {trunk.kind}; Detectron2's R-CNNs have ResNets")
    norms = {trunk.norm, box.norm, *(part.norm for part in (config.fpn, config.mask) if part is not None)}
    others = {
        "layer norm (its eps differs there)": "ln" in norms,
        "fcis": config.fcis is not None,
        "backbone.norm=none (folded)": trunk.norm == "none",
        f"backbone.blocks={trunk.blocks}": bool(trunk.blocks),
        f"backbone.norm_eps={trunk.norm_eps} in group norm": trunk.norm == "gn" and trunk.norm_eps != EPS,
        "fpn.conv_bias": config.fpn is not None and config.fpn.conv_bias,
        "rpn.legacy.objectness=softmax": rpn.legacy.objectness != "sigmoid",
        f"rpn.head={rpn.head}": rpn.head != "conv",
        "norm_after_relu in the heads": box.norm_after_relu
        or (config.mask is not None and config.mask.norm_after_relu),
        f"box.trunk={box.trunk}": box.trunk not in ("fc", "res5"),
        "cascade.mask_heads=each": config.cascade is not None and config.cascade.mask_heads == "each",
    }
    if found := [what for what, there in others.items() if there]:
        raise ValueError(f"{config.name} cannot be exported to Detectron2, which does not support {', '.join(found)}")
    return trunk


def with_eps(variance: Tensor, ours: float) -> Tensor:
    """Running variances (C,) that give the same norms with Detectron2's eps of 1e-5 as `variance` with eps `ours`."""
    return variance if ours == EPS else (variance.double() + (ours - EPS)).to(variance.dtype)


def with_trunk_eps(name: str, value: Tensor, config: DetectorConfig) -> Tensor:
    """`value` of our tensor `name`; running variances of the ResNet are those of `with_eps`."""
    trunk = config.backbone
    inside = name.endswith("running_var") and name.startswith(("backbone.", "box_head.trunk.res5."))
    return with_eps(value, trunk.norm_eps) if inside and isinstance(trunk, ResNetConfig) else value


def _flat(config: DetectorConfig) -> dict[str, Any]:
    trunk = resnet_of(config)
    fpn, rpn, last = config.fpn is not None, config.rpn, f"res{trunk.stages[-1]}"
    levels = ["p2", "p3", "p4", "p5", "p6"] if fpn else [last]
    settings: dict[str, Any] = {
        _key(field): listed(value) for field, value in same_values(Settings, config, skipped_settings(config)).items()
    }
    settings |= {
        "VERSION": 2,
        "INPUT.FORMAT": config.input.channel_order.upper(),
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [list(rpn.anchors.ratios)],
        "MODEL.ANCHOR_GENERATOR.SIZES": [list(sizes) for sizes in rpn.anchors.sizes],
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone" if fpn else "build_resnet_backbone",
        "MODEL.MASK_ON": config.mask is not None,
        "MODEL.KEYPOINT_ON": config.keypoint is not None,
        "MODEL.META_ARCHITECTURE": "ProposalNetwork" if config.proposals_only else "GeneralizedRCNN",
        "MODEL.RESNETS.NORM": WORDS[trunk.norm],
        "MODEL.RESNETS.OUT_FEATURES": list(PYRAMID) if fpn else [last],
        "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": rpn.loss_weights[1] / rpn.loss_weights[0] if rpn.loss_weights[0] else 0.0,
        "MODEL.RPN.BOUNDARY_THRESH": int(rpn.legacy.straddle),
        "MODEL.RPN.CONV_DIMS": [rpn.width or -1] * rpn.convs,
        "MODEL.RPN.IN_FEATURES": levels,
        "MODEL.RPN.IOU_THRESHOLDS": [rpn.sampling.negative_iou, rpn.sampling.positive_iou],
        "MODEL.RPN.LOSS_WEIGHT": rpn.loss_weights[0],
    }
    if config.fpn is not None:
        settings |= {"MODEL.FPN.IN_FEATURES": list(PYRAMID), "MODEL.FPN.NORM": WORDS[config.fpn.norm]}
    if not config.proposals_only:
        settings |= _heads(config, levels[:4])
    for key, value in settings.items():  # Detectron2 distinguishes integers and floats
        if isinstance(default := getattr(Settings, field_of(key), None), int | float):
            settings[key] = type(default)(value)
    return settings


def _key(field: str) -> str:
    """Detectron2's key for a field of its settings: MODEL.RPN.NMS_THRESH for model_rpn_nms_thresh."""
    section = next(section for section in SECTIONS if field.startswith(field_of(section)))
    return section + field.removeprefix(field_of(section)).upper()


def _heads(config: DetectorConfig, levels: list[str]) -> dict[str, Any]:
    box, mask, points, cascade = config.box, config.mask, config.keypoint, config.cascade
    res5 = box.trunk == "res5"
    settings: dict[str, Any] = {
        "MODEL.ROI_HEADS.IN_FEATURES": levels,
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": [cascade.ious[0] if cascade else box.sampling.positive_iou],
        "MODEL.ROI_HEADS.NAME": "CascadeROIHeads" if cascade else "Res5ROIHeads" if res5 else "StandardROIHeads",
        **_pooler("MODEL.ROI_BOX_HEAD.POOLER_", box.pooler),
    }
    if not res5:
        settings |= {"MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NORM": WORDS[box.norm]}
    if mask is not None:
        settings |= {
            "INPUT.MASK_FORMAT": "polygon" if mask.target == "polygon" else "bitmask",
            "MODEL.ROI_MASK_HEAD.NORM": WORDS[mask.norm],
            "MODEL.ROI_MASK_HEAD.NUM_CONV": 0 if mask.trunk == "res5" else mask.convs,
            **_pooler("MODEL.ROI_MASK_HEAD.POOLER_", mask.pooler),
        }
    if points is not None:
        settings |= {
            "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [points.width] * points.convs,
            "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": points.normalizer == "visible",
            "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": len(points.names),
            "TEST.KEYPOINT_OKS_SIGMAS": list(points.sigmas),
            **_pooler("MODEL.ROI_KEYPOINT_HEAD.POOLER_", points.pooler),
        }
    return settings


def _pooler(prefix: str, pooler: PoolerConfig) -> dict[str, Any]:
    if pooler.kind not in ("roi_align", "roi_pool"):
        raise ValueError(f"Detectron2 does not support the pooler {pooler.kind}; expected roi_align or roi_pool")
    kind = "ROIPool" if pooler.kind == "roi_pool" else "ROIAlignV2" if pooler.aligned else "ROIAlign"
    return {
        f"{prefix}TYPE": kind,
        f"{prefix}RESOLUTION": pooler.size,
        f"{prefix}SAMPLING_RATIO": pooler.sampling_ratio,
    }
