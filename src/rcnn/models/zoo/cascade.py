"""Cascade R-CNN (Cai and Vasconcelos 2018): three box heads in a row, with class-agnostic boxes."""

from __future__ import annotations

from dataclasses import replace

from rcnn.models.config import CascadeConfig, DetectorConfig
from rcnn.models.zoo.classic import (
    caffe_versions,
    faster_rcnn_r50_fpn,
    faster_rcnn_r101_fpn,
    mask_rcnn_r50_fpn,
    mask_rcnn_r101_fpn,
)
from rcnn.models.zoo.compact import mask_rcnn_compact
from rcnn.models.zoo.naming import Models, named
from rcnn.models.zoo.norms import with_norm


def cascade(config: DetectorConfig, name: str) -> DetectorConfig:
    """The model with three stages and class-agnostic boxes, as in Detectron2 and tensorpack."""
    return replace(
        config,
        name=name,
        rpn=replace(
            config.rpn,
            proposals=replace(config.rpn.proposals, post_nms_train=max(2000, config.rpn.proposals.post_nms_train)),
        ),
        box=replace(config.box, class_agnostic=True),
        cascade=CascadeConfig(),
    )


def cascade_rcnn_r50_fpn() -> DetectorConfig:
    """`faster_rcnn_r50_fpn` with a cascade of three box heads."""
    return cascade(faster_rcnn_r50_fpn(), "cascade_rcnn_r50_fpn")


def cascade_mask_rcnn_r50_fpn() -> DetectorConfig:
    """`mask_rcnn_r50_fpn` with a cascade of three box heads; one mask head, run on the last boxes."""
    return cascade(mask_rcnn_r50_fpn(), "cascade_mask_rcnn_r50_fpn")


def cascade_rcnn_r101_fpn() -> DetectorConfig:
    """`cascade_rcnn_r50_fpn` with 101 layers."""
    return cascade(faster_rcnn_r101_fpn(), "cascade_rcnn_r101_fpn")


def cascade_mask_rcnn_r101_fpn() -> DetectorConfig:
    """`cascade_mask_rcnn_r50_fpn` with 101 layers."""
    return cascade(mask_rcnn_r101_fpn(), "cascade_mask_rcnn_r101_fpn")


def cascade_mask_rcnn_r50_fpn_gn() -> DetectorConfig:
    """`cascade_mask_rcnn_r50_fpn` with group norm everywhere (tensorpack's R50-FPN-GN-Cascade)."""
    return with_norm(cascade_mask_rcnn_r50_fpn(), "gn", "cascade_mask_rcnn_r50_fpn_gn", norm_after_relu=True)


def cascade_mask_rcnn_r101_fpn_gn_scratch() -> DetectorConfig:
    """He et al. 2019, "Rethinking ImageNet pre-training": group norm, all layers trained, from random weights.

    The network of R101-FPN-GN-Cascade, the best model that tensorpack published.
    """
    name = "cascade_mask_rcnn_r101_fpn_gn_scratch"
    return with_norm(cascade_mask_rcnn_r101_fpn(), "gn", name, frozen_stages=0, norm_after_relu=True)


def cascade_mask_rcnn_compact() -> DetectorConfig:
    """`mask_rcnn_compact` with a cascade: small enough to be trained on a CPU."""
    config = mask_rcnn_compact()
    return replace(
        config,
        name="cascade_mask_rcnn_compact",
        box=replace(config.box, class_agnostic=True),
        cascade=CascadeConfig(),
    )


TORCHVISION_STYLE = named(
    cascade_rcnn_r50_fpn, cascade_mask_rcnn_r50_fpn, cascade_rcnn_r101_fpn, cascade_mask_rcnn_r101_fpn
)

MODELS: Models = {
    **TORCHVISION_STYLE,
    **caffe_versions(TORCHVISION_STYLE),
    **named(cascade_mask_rcnn_r50_fpn_gn, cascade_mask_rcnn_r101_fpn_gn_scratch, cascade_mask_rcnn_compact),
}
