"""Mask R-CNN of the two Chainer ports (`.npz`): wkentaro's chainer-mask-rcnn and DeNA's Chainer_Mask_R-CNN; R-C4.

Both write boxes and deltas y, x, height, width, anchors with the ratio outer, and background first. wkentaro's norms
are scales and shifts alone and its stem has a bias; DeNA keeps batch norms, reads BGR, and has masks for background.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rcnn.models.config import (
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
    SelectionConfig,
)
from rcnn.weights.readers.stored import shape_of
from rcnn.weights.systems.chainer.settings import Settings, read_settings
from rcnn.weights.systems.converted import VOC_CLASSES, Converted, class_names, few, require_fit, unplaced
from rcnn.weights.systems.detectron.names import anchors_in_our_order

RATIOS = 3
NOWHERE = 100.0  # no decoded scale is cut
MOST = 1000  # detections, where the system has no limit
LAYERS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"extractor/(?:conv|bn)1", lambda found: "backbone.stem.conv1"),
    (r"extractor/res([234])/(a|b\d+)/(?:conv|bn)(\d)", lambda found: f"backbone.res{found[1]}.{_branch(found)}"),
    (r"head/res(5)/(a|b\d+)/(?:conv|bn)(\d)", lambda found: f"box_head.trunk.res5.{_branch(found)}"),
    (r"rpn/conv1", lambda found: "rpn.convs.0"),
    (r"rpn/score", lambda found: "rpn.objectness"),
    (r"rpn/loc", lambda found: "rpn.deltas"),
    (r"head/score", lambda found: "box_head.logits"),
    (r"head/cls_loc", lambda found: "box_head.deltas"),
    (r"head/deconv(?:6|m1)", lambda found: "mask_head.deconv"),
    (r"head/(?:mask|convm2)", lambda found: "mask_head.logits"),
)
NORMS = {
    "gamma": "weight",
    "beta": "bias",
    "avg_mean": "running_mean",
    "avg_var": "running_var",
    "W": "weight",
    "b": "bias",
}
COUNTER = re.compile(r".*/bn\d/N")  # how many batches a norm has seen
DEPTHS: dict[int, Literal[50, 101, 152]] = {6: 50, 23: 101, 36: 152}  # blocks of res4
SCALES = {5: (2.0, 4.0, 8.0, 16.0, 32.0), 4: (4.0, 8.0, 16.0, 32.0)}  # of anchors, in sixteen pixels: COCO's and VOC's
POOLINGS: dict[str, Pooling] = {"align": "roi_align", "pooling": "roi_pool", "resize": "crop_resize"}


def _branch(found: re.Match[str]) -> str:
    """Block and layer of a stage: a and b1, b2, ...; the fourth convolution is the shortcut's."""
    return f"{found[2][1:] or 0}.{'shortcut' if found[3] == '4' else f'conv{found[3]}'}"


def recognises_wkentaro(names: Collection[str]) -> bool:
    """Whether tensors of these names are of chainer-mask-rcnn."""
    return any(name.endswith("extractor/bn1/W") for name in names) and any(
        name.endswith("head/mask/W") for name in names
    )


def recognises_dena(names: Collection[str]) -> bool:
    """Whether tensors of these names are of DeNA's Chainer_Mask_R-CNN."""
    return any(name.endswith("head/convm2/W") for name in names)


def rename(name: str) -> str | None:
    """Our name for theirs; None for one that has no counterpart here."""
    layer, _, value = name.rpartition("/")
    for theirs, ours in LAYERS:
        if found := re.fullmatch(theirs, layer):
            if layer.rpartition("/")[2].startswith("bn"):
                return f"{ours(found)}.norm.{NORMS[value]}" if value in NORMS else None
            return f"{ours(found)}.{NORMS[value]}" if value in ("W", "b") else None
    return None


def converted_tensor(ours: str, value: Tensor, classes: int) -> Tensor:
    """A tensor of theirs with its rows in the order that `ours`, our name, wants, of a detector of K `classes`."""
    layer = ours.rpartition(".")[0]
    if layer in ("rpn.deltas", "box_head.deltas"):
        value = value.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)  # dy dx dh dw
    if layer in ("rpn.objectness", "rpn.deltas"):
        anchors = len(value) // (4 if layer == "rpn.deltas" else 1)
        value = anchors_in_our_order(value, anchors // RATIOS, RATIOS)
    elif layer == "box_head.logits":
        value = value.roll(-1, 0)
    elif layer == "box_head.deltas":
        value = value[4:]
    elif layer == "mask_head.logits" and len(value) == classes + 1:
        value = value[1:]
    return value.contiguous()


def from_wkentaro(state: Mapping[str, Tensor], config_file: str | Path | None = None, source: str = "") -> Converted:
    """chainer-mask-rcnn's `state`; `config_file` is the params.yaml of its log folder, or KEY=VALUE words.

    Raises ValueError that names `source` and the tensors or settings that have no place.
    """
    return _converted(state, config_file, source or "the state dict", "wkentaro")


def from_dena(state: Mapping[str, Tensor], config_file: str | Path | None = None, source: str = "") -> Converted:
    """Chainer_Mask_R-CNN's `state`; `config_file` holds the flags it was run with (`--bn2affine` above all).

    Raises ValueError that names `source` and the tensors or settings that have no place.
    """
    return _converted(state, config_file, source or "the state dict", "dena")


def _converted(
    state: Mapping[str, Tensor], config_file: str | Path | None, source: str, system: Literal["wkentaro", "dena"]
) -> Converted:
    said = "chainer-mask-rcnn (wkentaro)" if system == "wkentaro" else "Chainer_Mask_R-CNN (DeNA)"
    settings = read_settings(config_file, system)
    first = next((name for name in state if name.endswith("extractor/conv1/W")), "extractor/conv1/W")
    prefix = first.removesuffix("extractor/conv1/W")  # a trainer's snapshot keeps its optimiser beside the model
    names = {name: name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    left = [name for name in state if name not in names or COUNTER.fullmatch(name)]
    ours = {name: rename(names[name]) for name in state if name not in left}
    if unknown := [name for name, our in ours.items() if our is None]:
        raise ValueError(f"{source} looks like {said}'s, but has {unplaced(unknown)}")
    shapes = {our: shape_of(state, name) for name, our in ours.items() if our is not None}
    config = _wkentaro(settings, shapes, source) if system == "wkentaro" else _dena(settings, shapes, source)
    tensors = {our: converted_tensor(our, state[name], config.num_classes) for name, our in ours.items() if our}
    if system == "wkentaro" or settings.get("bn2affine"):
        tensors |= _affine(tensors)
    _fold_stem_bias(tensors)
    require_fit(config, tensors, source)
    names_given = settings.get("class_names")
    classes = VOC_CLASSES if config.num_classes == len(VOC_CLASSES) else class_names(config.num_classes)
    if isinstance(names_given, list | tuple) and len(names_given) == config.num_classes:
        classes = tuple(str(name) for name in names_given)
    return Converted(
        config=config,
        state=tensors,
        classes=classes,
        report=f"{said} {config.name}, {len(tensors)} tensors, {config.num_classes} classes",
        system=said,
        assumed=(*_assumed(settings, config, system), *settings.sentences()),
        left=tuple(left),
    )


def _affine(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Statistics with which a norm is its scale and shift alone, to the bit: no mean, a variance of 1, an eps of 0."""
    statistics = {}
    for name, value in tensors.items():
        if name.endswith(".norm.weight"):
            statistics[name.replace("weight", "running_mean")] = torch.zeros_like(value)
            statistics[name.replace("weight", "running_var")] = torch.ones_like(value)
    return statistics


def _fold_stem_bias(tensors: dict[str, Tensor]) -> None:
    """The stem's bias into the mean that its norm takes off: convolutions with a norm have none here."""
    if (bias := tensors.pop("backbone.stem.conv1.bias", None)) is not None:
        tensors["backbone.stem.conv1.norm.running_mean"] -= bias


def _wkentaro(settings: Settings, shapes: Mapping[str, tuple[int, ...]], source: str) -> DetectorConfig:
    """chainer-mask-rcnn's detector: RGB, frozen scales and shifts, adaptive samples, pasted as Detectron pastes."""
    config = _common(settings, shapes, source, norm_eps=0.0)
    mean = settings.get("mean") or (123.152, 115.903, 103.063)
    box = replace(
        config.box,
        sampling=replace(config.box.sampling, batch_size=512),
        pooler=replace(config.box.pooler, sampling_ratio=0),
    )
    mask = MaskHeadConfig() if config.mask is None else config.mask
    return replace(
        config,
        input=replace(config.input, resize="opencv", rescale="factor", pixel_mean=_three(mean)),
        backbone=replace(_resnet(config), stem_pool="padded_ceil"),
        box=box,
        legacy=LegacyConfig(drop_subpixel=True),
        mask=replace(mask, target="resized_bitmap", paste="padded", pooler=replace(mask.pooler, sampling_ratio=0)),
    )


def _dena(settings: Settings, shapes: Mapping[str, tuple[int, ...]], source: str) -> DetectorConfig:
    """Chainer_Mask_R-CNN's detector: BGR, norms of fixed statistics that are trained, 2x2 samples, no limit."""
    config = _common(settings, shapes, source, norm_eps=0.0 if settings.get("bn2affine") else 2e-5)
    mask = MaskHeadConfig() if config.mask is None else config.mask
    return replace(
        config,
        input=replace(
            config.input,
            resize="opencv_float",
            rescale="width",
            channel_order="bgr",
            pixel_mean=(102.9801, 115.9465, 122.7717),
        ),
        backbone=replace(_resnet(config), trained_affine=not settings.get("freeze_bn"), frozen_stages=0),
        rpn=replace(
            config.rpn,
            proposals=replace(config.rpn.proposals, min_size=4.0),
            legacy=replace(config.rpn.legacy, min_size_original=True, min_size_first=True),
        ),
        box=replace(
            config.box,
            sampling=replace(config.box.sampling, batch_size=128),
            pooler=replace(config.box.pooler, sampling_ratio=2),
            selection=replace(config.box.selection, max_detections=MOST),
        ),
        mask=replace(mask, target="truncated_bitmap", paste="squeezed", pooler=replace(mask.pooler, sampling_ratio=2)),
    )


def _common(settings: Settings, shapes: Mapping[str, tuple[int, ...]], source: str, norm_eps: float) -> DetectorConfig:
    """What the two have in common."""
    missing = [name for name in ("rpn.objectness.weight", "box_head.logits.weight") if name not in shapes]
    blocks = len({name.split(".")[2] for name in shapes if name.startswith("backbone.res4.")})
    if missing or blocks not in DEPTHS:
        raise ValueError(
            f"{source} is not whole: {few(missing) or f'a ResNet of {blocks} blocks in res4'} (in our names)"
        )
    anchors, classes = shapes["rpn.objectness.weight"][0] // RATIOS, shapes["box_head.logits.weight"][0] - 1
    scales = settings.get("anchor_scales") or SCALES.get(anchors, ())
    if len(scales) != anchors:
        raise ValueError(
            f"{source} has {anchors} sizes of anchors, and the settings {len(scales)}: say them with anchor_scales"
        )
    small = classes != 80  # VOC's size, unless it is COCO
    # a run whose log does not say it is older than the setting, and had 7
    roi_size = settings.get("roi_size") or (7 if "git_hash" in settings.ignored else 14)
    if roi_size // 7 not in (1, 2):  # which is the stride of their res5
        raise ValueError(f"{source}: roi_size is {roi_size}; want 7 to 20, of which res5 makes 7x7 or so")
    score, suppress = settings.get("score_thresh"), settings.get("nms_thresh")
    pooling = POOLINGS[settings.get("pooling_func") or "align"]
    return DetectorConfig(
        name=f"mask_rcnn_r{DEPTHS[blocks]}_c4",
        num_classes=classes,
        input=InputConfig(
            min_size=settings.get("min_size") or (600 if small else 800),
            max_size=settings.get("max_size") or (1000 if small else 1333),
            size_rounding="factor",
            pixel_std=(1.0, 1.0, 1.0),
            divisor=0,
        ),
        backbone=ResNetConfig(
            depth=DEPTHS[blocks],
            stages=(2, 3, 4),
            stride_in_1x1=True,
            norm_eps=norm_eps,
            res5_stride=1 if roi_size < 14 else 2,
        ),
        fpn=None,
        rpn=RPNConfig(
            width=_width(shapes),
            max_log_scale=NOWHERE,
            smooth_l1_beta=1 / 9,
            anchors=AnchorConfig(sizes=(tuple(16.0 * scale for scale in scales),), offset=0.5),
            legacy=LegacyRPNConfig(straddle=0.0, normalizer="sampled"),
            proposals=ProposalConfig(pre_nms_train=12000, pre_nms=6000, post_nms_train=2000, min_size=-1.0),
        ),
        box=BoxHeadConfig(
            trunk="res5",
            max_log_scale=NOWHERE,
            smooth_l1_beta=1.0,
            score_threshold=0.05 if score is None else score,
            pooler=PoolerConfig(kind=pooling, size=roi_size, aligned=False),
            selection=SelectionConfig(nms_iou=0.5 if suppress is None else suppress),
        ),
        mask=MaskHeadConfig(trunk="res5", convs=0, pooler=PoolerConfig(kind=pooling, size=roi_size, aligned=False)),
    )


def _width(shapes: Mapping[str, tuple[int, ...]]) -> int:
    width = shapes.get("rpn.convs.0.weight", (1024,))[0]
    return 0 if width == 1024 else width


def _resnet(config: DetectorConfig) -> ResNetConfig:
    assert isinstance(config.backbone, ResNetConfig)
    return config.backbone


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _assumed(settings: Settings, config: DetectorConfig, system: str) -> tuple[str, ...]:
    """A sentence for each thing that neither tensors nor settings said."""
    given = config.input
    said = {
        "min_size": f"images of {given.min_size} to {given.max_size} pixels, as for "
        + ("COCO" if config.num_classes == 80 else "VOC"),
        "anchor_scales": f"anchors of {', '.join(f'{size:g}' for size in config.rpn.anchors.sizes[0])} pixels",
        "pooling_func": "RoIAlign",
        "roi_size": f"regions of {config.box.pooler.size}x{config.box.pooler.size} cells",
    }
    if system == "wkentaro":
        said["mean"] = (
            "pixel means 123.152, 115.903, 103.063; those of a model copied from Detectron are 122.7717, 115.9465, "
            "102.9801"
        )
        said["cap"] = "the best 100 detections are kept; its own code keeps 100 others, by mistake"
    else:
        said["bn2affine"] = (
            "norms use the statistics of the file; bn2affine if the weights were parsed from Detectron's"
        )
        said["cap"] = f"{MOST} detections an image at most, where it has no limit"
    return tuple(sentence for key, sentence in said.items() if settings.get(key) is None)
