"""What the names and shapes of Detectron2's tensors say of the network, in the words of its settings.

What they cannot say is as Detectron2's zoo has it for such networks; each such choice is a sentence for the user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rcnn.weights.systems.detectron2.zoo import C4, CASCADE, DC5, FPN, IMAGENET_STD, KEYPOINT, RPN

BLOCKS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
ZOO = "Detectron2's zoo"


def settings_of_tensors(state: Mapping[str, Tensor], source: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings, in Detectron2's words, under which its zoo trains a network of these tensors, and what was assumed.

    Raises ValueError that names `source` where the tensors are of no such network.
    """
    pyramid = any(name.startswith("backbone.fpn_") for name in state)
    trunk = "backbone.bottom_up." if pyramid else "backbone."
    shared = any(name.startswith("roi_heads.res5.") for name in state)
    heads = any(name.startswith("roi_heads.") for name in state)
    flat = not pyramid and f"{trunk}res5.0.conv1.weight" in state
    settings = dict(FPN if pyramid else DC5 if flat else C4)
    assumed: list[str] = []
    settings |= _trunk(state, trunk, "roi_heads." if shared else trunk, not heads, source, assumed)
    if pyramid:
        settings |= {
            "MODEL.FPN.OUT_CHANNELS": len(_of(state, "backbone.fpn_output2.weight", source)),
            "MODEL.FPN.NORM": _norm(state, "backbone.fpn_output2"),
        }
    settings |= _rpn(state, 1 if pyramid else 5, source)
    if not heads:
        settings |= RPN
        assumed.append(f"1000 proposals an image, NMS at 0.7: {ZOO}")
    else:
        settings |= _heads(state, shared, source)
        assumed.append(
            f"boxes pooled by ROIAlignV2 with as many samples as fit, detections above 0.05, NMS at 0.5: {ZOO}"
        )
    if flat:
        assumed.append(f"res5 dilated, at a stride of 16: {ZOO}'s DC5")
    assumed.append(f"anchors of 32 to 512 pixels in the ratios 0.5, 1 and 2: {ZOO}")
    assumed.append(f"images of 800 to 1333 pixels, BGR, less 103.53, 116.28, 123.675: {ZOO}")
    return settings, tuple(assumed)


def _trunk(
    state: Mapping[str, Tensor], prefix: str, last: str, short: bool, source: str, assumed: list[str]
) -> dict[str, Any]:
    """Depth, norm and groups; `last` is where res5 lies, `short` whether it may be missing (an RPN on C4)."""
    stages = []
    for stage in (2, 3, 4, 5):
        place = re.compile(rf"{re.escape(last if stage == 5 else prefix)}res{stage}\.(\d+)\.conv3\.weight")
        stages.append(len({found[1] for name in state if (found := place.fullmatch(name))}))
    counts = (*stages[:3], 3) if short and not stages[3] else tuple(stages)
    if counts not in BLOCKS:
        raise ValueError(
            f"{source} has a ResNet of {', '.join(map(str, stages))} blocks in res2 to res5; known: 3, 4, 6, 3 (R-50), "
            "3, 4, 23, 3 (R-101), 3, 8, 36, 3 (R-152)"
        )
    width = _of(state, f"{prefix}res2.0.conv2.weight", source).shape[1]
    groups = len(_of(state, f"{prefix}res2.0.conv2.weight", source)) // width
    norm = _norm(state, f"{prefix}res4.0.conv1")
    settings: dict[str, Any] = {
        "MODEL.RESNETS.DEPTH": BLOCKS[counts],
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width,
        "MODEL.RESNETS.NORM": norm or "FrozenBN",
        "MODEL.RESNETS.STRIDE_IN_1X1": groups == 1 and norm != "GN",
    }
    if not norm:
        raise ValueError(f"{source} has no norms in its ResNet, which {ZOO} has in all; were they folded away?")
    if norm == "SyncBN":
        stem = f"{prefix}stem.conv1.norm.num_batches_tracked" in state
        settings["MODEL.BACKBONE.FREEZE_AT"] = 0 if stem else 2
        assumed.append(f"batch norm over all processes, where trained further: {ZOO}'s SyncBN")
        if stem and "proposal_generator.rpn_head.conv.weight" in state:  # its large-scale jitter has two convolutions
            settings |= IMAGENET_STD | {"MODEL.RESNETS.STRIDE_IN_1X1": False}
            assumed.append(f"pixels divided by 57.375, 57.12, 58.395: {ZOO}'s SyncBN from scratch")
    else:
        assumed.append("the stem and res2 not trained, where trained further: " + ZOO)
    if groups > 1:
        settings |= IMAGENET_STD
        assumed.append(f"pixels divided by 57.375, 57.12, 58.395: {ZOO}'s ResNeXt")
    stride = "1x1" if settings["MODEL.RESNETS.STRIDE_IN_1X1"] else "3x3"
    assumed.append(f"stride in the {stride} convolutions: {ZOO}")
    return settings


def _norm(state: Mapping[str, Tensor], layer: str) -> str:
    """Detectron2's word for the norm of a layer; empty where it has none."""
    if f"{layer}.norm.weight" not in state:
        return ""
    if f"{layer}.norm.running_mean" not in state:
        return "GN"
    return "SyncBN" if f"{layer}.norm.num_batches_tracked" in state else "FrozenBN"


def _rpn(state: Mapping[str, Tensor], sizes: int, source: str) -> dict[str, Any]:
    head = "proposal_generator.rpn_head."
    anchors = len(_of(state, f"{head}objectness_logits.weight", source))
    if anchors != 3 * sizes:
        raise ValueError(
            f"{source} has {anchors} anchors at a place, where {ZOO} has {3 * sizes}: their sizes and ratios are not "
            "in the file. Give its YAML with --config"
        )
    several = sorted(name for name in state if re.fullmatch(rf"{re.escape(head)}conv\.conv\d+\.weight", name))
    first = _of(state, several[0] if several else f"{head}conv.weight", source)
    width = -1 if first.shape[0] == first.shape[1] else first.shape[0]
    return {"MODEL.RPN.CONV_DIMS": [width] * max(1, len(several))}


def _heads(state: Mapping[str, Tensor], shared: bool, source: str) -> dict[str, Any]:
    cascade = any(re.match(r"roi_heads\.box_predictor\.\d+\.", name) for name in state)
    predictor, box = ("roi_heads.box_predictor.0.", "roi_heads.box_head.0.") if cascade else (
        "roi_heads.box_predictor.", "roi_heads.box_head.")  # fmt: skip
    classes = len(_of(state, f"{predictor}cls_score.weight", source)) - 1
    settings: dict[str, Any] = {
        "MODEL.ROI_HEADS.NUM_CLASSES": classes,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": len(_of(state, f"{predictor}bbox_pred.weight", source)) == 4,
    }
    if classes == 1 and not cascade:  # one class or any: four numbers either way
        settings["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"] = False
    if not shared:
        convs, layers = _count(state, rf"{re.escape(box)}conv(\d+)\.weight"), _count(
            state, rf"{re.escape(box)}fc(\d+)\.weight"
        )  # fmt: skip
        settings |= {"MODEL.ROI_BOX_HEAD.NUM_CONV": convs, "MODEL.ROI_BOX_HEAD.NUM_FC": layers}
        channels = _of(state, "proposal_generator.rpn_head.objectness_logits.weight", source).shape[1]
        if convs:
            channels = len(_of(state, f"{box}conv1.weight", source))
            settings["MODEL.ROI_BOX_HEAD.CONV_DIM"] = channels
            settings["MODEL.ROI_BOX_HEAD.NORM"] = _norm(state, f"{box}conv1")
        if layers:
            first = _of(state, f"{box}fc1.weight", source)
            settings["MODEL.ROI_BOX_HEAD.FC_DIM"] = len(first)
            settings["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"] = round((first.shape[1] / channels) ** 0.5)
    if cascade:
        settings |= CASCADE
        stages = _count(state, r"roi_heads\.box_predictor\.(\d+)\.cls_score\.weight")
        if stages != 3:
            raise ValueError(
                f"{source} is a cascade of {stages} stages, whose IoUs are not in the file: give its YAML with --config"
            )
    if any(name.startswith("roi_heads.mask_head.") for name in state):
        outputs, convs = _of(state, "roi_heads.mask_head.predictor.weight", source).shape[:2]
        settings |= {
            "MODEL.MASK_ON": True,
            "MODEL.ROI_MASK_HEAD.NUM_CONV": _count(state, r"roi_heads\.mask_head\.mask_fcn(\d+)\.weight"),
            "MODEL.ROI_MASK_HEAD.CONV_DIM": convs,
            "MODEL.ROI_MASK_HEAD.NORM": _norm(state, "roi_heads.mask_head.mask_fcn1"),
            "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": outputs == 1 and classes > 1,
        }
    if any(name.startswith("roi_heads.keypoint_head.") for name in state):
        wanted = len(_of(state, "roi_heads.keypoint_head.conv_fcn1.weight", source))
        settings |= KEYPOINT | {
            "MODEL.ROI_HEADS.NUM_CLASSES": classes,
            "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": _of(
                state, "roi_heads.keypoint_head.score_lowres.weight", source
            ).shape[1],
            "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [wanted]
            * _count(state, r"roi_heads\.keypoint_head\.conv_fcn(\d+)\.weight"),
        }
    return settings


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in state if (found := re.fullmatch(pattern, name))})


def _of(state: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    """The weight called `name`; a ValueError where it is missing or no weight of such a layer."""
    if name not in state:
        raise ValueError(f"{source} looks like Detectron2's, but {name} is missing: is the file whole?")
    value = state[name]
    dims = 2 if re.search(r"\.(cls_score|bbox_pred|fc\d+)\.", name) else 4
    if value.ndim != dims or 0 in value.shape:
        raise ValueError(f"{source}: {name} is {tuple(value.shape)}; want {dims} dimensions, none of them empty")
    return value
