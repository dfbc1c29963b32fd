"""Detectron's settings that the shapes of the tensors show; all other settings are those of its model zoo."""

from __future__ import annotations

from collections.abc import Mapping

from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.renaming import count

ZOO = "Detectron's model zoo"
Shapes = Mapping[str, tuple[int, ...]]
# number of dimensions of the weights that describe the network
DIMENSIONS = {
    "backbone.res2.0.conv2.weight": 4,
    "box_head.logits.weight": 2,
    "box_head.deltas.weight": 2,
    "box_head.trunk.fc1.weight": 2,
    "box_head.trunk.conv1.weight": 4,
    "mask_head.logits.weight": 4,
    "keypoint_head.logits.weight": 4,
    "keypoint_head.trunk.conv1.weight": 4,
}
Read = tuple[dict[str, object], tuple[Assumption, ...]]  # settings, and what is assumed


def settings_of_tensors(shapes: Shapes, *, group: bool, source: str) -> Read:
    """Settings of a network with tensors of these `shapes` (by our names), and the assumptions.

    `group`: whether its backbone has group norm. Raises ValueError that names `source` and a tensor.
    """
    for name, dims in DIMENSIONS.items():
        if name in shapes and (len(shapes[name]) != dims or 0 in shapes[name]):
            raise ValueError(
                f"{source}: {name} (rcnn's name) has shape {shapes[name]}; expected {dims} dimensions, none of size 0"
            )
    fpn = any(name.startswith("fpn.") for name in shapes)
    heads = "box_head.logits.weight" in shapes
    out, inside = shapes["backbone.res2.0.conv2.weight"][:2]
    stride_in_1x1 = not group and out == inside
    settings: dict[str, object] = {
        "MODEL.RPN_ONLY": not heads,
        "MODEL.FASTER_RCNN": heads,
        "FPN.FPN_ON": fpn,
        "FPN.USE_GN": "fpn.lateral2.norm.weight" in shapes,
        "RESNETS.NUM_GROUPS": out // inside,
        "RESNETS.WIDTH_PER_GROUP": inside,
        "RESNETS.STRIDE_1X1": stride_in_1x1,
        "RESNETS.TRANS_FUNC": "bottleneck_gn_transformation" if group else "bottleneck_transformation",
        "RPN.SIZES": [32, 64, 128, 256, 512],
        "TEST.SCALE": 800,
        "TEST.MAX_SIZE": 1333,
        "TEST.NMS": 0.5,
        "TEST.RPN_PRE_NMS_TOP_N": 1000 if fpn else 6000 if heads else 12000,
        "TEST.RPN_POST_NMS_TOP_N": 1000 if heads else 2000,
        "TRAIN.RPN_PRE_NMS_TOP_N": 2000 if fpn and heads else 12000,
        "TRAIN.BATCH_SIZE_PER_IM": 512,
        "FAST_RCNN.ROI_XFORM_METHOD": "RoIAlign",
        "FAST_RCNN.ROI_XFORM_RESOLUTION": 7 if fpn else 14,
        "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": 2 if fpn else 0,
    }
    if fpn:
        settings["FPN.DIM"] = shapes["fpn.lateral2.weight"][0]
    if heads:
        settings |= _heads(shapes, fpn)
    assumed = {
        f"stride in the {'1x1' if stride_in_1x1 else '3x3'} convolutions": ("backbone.stride_in_1x1",),
        "image size": ("input.min_size", "input.max_size"),
        "pixels": ("input.channel_order", "input.pixel_mean"),
        "anchors": ("rpn.anchors.sizes", "rpn.anchors.ratios"),
        "proposals": ("rpn.proposals.post_nms", "rpn.proposals.nms_iou"),
    }
    if heads:
        assumed["box pooling"] = ("box.pooler.kind", "box.pooler.sampling_ratio")
        assumed["detections"] = ("box.score_threshold", "box.selection.nms_iou")
    return settings, tuple(Assumption(what, ZOO, keys) for what, keys in assumed.items())


def _heads(shapes: Shapes, fpn: bool) -> dict[str, object]:
    classes = shapes["box_head.logits.weight"][0]
    convs = count(shapes, r"box_head\.trunk\.conv\d+\.weight")
    box = "ResNet.add_ResNet_roi_conv5_head"
    if fpn:
        normed = "gn_" if "box_head.trunk.conv1.norm.weight" in shapes else ""
        box = f"fast_rcnn_heads.add_roi_{f'Xconv1fc_{normed}head' if convs else '2mlp_head'}"
    settings: dict[str, object] = {
        "MODEL.NUM_CLASSES": classes,
        "MODEL.CLS_AGNOSTIC_BBOX_REG": shapes["box_head.deltas.weight"][0] == 8 and classes > 2,
        "FAST_RCNN.ROI_BOX_HEAD": box,
    }
    if "box_head.trunk.fc1.weight" in shapes:
        settings["FAST_RCNN.MLP_HEAD_DIM"] = shapes["box_head.trunk.fc1.weight"][0]
    if convs:
        settings["FAST_RCNN.NUM_STACKED_CONVS"] = convs
        settings["FAST_RCNN.CONV_HEAD_DIM"] = shapes["box_head.trunk.conv1.weight"][0]
    if "mask_head.logits.weight" in shapes:
        stacked = count(shapes, r"mask_head\.trunk\.conv\d+\.weight")
        kind = {0: "v0upshare", 2: "v1up", 4: "v1up4convs"}.get(stacked, f"of {stacked} convolutions")
        group = "_gn" if "mask_head.trunk.conv1.norm.weight" in shapes else ""
        settings |= {
            "MODEL.MASK_ON": True,
            "MRCNN.ROI_MASK_HEAD": f"mask_rcnn_heads.mask_rcnn_fcn_head_{kind}{group}",
            "MRCNN.DIM_REDUCED": shapes["mask_head.logits.weight"][1],
            "MRCNN.CLS_SPECIFIC_MASK": shapes["mask_head.logits.weight"][0] > 1,
            "MRCNN.DILATION": 1,
            "MRCNN.ROI_XFORM_RESOLUTION": 14,
            "MRCNN.ROI_XFORM_SAMPLING_RATIO": 2 if fpn else 0,
        }
    if "keypoint_head.logits.weight" in shapes:
        settings |= {
            "MODEL.KEYPOINTS_ON": True,
            "KRCNN.NUM_KEYPOINTS": shapes["keypoint_head.logits.weight"][1],
            "KRCNN.NUM_STACKED_CONVS": count(shapes, r"keypoint_head\.trunk\.conv\d+\.weight"),
            "KRCNN.CONV_HEAD_DIM": shapes["keypoint_head.trunk.conv1.weight"][0],
            "KRCNN.ROI_XFORM_RESOLUTION": 14,
            "KRCNN.ROI_XFORM_SAMPLING_RATIO": 2,
        }
    return settings
