"""Exports our networks to tensorpack: tensors with its names and layouts, and its settings as KEY=VALUE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.models.config import ResNetConfig
from rcnn.weights.systems.detectron2.export import EPS, with_eps
from rcnn.weights.systems.layout import background_first, kernel_to_hwio
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.resnets import DEPTHS
from rcnn.weights.systems.settings import listed, same_values
from rcnn.weights.systems.system import COUNTER
from rcnn.weights.systems.tensorpack.settings import Settings

NORMS = {"frozen_bn": "FreezeBN", "sync_bn": "SyncBN", "gn": "GN", "none": "None"}
LAYER = {"weight": "W", "bias": "b"}
BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "mean/EMA", "running_var": "variance/EMA"}
OUTPUT = {"logits": "class", "deltas": "box"}
STAGE = r"box_head\.stages\.(\d)"


def to_tensorpack(state: Mapping[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """The tensors by tensorpack's names, in its layouts. Raises ValueError if it has no such network."""
    trunk = require_network(config)
    rules = _rules(config, trunk)
    theirs: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(COUNTER):
            continue
        if trunk.norm == "none" and name.endswith(".bias") and (name.startswith("backbone.") or ".res5." in name):
            if value.any():
                raise ValueError(
                    f"{name} (rcnn's name) cannot be exported: it is not zero, but tensorpack's ResNets without norms "
                    "have no biases"
                )
            continue
        if name.endswith("norm.running_var"):
            value = with_eps(value, trunk.norm_eps)
        if not name.startswith("mask_head.") and not (config.box.class_agnostic and ".deltas." in name):
            value = background_first(name, value)
        theirs[rules.required(name, "tensorpack")] = kernel_to_hwio(value).contiguous()
    return theirs


def as_bgr(state: Mapping[str, Tensor], config: DetectorConfig) -> tuple[dict[str, Tensor], DetectorConfig]:
    """The same network for BGR images, which tensorpack uses: the input channels of the stem are reversed."""
    if config.input.channel_order == "bgr":
        return dict(state), config
    given = config.input
    mean, std = given.pixel_mean[::-1], given.pixel_std[::-1]
    stem = "backbone.stem.conv1.weight"
    swapped = {name: value.flip(1) if name == stem else value for name, value in state.items()}
    return swapped, replace(config, input=replace(given, channel_order="bgr", pixel_mean=mean, pixel_std=std))


def require_network(config: DetectorConfig) -> ResNetConfig:
    """The ResNet of `config`. Raises ValueError that names what tensorpack does not support."""
    trunk, rpn, box, mask, fpn = config.backbone, config.rpn, config.box, config.mask, config.fpn
    if not isinstance(trunk, ResNetConfig):
        raise ValueError(f"{config.name} has a backbone of kind {trunk.kind}; tensorpack's R-CNNs have ResNets")
    convs = (box.convs, box.fcs)
    others = {
        "a keypoint head": config.keypoint is not None,
        "fcis": config.fcis is not None,
        "proposals_only": config.proposals_only,
        f"backbone.norm={trunk.norm}": trunk.norm not in NORMS,
        f"backbone.norm_eps={trunk.norm_eps} in {trunk.norm}": trunk.norm == "gn" and trunk.norm_eps != EPS,
        f"backbone.groups={trunk.groups}": trunk.groups != 1,
        f"backbone.stages={trunk.stages}": trunk.stages != ((2, 3, 4) if fpn is None else (2, 3, 4, 5)),
        "a dilated res5, or one of stride 1": trunk.res5_dilation != 1 or trunk.res5_stride != 2,
        f"rpn.legacy.objectness={rpn.legacy.objectness}": rpn.legacy.objectness != "sigmoid",
        f"rpn.head={rpn.head} with rpn.convs={rpn.convs}": (rpn.head, rpn.convs) != ("conv", 1),
        f"rpn.width={rpn.width}": fpn is not None and rpn.width not in (0, fpn.channels),
        f"box.trunk={box.trunk}": box.trunk != ("res5" if fpn is None else "fc"),
        f"box.convs={box.convs} with box.fcs={box.fcs}": fpn is not None and convs not in ((0, 2), (4, 1)),
        "box.class_agnostic without a cascade": config.cascade is None and box.class_agnostic,
        "a cascade with boxes per class": config.cascade is not None and not box.class_agnostic,
        "a cascade of other than 3 stages": config.cascade is not None and len(config.cascade.ious) != 3,
        "cascade.mask_heads=each": config.cascade is not None and config.cascade.mask_heads == "each",
        "mask.class_agnostic": mask is not None and mask.class_agnostic,
        "another mask head than res5 or 4 convolutions": mask is not None
        and (mask.trunk, mask.convs if fpn is not None else 0) != (("res5", 0) if fpn is None else ("convs", 4)),
        "an FPN with a norm other than group norm after convolutions with biases": fpn is not None
        and (fpn.norm, fpn.conv_bias) not in (("none", False), ("gn", True)),
        "a norm of the heads that is not group norm after the ReLU": any(
            part is not None and part.convs and (part.norm, part.norm_after_relu) not in (("none", False), ("gn", True))
            for part in (box, mask)
        ),
    }
    if found := [what for what, there in others.items() if there]:
        raise ValueError(f"{config.name} cannot be exported to tensorpack, which does not support {', '.join(found)}")
    return trunk


def settings_of(config: DetectorConfig, classes: tuple[str, ...]) -> str:
    """tensorpack's settings for a detector of `config`, one line KEY=VALUE each: the arguments of its --config.

    Raises ValueError if tensorpack has no such network.
    """
    trunk, rpn, box, mask, fpn = require_network(config), config.rpn, config.box, config.mask, config.fpn
    sizes = [size for level in rpn.anchors.sizes for size in level]
    joint, limits = rpn.legacy.joint_levels, rpn.proposals
    settings: dict[str, object] = {_key(name): value for name, value in same_values(Settings, config).items()}
    settings |= {
        "MODE_FPN": fpn is not None,
        "MODE_MASK": mask is not None,
        "DATA.CLASS_NAMES": ["BG", *classes],
        "BACKBONE.RESNET_NUM_BLOCKS": trunk.blocks
        or next(key for key, depth in DEPTHS.items() if depth == trunk.depth),
        "BACKBONE.NORM": NORMS[trunk.norm],
        "BACKBONE.FREEZE_AFFINE": not trunk.trained_affine,
        "BACKBONE.TF_PAD_MODE": trunk.padding == "tensorflow",
        "PREPROC.MAX_SIZE": config.input.max_size,
        "PREPROC.PIXEL_MEAN": config.input.pixel_mean[::-1],
        "PREPROC.PIXEL_STD": config.input.pixel_std[::-1],
        "RPN.ANCHOR_SIZES": sizes,
        "RPN.MIN_SIZE": max(0, round(limits.min_size)),
        "MRCNN.ACCURATE_PASTE": mask is None or mask.paste == "accurate",
    }
    if fpn is None:
        settings["RPN.HEAD_DIM"] = rpn.width or 1024
    if fpn is None or joint:
        settings |= {"RPN.TRAIN_PRE_NMS_TOPK": limits.pre_nms_train, "RPN.TRAIN_POST_NMS_TOPK": limits.post_nms_train}
        settings |= {"RPN.TEST_PRE_NMS_TOPK": limits.pre_nms, "RPN.TEST_POST_NMS_TOPK": limits.post_nms}
    else:
        settings |= {
            "RPN.TRAIN_PER_LEVEL_NMS_TOPK": limits.pre_nms_train,
            "RPN.TEST_PER_LEVEL_NMS_TOPK": limits.pre_nms,
        }
    if fpn is not None:
        gn = "_gn" if box.norm == "gn" else ""
        settings |= {
            "FPN.PROPOSAL_MODE": "Joint" if joint else "Level",
            "FPN.NORM": "GN" if fpn.norm == "gn" else "None",
            "FPN.CASCADE": config.cascade is not None,
            "FPN.FRCNN_HEAD_FUNC": f"fastrcnn_4conv1fc{gn}_head" if box.convs else "fastrcnn_2fc_head",
        }
        if mask is not None:
            settings["FPN.MRCNN_HEAD_FUNC"] = f"maskrcnn_up4conv{'_gn' if mask.norm == 'gn' else ''}_head"
    head = f"# tensorpack's settings of {config.name}, written by rcnn: the arguments of its --config\n"
    return head + "".join(f"{key}={_text(value)}\n" for key, value in sorted(settings.items()))


def _text(value: object) -> str:
    return str(listed(value))


SECTIONS = ("BACKBONE.", "PREPROC.", "RPN.", "FRCNN.", "FPN.", "MRCNN.", "CASCADE.", "TEST.")


def _key(field: str) -> str:
    """tensorpack's key for a field of its settings: RPN.NMS_THRESH for rpn_nms_thresh."""
    section = next(one for one in SECTIONS if field.startswith(one[:-1].lower() + "_"))
    return section + field.removeprefix(section[:-1].lower() + "_").upper()


def _rules(config: DetectorConfig, trunk: ResNetConfig) -> Rules:
    """Our names -> tensorpack's."""
    norm = "gn" if trunk.norm == "gn" else "bn"
    single = "fc" if config.box.convs else "fc6"
    outputs = "fastrcnn" if config.fpn is None else "fastrcnn/outputs"
    head = r"cascade_rcnn_stage{1+1}"
    value = r"(weight|bias)"
    values = rf"({'|'.join(BATCH_NORM)})"
    return Rules(
        (
            (rf"backbone\.stem\.conv1\.norm\.{values}", f"conv0/{norm}/{{1:norm}}"),
            (r"backbone\.stem\.conv1\.(weight)", "conv0/{1:layer}"),
            *(
                rule
                for ours in (r"backbone\.res(\d)", r"box_head\.trunk\.res(5)")
                for rule in (
                    (
                        rf"{ours}\.(\d+)\.conv(\d)\.norm\.{values}",
                        f"group{{1-2}}/block{{2}}/conv{{3}}/{norm}/{{4:norm}}",
                    ),
                    (rf"{ours}\.(\d+)\.conv(\d)\.(weight)", "group{1-2}/block{2}/conv{3}/{4:layer}"),
                    (
                        rf"{ours}\.(\d+)\.shortcut\.norm\.{values}",
                        f"group{{1-2}}/block{{2}}/convshortcut/{norm}/{{3:norm}}",
                    ),
                    (rf"{ours}\.(\d+)\.shortcut\.(weight)", "group{1-2}/block{2}/convshortcut/{3:layer}"),
                )
            ),
            (rf"fpn\.lateral(\d)\.norm\.{value}", "fpn/gn_c{1}/{2:norm}"),
            (rf"fpn\.output(\d)\.norm\.{value}", "fpn/gn_p{1}/{2:norm}"),
            (rf"fpn\.lateral(\d)\.{value}", "fpn/lateral_1x1_c{1}/{2:layer}"),
            (rf"fpn\.output(\d)\.{value}", "fpn/posthoc_3x3_p{1}/{2:layer}"),
            (rf"rpn\.convs\.0\.{value}", "rpn/conv0/{1:layer}"),
            (rf"rpn\.objectness\.{value}", "rpn/class/{1:layer}"),
            (rf"rpn\.deltas\.{value}", "rpn/box/{1:layer}"),
            (rf"box_head\.trunk\.fc1\.{value}", f"fastrcnn/{single}/{{1:layer}}"),
            (rf"box_head\.trunk\.fc2\.{value}", "fastrcnn/fc7/{1:layer}"),
            (rf"box_head\.trunk\.conv(\d)\.norm\.{value}", "fastrcnn/gn{1-1}/{2:norm}"),
            (rf"box_head\.trunk\.conv(\d)\.{value}", "fastrcnn/conv{1-1}/{2:layer}"),
            (rf"box_head\.(logits|deltas)\.{value}", f"{outputs}/{{1:output}}/{{2:layer}}"),
            (rf"{STAGE}\.trunk\.fc1\.{value}", f"{head}/head/{single}/{{2:layer}}"),
            (rf"{STAGE}\.trunk\.fc2\.{value}", f"{head}/head/fc7/{{2:layer}}"),
            (rf"{STAGE}\.trunk\.conv(\d)\.norm\.{value}", f"{head}/head/gn{{2-1}}/{{3:norm}}"),
            (rf"{STAGE}\.trunk\.conv(\d)\.{value}", f"{head}/head/conv{{2-1}}/{{3:layer}}"),
            (rf"{STAGE}\.(logits|deltas)\.{value}", f"{head}/outputs/{{2:output}}/{{3:layer}}"),
            (rf"mask_head\.trunk\.conv(\d)\.norm\.{value}", "maskrcnn/gn{1-1}/{2:norm}"),
            (rf"mask_head\.trunk\.conv(\d)\.{value}", "maskrcnn/fcn{1-1}/{2:layer}"),
            (rf"mask_head\.deconv\.{value}", "maskrcnn/deconv/{1:layer}"),
            (rf"mask_head\.logits\.{value}", "maskrcnn/conv/{1:layer}"),
        ),
        words={"layer": LAYER, "norm": BATCH_NORM, "output": OUTPUT},
    )
