"""Our config in Detectron2's words: the YAML beside the weights that `to_detectron2` renames."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

import yaml
from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.models.config import PoolerConfig, ResNetConfig
from rcnn.weights.systems.detectron2.config import NORMS, PYRAMID, config_of
from rcnn.weights.systems.detectron2.settings import Settings, listed
from rcnn.weights.systems.settings import field_of

WORDS = {ours: theirs for theirs, ours in reversed(NORMS.items())}
# what says nothing of predictions, or is in the weights: variances move by the difference of eps
SAME = ("name", "keypoint.names", "keypoint.skeleton", "backbone.norm_eps")
EPS = 1e-5  # of every norm there
EXPLICIT = re.compile(r"POOLER|NUM_CLASSES|NUM_KEYPOINTS")  # settings that are always written


class _Plain(yaml.SafeDumper):
    """YAML without references from one place to another, which few expect in settings."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def settings_of(config: DetectorConfig) -> str:
    """A Detectron2 YAML (text) for a detector of `config`; what it has no setting for is a comment at the top.

    Raises ValueError where Detectron2 has no such network.
    """
    said: dict[str, Any] = {}
    for key, value in sorted(_flat(config).items()):
        place = said
        *sections, last = key.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    head = [f"# Detectron2 YAML of {config.name}, written by rcnn"]
    head += [f"# no setting of Detectron2 says {line}" for line in not_said(config)]
    return "\n".join(head) + "\n" + yaml.dump(said, Dumper=_Plain, sort_keys=True, default_flow_style=None)


def not_said(config: DetectorConfig) -> tuple[str, ...]:
    """Our settings that a Detectron2 YAML cannot express, e.g. `rpn.legacy.anchors='torchvision'`."""
    return tuple(_differences(config, config_of(_flat(config), config.name), ""))


def resnet_of(config: DetectorConfig) -> ResNetConfig:
    """The ResNet of `config`; a ValueError says what of `config` no network of Detectron2 has."""
    trunk, rpn, box = config.backbone, config.rpn, config.box
    if not isinstance(trunk, ResNetConfig):
        raise ValueError(f"{config.name} has a backbone of kind {trunk.kind}; Detectron2's R-CNNs have ResNets")
    norms = {trunk.norm, box.norm, *(part.norm for part in (config.fpn, config.mask) if part is not None)}
    others = {
        "layer norm, whose eps is another there": "ln" in norms,
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
        raise ValueError(f"Detectron2 has no network such as {config.name} with {', '.join(found)}")
    return trunk


def with_eps(variance: Tensor, ours: float) -> Tensor:
    """Running variances (C,) with which Detectron2's norms, whose eps is 1e-5, do what ours of eps `ours` do."""
    return variance if ours == EPS else (variance.double() + (ours - EPS)).to(variance.dtype)


def _flat(config: DetectorConfig) -> dict[str, Any]:
    trunk = resnet_of(config)
    fpn, rpn, last = config.fpn is not None, config.rpn, f"res{trunk.stages[-1]}"
    levels = ["p2", "p3", "p4", "p5", "p6"] if fpn else [last]
    given = config.input
    settings: dict[str, Any] = {
        "VERSION": 2,
        "INPUT.FORMAT": given.channel_order.upper(),
        "INPUT.MAX_SIZE_TEST": given.max_size,
        "INPUT.MIN_SIZE_TEST": given.min_size,
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [list(rpn.anchors.ratios)],
        "MODEL.ANCHOR_GENERATOR.OFFSET": rpn.anchors.offset,
        "MODEL.ANCHOR_GENERATOR.SIZES": [list(sizes) for sizes in rpn.anchors.sizes],
        "MODEL.BACKBONE.FREEZE_AT": trunk.frozen_stages,
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone" if fpn else "build_resnet_backbone",
        "MODEL.MASK_ON": config.mask is not None,
        "MODEL.KEYPOINT_ON": config.keypoint is not None,
        "MODEL.META_ARCHITECTURE": "ProposalNetwork" if config.proposals_only else "GeneralizedRCNN",
        "MODEL.PIXEL_MEAN": list(given.pixel_mean),
        "MODEL.PIXEL_STD": list(given.pixel_std),
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": int(rpn.proposals.min_size),
        "MODEL.RESNETS.DEPTH": trunk.depth,
        "MODEL.RESNETS.NORM": WORDS[trunk.norm],
        "MODEL.RESNETS.NUM_GROUPS": trunk.groups,
        "MODEL.RESNETS.OUT_FEATURES": list(PYRAMID) if fpn else [last],
        "MODEL.RESNETS.RES5_DILATION": trunk.res5_dilation,
        "MODEL.RESNETS.STRIDE_IN_1X1": trunk.stride_in_1x1,
        "MODEL.RESNETS.WIDTH_PER_GROUP": trunk.width_per_group,
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": rpn.sampling.batch_size,
        "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": rpn.loss_weights[1] / rpn.loss_weights[0] if rpn.loss_weights[0] else 0.0,
        "MODEL.RPN.BOUNDARY_THRESH": int(rpn.legacy.straddle),
        "MODEL.RPN.CONV_DIMS": [rpn.width or -1] * rpn.convs,
        "MODEL.RPN.IN_FEATURES": levels,
        "MODEL.RPN.IOU_THRESHOLDS": [rpn.sampling.negative_iou, rpn.sampling.positive_iou],
        "MODEL.RPN.LOSS_WEIGHT": rpn.loss_weights[0],
        "MODEL.RPN.NMS_THRESH": rpn.proposals.nms_iou,
        "MODEL.RPN.POSITIVE_FRACTION": rpn.sampling.positive_fraction,
        "MODEL.RPN.POST_NMS_TOPK_TEST": rpn.proposals.post_nms,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": rpn.proposals.post_nms_train,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": rpn.proposals.pre_nms,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": rpn.proposals.pre_nms_train,
        "MODEL.RPN.SMOOTH_L1_BETA": rpn.smooth_l1_beta,
    }
    if config.fpn is not None:
        settings |= {
            "MODEL.FPN.IN_FEATURES": list(PYRAMID),
            "MODEL.FPN.NORM": WORDS[config.fpn.norm],
            "MODEL.FPN.OUT_CHANNELS": config.fpn.channels,
        }
    if not config.proposals_only:
        settings |= _heads(config, levels[:4])
    # there a whole number is no float, and the other way about
    return {key: type(default)(value) if isinstance(default := _default(key), int | float) else value
            for key, value in settings.items()}  # fmt: skip


def _heads(config: DetectorConfig, levels: list[str]) -> dict[str, Any]:
    box, mask, points, cascade = config.box, config.mask, config.keypoint, config.cascade
    res5 = box.trunk == "res5"
    settings: dict[str, Any] = {
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": box.sampling.batch_size,
        "MODEL.ROI_HEADS.IN_FEATURES": levels,
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": [cascade.ious[0] if cascade else box.sampling.positive_iou],
        "MODEL.ROI_HEADS.NAME": "CascadeROIHeads" if cascade else "Res5ROIHeads" if res5 else "StandardROIHeads",
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": box.selection.nms_iou,
        "MODEL.ROI_HEADS.NUM_CLASSES": config.num_classes,
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": box.sampling.positive_fraction,
        "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": box.append_ground_truth,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": box.score_threshold,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": box.delta_loss_weight,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": list(box.delta_weights),
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": box.class_agnostic,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": box.smooth_l1_beta,
        "TEST.DETECTIONS_PER_IMAGE": box.selection.max_detections,
        **_pooler("MODEL.ROI_BOX_HEAD.POOLER_", box.pooler),
    }
    if not res5:
        settings |= {
            "MODEL.ROI_BOX_HEAD.CONV_DIM": box.conv_width,
            "MODEL.ROI_BOX_HEAD.FC_DIM": box.fc_width,
            "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
            "MODEL.ROI_BOX_HEAD.NORM": WORDS[box.norm],
            "MODEL.ROI_BOX_HEAD.NUM_CONV": box.convs,
            "MODEL.ROI_BOX_HEAD.NUM_FC": box.fcs,
        }
    if cascade is not None:
        settings |= {
            "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": [list(row) for row in cascade.delta_weights],
            "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": list(cascade.ious),
        }
    if mask is not None:
        settings |= {
            "INPUT.MASK_FORMAT": "polygon" if mask.target == "polygon" else "bitmask",
            "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": mask.class_agnostic,
            "MODEL.ROI_MASK_HEAD.CONV_DIM": mask.width,
            "MODEL.ROI_MASK_HEAD.NORM": WORDS[mask.norm],
            "MODEL.ROI_MASK_HEAD.NUM_CONV": 0 if mask.trunk == "res5" else mask.convs,
            **_pooler("MODEL.ROI_MASK_HEAD.POOLER_", mask.pooler),
        }
    if points is not None:
        settings |= {
            "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [points.width] * points.convs,
            "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT": points.loss_weight,
            "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": points.normalizer == "visible",
            "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": len(points.names),
            "TEST.KEYPOINT_OKS_SIGMAS": list(points.sigmas),
            **_pooler("MODEL.ROI_KEYPOINT_HEAD.POOLER_", points.pooler),
        }
    # other importers read the number of classes and the poolers from the file, and have other defaults
    return {key: value for key, value in settings.items() if value != _default(key) or EXPLICIT.search(key)}


def _default(key: str) -> object:
    return listed(getattr(Settings, field_of(key), None))


def _pooler(prefix: str, pooler: PoolerConfig) -> dict[str, Any]:
    if pooler.kind not in ("roi_align", "roi_pool"):
        raise ValueError(f"Detectron2 does not pool regions by {pooler.kind}; it has roi_align and roi_pool")
    kind = "ROIPool" if pooler.kind == "roi_pool" else "ROIAlignV2" if pooler.aligned else "ROIAlign"
    return {
        f"{prefix}TYPE": kind,
        f"{prefix}RESOLUTION": pooler.size,
        f"{prefix}SAMPLING_RATIO": pooler.sampling_ratio,
    }


def _differences(ours: Any, theirs: Any, prefix: str) -> list[str]:
    """Fields in which two configs differ; those of SAME do not count."""
    lines: list[str] = []
    for item in fields(ours):
        mine, other = getattr(ours, item.name), getattr(theirs, item.name)
        if is_dataclass(mine) and type(mine) is type(other):
            lines += _differences(mine, other, f"{prefix}{item.name}.")
        elif mine != other and prefix + item.name not in SAME:
            lines.append(f"{prefix}{item.name}={mine!r}")
    return lines
