"""Mask R-CNN (ResNet C4) of two Chainer ports (`.npz`): wkentaro's chainer-mask-rcnn and DeNA's Chainer_Mask_R-CNN.

Both store boxes and deltas as y, x, height, width, order anchors by ratio, then size, and put background first.
wkentaro's norms have only a scale and a shift, and its stem has a bias; DeNA keeps batch norms, uses BGR images, and
has masks for background.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

from torch import Tensor

from rcnn.data.messages import few
from rcnn.models import DetectorConfig
from rcnn.models import config as cfg
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.setting_texts import with_settings
from rcnn.weights.systems.c4 import mask_rcnn_c4
from rcnn.weights.systems.chainer.names import EPS, WORDS
from rcnn.weights.systems.chainer.settings import TRAINING, Settings, read_chainer_settings
from rcnn.weights.systems.classes import VOC_CLASSES, class_names, given_names
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.layout import (
    anchors_from_ratio_outer,
    background_last,
    deltas_from_yx,
    fold_biases,
    identity_statistics,
)
from rcnn.weights.systems.renaming import Placed, Rules
from rcnn.weights.systems.resnets import blocks_of, known_depth
from rcnn.weights.systems.settings import SettingsSource
from rcnn.weights.systems.system import Plan, System, all_of

Shapes = Mapping[str, tuple[int, ...]]
MAX_DETECTIONS = 1000  # the system has no limit
NORMS = {"gamma": "weight", "beta": "bias", "avg_mean": "running_mean", "avg_var": "running_var", "W": "weight",
         "b": "bias"}  # fmt: skip
NORM = f"({'|'.join(NORMS)})"
PREFIX = "(?:.+/)?"  # names in a trainer's snapshot start with the path of the model
RULES = Rules(
    (
        (rf"{PREFIX}extractor/conv1/(W|b)", "backbone.stem.conv1.{1:value}"),
        (rf"{PREFIX}extractor/bn1/{NORM}", "backbone.stem.conv1.norm.{1:norm}"),
        (rf"{PREFIX}extractor/res([234])/(a|b\d+)/conv(\d)/(W|b)", "backbone.res{1}.{2:block}.{3:conv}.{4:value}"),
        (rf"{PREFIX}extractor/res([234])/(a|b\d+)/bn(\d)/{NORM}", "backbone.res{1}.{2:block}.{3:conv}.norm.{4:norm}"),
        (rf"{PREFIX}head/res5/(a|b\d+)/conv(\d)/(W|b)", "box_head.trunk.res5.{1:block}.{2:conv}.{3:value}"),
        (rf"{PREFIX}head/res5/(a|b\d+)/bn(\d)/{NORM}", "box_head.trunk.res5.{1:block}.{2:conv}.norm.{3:norm}"),
        (rf"{PREFIX}rpn/conv1/(W|b)", "rpn.convs.0.{1:value}"),
        (rf"{PREFIX}rpn/score/(W|b)", "rpn.objectness.{1:value}"),
        (rf"{PREFIX}rpn/loc/(W|b)", "rpn.deltas.{1:value}"),
        (rf"{PREFIX}head/score/(W|b)", "box_head.logits.{1:value}"),
        (rf"{PREFIX}head/cls_loc/(W|b)", "box_head.deltas.{1:value}"),
        (rf"{PREFIX}head/deconv(?:6|m1)/(W|b)", "mask_head.deconv.{1:value}"),
        (rf"{PREFIX}head/(?:mask|convm2)/(W|b)", "mask_head.logits.{1:value}"),
    ),
    words=WORDS | {"norm": NORMS},
)
POOLINGS: dict[str, cfg.Pooling] = {"align": "roi_align", "pooling": "roi_pool", "resize": "crop_resize"}


def in_our_layout(name: str, value: Tensor, config: DetectorConfig) -> Tensor:
    """A tensor of the file in our layout. Masks include background if there is one more than classes."""
    if name.startswith(("rpn.deltas.", "box_head.deltas.")):
        value = deltas_from_yx(value)
    if name.startswith("mask_head.logits.") and len(value) == config.num_classes:
        return value
    return background_last(name, anchors_from_ratio_outer(name, value, config))


def _read(system: Literal["wkentaro", "dena"], found: Found, given: SettingsSource) -> Plan:
    """The network of a file of `system`; `given` are its settings. The most important one of DeNA is `--bn2affine`."""
    theirs = read_chainer_settings(given)
    settings = theirs.values
    if system == "dena" and settings.roialign is False:
        settings = replace(settings, pooling_func="pooling")
    first = next((name for name in found.state if name.endswith("extractor/conv1/W")), "extractor/conv1/W")
    prefix = first.removesuffix("extractor/conv1/W")  # a trainer's snapshot keeps its optimizer beside the model
    model = {name: found.shape(name) for name in found.state if name.startswith(prefix)}
    counters = [name for name in model if name.endswith("/N")]  # batch counters of norms
    name = WKENTARO.name if system == "wkentaro" else DENA.name
    placed = RULES.place((name for name in model if name not in counters), found.source, name)
    shapes = {our: model[name] for name, our in placed.ours.items()}
    # logs without this setting are older than the setting; the size was 7 then
    roi_size = settings.roi_size or (7 if "git_hash" in theirs.others else 14)
    config = _config(system, settings, shapes, roi_size, found.source)

    def complete(state: dict[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
        if system == "wkentaro" or settings.bn2affine:  # the norms are scale and shift only
            state = identity_statistics({name: value for name, value in state.items() if ".running_" not in name})
        fold_biases(state)
        return state

    names, unused = given_names(settings.class_names or (), config.num_classes, "class_names")
    return Plan(
        config=config,
        placed=Placed(placed.ours, tuple(name for name in found.state if name not in placed.ours)),
        tensor=in_our_layout,
        complete=complete,
        classes=class_names(config.num_classes, names, VOC_CLASSES),
        assumed=_assumed(settings, config, system),
        notes=(*_notes(settings, system), *theirs.notes(TRAINING), *unused),
    )


# our settings that differ between the two systems
WKENTARO_SETTINGS: dict[str, object] = {
    "input.resize": "opencv",
    "input.rescale": "factor",
    "input.pixel_mean": (123.152, 115.903, 103.063),
    "backbone.stem_pool": "padded_ceil",
    "box.sampling.batch_size": 512,
    "box.pooler.sampling_ratio": 0,
    "mask.pooler.sampling_ratio": 0,
    "mask.target": "resized_bitmap",
    "mask.paste": "padded",
    "legacy.drop_subpixel": True,
}
DENA_SETTINGS: dict[str, object] = {
    "input.resize": "opencv_float",
    "input.rescale": "width",
    "input.channel_order": "bgr",
    "input.pixel_mean": (102.9801, 115.9465, 122.7717),
    "backbone.frozen_stages": 0,
    "rpn.proposals.min_size": 4.0,
    "rpn.legacy.min_size_original": True,
    "rpn.legacy.min_size_first": True,
    "box.sampling.batch_size": 128,
    "box.pooler.sampling_ratio": 2,
    "box.selection.max_detections": MAX_DETECTIONS,
    "mask.pooler.sampling_ratio": 2,
    "mask.target": "truncated_bitmap",
    "mask.paste": "squeezed",
}


def _config(system: str, settings: Settings, shapes: Shapes, roi_size: int, source: str) -> DetectorConfig:
    if missing := [name for name in ("rpn.objectness.weight", "box_head.logits.weight") if name not in shapes]:
        raise ValueError(f"{source} is incomplete: it has no {few(missing)} (rcnn's names)")
    depth = known_depth(blocks_of(shapes, stages=(2, 3, 4)), source)
    classes, width = shapes["box_head.logits.weight"][0] - 1, shapes.get("rpn.convs.0.weight", (1024,))[0]
    if roi_size // 7 not in (1, 2):  # the stride of their res5
        raise ValueError(f"{source}: roi_size is {roi_size}; expected 7 to 20, from which res5 makes about 7x7")
    config = mask_rcnn_c4(
        depth,
        (),
        classes=classes,
        width=0 if width == 1024 else width,
        anchors=shapes["rpn.objectness.weight"][0],
        scales=settings.anchor_scales,
        pooler=cfg.PoolerConfig(kind=POOLINGS[settings.pooling_func or "align"], size=roi_size, aligned=False),
    )
    small = classes != 80  # VOC's sizes, unless it is COCO
    more: dict[str, object] = {
        "input.min_size": settings.min_size or (600 if small else 800),
        "input.max_size": settings.max_size or (1000 if small else 1333),
        "input.size_rounding": "factor",
        "backbone.norm_eps": 0.0 if system == "wkentaro" or settings.bn2affine else EPS,
        "backbone.res5_stride": 1 if roi_size < 14 else 2,
        "rpn.anchors.offset": 0.5,
        "box.score_threshold": 0.05 if settings.score_thresh is None else settings.score_thresh,
        "box.selection.nms_iou": 0.5 if settings.nms_thresh is None else settings.nms_thresh,
    }
    if system == "wkentaro":  # RGB, frozen scales and shifts
        more |= WKENTARO_SETTINGS | ({"input.pixel_mean": settings.mean} if settings.mean else {})
    else:  # BGR, trained norms with fixed statistics
        more |= DENA_SETTINGS | {"backbone.trained_affine": not settings.freeze_bn}
    return with_settings(config, more)


def _assumed(settings: Settings, config: DetectorConfig, system: str) -> tuple[Assumption, ...]:
    """Settings that neither the tensors nor the given settings contain."""
    data = "the system's values for " + ("COCO" if config.num_classes == 80 else "VOC")
    sources = {
        "min_size": ("image size", ("input.min_size", "input.max_size"), data),
        "anchor_scales": ("anchors", ("rpn.anchors.sizes",), data),
        "pooling_func": ("box pooling", ("box.pooler.kind",), "the system's default"),
        "roi_size": ("cells per region", ("box.pooler.size",), "the system's default"),
    }
    if system == "wkentaro":
        sources["mean"] = (
            "pixel mean", ("input.pixel_mean",),
            "the system's default; models copied from Detectron have [122.7717,115.9465,102.9801]",
        )  # fmt: skip
    return tuple(
        Assumption(what, source, keys)
        for key, (what, keys, source) in sources.items()
        if getattr(settings, key) is None
    )


def _notes(settings: Settings, system: str) -> tuple[str, ...]:
    if system == "wkentaro":
        return ("the 100 detections with the highest scores are kept; chainer-mask-rcnn keeps others because of a bug",)
    affine = "norms use the statistics of the file; for weights parsed from Detectron's give --config bn2affine=true"
    limit = f"at most {MAX_DETECTIONS} detections per image; the system has no limit (box.selection.max_detections)"
    return (limit,) if settings.bn2affine is not None else (affine, limit)


WKENTARO = System(
    name="chainer-mask-rcnn (wkentaro)",
    files=".npz",
    settings="the params.yaml of its log folder, or KEY=VALUE",
    recognises=all_of(".*extractor/bn1/W", ".*head/mask/W"),
    read=partial(_read, "wkentaro"),
)
DENA = System(
    name="Chainer_Mask_R-CNN (DeNA)",
    files=".npz",
    settings="the flags that it was run with (--bn2affine ...), or a file of them",
    recognises=all_of(".*head/convm2/W"),
    read=partial(_read, "dena"),
)
