"""Newer backbones from timm (needs rcnn[timm]): ResNet-D, ConvNeXt, Swin, and plain ViT as in ViTDet."""

from __future__ import annotations

from dataclasses import replace

from rcnn.models.config import DetectorConfig, MaskHeadConfig, TimmConfig, ViTConfig
from rcnn.models.zoo.classic import faster_rcnn_r50_fpn, mask_rcnn_r50_fpn
from rcnn.models.zoo.naming import Models, named


def faster_rcnn_resnet50d_fpn() -> DetectorConfig:
    """He et al. 2019, "Bag of tricks": ResNet-50-D under `faster_rcnn_r50_fpn`'s pyramid and heads."""
    return replace(faster_rcnn_r50_fpn(), name="faster_rcnn_resnet50d_fpn", backbone=TimmConfig(name="resnet50d"))


def mask_rcnn_resnet50d_fpn() -> DetectorConfig:
    """He et al. 2019, "Bag of tricks": ResNet-50-D under `mask_rcnn_r50_fpn`'s pyramid and heads."""
    return replace(mask_rcnn_r50_fpn(), name="mask_rcnn_resnet50d_fpn", backbone=TimmConfig(name="resnet50d"))


def mask_rcnn_convnext_tiny_fpn() -> DetectorConfig:
    """Liu et al. 2022, "A ConvNet for the 2020s": ConvNeXt-T with layer norm on its maps."""
    backbone = TimmConfig(name="convnext_tiny", out_norm=True, drop_path=0.4)
    return replace(mask_rcnn_r50_fpn(), name="mask_rcnn_convnext_tiny_fpn", backbone=backbone)


def mask_rcnn_swin_tiny_fpn() -> DetectorConfig:
    """Liu et al. 2021, "Swin Transformer": Swin-T with layer norm on its maps."""
    backbone = TimmConfig(name="swin_tiny_patch4_window7_224", out_norm=True, drop_path=0.2)
    return replace(mask_rcnn_r50_fpn(), name="mask_rcnn_swin_tiny_fpn", backbone=backbone)


def faster_rcnn_vit_base() -> DetectorConfig:
    """Li et al. 2022, "Exploring plain ViT backbones": ViT-B with window attention and a simple pyramid."""
    config = replace(faster_rcnn_r50_fpn(), name="faster_rcnn_vit_base", fpn=None, backbone=ViTConfig())
    return replace(config, rpn=replace(config.rpn, convs=2), box=replace(config.box, convs=4, fcs=1, norm="ln"))


def mask_rcnn_vit_base() -> DetectorConfig:
    """Li et al. 2022, "Exploring plain ViT backbones": `faster_rcnn_vit_base` with masks."""
    return replace(faster_rcnn_vit_base(), name="mask_rcnn_vit_base", mask=MaskHeadConfig(norm="ln"))


MODELS: Models = named(
    faster_rcnn_resnet50d_fpn, mask_rcnn_resnet50d_fpn, mask_rcnn_convnext_tiny_fpn, mask_rcnn_swin_tiny_fpn,
    faster_rcnn_vit_base, mask_rcnn_vit_base,
)  # fmt: skip
