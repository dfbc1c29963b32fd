"""mask-faster-rcnn's checkpoints (lichengunc, `.pth`): Mask R-CNN on one ResNet map, with torchvision's names inside.

BGR; the RPN has two logits per anchor, all backgrounds before all objects; background is the first class, with its own
box and mask; layer4 works on regions of 7x7 with stride 1. The ImageNet classifier is in the file, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from rcnn.models.config import (
    RPN_SAMPLING,
    AnchorConfig,
    BoxHeadConfig,
    DetectorConfig,
    InputConfig,
    LegacyConfig,
    LegacyRPNConfig,
    MaskHeadConfig,
    PoolerConfig,
    Pooling,
    ProposalConfig,
    ResNetConfig,
    RPNConfig,
    SamplingConfig,
    SelectionConfig,
)
from rcnn.weights.listing import first_names
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.classes import class_names
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.layout import anchors_from_ratio_outer, background_last, paired_logits
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.resnets import blocks_of, depth_and_blocks
from rcnn.weights.systems.settings import SettingsSource, read_settings
from rcnn.weights.systems.system import Plan, System

RATIOS = 3
UNLIMITED_SCALE = 100.0  # of decoded widths and heights, log
VALUE = "(weight|bias|running_mean|running_var)"
RULES = Rules(
    (
        (r"resnet\.conv1\.weight", "backbone.stem.conv1.weight"),
        (rf"resnet\.bn1\.{VALUE}", "backbone.stem.conv1.norm.{1}"),
        (r"resnet\.layer([123])\.(\d+)\.conv(\d)\.weight", "backbone.res{1+1}.{2}.conv{3}.weight"),
        (rf"resnet\.layer([123])\.(\d+)\.bn(\d)\.{VALUE}", "backbone.res{1+1}.{2}.conv{3}.norm.{4}"),
        (r"resnet\.layer([123])\.(\d+)\.downsample\.0\.weight", "backbone.res{1+1}.{2}.shortcut.weight"),
        (rf"resnet\.layer([123])\.(\d+)\.downsample\.1\.{VALUE}", "backbone.res{1+1}.{2}.shortcut.norm.{3}"),
        (r"resnet\.layer4\.(\d+)\.conv(\d)\.weight", "box_head.trunk.res5.{1}.conv{2}.weight"),
        (rf"resnet\.layer4\.(\d+)\.bn(\d)\.{VALUE}", "box_head.trunk.res5.{1}.conv{2}.norm.{3}"),
        (r"resnet\.layer4\.(\d+)\.downsample\.0\.weight", "box_head.trunk.res5.{1}.shortcut.weight"),
        (rf"resnet\.layer4\.(\d+)\.downsample\.1\.{VALUE}", "box_head.trunk.res5.{1}.shortcut.norm.{2}"),
        (r"rpn_net\.(weight|bias)", "rpn.convs.0.{1}"),
        (r"rpn_cls_score_net\.(weight|bias)", "rpn.objectness.{1}"),
        (r"rpn_bbox_pred_net\.(weight|bias)", "rpn.deltas.{1}"),
        (r"cls_score_net\.(weight|bias)", "box_head.logits.{1}"),
        (r"bbox_pred_net\.(weight|bias)", "box_head.deltas.{1}"),
        (r"mask_up_sampling\.(weight|bias)", "mask_head.deconv.{1}"),
        (r"mask_pred_net\.(weight|bias)", "mask_head.logits.{1}"),
    ),
    skip=r"resnet\.fc\.(weight|bias)|.*\.num_batches_tracked",
)
SCALES = {4: (4.0, 8.0, 16.0, 32.0), 5: (2.0, 4.0, 8.0, 16.0, 32.0)}  # of anchors, in 16 pixels
# settings that a detector has, with their defaults (lib/model/config.py and experiments/cfgs/res101.yml)
DEFAULTS: dict[str, Any] = {
    "TEST.SCALES": [600], "TEST.MAX_SIZE": 1000, "TEST.NMS": 0.3, "TEST.RPN_NMS_THRESH": 0.7, "TEST.MODE": "nms",
    "TEST.RPN_PRE_NMS_TOP_N": 6000, "TEST.RPN_POST_NMS_TOP_N": 300, "POOLING_MODE": "crop", "POOLING_SIZE": 7,
    "POOLING_ALIGN": False, "RESNET.MAX_POOL": False, "RESNET.FIXED_BLOCKS": 1, "ANCHOR_SCALES": None,
    "ANCHOR_RATIOS": [0.5, 1, 2],
    "PIXEL_MEANS": [[[102.9801, 115.9465, 122.7717]]], "TRAIN.RPN_PRE_NMS_TOP_N": 12000,
    "TRAIN.RPN_POST_NMS_TOP_N": 2000, "TRAIN.BATCH_SIZE": 256, "TRAIN.FG_FRACTION": 0.25, "TRAIN.FG_THRESH": 0.5,
    "TRAIN.BG_THRESH_LO": 0.0, "TRAIN.RPN_BATCHSIZE": 256, "TRAIN.RPN_POSITIVE_OVERLAP": 0.7,
    "TRAIN.RPN_NEGATIVE_OVERLAP": 0.3, "TRAIN.USE_GT": False,
}  # fmt: skip
ASSUMED = {
    "TEST.SCALES": Assumption("image size", "the system's default", ("input.min_size", "input.max_size")),
    "ANCHOR_SCALES": Assumption("anchors", "the system's default", ("rpn.anchors.sizes",)),
    "POOLING_MODE": Assumption("regions cropped by an affine grid", "the system's default", ("box.pooler.kind",)),
}


def recognises(names: Collection[str]) -> bool:
    """Whether tensors of these names belong to mask-faster-rcnn."""
    return {"rpn_cls_score_net.weight", "mask_up_sampling.weight"} <= set(names)


def in_our_layout(name: str, value: Tensor, config: DetectorConfig) -> Tensor:
    """A tensor of theirs in our layout."""
    if name.startswith("rpn.objectness."):
        value = paired_logits(value)
    return background_last(name, anchors_from_ratio_outer(name, value, config))


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of a mask-faster-rcnn file; `settings` are its YAML (experiments/cfgs), or KEY=VALUE of its --set."""
    given, unknown = _settings(settings)
    placed = RULES.place(found.state, found.source, SYSTEM.name)
    shapes = {our: found.shape(name) for name, our in placed.ours.items()}
    config = _config(shapes, DEFAULTS | given, found.source)
    return Plan(
        config=config,
        names=placed.ours,
        tensor=in_our_layout,
        classes=class_names(config.num_classes),
        assumed=tuple(assumption for key, assumption in ASSUMED.items() if key not in given),
        notes=(f"settings that are not used: {', '.join(unknown)}",) if unknown else (),
        skipped=placed.skipped,
    )


def _config(shapes: Mapping[str, tuple[int, ...]], get: Mapping[str, Any], source: str) -> DetectorConfig:
    needed = ("rpn.convs.0.weight", "rpn.deltas.weight", "box_head.logits.weight", "mask_head.deconv.weight")
    if missing := [name for name in needed if name not in shapes]:
        raise ValueError(f"{source} is incomplete: it has no {first_names(missing)} (our names)")
    blocks = blocks_of(shapes)
    if 0 in blocks:
        raise ValueError(
            f"{source} has a ResNet of {blocks} blocks; its other networks (VGG, MobileNet) are not supported"
        )
    depth, unusual = depth_and_blocks(blocks)
    anchors = shapes["rpn.deltas.weight"][0] // (4 * RATIOS)
    scales = get["ANCHOR_SCALES"] or SCALES.get(anchors, SCALES[5])
    ratios = tuple(_numbers(get["ANCHOR_RATIOS"]))
    if len(ratios) != RATIOS:
        raise ValueError(f"{source}: ANCHOR_RATIOS is {get['ANCHOR_RATIOS']}; expected {RATIOS} ratios")
    if get["POOLING_ALIGN"] or get["RESNET.MAX_POOL"] or get["TEST.MODE"] != "nms":
        raise ValueError(
            f"{source}: POOLING_ALIGN, RESNET.MAX_POOL and TEST.MODE=top are not supported; expected its defaults"
        )
    poolings: dict[str, Pooling] = {"crop": "affine", "pool": "roi_pool"}
    if get["POOLING_MODE"] not in poolings:
        raise ValueError(f"{source}: POOLING_MODE is {get['POOLING_MODE']!r}; expected crop or pool")
    pooling = poolings[get["POOLING_MODE"]]
    roi_size = get["POOLING_SIZE"]
    blue, green, red = _numbers(get["PIXEL_MEANS"])
    return DetectorConfig(
        name=f"mask_rcnn_r{depth}_c4",
        num_classes=shapes["box_head.logits.weight"][0] - 1,
        input=InputConfig(
            min_size=int(_numbers(get["TEST.SCALES"])[0]),
            max_size=get["TEST.MAX_SIZE"],
            resize="opencv_float",
            size_rounding="factor_limit",
            rescale="factor",
            channel_order="bgr",
            pixel_mean=(blue, green, red),
            pixel_std=(1.0, 1.0, 1.0),
            divisor=0,
        ),
        backbone=ResNetConfig(
            depth=depth,
            blocks=unusual,
            stages=(2, 3, 4),
            stride_in_1x1=True,
            frozen_stages=get["RESNET.FIXED_BLOCKS"] + 1,
            res5_stride=1,
        ),
        fpn=None,
        rpn=RPNConfig(
            width=shapes["rpn.convs.0.weight"][0],
            max_log_scale=UNLIMITED_SCALE,
            smooth_l1_beta=1 / 9,
            anchors=AnchorConfig(sizes=(tuple(16.0 * scale for scale in scales),), ratios=ratios),
            legacy=LegacyRPNConfig(anchors="detectron", objectness="softmax", straddle=0.0, normalizer="sampled"),
            sampling=replace(
                RPN_SAMPLING,
                positive_iou=get["TRAIN.RPN_POSITIVE_OVERLAP"],
                negative_iou=get["TRAIN.RPN_NEGATIVE_OVERLAP"],
                batch_size=get["TRAIN.RPN_BATCHSIZE"],
            ),
            proposals=ProposalConfig(
                nms_iou=get["TEST.RPN_NMS_THRESH"],
                pre_nms_train=get["TRAIN.RPN_PRE_NMS_TOP_N"],
                pre_nms=get["TEST.RPN_PRE_NMS_TOP_N"],
                post_nms_train=get["TRAIN.RPN_POST_NMS_TOP_N"],
                post_nms=get["TEST.RPN_POST_NMS_TOP_N"],
                min_size=-1.0,
            ),
        ),
        box=BoxHeadConfig(
            trunk="res5",
            max_log_scale=UNLIMITED_SCALE,
            append_ground_truth=get["TRAIN.USE_GT"],
            smooth_l1_beta=1.0,
            score_threshold=0.0,
            pooler=PoolerConfig(kind=pooling, size=roi_size, aligned=False),
            sampling=SamplingConfig(
                positive_iou=get["TRAIN.FG_THRESH"],
                min_negative_iou=get["TRAIN.BG_THRESH_LO"],
                batch_size=get["TRAIN.BATCH_SIZE"],
                positive_fraction=get["TRAIN.FG_FRACTION"],
            ),
            selection=SelectionConfig(nms_iou=get["TEST.NMS"]),
        ),
        mask=MaskHeadConfig(
            trunk="res5",
            convs=0,
            width=shapes["mask_head.deconv.weight"][1],
            target="nearest_bitmap",
            paste="stretched",
            pooler=PoolerConfig(kind=pooling, size=roi_size, aligned=False),
        ),
        legacy=LegacyConfig(boxes="inclusive_loose"),
    )


def _settings(given: SettingsSource) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings by dotted key, and the keys that are not used. ValueError for what cannot be read."""
    found = {} if given is None else read_settings(given)
    for key in found.keys() & DEFAULTS.keys():
        kind = list if DEFAULTS[key] is None else type(DEFAULTS[key])
        if kind is float and isinstance(found[key], int):
            found[key] = float(found[key])
        if not isinstance(found[key], kind):
            raise ValueError(
                f"{given}: {key}={found[key]!r} has the wrong type; expected a value such as {DEFAULTS[key]!r}"
            )
    known = {key: value for key, value in found.items() if key in DEFAULTS}
    return known, tuple(key for key in found if key not in DEFAULTS)


def _numbers(values: Any) -> list[float]:
    """The numbers in nested lists."""
    if isinstance(values, list | tuple):
        return [number for value in values for number in _numbers(value)]
    return [float(values)]


SYSTEM = System(
    name="mask-faster-rcnn",
    files=".pth",
    settings="its YAML (experiments/cfgs), or KEY=VALUE",
    recognises=recognises,
    read=read,
)
