"""Translates the names and rows of Detectron's (Caffe2) blobs to ours, and says which blobs are skipped.

The scale and shift of AffineChannel become a frozen norm of mean 0, variance 1 and eps 0; their bits do not change.
"""

from __future__ import annotations

from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.weights.systems.layout import anchors_from_ratio_outer, background_last
from rcnn.weights.systems.renaming import Rules

BRANCHES = {"2a": "conv1", "2b": "conv2", "2c": "conv3", "1": "shortcut"}
VALUES = {"w": "weight", "b": "bias", "s": "weight"}  # s: the scale of a norm
# tensors of unsupported networks
OTHERS = (
    (r"retnet_", "RetinaNet, a one-stage detector"),
    (r"_\[(mask|pose)\]_res5_", "a separate res5 for masks or keypoints"),
    (r"_\[pose\]_|_\[keypoints?\]_", "a keypoint head on shared convolutions"),
    (r"(conv_cls|conv_bbox_pred)_(w|b)", "R-FCN"),
)
# norms first: `_bn_b` is not the bias of a convolution
RULES = Rules(
    (
        (r"res([2-5])_(\d+)_branch(2a|2b|2c|1)_(?:bn|gn)_(s|b)", "backbone.res{1}.{2}.{3:branch}.norm.{4:value}"),
        (r"res([2-5])_(\d+)_branch(2a|2b|2c|1)_(w)", "backbone.res{1}.{2}.{3:branch}.{4:value}"),
        (r"(?:res_conv1_bn|conv1_gn)_(s|b)", "backbone.stem.conv1.norm.{1:value}"),
        (r"conv1_(w)", "backbone.stem.conv1.{1:value}"),
        (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?_gn_(s|b)", "fpn.lateral{1}.norm.{2:value}"),
        (r"fpn_res(\d)_\d+_sum_gn_(s|b)", "fpn.output{1}.norm.{2:value}"),
        (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?_(w|b)", "fpn.lateral{1}.{2:value}"),
        (r"fpn_res(\d)_\d+_sum_(w|b)", "fpn.output{1}.{2:value}"),
        (r"conv_rpn(?:_fpn\d+)?_(w|b)", "rpn.convs.0.{1:value}"),
        (r"rpn_cls_logits(?:_fpn\d+)?_(w|b)", "rpn.objectness.{1:value}"),
        (r"rpn_bbox_pred(?:_fpn\d+)?_(w|b)", "rpn.deltas.{1:value}"),
        (r"fc([67])_(w|b)", "box_head.trunk.fc{1-5}.{2:value}"),  # VGG's sixth and seventh layers
        (r"head_conv(\d+)_gn_(s|b)", "box_head.trunk.conv{1}.norm.{2:value}"),
        (r"head_conv(\d+)_(w|b)", "box_head.trunk.conv{1}.{2:value}"),
        (r"cls_score_(w|b)", "box_head.logits.{1:value}"),
        (r"bbox_pred_(w|b)", "box_head.deltas.{1:value}"),
        (r"(?:_\[mask\]_|_mask_)fcn(\d+)_gn_(s|b)", "mask_head.trunk.conv{1}.norm.{2:value}"),
        (r"(?:_\[mask\]_|_mask_)fcn(\d+)_(w|b)", "mask_head.trunk.conv{1}.{2:value}"),
        (r"conv5_mask_(w|b)", "mask_head.deconv.{1:value}"),
        (r"mask_fcn_logits_(w|b)", "mask_head.logits.{1:value}"),
        (r"conv_fcn(\d+)_(w|b)", "keypoint_head.trunk.conv{1}.{2:value}"),
        (r"kps_score_lowres_(w|b)", "keypoint_head.logits.{1:value}"),
    ),
    # momentum, the ImageNet classifier that training started from, and the fixed bilinear kernel of keypoints
    skip=r".*_momentum|lr|iter|model_iter|(conv1|fc1000|pred|last_out_L1000|classifier)(_[wb])?|res\d_\d+_branch\w+_b"
    r"|kps_score_[wb]|.*_bn_(rm|riv)",
    words={"branch": BRANCHES, "value": VALUES},
    others=OTHERS,
)


def in_our_layout(name: str, value: Tensor, config: DetectorConfig) -> Tensor:
    """Reorder the rows of a blob with our name `name` to our order: background last, anchors by size, then ratio."""
    return background_last(name, anchors_from_ratio_outer(name, value, config)) if value.ndim else value
