"""Detectron2's model zoo: schedules 1x and 3x, and training from random weights."""

from __future__ import annotations

from rcnn.training.recipes.recipe import Recipe

ZOO = "facebookresearch/detectron2 at 02b5c4e2: MODEL_ZOO.md and configs/"
V100S = "8 V100"
TRAINING = (
    "train.batch_size=2",
    "train.lr=0.02",
    "train.reference_batch=16",
    "train.warmup_steps=1000",
    "train.warmup_factor=0.001",
    "train.momentum=0.9",
    "train.weight_decay=0.0001",
    "train.norm_weight_decay=0",
    "train.filter_empty=true",
    "train.flip=0.5",
    "train.scales=[640,672,704,736,768,800]",
    "train.evaluate_every=0",
    "train.checkpoint_every=5000",
)
# MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE=1
KEYPOINTS = "images of persons without keypoints are trained on; Detectron2 skips them"
STEPS = {"1x": 90_000, "3x": 270_000}
# (name, model, schedule, seconds per step on 8 V100, AP of boxes, of masks, of keypoints)
ROWS: tuple[tuple[str, str, str, float, float | None, float | None, float | None], ...] = (
    ("faster_rcnn_R_50_C4_1x", "faster_rcnn_r50_c4_caffe", "1x", 0.551, 35.7, None, None),
    ("faster_rcnn_R_50_DC5_1x", "faster_rcnn_r50_dc5_caffe", "1x", 0.380, 37.3, None, None),
    ("faster_rcnn_R_50_FPN_1x", "faster_rcnn_r50_fpn_caffe", "1x", 0.210, 37.9, None, None),
    ("faster_rcnn_R_50_C4_3x", "faster_rcnn_r50_c4_caffe", "3x", 0.543, 38.4, None, None),
    ("faster_rcnn_R_50_DC5_3x", "faster_rcnn_r50_dc5_caffe", "3x", 0.378, 39.0, None, None),
    ("faster_rcnn_R_50_FPN_3x", "faster_rcnn_r50_fpn_caffe", "3x", 0.209, 40.2, None, None),
    ("faster_rcnn_R_101_C4_3x", "faster_rcnn_r101_c4_caffe", "3x", 0.619, 41.1, None, None),
    ("faster_rcnn_R_101_DC5_3x", "faster_rcnn_r101_dc5_caffe", "3x", 0.452, 40.6, None, None),
    ("faster_rcnn_R_101_FPN_3x", "faster_rcnn_r101_fpn_caffe", "3x", 0.286, 42.0, None, None),
    ("faster_rcnn_X_101_32x8d_FPN_3x", "faster_rcnn_x101_32x8d_fpn", "3x", 0.638, 43.0, None, None),
    ("mask_rcnn_R_50_C4_1x", "mask_rcnn_r50_c4_caffe", "1x", 0.584, 36.8, 32.2, None),
    ("mask_rcnn_R_50_DC5_1x", "mask_rcnn_r50_dc5_caffe", "1x", 0.471, 38.3, 34.2, None),
    ("mask_rcnn_R_50_FPN_1x", "mask_rcnn_r50_fpn_caffe", "1x", 0.261, 38.6, 35.2, None),
    ("mask_rcnn_R_50_C4_3x", "mask_rcnn_r50_c4_caffe", "3x", 0.575, 39.8, 34.4, None),
    ("mask_rcnn_R_50_DC5_3x", "mask_rcnn_r50_dc5_caffe", "3x", 0.470, 40.0, 35.9, None),
    ("mask_rcnn_R_50_FPN_3x", "mask_rcnn_r50_fpn_caffe", "3x", 0.261, 41.0, 37.2, None),
    ("mask_rcnn_R_101_C4_3x", "mask_rcnn_r101_c4_caffe", "3x", 0.652, 42.6, 36.7, None),
    ("mask_rcnn_R_101_DC5_3x", "mask_rcnn_r101_dc5_caffe", "3x", 0.545, 41.9, 37.3, None),
    ("mask_rcnn_R_101_FPN_3x", "mask_rcnn_r101_fpn_caffe", "3x", 0.340, 42.9, 38.6, None),
    ("mask_rcnn_X_101_32x8d_FPN_3x", "mask_rcnn_x101_32x8d_fpn", "3x", 0.690, 44.3, 39.5, None),
    ("keypoint_rcnn_R_50_FPN_1x", "keypoint_rcnn_r50_fpn_caffe", "1x", 0.315, 53.6, None, 64.0),
    ("keypoint_rcnn_R_50_FPN_3x", "keypoint_rcnn_r50_fpn_caffe", "3x", 0.316, 55.4, None, 65.5),
    ("keypoint_rcnn_R_101_FPN_3x", "keypoint_rcnn_r101_fpn_caffe", "3x", 0.390, 56.4, None, 66.1),
    ("cascade_mask_rcnn_R_50_FPN_1x", "cascade_mask_rcnn_r50_fpn_caffe", "1x", 0.317, 42.1, 36.4, None),
    ("cascade_mask_rcnn_R_50_FPN_3x", "cascade_mask_rcnn_r50_fpn_caffe", "3x", 0.328, 44.3, 38.5, None),
    ("mask_rcnn_R_50_FPN_3x_gn", "mask_rcnn_r50_fpn_gn", "3x", 0.309, 42.6, 38.6, None),
    ("scratch_mask_rcnn_R_50_FPN_3x_gn", "mask_rcnn_r50_fpn_gn_scratch", "3x", 0.338, 39.9, 36.6, None),
)


def _row(
    name: str,
    model: str,
    schedule: str,
    seconds: float,
    box: float | None,
    mask: float | None,
    keypoints: float | None,
) -> Recipe:
    return Recipe(
        name=f"detectron2/{name}",
        model=model,
        weights="none" if model.endswith("_scratch") else "imagenet",
        differs=KEYPOINTS if keypoints else "",
        settings=(*TRAINING, f"train.schedule={schedule}"),
        images_per_step=16,
        box=box,
        mask=mask,
        keypoints=keypoints,
        hours=round(seconds * STEPS[schedule] / 3600, 1),
        hardware=V100S,
        source=ZOO,
    )


def _rpn(kind: str, seconds: float, recall: float, *proposals: str) -> Recipe:
    """The region proposal network alone, which is tested with more `proposals` than a detector has."""
    return Recipe(
        name=f"detectron2/rpn_R_50_{kind}_1x",
        model=f"rpn_r50_{kind.lower()}_caffe",
        settings=(*proposals, "rpn.proposals.post_nms=2000", *TRAINING, "train.schedule=1x"),
        images_per_step=16,
        recall=recall,
        hours=round(seconds * STEPS["1x"] / 3600, 1),
        hardware=V100S,
        source=ZOO,
    )


def _scratch(norm: str, box: float, mask: float) -> Recipe:
    """Training from random weights with 64 images per step (He et al. 2019)."""
    return Recipe(
        name=f"detectron2/scratch_mask_rcnn_R_50_FPN_9x_{norm.replace('_', '')}",
        model=f"mask_rcnn_r50_fpn_{norm.replace('_', '')}_scratch",
        weights="none",
        settings=(*TRAINING, "train.schedule=9x", "train.evaluate_every=2500"),
        images_per_step=64,
        box=box,
        mask=mask,
        source=ZOO,
    )


RECIPES = (
    *(_row(*row) for row in ROWS),
    _rpn("C4", 0.130, 51.6, "rpn.proposals.pre_nms=12000"),
    _rpn("FPN", 0.186, 58.0),
    _scratch("gn", 43.7, 39.6),
    _scratch("sync_bn", 43.6, 39.3),
)
