"""mask-faster-rcnn's checkpoints (lichengunc, `.pth`): Mask R-CNN on one ResNet map, torchvision's names within.

BGR; the RPN has two logits an anchor, all backgrounds before all objects; background is the first class, with a box
and a mask of its own; layer4 works on regions of 7x7 with stride 1. The classifier of ImageNet lies beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import yaml
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
from rcnn.weights.readers.stored import shape_of
from rcnn.weights.systems.converted import Converted, class_names, few, require_fit, unplaced
from rcnn.weights.systems.detectron.names import anchors_in_our_order

RATIOS = 3
NOWHERE = 100.0  # no decoded scale is cut
LAYERS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"resnet\.conv1", lambda found: "backbone.stem.conv1"),
    (r"resnet\.bn1", lambda found: "backbone.stem.conv1.norm"),
    (r"resnet\.layer(\d)\.(\d+)\.conv(\d)", lambda found: f"{_block(found)}.conv{found[3]}"),
    (r"resnet\.layer(\d)\.(\d+)\.bn(\d)", lambda found: f"{_block(found)}.conv{found[3]}.norm"),
    (r"resnet\.layer(\d)\.(\d+)\.downsample\.0", lambda found: f"{_block(found)}.shortcut"),
    (r"resnet\.layer(\d)\.(\d+)\.downsample\.1", lambda found: f"{_block(found)}.shortcut.norm"),
    (r"rpn_net", lambda found: "rpn.convs.0"),
    (r"rpn_cls_score_net", lambda found: "rpn.objectness"),
    (r"rpn_bbox_pred_net", lambda found: "rpn.deltas"),
    (r"cls_score_net", lambda found: "box_head.logits"),
    (r"bbox_pred_net", lambda found: "box_head.deltas"),
    (r"mask_up_sampling", lambda found: "mask_head.deconv"),
    (r"mask_pred_net", lambda found: "mask_head.logits"),
)
LEFT = re.compile(r"resnet\.fc\.(weight|bias)|.*\.num_batches_tracked")
DEPTHS: dict[tuple[int, ...], Literal[50, 101, 152]] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
SCALES = {4: (4.0, 8.0, 16.0, 32.0), 5: (2.0, 4.0, 8.0, 16.0, 32.0)}  # of anchors, in sixteen pixels
# its settings that a detector has, with their defaults (lib/model/config.py and experiments/cfgs/res101.yml)
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


def _block(found: re.Match[str]) -> str:
    trunk = "box_head.trunk" if found[1] == "4" else "backbone"
    return f"{trunk}.res{int(found[1]) + 1}.{found[2]}"


def recognises(names: Collection[str]) -> bool:
    """Whether tensors of these names are of mask-faster-rcnn."""
    return {"rpn_cls_score_net.weight", "mask_up_sampling.weight"} <= set(names)


def rename(name: str) -> str | None:
    """Our name for theirs; None for one that has no counterpart here."""
    layer, _, value = name.rpartition(".")
    if value in ("weight", "bias", "running_mean", "running_var"):
        for theirs, ours in LAYERS:
            if found := re.fullmatch(theirs, layer):
                return f"{ours(found)}.{value}"
    return None


def converted_tensor(ours: str, value: Tensor) -> Tensor:
    """A tensor of theirs with its rows in the order that `ours`, our name, wants."""
    match ours.rpartition(".")[0]:
        case "rpn.objectness":
            value = value.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)  # background and object of each in turn
            value = anchors_in_our_order(value, len(value) // (2 * RATIOS), RATIOS)
        case "rpn.deltas":
            value = anchors_in_our_order(value, len(value) // (4 * RATIOS), RATIOS)
        case "box_head.logits":
            value = value.roll(-1, 0)
        case "box_head.deltas":
            value = value[4:]
        case "mask_head.logits":
            value = value[1:]
    return value.contiguous()


def from_mask_faster_rcnn(
    state: Mapping[str, Tensor], config_file: str | Path | None = None, source: str = ""
) -> Converted:
    """mask-faster-rcnn's `state`; `config_file` is its YAML (experiments/cfgs), or KEY=VALUE words of its --set.

    Raises ValueError that names `source` and the tensors or settings that have no place.
    """
    source = source or "the state dict"
    given, unknown_settings = _read(config_file)
    left = tuple(name for name in state if LEFT.fullmatch(name))
    ours = {name: rename(name) for name in state if name not in left}
    if unknown := [name for name, our in ours.items() if our is None]:
        raise ValueError(f"{source} looks like mask-faster-rcnn's, but has {unplaced(unknown)}")
    shapes = {our: shape_of(state, name) for name, our in ours.items() if our is not None}
    config = _config(shapes, DEFAULTS | given, source)
    tensors = {our: converted_tensor(our, state[name]) for name, our in ours.items() if our is not None}
    require_fit(config, tensors, source)
    assumed = [
        f"images of {config.input.min_size} to {config.input.max_size} pixels",
        f"anchors of {', '.join(f'{size:g}' for size in config.rpn.anchors.sizes[0])} pixels",
        "regions cropped by an affine grid, 7x7 (POOLING_MODE crop)",
    ]
    keys = ("TEST.SCALES", "ANCHOR_SCALES", "POOLING_MODE")
    assumed = [sentence for key, sentence in zip(keys, assumed, strict=True) if key not in given]
    if unknown_settings:
        assumed.append(f"settings that play no part here: {', '.join(unknown_settings)}")
    return Converted(
        config=config,
        state=tensors,
        classes=class_names(config.num_classes),
        report=f"mask-faster-rcnn {config.name}, {len(tensors)} tensors, {config.num_classes} classes",
        system="mask-faster-rcnn",
        assumed=tuple(assumed),
        left=left,
    )


def _config(shapes: Mapping[str, tuple[int, ...]], get: Mapping[str, Any], source: str) -> DetectorConfig:
    needed = ("rpn.convs.0.weight", "rpn.deltas.weight", "box_head.logits.weight", "mask_head.deconv.weight")
    if missing := [name for name in needed if name not in shapes]:
        raise ValueError(f"{source} is not whole: it has no {few(missing)} (in our names)")
    trunks = ("backbone.res2.", "backbone.res3.", "backbone.res4.", "box_head.trunk.res5.")
    blocks = tuple(
        len({name.removeprefix(trunk).split(".")[0] for name in shapes if name.startswith(trunk)}) for trunk in trunks
    )
    if 0 in blocks:
        raise ValueError(
            f"{source} has a ResNet of {blocks} blocks; its other networks (VGG, MobileNet) we do not have"
        )
    anchors = shapes["rpn.deltas.weight"][0] // (4 * RATIOS)
    scales = get["ANCHOR_SCALES"] or SCALES.get(anchors, ())
    if len(scales) != anchors:
        raise ValueError(
            f"{source} has {anchors} sizes of anchors, the settings {len(scales)}: say them with ANCHOR_SCALES"
        )
    ratios = tuple(_numbers(get["ANCHOR_RATIOS"]))
    if len(ratios) != RATIOS:
        raise ValueError(f"{source}: ANCHOR_RATIOS is {get['ANCHOR_RATIOS']}; want {RATIOS} of them, as its files have")
    if get["POOLING_ALIGN"] or get["RESNET.MAX_POOL"] or get["TEST.MODE"] != "nms":
        raise ValueError(
            f"{source}: POOLING_ALIGN, RESNET.MAX_POOL and TEST.MODE=top are not supported; want its defaults"
        )
    poolings: dict[str, Pooling] = {"crop": "affine", "pool": "roi_pool"}
    if get["POOLING_MODE"] not in poolings:
        raise ValueError(f"{source}: POOLING_MODE is {get['POOLING_MODE']!r}; want crop or pool")
    pooling = poolings[get["POOLING_MODE"]]
    roi_size = get["POOLING_SIZE"]
    blue, green, red = _numbers(get["PIXEL_MEANS"])
    return DetectorConfig(
        name=f"mask_rcnn_r{DEPTHS.get(blocks, 50)}_c4",
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
            depth=DEPTHS.get(blocks, 50),
            blocks=() if blocks in DEPTHS else blocks,
            stages=(2, 3, 4),
            stride_in_1x1=True,
            frozen_stages=get["RESNET.FIXED_BLOCKS"] + 1,
            res5_stride=1,
        ),
        fpn=None,
        rpn=RPNConfig(
            width=shapes["rpn.convs.0.weight"][0],
            max_log_scale=NOWHERE,
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
            max_log_scale=NOWHERE,
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


def _read(config: str | Path | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings by dotted key, and the keys that play no part. ValueError for what cannot be read."""
    if config is None:
        return {}, ()
    try:
        path = Path(config) if Path(config).is_file() else None
    except OSError:  # words that are too long for the name of a file
        path = None
    try:
        if path is not None:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        else:
            pairs = re.findall(r"([A-Z][A-Z_.]*)(?:=|\s+)(\[[^\]]*\]|\S+)", str(config))
            content = {key: yaml.safe_load(value) for key, value in pairs}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{config}: cannot be read as settings ({error})") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"{config} has no settings; want a YAML of experiments/cfgs, or TEST.MAX_SIZE=1000 and the like"
        )
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {str(key): value}
    for key in found.keys() & DEFAULTS.keys():
        kind = list if DEFAULTS[key] is None else type(DEFAULTS[key])
        if kind is float and isinstance(found[key], int):
            found[key] = float(found[key])
        if not isinstance(found[key], kind):
            raise ValueError(f"{config}: {key} is {found[key]!r}; want a {kind.__name__}, such as {DEFAULTS[key]!r}")
    known = {key: value for key, value in found.items() if key in DEFAULTS}
    return known, tuple(key for key in found if key not in DEFAULTS)


def _numbers(values: Any) -> list[float]:
    """The numbers in nested lists."""
    if isinstance(values, list | tuple):
        return [number for value in values for number in _numbers(value)]
    return [float(values)]
