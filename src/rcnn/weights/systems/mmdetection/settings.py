"""Translates the values of an MMDetection config to our settings; the tensors decide which network it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rcnn.models import DetectorConfig
from rcnn.models import config as cfg
from rcnn.models.overrides import override

# supported values of keys
TYPES: dict[str, tuple[Any, ...]] = {
    "type": ("FasterRCNN", "MaskRCNN", "CascadeRCNN", "RPN", "TwoStageDetector"),
    "backbone.type": ("ResNet", "ResNeXt"),
    "backbone.norm_cfg.type": ("BN", "SyncBN", "GN"),
    "neck.type": ("FPN",),
    "neck.num_outs": (5,),
    "neck.start_level": (0,),
    "neck.add_extra_convs": (False,),
    "rpn_head.type": ("RPNHead",),
    "rpn_head.anchor_generator.type": ("AnchorGenerator",),
    "rpn_head.bbox_coder.type": ("DeltaXYWHBBoxCoder",),
    "rpn_head.bbox_coder.target_stds": ([1.0, 1.0, 1.0, 1.0],),
    "rpn_head.loss_cls.use_sigmoid": (True,),
    "roi_head.type": ("StandardRoIHead", "CascadeRoIHead"),
    "roi_head.shared_head.type": ("ResLayer",),
    "roi_head.bbox_roi_extractor.type": ("SingleRoIExtractor",),
    "roi_head.mask_roi_extractor.type": ("SingleRoIExtractor",),
    "roi_head.bbox_head.type": ("BBoxHead", "ConvFCBBoxHead", "Shared2FCBBoxHead", "Shared4Conv1FCBBoxHead"),
    "roi_head.bbox_head.bbox_coder.type": ("DeltaXYWHBBoxCoder",),
    "roi_head.bbox_head.reg_decoded_bbox": (False,),
    "roi_head.bbox_head.loss_cls.use_sigmoid": (False,),
    "roi_head.mask_head.type": ("FCNMaskHead",),
    "roi_head.mask_head.upsample_cfg.type": ("deconv",),
}
# ends of keys that are ignored if they have the value of the base configs; other values are reported
USUAL: dict[str, tuple[Any, ...]] = {
    "loss_cls.loss_weight": (1.0,),
    "loss_cls.type": ("CrossEntropyLoss",),
    "loss_mask.loss_weight": (1.0,),
    "loss_mask.type": ("CrossEntropyLoss",),
    "clip_border": (True,),
    "ignore_iof_thr": (-1,),
    "mask_thr_binary": (0.5,),
    "neg_pos_ub": (-1,),
    "nms_across_levels": (False,),
    "pos_weight": (-1,),
    "target_means": ([0.0, 0.0, 0.0, 0.0],),
}
# keys that change no result, or that the tensors show
IDLE = re.compile(
    r"(pretrained|.*init_cfg.*|backbone\.(depth|num_stages|out_indices|groups|base_width|with_cp|norm_cfg\.type)|"
    r".*\.(in_channels|num_classes|roi_feat_size|featmap_strides|out_channels|type|class_agnostic|reg_class_agnostic)|"
    r"backbone\.(strides|dilations)|.*norm_cfg.*|.*conv_cfg|.*conv_out_channels|.*fc_out_channels|"
    r".*num_(shared_)?(convs|fcs)|.*feat_channels|.*use_(mask|sigmoid)|.*loss_bbox\.(type|beta)|"
    r".*mask_size|.*debug|.*gpu_assign_thr|.*add_gt_as_proposals|"
    r".*nms_post|.*with_avg_pool|.*match_low_quality|roi_head\.num_stages|"
    r"roi_head\.shared_head\..*|data_preprocessor\.(type|pad_mask|mask_pad_value|pad_value|pad_seg|batch_augments.*)|"
    r"train_cfg\.rpn_proposal\.min_bbox_size|.*bbox_coder\.target_stds)"
)
# our setting -> keys of MMDetection 3.x and 2.x with the same meaning
SAME: dict[str, tuple[str, ...]] = {
    "rpn.anchors.ratios": ("rpn_head.anchor_generator.ratios", "rpn_head.anchor_ratios"),
    "rpn.anchors.offset": ("rpn_head.anchor_generator.center_offset",),
    "rpn.sampling.positive_iou": ("train_cfg.rpn.assigner.pos_iou_thr",),
    "rpn.sampling.negative_iou": ("train_cfg.rpn.assigner.neg_iou_thr",),
    "rpn.sampling.batch_size": ("train_cfg.rpn.sampler.num",),
    "rpn.sampling.positive_fraction": ("train_cfg.rpn.sampler.pos_fraction",),
    "rpn.proposals.nms_iou": ("test_cfg.rpn.nms.iou_threshold", "test_cfg.rpn.nms_thr"),
    "rpn.proposals.pre_nms": ("test_cfg.rpn.nms_pre",),
    "rpn.proposals.post_nms": ("test_cfg.rpn.max_per_img", "test_cfg.rpn.max_num"),
    "rpn.proposals.pre_nms_train": ("train_cfg.rpn_proposal.nms_pre",),
    "rpn.proposals.post_nms_train": ("train_cfg.rpn_proposal.max_per_img", "train_cfg.rpn_proposal.max_num"),
    "rpn.proposals.min_size": ("test_cfg.rpn.min_bbox_size",),
    "rpn.legacy.straddle": ("train_cfg.rpn.allowed_border",),
    "box.sampling.positive_iou": ("train_cfg.rcnn.assigner.pos_iou_thr",),
    "box.sampling.batch_size": ("train_cfg.rcnn.sampler.num",),
    "box.sampling.positive_fraction": ("train_cfg.rcnn.sampler.pos_fraction",),
    "box.append_ground_truth": ("train_cfg.rcnn.sampler.add_gt_as_proposals",),
    "box.delta_loss_weight": ("roi_head.bbox_head.loss_bbox.loss_weight",),
    "box.score_threshold": ("test_cfg.rcnn.score_thr",),
    "box.selection.soft_nms_sigma": ("test_cfg.rcnn.nms.sigma",),
    "box.selection.soft_nms_threshold": ("test_cfg.rcnn.nms.min_score",),
    "box.selection.nms_iou": ("test_cfg.rcnn.nms.iou_threshold", "test_cfg.rcnn.nms.iou_thr"),
    "box.selection.max_detections": ("test_cfg.rcnn.max_per_img",),
}


def with_settings(config: DetectorConfig, values: Mapping[str, Any], source: str) -> tuple[DetectorConfig, list[str]]:
    """`config` with the `values` of MMDetection's config, and the keys that rcnn does not know.

    Raises ValueError that names `source` and a key with an unsupported value.
    """
    model = values.get("model")
    if not isinstance(model, Mapping):
        raise ValueError(f"{source} has no `model = dict(...)`; expected MMDetection's config of a detector")
    model = {**{key: values[key] for key in ("train_cfg", "test_cfg") if isinstance(values.get(key), Mapping)}, **model}
    keys = _Keys(model)
    for key, allowed in TYPES.items():
        for path, value in keys.all(key):
            if value not in allowed:
                expected = " or ".join(map(repr, allowed))
                raise ValueError(f"{source}: model.{path}={value!r} is not supported; expected {expected}")
    for path, value in keys.values.items():
        if re.search(r"\.(dcn|plugins|avg_down|deep_stem)(\.|$)", path) and value not in (None, False):
            raise ValueError(f"{source}: model.{path}={value!r} is not supported; remove it")
    for ours, theirs in SAME.items():
        for path, value in [found for key in theirs for found in keys.all(key)][:1]:
            try:
                config = override(config, [f"{ours}={json.dumps(value)}"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{source}: model.{path}={value!r} is not supported ({error})") from error
    config = replace(
        config,
        input=_input(config.input, keys, values),
        backbone=_backbone(config.backbone, keys) if isinstance(config.backbone, cfg.ResNetConfig) else config.backbone,
        rpn=_rpn(config.rpn, keys),
        box=_box(config.box, keys),
        mask=None if config.mask is None else _mask(config.mask, keys),
    )
    if config.cascade is not None:
        weights = keys.get("roi_head.stage_loss_weights", list(config.cascade.loss_weights))
        ious = [value for _, value in keys.all("train_cfg.rcnn.assigner.pos_iou_thr")] or config.cascade.ious
        stds = [value for _, value in keys.all("roi_head.bbox_head.bbox_coder.target_stds")]
        cascade = replace(config.cascade, loss_weights=_floats(weights), ious=_floats(ious))
        if stds:
            cascade = replace(cascade, delta_weights=tuple(inverse(std) for std in stds))
        config = replace(config, cascade=cascade)
    unknown = [f"model.{path}" for path in keys.unread() if not _is_idle(path, keys.values[path])]
    data = values.get("data")  # of version 2.x
    tested = [values.get("test_pipeline"), data.get("test") if isinstance(data, Mapping) else None]
    if any(step.get("keep_ratio") is False for part in tested for step in _steps(part)):
        unknown.append("keep_ratio=False in test_pipeline; images keep their aspect ratio here")
    return config, unknown


def _is_idle(path: str, value: Any) -> bool:
    """Whether an unused setting changes no result."""
    usual = next((values for end, values in USUAL.items() if path.endswith(end)), None)
    return value in usual if usual is not None else IDLE.fullmatch(path) is not None


class _Keys:
    """The leaves of nested dicts by path; `#N` in a path is the position in a list of dicts."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self.values: dict[str, Any] = {}
        self.read: set[str] = set()
        for path, value in _leaves(tree, ""):
            self.values[path] = value

    def all(self, key: str) -> list[tuple[str, Any]]:
        """Path and value of each `key`, in order; `key` contains no positions (`#N`)."""
        found = [(path, value) for path, value in self.values.items() if re.sub(r"\.#\d+", "", path) == key]
        self.read |= {path for path, _ in found}
        return found

    def get(self, *keys_and_default: Any) -> Any:
        """The value of the first key that exists (in a list of dicts, of the first one), else the last argument."""
        *keys, default = keys_and_default
        for key in keys:
            if found := self.all(key):
                return found[0][1]
        return default

    def has(self, prefix: str) -> bool:
        """Whether a key starts with `prefix`."""
        return any(path.startswith(prefix) for path in self.values)

    def unread(self) -> list[str]:
        return [path for path in self.values if path not in self.read]


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}.")
        elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
            for index, part in enumerate(value):
                yield from _leaves(part, f"{path}.#{index}.")
        else:
            yield path, value


def _input(config: cfg.InputConfig, keys: _Keys, values: Mapping[str, Any]) -> cfg.InputConfig:
    steps = [step for name in ("test_pipeline", "data", "img_norm_cfg") for step in _steps(values.get(name))]
    norm = next((step for step in steps if step.get("type") == "Normalize" or "to_rgb" in step), {})
    mean = keys.get("data_preprocessor.mean", norm.get("mean", config.pixel_mean))
    std = keys.get("data_preprocessor.std", norm.get("std", config.pixel_std))
    rgb = keys.get("data_preprocessor.bgr_to_rgb", norm.get("to_rgb", config.channel_order == "rgb"))
    pad = next((step["size_divisor"] for step in steps if "size_divisor" in step), config.divisor)
    scale = next((step[key] for step in steps for key in ("scale", "img_scale") if _is_scale(step.get(key))), None)
    sides = sorted(scale) if scale else [config.min_size, config.max_size]
    return replace(
        config,
        pixel_mean=_floats(mean),
        pixel_std=_floats(std),
        channel_order="rgb" if rgb else "bgr",
        divisor=int(keys.get("data_preprocessor.pad_size_divisor", 1 if keys.has("data_preprocessor.") else pad)),
        min_size=int(sides[0]),
        max_size=int(sides[1]),
    )


def _is_scale(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) for side in value)


def _steps(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Every dict inside dicts and lists; if there are train and test data sets, only those of the test set."""
    if isinstance(tree, Mapping):
        yield tree
        for key in ["test"] if "test" in tree and "train" in tree else list(tree):
            yield from _steps(tree[key])
    elif isinstance(tree, list):
        for part in tree:
            yield from _steps(part)


def _backbone(config: cfg.ResNetConfig, keys: _Keys) -> cfg.ResNetConfig:
    trained = bool(keys.get("backbone.norm_cfg.requires_grad", True))
    evaluated = bool(keys.get("backbone.norm_eval", True))
    norm = config.norm
    if norm != "gn":
        norm = "frozen_bn" if evaluated else keys.get("backbone.norm_cfg.type", "BN").lower().replace("sync", "sync_")
    return replace(
        config,
        norm=norm,
        trained_affine=trained and norm == "frozen_bn",
        stride_in_1x1=keys.get("backbone.style", "pytorch") == "caffe",
        frozen_stages=int(keys.get("backbone.frozen_stages", -1)) + 1,
    )


def _rpn(config: cfg.RPNConfig, keys: _Keys) -> cfg.RPNConfig:
    base = "rpn_head.anchor_generator"
    scales = keys.get(f"{base}.scales", "rpn_head.anchor_scales", None)
    strides = keys.get(f"{base}.strides", "rpn_head.anchor_strides", None)
    sizes = config.anchors.sizes
    if scales and strides:
        sizes = tuple(tuple(float(scale * stride) for scale in scales) for stride in strides)
    low_quality = keys.get("train_cfg.rpn.assigner.min_pos_iou", 0.3) >= config.sampling.negative_iou
    return replace(
        config,
        anchors=replace(config.anchors, sizes=sizes),
        smooth_l1_beta=_beta(keys, "rpn_head.loss_bbox", config.smooth_l1_beta),
        loss_weights=_floats(keys.get(f"rpn_head.loss_{part}.loss_weight", 1.0) for part in ("cls", "bbox")),
        legacy=replace(config.legacy, low_quality="overruled" if low_quality else "kept"),
    )


def _box(config: cfg.BoxHeadConfig, keys: _Keys) -> cfg.BoxHeadConfig:
    stds = keys.get("roi_head.bbox_head.bbox_coder.target_stds", None)
    soft = keys.get("test_cfg.rcnn.nms.type", "nms") == "soft_nms"
    gaussian = keys.get("test_cfg.rcnn.nms.method", "linear") == "gaussian"
    return replace(
        config,
        pooler=_pooler(config.pooler, keys, "bbox"),
        delta_weights=inverse(stds) if stds else config.delta_weights,
        smooth_l1_beta=_beta(keys, "roi_head.bbox_head.loss_bbox", config.smooth_l1_beta),
        selection=replace(config.selection, nms=("soft_gaussian" if gaussian else "soft_linear") if soft else "hard"),
    )


def _mask(config: cfg.MaskHeadConfig, keys: _Keys) -> cfg.MaskHeadConfig:
    keys.all("roi_head.mask_roi_extractor")  # marked as read; C4 has none, because it pools once for both heads
    return replace(config, pooler=_pooler(config.pooler, keys, "bbox" if config.trunk == "res5" else "mask"))


def _pooler(config: cfg.PoolerConfig, keys: _Keys, head: str) -> cfg.PoolerConfig:
    layer = f"roi_head.{head}_roi_extractor.roi_layer"
    return cfg.PoolerConfig(
        kind="roi_pool" if keys.get(f"{layer}.type", "RoIAlign") == "RoIPool" else "roi_align",
        size=int(keys.get(f"{layer}.output_size", f"{layer}.out_size", config.size)),
        sampling_ratio=int(keys.get(f"{layer}.sampling_ratio", f"{layer}.sample_num", config.sampling_ratio)),
        aligned=bool(keys.get(f"{layer}.aligned", True)),
    )


def _beta(keys: _Keys, loss: str, default: float) -> float:
    match keys.get(f"{loss}.type", None):
        case "L1Loss":
            return 0.0
        case "SmoothL1Loss":
            return float(keys.get(f"{loss}.beta", 1.0))
        case None:
            return default
        case other:
            raise ValueError(f"model.{loss}.type={other!r} is not supported; expected L1Loss or SmoothL1Loss")


def inverse(stds: Any) -> Any:
    """Weights that multiply deltas, for standard deviations that divide them; rounded so that 0.2 gives exactly 5."""
    return tuple(round(1 / float(std), 9) for std in stds)


def _floats(values: Any) -> Any:
    return tuple(float(value) for value in values)
