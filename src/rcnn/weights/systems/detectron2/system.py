"""Detectron2's checkpoints: Faster, Mask, Cascade and Keypoint R-CNN and the RPN alone, on ResNet and ResNeXt.

Names map one to one; arrays are taken as they are (background last, class-major boxes, dx dy dw dh: our conventions are
theirs). What a file does not say, its YAML does (detectron2_yaml.py), or the name of its zoo's (detectron2_zoo.py);
without either, the zoo's own settings for such tensors are assumed (detectron2_tensors.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from rcnn.models import DetectorConfig, build_detector
from rcnn.weights.systems.converted import Converted, require_fit, unplaced
from rcnn.weights.systems.detectron2.config import classes_of, config_of
from rcnn.weights.systems.detectron2.export import resnet_of, with_eps
from rcnn.weights.systems.detectron2.names import settings_of_tensors
from rcnn.weights.systems.detectron2.settings import not_kept, read_settings
from rcnn.weights.systems.detectron2.zoo import is_zoo_name, zoo_settings

# (theirs, ours); the whole name must match
NAMES = (
    (r"backbone\.bottom_up\.((?:stem|res\d)\..+)", r"backbone.\1"),
    (r"backbone\.fpn_(lateral|output)(\d\..+)", r"fpn.\1\2"),
    (r"(backbone\.(?:stem|res\d)\..+)", r"\1"),
    (r"proposal_generator\.rpn_head\.conv\.conv(\d+)\.(weight|bias)", r"rpn.convs.\1.\2"),
    (r"proposal_generator\.rpn_head\.conv\.(weight|bias)", r"rpn.convs.0.\1"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(.+)", r"rpn.objectness.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(.+)", r"rpn.deltas.\1"),
    (r"roi_heads\.(res5\..+)", r"box_head.trunk.\1"),
    (r"roi_heads\.box_head\.((?:fc|conv)\d+\..+)", r"box_head.trunk.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.+)", r"box_head.logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"box_head.deltas.\1"),
    (r"roi_heads\.box_head\.(\d+)\.((?:fc|conv)\d+\..+)", r"box_head.stages.\1.trunk.\2"),
    (r"roi_heads\.box_predictor\.(\d+)\.cls_score\.(.+)", r"box_head.stages.\1.logits.\2"),
    (r"roi_heads\.box_predictor\.(\d+)\.bbox_pred\.(.+)", r"box_head.stages.\1.deltas.\2"),
    (r"roi_heads\.mask_head\.mask_fcn(\d+)\.(.+)", r"mask_head.trunk.conv\1.\2"),
    (r"roi_heads\.mask_head\.deconv\.(.+)", r"mask_head.deconv.\1"),
    (r"roi_heads\.mask_head\.predictor\.(.+)", r"mask_head.logits.\1"),
    (r"roi_heads\.keypoint_head\.conv_fcn(\d+)\.(.+)", r"keypoint_head.trunk.conv\1.\2"),
    (r"roi_heads\.keypoint_head\.score_lowres\.(.+)", r"keypoint_head.logits.\1"),
)
# the way back: (ours, theirs)
BACK = (
    (r"backbone\.(.+)", r"backbone.bottom_up.\1"),
    (r"fpn\.(.+)", r"backbone.fpn_\1"),
    (r"rpn\.convs\.(\d+)\.(.+)", r"proposal_generator.rpn_head.conv.conv\1.\2"),
    (r"rpn\.objectness\.(.+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (r"rpn\.deltas\.(.+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (r"box_head\.trunk\.(res5\..+)", r"roi_heads.\1"),
    (r"box_head\.trunk\.((?:fc|conv)\d+\..+)", r"roi_heads.box_head.\1"),
    (r"box_head\.logits\.(.+)", r"roi_heads.box_predictor.cls_score.\1"),
    (r"box_head\.deltas\.(.+)", r"roi_heads.box_predictor.bbox_pred.\1"),
    (r"box_head\.stages\.(\d+)\.trunk\.((?:fc|conv)\d+\..+)", r"roi_heads.box_head.\1.\2"),
    (r"box_head\.stages\.(\d+)\.logits\.(.+)", r"roi_heads.box_predictor.\1.cls_score.\2"),
    (r"box_head\.stages\.(\d+)\.deltas\.(.+)", r"roi_heads.box_predictor.\1.bbox_pred.\2"),
    (r"mask_head\.trunk\.conv(\d+)\.(.+)", r"roi_heads.mask_head.mask_fcn\1.\2"),
    (r"mask_head\.deconv\.(.+)", r"roi_heads.mask_head.deconv.\1"),
    (r"mask_head\.logits\.(.+)", r"roi_heads.mask_head.predictor.\1"),
    (r"keypoint_head\.trunk\.conv(\d+)\.(.+)", r"roi_heads.keypoint_head.conv_fcn\1.\2"),
    (r"keypoint_head\.logits\.(.+)", r"roi_heads.keypoint_head.score_lowres.\1"),
)
# constants that older files carry and Detectron2 itself passes over
IDLE = re.compile(r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\.\d+")
# what a name says of a network that is none of ours
OTHERS = (
    (r"sem_seg_head\.", "a panoptic or semantic head"),
    (r"head\.(cls|bbox)_subnet\.", "RetinaNet's head"),
    (r".*\.(conv2_offset|offset)\.", "deformable convolutions"),
    (r"roi_heads\.mask_(point|coarse)_head\.", "PointRend's mask head"),
    (r"roi_heads\.densepose_", "DensePose's head"),
    (r"backbone\.(body|bottom_up\.trunk)", "D2Go's FBNet, whose training files are not converted (its int8 files are)"),
    (r"backbone\.(net\.|simfp_)", "a vision transformer (ViTDet); this converter takes ResNets"),
    (r"backbone\.(bottom_up\.)?(stem\.fc|linear)\.", "an image classifier's output, and is no detector"),
    (r"roi_heads\.\d+\.", "several sets of heads"),
)  # fmt: skip


def recognises(names: Collection[str]) -> bool:
    """Whether tensors of these names are of a Detectron2 detector."""
    return any(
        name.startswith("proposal_generator.") or re.match(r"roi_heads\.box_predictor\.", name) for name in names
    )


def rename(name: str) -> str:
    """Our name for Detectron2's; a ValueError for one that is not known."""
    return _renamed(name, NAMES, "Detectron2's tensor {!r} has no counterpart here")


def from_detectron2(state: Mapping[str, Tensor], config_file: str | Path | None = None, source: str = "") -> Converted:
    """Detectron2's `state` with the settings of its YAML `config_file`, a file or the name of one of its zoo
    (COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml); without one, those of its zoo for such tensors.

    Raises ValueError that names `source` and what of the network or of the settings we do not have.
    """
    source = source or "the state dict"
    for pattern, what in OTHERS:
        if found := [name for name in state if re.match(pattern, name)]:
            raise ValueError(f"{source} has {what} ({found[0]}), which rcnn does not have")
    left = [name for name in state if IDLE.fullmatch(name)]
    kept = {name: value for name, value in state.items() if not IDLE.fullmatch(name)}
    unknown = [name for name in kept if not any(re.fullmatch(theirs, name) for theirs, _ in NAMES)]
    if unknown:
        raise ValueError(f"{source} looks like Detectron2's, but has {unplaced(unknown)}")
    ours = {rename(name): value for name, value in kept.items()}
    if config_file is None:
        settings, assumed = settings_of_tensors(kept, source)
        said = "no settings given, so those of Detectron2's zoo; give its YAML with --config if it differs"
    elif is_zoo_name(config_file):
        settings, assumed = zoo_settings(str(config_file)), ()
        said = f"settings of its zoo's {config_file}"
    else:
        settings, assumed = read_settings(Path(config_file)), ()
        said = f"settings of {Path(config_file).name}"
    config = config_of(settings, str(config_file or source))
    ours, counters = _with_statistics(ours, config)
    left += [name for name in kept if rename(name) in counters]
    require_fit(config, ours, source)
    report = f"Detectron2 {config.name}, {len(ours)} tensors, {config.num_classes} classes; {said}"
    return Converted(
        config=config,
        state=ours,
        classes=classes_of(settings.get("DATASETS.TRAIN", ()), config),
        report=report,
        system="Detectron2",
        assumed=(*assumed, *not_kept(settings)),
        left=tuple(left),
    )


def to_detectron2(state: Mapping[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """The names that Detectron2 gives to our `state`: the way back. Its YAML: settings_of (detectron2_export.py).

    Raises ValueError where Detectron2 has no such network.
    """
    trunk = resnet_of(config)
    stages = ["backbone.stem.", *(f"backbone.res{number}." for number in (2, 3, 4, 5))]
    frozen = tuple(stages[: trunk.frozen_stages])
    theirs = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked") and name.startswith(frozen) and not value.any():
            continue  # batch norm of frozen stages is another class there, without a step counter
        if name.endswith("running_var") and name.startswith(("backbone.", "box_head.trunk.res5.")):
            value = with_eps(value, trunk.norm_eps)
        theirs[_theirs(name, config)] = value
    return theirs


def _theirs(name: str, config: DetectorConfig) -> str:
    if config.fpn is None and name.startswith("backbone."):
        return name
    new = _renamed(name, BACK, "{!r} has no counterpart in Detectron2")
    return new.replace("rpn_head.conv.conv0.", "rpn_head.conv.") if config.rpn.convs == 1 else new


def _renamed(name: str, table: tuple[tuple[str, str], ...], problem: str) -> str:
    for pattern, new in table:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, new, name)
    raise ValueError(problem.format(name))


def _with_statistics(ours: dict[str, Tensor], config: DetectorConfig) -> tuple[dict[str, Tensor], set[str]]:
    """Our tensors, and the names of step counters that are not used.

    Frozen norms have no step counter, and those of the frozen stages of a network with batch norm had none over there;
    the first versions wrote no statistics of frozen norms, which Detectron2 takes for means of 0 and variances of 1.
    """
    with torch.device("meta"):
        wanted = build_detector(config).state_dict()
    counters = {name for name in ours if name.endswith("num_batches_tracked") and name not in wanted}
    ours = {name: value for name, value in ours.items() if name not in counters}
    first_version = not any(name.endswith("running_mean") for name in ours)
    for name, value in wanted.items():
        norm, _, field = name.rpartition(".")
        if name in ours or f"{norm}.weight" not in ours:
            continue
        if field == "num_batches_tracked":
            ours[name] = torch.zeros((), dtype=torch.int64)
        elif field in ("running_mean", "running_var") and first_version:
            ours[name] = torch.full(value.shape, float(field == "running_var"))
    return ours, counters
