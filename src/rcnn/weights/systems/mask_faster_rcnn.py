"""mask-faster-rcnn's checkpoints (lichengunc, `.pth`): Mask R-CNN on one ResNet map, with torchvision's names inside.

BGR; the RPN has two logits per anchor, all backgrounds before all objects; background is the first class, with its own
box and mask; layer4 works on regions of 7x7 with stride 1. The ImageNet classifier is in the file, too.

Files of the code that it is based on (ruotianluo's pytorch-faster-rcnn) are also read: Faster R-CNN on ResNets, VGG-16
and MobileNet v1. mask-faster-rcnn has options for VGG-16 and MobileNet v1, but with them it fails (they have no masks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from rcnn.data.messages import few
from rcnn.models import DetectorConfig
from rcnn.models import config as cfg
from rcnn.models.backbones.mobilenet_v1 import STEM
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.setting_texts import with_settings
from rcnn.weights.systems.c4 import RATIOS, mask_rcnn_c4
from rcnn.weights.systems.classes import class_names
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.layout import anchors_from_ratio_outer, background_last, paired_logits
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.resnets import blocks_of, depth_and_blocks, torch_blocks
from rcnn.weights.systems.settings import SettingsSource, Three, Typed, same, same_settings, typed_settings
from rcnn.weights.systems.system import Plan, System, all_of

VALUE = "(weight|bias|running_mean|running_var)"
RULES = Rules(
    (
        (r"resnet\.conv1\.weight", "backbone.stem.conv1.weight"),
        (rf"resnet\.bn1\.{VALUE}", "backbone.stem.conv1.norm.{1}"),
        *torch_blocks(r"resnet\.layer([123])\.(\d+)", "backbone.res{1+1}.{2}"),
        *torch_blocks(r"resnet\.layer4\.(\d+)", "box_head.trunk.res5.{1}"),
        (r"vgg\.features\.(\d+)\.(weight|bias)", "backbone.features.{1}.{2}"),
        (r"vgg\.classifier\.0\.(weight|bias)", "box_head.trunk.fc1.{1}"),
        (r"vgg\.classifier\.3\.(weight|bias)", "box_head.trunk.fc2.{1}"),
        (rf"mobilenet\.Conv2d_0\.([01])\.{VALUE}", "backbone.layers.0.{1}.{2}"),
        (
            rf"mobilenet\.Conv2d_(1[23])\.(depthwise|pointwise)\.([01])\.{VALUE}",
            "box_head.trunk.layers.{1-12}.{2}.{3}.{4}",
        ),
        (rf"mobilenet\.Conv2d_(\d+)\.(depthwise|pointwise)\.([01])\.{VALUE}", "backbone.layers.{1}.{2}.{3}.{4}"),
        (r"rpn_net\.(weight|bias)", "rpn.convs.0.{1}"),
        (r"rpn_cls_score_net\.(weight|bias)", "rpn.objectness.{1}"),
        (r"rpn_bbox_pred_net\.(weight|bias)", "rpn.deltas.{1}"),
        (r"cls_score_net\.(weight|bias)", "box_head.logits.{1}"),
        (r"bbox_pred_net\.(weight|bias)", "box_head.deltas.{1}"),
        (r"mask_up_sampling\.(weight|bias)", "mask_head.deconv.{1}"),
        (r"mask_pred_net\.(weight|bias)", "mask_head.logits.{1}"),
    ),
    skip=r"resnet\.fc\.(weight|bias)|vgg\.classifier\.6\.(weight|bias)|.*\.num_batches_tracked",
)
POOLINGS: dict[str, cfg.Pooling] = {"crop": "affine", "pool": "roi_pool"}
DIFFERENCES: dict[str, object] = {  # from `mask_rcnn_c4`
    "input.resize": "opencv_float",
    "input.size_rounding": "factor_limit",
    "input.rescale": "factor",
    "input.channel_order": "bgr",
    "rpn.legacy.anchors": "detectron",
    "rpn.legacy.objectness": "softmax",
    "box.score_threshold": 0.0,
    "legacy.boxes": "inclusive_loose",
}
MASKS: dict[str, object] = {"mask.target": "nearest_bitmap", "mask.paste": "stretched"}


@dataclass(frozen=True)
class Settings:
    """Settings that a detector has, with their defaults (lib/model/config.py and experiments/cfgs/res101.yml)."""

    test_scales: tuple[int, ...] = (600,)
    test_max_size: int = same("input.max_size", 1000)
    test_nms: float = same("box.selection.nms_iou", 0.3)
    test_rpn_nms_thresh: float = same("rpn.proposals.nms_iou", 0.7)
    test_mode: Literal["nms", "top"] = "nms"
    test_rpn_top_n: int = 5000
    test_rpn_pre_nms_top_n: int = 6000
    test_rpn_post_nms_top_n: int = 300
    pooling_mode: Literal["crop", "pool"] = "crop"
    pooling_size: int = 7
    pooling_align: bool = False
    resnet_max_pool: bool = False
    resnet_fixed_blocks: int = 1
    mobilenet_fixed_layers: int = 5
    anchor_scales: tuple[float, ...] | None = None
    anchor_ratios: tuple[float, ...] = same("rpn.anchors.ratios", (0.5, 1.0, 2.0))
    pixel_means: Three = same("input.pixel_mean", (102.9801, 115.9465, 122.7717))
    train_rpn_pre_nms_top_n: int = same("rpn.proposals.pre_nms_train", 12000)
    train_rpn_post_nms_top_n: int = same("rpn.proposals.post_nms_train", 2000)
    train_batch_size: int = same("box.sampling.batch_size", 256)
    train_fg_fraction: float = same("box.sampling.positive_fraction", 0.25)
    train_fg_thresh: float = same("box.sampling.positive_iou", 0.5)
    train_bg_thresh_lo: float = same("box.sampling.min_negative_iou", 0.0)
    train_rpn_batchsize: int = same("rpn.sampling.batch_size", 256)
    train_rpn_positive_overlap: float = same("rpn.sampling.positive_iou", 0.7)
    train_rpn_negative_overlap: float = same("rpn.sampling.negative_iou", 0.3)
    train_use_gt: bool = same("box.append_ground_truth", False)


ASSUMED = {
    "TEST.SCALES": Assumption("image size", "the system's default", ("input.min_size", "input.max_size")),
    "ANCHOR_SCALES": Assumption("anchors", "the system's default", ("rpn.anchors.sizes",)),
    "POOLING_MODE": Assumption("regions cropped by an affine grid", "the system's default", ("box.pooler.kind",)),
}


def in_our_layout(name: str, value: Tensor, config: DetectorConfig) -> Tensor:
    """A tensor of the file in our layout."""
    if name.startswith("rpn.objectness."):
        value = paired_logits(value)
    return background_last(name, anchors_from_ratio_outer(name, value, config))


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of a mask-faster-rcnn file; `settings` are its YAML (experiments/cfgs), or KEY=VALUE of its --set."""
    given = typed_settings(Settings, settings)
    placed = RULES.place(found.state, found.source, SYSTEM.name)
    shapes = {our: found.shape(name) for name, our in placed.ours.items()}
    config = _config(shapes, given, found.source)
    return Plan(
        config=config,
        placed=placed,
        tensor=in_our_layout,
        classes=class_names(config.num_classes),
        assumed=tuple(assumption for key, assumption in ASSUMED.items() if key not in given.given),
        notes=given.notes(),
    )


def _config(shapes: Mapping[str, tuple[int, ...]], given: Typed[Settings], source: str) -> DetectorConfig:
    theirs = given.values
    needed = ("rpn.convs.0.weight", "rpn.deltas.weight", "box_head.logits.weight")
    if missing := [name for name in needed if name not in shapes]:
        raise ValueError(f"{source} is incomplete: it has no {few(missing)} (rcnn's names)")
    if len(theirs.anchor_ratios) != RATIOS:
        raise ValueError(f"{source}: ANCHOR_RATIOS={theirs.anchor_ratios!r} is not supported; expected {RATIOS} ratios")
    config = mask_rcnn_c4(
        50,
        (),
        classes=shapes["box_head.logits.weight"][0] - 1,
        width=shapes["rpn.convs.0.weight"][0],
        anchors=shapes["rpn.deltas.weight"][0] // 4,
        scales=theirs.anchor_scales,
        pooler=_pooler(theirs, resnet="backbone.stem.conv1.weight" in shapes),
    )
    config = _with_network(config, shapes, theirs, source)
    top = theirs.test_mode == "top"
    more = {
        "input.min_size": theirs.test_scales[0],
        "rpn.proposals.pre_nms": theirs.test_rpn_top_n if top else theirs.test_rpn_pre_nms_top_n,
        "rpn.proposals.post_nms": theirs.test_rpn_top_n if top else theirs.test_rpn_post_nms_top_n,
        "rpn.legacy.top_without_nms": top,
    }
    if config.mask is not None:
        more |= MASKS | {"mask.width": shapes["mask_head.deconv.weight"][1]}
    return with_settings(config, DIFFERENCES | more | same_settings(theirs, config))


def _pooler(theirs: Settings, *, resnet: bool) -> cfg.PoolerConfig:
    """How regions are pooled: with POOLING_ALIGN, and on networks other than ResNets, 2 x 2 samples are max-pooled."""
    kind: cfg.Pooling = POOLINGS[theirs.pooling_mode]
    if kind == "affine" and theirs.pooling_align:
        kind = "image_affine"
    maxima = theirs.pooling_align or theirs.resnet_max_pool or not resnet
    return cfg.PoolerConfig(kind=kind, size=theirs.pooling_size, aligned=False, max_pool=maxima and kind != "roi_pool")


def _with_network(
    config: DetectorConfig, shapes: Mapping[str, tuple[int, ...]], theirs: Settings, source: str
) -> DetectorConfig:
    """`config` with the backbone and heads of the file: a ResNet, VGG-16 or MobileNet v1."""
    if "mask_head.deconv.weight" not in shapes:
        config = replace(config, mask=None)
    kind = "mask" if config.mask is not None else "faster"
    if "backbone.features.0.weight" in shapes:
        box = replace(config.box, trunk="fc", fcs=2, fc_width=shapes["box_head.trunk.fc2.weight"][0])
        return replace(config, name=f"{kind}_rcnn_vgg16", backbone=cfg.VGGConfig(), box=box)
    if "backbone.layers.0.0.weight" in shapes:
        backbone = cfg.MobileNetV1Config(
            width=shapes["backbone.layers.0.0.weight"][0] / STEM, frozen_layers=theirs.mobilenet_fixed_layers
        )
        box = replace(config.box, trunk="mobilenet_v1")
        return replace(config, name=f"{kind}_rcnn_mobilenet_v1", backbone=backbone, box=box)
    blocks = blocks_of(shapes)
    if 0 in blocks:
        raise ValueError(f"{source} has a ResNet of {blocks} blocks in its four stages; expected one or more in each")
    depth, unusual = depth_and_blocks(blocks)
    resnet = {
        "backbone.depth": depth,
        "backbone.blocks": unusual,
        "backbone.res5_stride": 1,
        "backbone.frozen_stages": theirs.resnet_fixed_blocks + 1,
    }
    return with_settings(replace(config, name=f"{kind}_rcnn_r{depth}_c4"), resnet)


SYSTEM = System(
    name="mask-faster-rcnn",
    files=".pth",
    settings="its YAML (experiments/cfgs), or KEY=VALUE",
    recognises=all_of(r"rpn_cls_score_net\.weight", r"cls_score_net\.weight"),
    read=read,
)
