"""matterport's Mask R-CNN (Keras, `.h5`): ResNet-50 or -101 with an FPN; layers are found by name.

Kernels are (height, width, in, out). Every convolution has a bias: before a norm of the backbone, it is subtracted from
the mean of that norm here. The norms of the heads are folded into their layers. Boxes are y, x, height, width,
normalized so that 1 is the last pixel; background is the first class.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rcnn.data.messages import few
from rcnn.models import DetectorConfig
from rcnn.models import config as cfg
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.setting_texts import with_settings
from rcnn.weights.systems.c4 import UNLIMITED_SCALE
from rcnn.weights.systems.classes import class_names
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.layout import background_last, deltas_from_yx, kernel_from_hwio
from rcnn.weights.systems.renaming import Placed, Rules, unexpected
from rcnn.weights.systems.resnets import blocks_of, depth_and_blocks
from rcnn.weights.systems.settings import Four, SettingsSource, Three, Typed, same, same_settings, typed_settings
from rcnn.weights.systems.system import Plan, System

EPS = 1e-3  # eps of every norm in Keras
FIELDS = re.compile(r"(kernel|bias|gamma|beta|moving_mean|moving_variance)(?:_\d+)?(?::0)?")
BLOCK = re.compile(r"res([2-5])([a-z])_branch(2a|2b|2c|1)")
RULES = Rules(  # for layers with a kernel
    (
        (BLOCK.pattern, "backbone.res{1}.{2:block}.{3:conv}"),
        (r"conv1", "backbone.stem.conv1"),
        (r"fpn_c(\d)p\1", "fpn.lateral{1}"),
        (r"fpn_p(\d)", "fpn.output{1}"),
        (r"rpn_conv_shared", "rpn.convs.0"),
        (r"rpn_class_raw", "rpn.objectness"),
        (r"rpn_bbox_pred", "rpn.deltas"),
        (r"mrcnn_class_conv(\d)", "box_head.trunk.fc{1}"),
        (r"mrcnn_class_logits", "box_head.logits"),
        (r"mrcnn_bbox_fc", "box_head.deltas"),
        (r"mrcnn_mask_conv(\d)", "mask_head.trunk.conv{1}"),
        (r"mrcnn_mask_deconv", "mask_head.deconv"),
        (r"mrcnn_mask", "mask_head.logits"),
    ),
    words={"conv": {"2a": "conv1", "2b": "conv2", "2c": "conv3", "1": "shortcut"}},
)
NORM_FIELDS = ("gamma", "beta", "moving_mean", "moving_variance")
NORM = re.compile(r"bn_conv1|bn[2-5][a-z]_branch(?:2a|2b|2c|1)|mrcnn_(?:class|mask)_bn\d")
SKIP = re.compile(r"(?:.*/)?(?:optimizer_weights|training|anchors)(?:/.*)?|.*(?:iterations|Variable)(?::0)?")


@dataclass(frozen=True)
class Settings:
    """Settings of matterport's Config that a detector has, with their defaults for COCO."""

    image_min_dim: int = same("input.min_size", 800)
    image_max_dim: int = 1024
    image_resize_mode: str = "square"
    mean_pixel: Three = same("input.pixel_mean", (123.7, 116.8, 103.9))
    rpn_anchor_scales: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    rpn_anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_anchor_stride: int = 1
    rpn_nms_threshold: float = same("rpn.proposals.nms_iou", 0.7)
    rpn_train_anchors_per_image: int = same("rpn.sampling.batch_size", 256)
    pre_nms_limit: int = 6000
    post_nms_rois_training: int = same("rpn.proposals.post_nms_train", 2000)
    post_nms_rois_inference: int = same("rpn.proposals.post_nms", 1000)
    pool_size: int = 7
    mask_pool_size: int = 14
    train_rois_per_image: int = same("box.sampling.batch_size", 200)
    roi_positive_ratio: float = same("box.sampling.positive_fraction", 0.33)
    detection_max_instances: int = same("box.selection.max_detections", 100)
    detection_min_confidence: float = same("box.score_threshold", 0.7)
    detection_nms_threshold: float = same("box.selection.nms_iou", 0.3)
    rpn_bbox_std_dev: Four = (0.1, 0.1, 0.2, 0.2)
    bbox_std_dev: Four = (0.1, 0.1, 0.2, 0.2)


COCO = "matterport's setting for COCO"
ONLY = ("IMAGE_RESIZE_MODE", "RPN_ANCHOR_STRIDE", "RPN_BBOX_STD_DEV", "BBOX_STD_DEV")  # only the defaults are supported
ASSUMED = {
    "IMAGE_MIN_DIM": Assumption("image size", COCO, ("input.min_size",)),
    "IMAGE_MAX_DIM": Assumption("image size", COCO, ("input.max_size", "input.canvas")),
    "MEAN_PIXEL": Assumption("pixel mean", COCO, ("input.pixel_mean",)),
    "RPN_ANCHOR_SCALES": Assumption("anchors", COCO, ("rpn.anchors.sizes",)),
    "DETECTION_MIN_CONFIDENCE": Assumption("detections", COCO, ("box.score_threshold",)),
}
DIFFERENCES = (
    "images are resized with OpenCV's bilinear rule; matterport uses the rule of scikit-image, which depends on its "
    "version: pixels at the border of an image differ, other pixels differ by up to half a gray level",
    "NMS is applied before detections are clipped to the image; in matterport after it. Only detections in the black "
    "border can differ",
    "below a confidence of 0.5, a region may be detected as several classes; in matterport only as its best class",
    "further training uses the sampling and the loss weights of rcnn, with frozen batch norm",
)


def recognises(names: Collection[str]) -> bool:
    """Whether tensors of these names belong to matterport's Mask R-CNN."""
    layers = {layer for name in names if (layer := _layer(name)[0])}
    return {"rpn_conv_shared", "mrcnn_class_logits"} <= layers


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of matterport's file; `settings` are its Config, KEY=VALUE or what `config.display()` prints."""
    given = typed_settings(Settings, settings)
    layers: dict[str, dict[str, str]] = {}  # layer -> its field -> the tensor's name
    skipped: list[str] = []
    unknown: list[str] = []
    for name in found.state:
        layer, field = _layer(name)
        if SKIP.fullmatch(name):
            skipped.append(name)
        elif layer:
            layers.setdefault(layer, {})[field] = name
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"{found.source} looks like a file of {SYSTEM.name}, but has {unexpected(unknown)}")
    if bare := [layer for layer, fields in layers.items() if not NORM.fullmatch(layer) and "kernel" not in fields]:
        raise ValueError(f"{found.source} is incomplete: layers without a kernel: {few(bare)}")
    config = _config({name: found.shape(name) for name in found.state}, layers, given, found.source)

    def tensors(state: dict[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
        for layer, fields in layers.items():
            if (ours := RULES.rename(layer)) is not None:
                norm = layers.get(_norm_of(layer), {})
                values = {field: found.state[name] for field, name in fields.items()}
                state |= _convolution(ours, values, {field: found.state[name] for field, name in norm.items()})
        return state

    return Plan(
        config=config,
        placed=Placed({}, tuple(skipped)),
        complete=tensors,
        classes=class_names(config.num_classes),
        assumed=tuple(assumption for key, assumption in ASSUMED.items() if key not in given.given),
        notes=(*given.notes(), *DIFFERENCES),
    )


def _layer(name: str) -> tuple[str, str]:
    """The innermost known layer in the path of a data set, and the field; both are empty if there is none."""
    *scopes, last = name.split("/")
    if field := FIELDS.fullmatch(last):
        for scope in reversed(scopes):
            if RULES.rename(scope) is not None or NORM.fullmatch(scope):
                return scope, field[1]
    return "", ""


def _norm_of(layer: str) -> str:
    """The norm that follows a layer; empty if there is none."""
    if layer == "conv1":
        return "bn_conv1"
    if BLOCK.fullmatch(layer):
        return layer.replace("res", "bn", 1)
    return layer.replace("_conv", "_bn") if re.fullmatch(r"mrcnn_(class|mask)_conv\d", layer) else ""


def _convolution(ours: str, values: Mapping[str, Tensor], norm: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors of a layer (`kernel`, `bias`) and the norm after it (`gamma`, `beta` and statistics)."""
    weight = kernel_from_hwio(values["kernel"].float())
    bias = values["bias"].float() if "bias" in values else torch.zeros(len(weight))
    if norm and (missing := [field for field in NORM_FIELDS if field not in norm]):
        raise ValueError(f"the norm of {ours} (rcnn's name) has no {few(missing)}: is the file complete?")
    if ours.startswith("backbone.") and norm:
        return {
            f"{ours}.weight": weight.contiguous(),
            f"{ours}.norm.weight": norm["gamma"].float(),
            f"{ours}.norm.bias": norm["beta"].float(),
            f"{ours}.norm.running_mean": norm["moving_mean"].float() - bias,
            f"{ours}.norm.running_var": norm["moving_variance"].float(),
        }
    if norm:
        scale = norm["gamma"].double() * (norm["moving_variance"].double() + EPS).rsqrt()
        weight = (weight.double() * scale[:, None, None, None]).float()
        bias = ((bias.double() - norm["moving_mean"].double()) * scale + norm["beta"].double()).float()
    if ours.startswith("box_head.trunk."):
        weight = weight.flatten(1)  # a convolution over the whole region; the columns are channel, height, width
    if ours in ("rpn.deltas", "box_head.deltas"):
        weight, bias = deltas_from_yx(weight), deltas_from_yx(bias)
    if ours == "rpn.deltas":  # theirs are divided by their standard deviations, ours are not
        deviations = weight.new_tensor([0.1, 0.1, 0.2, 0.2]).repeat(len(bias) // 4)
        weight, bias = weight * deviations[:, None, None, None], bias * deviations
    weight, bias = (background_last(f"{ours}.", value) for value in (weight, bias))
    return {f"{ours}.weight": weight.contiguous(), f"{ours}.bias": bias.contiguous()}


def _config(
    shapes: Mapping[str, tuple[int, ...]],
    layers: Mapping[str, Mapping[str, str]],
    given: Typed[Settings],
    source: str,
) -> DetectorConfig:
    """The config of the detector with these `layers` (layer -> field -> tensor) and `shapes`."""
    theirs = given.values
    blocks = blocks_of(layers, BLOCK.pattern)
    needed = ("rpn_class_raw", "mrcnn_class_logits", "mrcnn_mask", "mrcnn_class_conv1", "fpn_p2")
    missing = [name for name in needed if name not in layers]
    if missing or 0 in blocks:
        raise ValueError(
            f"{source} is incomplete: a ResNet of {blocks} blocks, missing layers: {few(missing) or 'none'}"
        )
    depth, unusual = depth_and_blocks(blocks)
    kernels = {name: shapes[fields["kernel"]] for name, fields in layers.items() if "kernel" in fields}
    ratios = tuple(1 / ratio for ratio in theirs.rpn_anchor_ratios)  # theirs are width over height
    if kernels["rpn_class_raw"][-1] != 2 * len(ratios):
        raise ValueError(
            f"{source} has {kernels['rpn_class_raw'][-1]} anchor scores; expected {2 * len(ratios)}, two for each "
            "of RPN_ANCHOR_RATIOS. Give the ratios of the training with config (--config)"
        )
    given.require_default(*ONLY, source=source)
    config = DetectorConfig(
        name=f"mask_rcnn_r{depth}_fpn",
        num_classes=kernels["mrcnn_class_logits"][-1] - 1,
        input=cfg.InputConfig(
            max_size=theirs.image_max_dim,
            resize="opencv_float",
            size_rounding="factor_up",
            canvas=theirs.image_max_dim,
            pixel_std=(1.0, 1.0, 1.0),
            divisor=64,
        ),
        backbone=cfg.ResNetConfig(
            depth=depth,
            blocks=unusual,
            stride_in_1x1=True,
            norm_eps=EPS,
            stem_pool="unpadded_ceil",  # TensorFlow's "same" pads even sides only at the right and bottom
        ),
        fpn=cfg.FPNConfig(channels=kernels["fpn_p2"][-1]),
        rpn=cfg.RPNConfig(
            width=kernels["rpn_conv_shared"][-1],
            max_log_scale=UNLIMITED_SCALE,
            smooth_l1_beta=1.0,
            anchors=cfg.AnchorConfig(sizes=tuple((scale,) for scale in theirs.rpn_anchor_scales), ratios=ratios),
            legacy=cfg.LegacyRPNConfig(objectness="softmax", normalizer="sampled", joint_levels=True),
            proposals=cfg.ProposalConfig(
                pre_nms_train=theirs.pre_nms_limit, pre_nms=theirs.pre_nms_limit, min_size=-1.0
            ),
        ),
        box=cfg.BoxHeadConfig(
            fc_width=kernels["mrcnn_class_conv1"][-1],
            max_log_scale=UNLIMITED_SCALE,
            append_ground_truth=False,
            smooth_l1_beta=1.0,
            pooler=cfg.PoolerConfig(kind="normalized", size=theirs.pool_size),
        ),
        mask=cfg.MaskHeadConfig(
            width=kernels["mrcnn_mask"][-2],
            target="bitmap",
            pooler=cfg.PoolerConfig(kind="normalized", size=theirs.mask_pool_size),
        ),
        legacy=cfg.LegacyConfig(boxes="pixel_centers"),
    )
    return with_settings(config, same_settings(theirs, config))


SYSTEM = System(
    name="matterport's Mask R-CNN",
    files=".h5",
    settings="its Config, KEY=VALUE or a file of what display() prints",
    recognises=recognises,
    read=read,
)
