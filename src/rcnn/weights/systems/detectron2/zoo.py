"""Detectron2's model zoo: the settings of each config, by the name of its file.

Values are those of the files under `configs/` in facebookresearch/detectron2, without schedules and augmentation.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from rcnn.weights.systems.settings import existing_file

Settings = dict[str, Any]

LEVELS = ["p2", "p3", "p4", "p5", "p6"]
STAGES = ["res2", "res3", "res4", "res5"]
HEADS: Settings = {
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
FPN: Settings = HEADS | {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": STAGES,
    "MODEL.FPN.IN_FEATURES": STAGES,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": LEVELS,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.IN_FEATURES": LEVELS[:4],
}
C4: Settings = {}  # Detectron2's own defaults
DC5: Settings = HEADS | {
    "MODEL.RESNETS.OUT_FEATURES": ["res5"],
    "MODEL.RESNETS.RES5_DILATION": 2,
    "MODEL.RPN.IN_FEATURES": ["res5"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
}
NECKS = {"FPN": FPN, "C4": C4, "DC5": DC5}
IMAGENET_STD: Settings = {"MODEL.PIXEL_STD": [57.375, 57.12, 58.395]}
TRUNKS: dict[str, Settings] = {
    "R_50": {},
    "R_101": {"MODEL.RESNETS.DEPTH": 101},
    "X_101_32x8d": IMAGENET_STD
    | {
        "MODEL.RESNETS.DEPTH": 101,
        "MODEL.RESNETS.NUM_GROUPS": 32,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    },
}
MASK: Settings = {"MODEL.MASK_ON": True}
RPN: Settings = {"MODEL.META_ARCHITECTURE": "ProposalNetwork"}
KEYPOINT: Settings = {
    "MODEL.KEYPOINT_ON": True,
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1500,
    "DATASETS.TRAIN": ["keypoints_coco_2017_train"],
}
CASCADE: Settings = {
    "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
}
AGNOSTIC: Settings = {"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True}
SCRATCH: Settings = {"MODEL.BACKBONE.FREEZE_AT": 0}
DETECTRON1: Settings = {
    "MODEL.RPN.SMOOTH_L1_BETA": 0.1111,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
}
GIOU: Settings = {
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": "giou",
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 2.0,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "giou",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": 10.0,
}


def _normed(norm: str, stride_in_1x1: bool) -> Settings:
    """Norms in the backbone, the FPN and the heads.

    The box head has four convolutions and one fully connected layer.
    """
    return {
        "MODEL.RESNETS.NORM": norm,
        "MODEL.RESNETS.STRIDE_IN_1X1": stride_in_1x1,
        "MODEL.FPN.NORM": norm,
        "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
        "MODEL.ROI_BOX_HEAD.NORM": norm,
        "MODEL.ROI_MASK_HEAD.NORM": norm,
    }


def _lvis(classes: int) -> Settings:
    return MASK | {
        "MODEL.ROI_HEADS.NUM_CLASSES": classes,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0001,
        "TEST.DETECTIONS_PER_IMAGE": 300,
    }


def _pascal(neck: Settings) -> Settings:
    return neck | {"MODEL.ROI_HEADS.NUM_CLASSES": 20, "DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"]}


def _all() -> dict[str, Settings]:
    """The settings of each config of the zoo, by folder and name of its file."""
    zoo: dict[str, Settings] = {
        "COCO-Detection/rpn_R_50_C4_1x": C4 | RPN | {
            "MODEL.RPN.PRE_NMS_TOPK_TEST": 12000, "MODEL.RPN.POST_NMS_TOPK_TEST": 2000,
        },
        "COCO-Detection/rpn_R_50_FPN_1x": FPN | RPN | {"MODEL.RPN.POST_NMS_TOPK_TEST": 2000},
    }  # fmt: skip
    for neck, base in NECKS.items():
        for folder, kind, heads in (
            ("COCO-Detection", "faster", C4),
            ("COCO-InstanceSegmentation", "mask", MASK),
        ):
            for trunk, schedule in (("R_50", "1x"), ("R_50", "3x"), ("R_101", "3x"), ("X_101_32x8d", "3x")):
                if neck == "FPN" or not trunk.startswith("X"):
                    zoo[f"{folder}/{kind}_rcnn_{trunk}_{neck}_{schedule}"] = base | TRUNKS[trunk] | heads
    for trunk, schedule in (("R_50", "1x"), ("R_50", "3x"), ("R_101", "3x"), ("X_101_32x8d", "3x")):
        zoo[f"COCO-Keypoints/keypoint_rcnn_{trunk}_FPN_{schedule}"] = FPN | TRUNKS[trunk] | KEYPOINT
    for trunk, extra in TRUNKS.items():
        zoo[f"LVISv0.5-InstanceSegmentation/mask_rcnn_{trunk}_FPN_1x"] = FPN | extra | _lvis(1230)
        zoo[f"LVISv1-InstanceSegmentation/mask_rcnn_{trunk}_FPN_1x"] = FPN | extra | _lvis(1203)
    group, sync = _normed("GN", False), _normed("SyncBN", True)
    for trunk, epochs in (("R_50", 50), *((trunk, many) for trunk in ("R_50", "R_101") for many in (100, 200, 400))):
        zoo[f"new_baselines/mask_rcnn_{trunk}_FPN_{epochs}ep_LSJ"] = (
            FPN | TRUNKS[trunk] | MASK | sync | SCRATCH | {"MODEL.RPN.CONV_DIMS": [-1, -1]}
        )
    masks = {"MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2, "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlign"}
    points = {"MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": 2, "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": "ROIAlign"}
    return zoo | {
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_giou": FPN | MASK | GIOU,
        "Cityscapes/mask_rcnn_R_50_FPN": FPN | MASK | {
            "MODEL.ROI_HEADS.NUM_CLASSES": 8, "INPUT.MIN_SIZE_TEST": 1024, "INPUT.MAX_SIZE_TEST": 2048,
            "DATASETS.TRAIN": ["cityscapes_fine_instance_seg_train"],
        },
        "PascalVOC-Detection/faster_rcnn_R_50_C4": _pascal(C4),
        "PascalVOC-Detection/faster_rcnn_R_50_FPN": _pascal(FPN),
        "Misc/cascade_mask_rcnn_R_50_FPN_1x": FPN | MASK | CASCADE,
        "Misc/cascade_mask_rcnn_R_50_FPN_3x": FPN | MASK | CASCADE,
        "Misc/mask_rcnn_R_50_FPN_1x_cls_agnostic": FPN | MASK | AGNOSTIC,
        "Misc/mask_rcnn_R_50_FPN_3x_gn": FPN | MASK | group,
        "Misc/mask_rcnn_R_50_FPN_3x_syncbn": FPN | MASK | sync,
        "Misc/scratch_mask_rcnn_R_50_FPN_3x_gn": FPN | MASK | group | SCRATCH,
        "Misc/scratch_mask_rcnn_R_50_FPN_9x_gn": FPN | MASK | group | SCRATCH | IMAGENET_STD,
        "Misc/scratch_mask_rcnn_R_50_FPN_9x_syncbn": FPN | MASK | _normed("SyncBN", False) | SCRATCH | IMAGENET_STD,
        "Detectron1-Comparisons/faster_rcnn_R_50_FPN_noaug_1x": FPN | DETECTRON1,
        "Detectron1-Comparisons/mask_rcnn_R_50_FPN_noaug_1x": FPN | MASK | DETECTRON1 | masks,
        "Detectron1-Comparisons/keypoint_rcnn_R_50_FPN_1x": FPN | KEYPOINT | DETECTRON1 | points,
    }  # fmt: skip


ZOO = _all()
# configs that other files build on
BASES: dict[str, Settings] = {
    "Base-RCNN-FPN": FPN,
    "Base-RCNN-C4": C4,
    "Base-RCNN-DilatedC5": DC5,
    "Base-Keypoint-RCNN-FPN": FPN | KEYPOINT,
}
# configs of unsupported networks: (part of the name, why)
REFUSED = (
    ("COCO-PanopticSegmentation/", "a panoptic network, which rcnn does not support"),
    ("Misc/panoptic", "a panoptic network, which rcnn does not support"),
    ("Misc/semantic", "semantic segmentation, not an R-CNN"),
    ("retinanet", "a one-stage detector, not an R-CNN"),
    ("/fast_rcnn_R", "Fast R-CNN on proposals from a file; rcnn needs an RPN"),
    ("regnet", "a network on RegNet, which rcnn does not support"),
    ("dconv", "a network with deformable convolutions, which rcnn does not support"),
)


def is_zoo_name(config: str | Path) -> bool:
    """Whether `config` is not a file, but looks like the name of a config of Detectron2's zoo."""
    name = _plain(config)
    folders = {key.split("/")[0] for key in ZOO}
    return existing_file(config) is None and bool(
        _entry(name) or name.split("/")[0] in folders or any(part in f"/{name}" for part, _ in REFUSED)
    )


def base_settings(base: str) -> Settings | None:
    """The settings of the zoo config that a `_BASE_` names; None if the zoo has no such name."""
    name = _plain(base).rpartition("/")[2]
    entry = _entry(name)
    return BASES.get(name, ZOO[entry] if entry else None)


def zoo_settings(config: str) -> Settings:
    """The settings of zoo config `config`, such as COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml, by dotted key.

    Raises ValueError that says why it is not supported, or suggests similar names.
    """
    name = _plain(config)
    if entry := _entry(name):
        return dict(ZOO[entry])
    for part, why in REFUSED:
        if part in f"/{name}":
            raise ValueError(f"{config} of Detectron2's model zoo is {why}")
    close = [f"{near}.yaml" for near in difflib.get_close_matches(name, ZOO, n=3)]
    hint = f"did you mean {' or '.join(close)}?" if close else f"expected a name such as {sorted(ZOO)[0]}.yaml"
    raise ValueError(f"Detectron2's model zoo has no {config!r}; {hint}")


def _entry(name: str) -> str:
    """The zoo entry with this name, with or without its folder; if there are several, COCO's. Empty: none."""
    found = [entry for entry in ZOO if name in (entry, entry.rpartition("/")[2])]
    return next((entry for entry in found if entry == name or entry.startswith("COCO-")), found[0] if found else "")


def _plain(config: str | Path) -> str:
    """The name without the path up to `configs/` and without its suffix."""
    name = str(config).replace("\\", "/").removesuffix(".yaml").removesuffix(".yml").removesuffix(".py")
    return name.rpartition("configs/")[2]
