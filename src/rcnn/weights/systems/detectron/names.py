"""Detectron's (Caffe2) blobs in our names: which are of the network, what happens to their rows, which are left behind.

AffineChannel's scale and shift become a frozen norm of mean 0 and variance 1 with an eps of 0, whose inverse root is
exactly 1: not a bit of either changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

FIELDS = {"w": "weight", "b": "bias"}
BRANCHES = {"2a": "conv1", "2b": "conv2", "2c": "conv3", "1": "shortcut"}
# (theirs, ours); the whole name must match. Norms first: `_bn_b` is no bias of a convolution
STEM = (
    (r"(?:res_conv1_bn|conv1_gn)_(s|b)", r"backbone.stem.conv1.norm.\1"),
    (r"conv1_w", r"backbone.stem.conv1.weight"),
)
NAMES = (
    (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?_gn_(s|b)", r"fpn.lateral\1.norm.\2"),
    (r"fpn_res(\d)_\d+_sum_gn_(s|b)", r"fpn.output\1.norm.\2"),
    (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?_(w|b)", r"fpn.lateral\1.\2"),
    (r"fpn_res(\d)_\d+_sum_(w|b)", r"fpn.output\1.\2"),
    (r"conv_rpn(?:_fpn\d+)?_(w|b)", r"rpn.convs.0.\1"),
    (r"rpn_cls_logits(?:_fpn\d+)?_(w|b)", r"rpn.objectness.\1"),
    (r"rpn_bbox_pred(?:_fpn\d+)?_(w|b)", r"rpn.deltas.\1"),
    (r"fc([67])_(w|b)", r"box_head.trunk.fc\1.\2"),
    (r"head_conv(\d+)_gn_(s|b)", r"box_head.trunk.conv\1.norm.\2"),
    (r"head_conv(\d+)_(w|b)", r"box_head.trunk.conv\1.\2"),
    (r"cls_score_(w|b)", r"box_head.logits.\1"),
    (r"bbox_pred_(w|b)", r"box_head.deltas.\1"),
    (r"(?:_\[mask\]_|_mask_)fcn(\d+)_gn_(s|b)", r"mask_head.trunk.conv\1.norm.\2"),
    (r"(?:_\[mask\]_|_mask_)fcn(\d+)_(w|b)", r"mask_head.trunk.conv\1.\2"),
    (r"conv5_mask_(w|b)", r"mask_head.deconv.\1"),
    (r"mask_fcn_logits_(w|b)", r"mask_head.logits.\1"),
    (r"conv_fcn(\d+)_(w|b)", r"keypoint_head.trunk.conv\1.\2"),
    (r"kps_score_lowres_(w|b)", r"keypoint_head.logits.\1"),
)
BLOCK = re.compile(r"res([2-5])_(\d+)_branch(2a|2b|2c|1)_(?:(bn|gn)_(s|b)|(w))")
# what lies beside the network: the optimiser's momentum, what is left of the classifier that training began with, and
# keypoints' fixed bilinear kernel
LEFT = re.compile(
    r".*_momentum|lr|iter|model_iter|(conv1|fc1000|pred|last_out_L1000|classifier)(_[wb])?|res\d_\d+_branch\w+_b"
    r"|kps_score_[wb]|.*_bn_(rm|riv)"
)
REFUSED = (
    (r"retnet_", "RetinaNet, a one-stage detector, and no R-CNN"),
    (r"_\[(mask|pose)\]_res5_", "a res5 of its own for masks or keypoints, which we do not have"),
    (r"_\[pose\]_|_\[keypoints?\]_", "a keypoint head on shared convolutions, which we do not have"),
    (r"(conv_cls|conv_bbox_pred)_(w|b)", "R-FCN, which we do not have"),
)


def our_name(blob: str) -> str:
    """Our name for a blob, with `s` made `weight`; empty where it is not of a network's that we know."""
    found = BLOCK.fullmatch(blob)
    if found:
        stage, block, branch, norm, field, _ = found.groups()
        layer = f"backbone.res{stage}.{block}.{BRANCHES[branch]}"
        return f"{layer}.norm.{'weight' if field == 's' else 'bias'}" if norm else f"{layer}.weight"
    for pattern, new in (*STEM, *NAMES):
        if re.fullmatch(pattern, blob):
            layer, _, field = re.sub(pattern, new, blob).rpartition(".")
            return f"{layer}.{FIELDS.get(field, 'weight')}" if field in ("w", "b", "s") else f"{layer}.{field}"
    return ""


def sorted_blobs(names: Iterable[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Our name for each blob of the network; the blobs to be left behind; those that are neither."""
    ours: dict[str, str] = {}
    left: list[str] = []
    unknown: list[str] = []
    for name in names:
        if new := our_name(name):
            ours[name] = new
        elif LEFT.fullmatch(name):
            left.append(name)
        else:
            unknown.append(name)
    return ours, left, unknown


def in_our_order(state: Mapping[str, Tensor], *, sizes: int, ratios: int, shared: bool) -> dict[str, Tensor]:
    """Blobs by our names, rows in our order.

    Anchors: ratios outer there, sizes outer here. The background: first there, last here, and here without boxes and
    masks. `shared`: res5 is the box head's (C4).
    """
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "rpn.objectness": lambda value: anchors_in_our_order(value, sizes, ratios),
        "rpn.deltas": lambda value: anchors_in_our_order(value, sizes, ratios),
        "box_head.logits": lambda value: torch.cat([value[1:], value[:1]]),
        "box_head.deltas": lambda value: value[4:],
        "mask_head.logits": lambda value: value[1:] if len(value) > 1 else value,
    }
    ours = {}
    for name, value in state.items():
        layer = name.rpartition(".")[0]
        if layer in changes and value.ndim:  # a number alone is refused with the shapes
            value = changes[layer](value)
        if shared and name.startswith("backbone.res5."):
            name = f"box_head.trunk.{name.removeprefix('backbone.')}"
        # the two fully connected layers are the sixth and seventh of VGG's
        ours[name.replace("trunk.fc6.", "trunk.fc1.").replace("trunk.fc7.", "trunk.fc2.")] = value
    return ours


def anchors_in_our_order(value: Tensor, sizes: int, ratios: int) -> Tensor:
    """Rows of an output of ratios * sizes anchors, with sizes outer; a ValueError where they are not so many."""
    if len(value) % (ratios * sizes):
        raise ValueError(
            f"an output of the RPN is {tuple(value.shape)}, for {sizes} sizes and {ratios} ratios of anchors: its rows "
            "are no multiple of that; give the settings with --config"
        )
    rows = value.unflatten(0, (ratios, sizes, -1))
    return value if 1 in (sizes, ratios) else rows.transpose(0, 1).flatten(0, 2)


def with_statistics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """AffineChannels made frozen norms: means of 0 and variances of 1 for every norm without."""
    whole = dict(state)
    for name, value in state.items():
        if name.endswith(".norm.weight"):
            norm = name.removesuffix("weight")
            whole[f"{norm}running_mean"] = torch.zeros(value.shape)
            whole[f"{norm}running_var"] = torch.ones(value.shape)
    return whole
