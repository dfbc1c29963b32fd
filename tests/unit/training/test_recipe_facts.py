"""Recipes against tables that were typed from the facts about each system, and from Detectron2's public configs.

They hold what the converters of weights do not need: sampling, losses, proposals in training, first weights.
"""

from __future__ import annotations

import math

import pytest

from rcnn.models import model_config
from rcnn.models.overrides import override
from rcnn.training.length import changed_by, with_length
from rcnn.training.recipes import RECIPES, find_recipe
from rcnn.training.settings import TrainConfig
from rcnn.weights.setting_texts import setting_values

# ImageNet weights by recipe: the names that begin so have these
WEIGHTS = {
    "tensorpack/R50-": "resnet50@tensorpack",  # facts on tensorpack, 6.5: ImageNet-R50-AlignPadding
    "tensorpack/R50-FPN-2x-GN": "resnet50_gn@tensorpack",  # ImageNet-R50-GroupNorm32-AlignPadding
    "tensorpack/R50-FPN-4x-GN-CasAug": "resnet50_gn@tensorpack",
    "tensorpack/R101-": "resnet101@tensorpack",
    "tensorpack/R101-FPN-9x-GN-CasAug-scratch": "none",
    "chainer-mask-rcnn/R50-": "resnet50@msra",  # facts on Chainer, 1.1: conversions of the MSRA caffemodels
    "chainer-mask-rcnn/R101-": "resnet101@msra",
    "dena/": "resnet50@msra",  # 2.1
    "fcis/": "resnet101@msra",  # 8.1: MXNet's conversion of the same
    "chainer-fcis/": "resnet101@msra",
    "chainercv/": "resnet101@msra",
    "mask-faster-rcnn/": "resnet101@msra",  # 4.1: the caffe ResNet of pytorch-resnet
    "mask-faster-rcnn/res50": "resnet50@msra",
    "detectron2/": "imagenet",
    "detectron2/scratch_": "none",
    "lsj/": "none",  # init_checkpoint = ""
}

RATIOS = [0.5, 1, 2]
FPN_SIZES, ONE_MAP = [[32], [64], [128], [256], [512]], [[32, 64, 128, 256, 512]]
TENSORPACK = {  # facts on tensorpack, 1.5, 2.1, 2.3 to 2.8
    "input.min_size": 800,
    "input.pixel_mean": [103.53, 116.28, 123.675],
    "input.pixel_std": [57.375, 57.12, 58.395],
    "backbone.frozen_stages": 2,
    "backbone.trained_affine": True,
    "rpn.anchors.ratios": RATIOS,
    "rpn.anchors.offset": 0,
    "rpn.sampling.batch_size": 256,
    "rpn.sampling.positive_fraction": 0.5,
    "rpn.sampling.positive_iou": 0.7,
    "rpn.sampling.negative_iou": 0.3,
    "rpn.legacy.straddle": 0,  # anchors inside the image only
    "rpn.legacy.low_quality": "overruled",
    "rpn.legacy.normalizer": "batch_size",  # 256, a constant
    "rpn.smooth_l1_beta": 1 / 9,
    "rpn.proposals.nms_iou": 0.7,
    "rpn.proposals.post_nms_train": 2000,
    "rpn.proposals.post_nms": 1000,
    "box.sampling.batch_size": 512,
    "box.sampling.positive_fraction": 0.25,
    "box.sampling.min_negative_iou": 0,  # all the rest
    "box.append_ground_truth": True,
    "box.smooth_l1_beta": 0,  # plain L1
    "box.score_threshold": 0.05,
    "box.selection.nms_iou": 0.5,
    "box.selection.max_detections": 100,
}
CHAINER = {  # facts on Chainer, 1.2
    "input.min_size": 800,
    "input.max_size": 1333,
    "backbone.stride_in_1x1": True,
    "rpn.anchors.sizes": ONE_MAP,
    "rpn.anchors.offset": 0.5,  # centred on (8, 8)
    "rpn.legacy.anchors": "plain",  # no rounding
    "rpn.legacy.straddle": 0,
    "rpn.legacy.normalizer": "sampled",
    "rpn.smooth_l1_beta": 1 / 9,  # sigma 3
    "rpn.max_log_scale": 100,  # no limit of dh and dw
    "rpn.sampling.batch_size": 256,
    "rpn.sampling.positive_fraction": 0.5,
    "rpn.proposals.pre_nms_train": 12000,
    "rpn.proposals.post_nms_train": 2000,
    "rpn.proposals.pre_nms": 6000,
    "rpn.proposals.post_nms": 1000,
    "box.smooth_l1_beta": 1,
    "box.pooler.size": 14,
    "box.pooler.aligned": False,
    "box.sampling.positive_fraction": 0.25,
    "box.sampling.positive_iou": 0.5,
    "box.sampling.min_negative_iou": 0,
    "box.delta_weights": [10, 10, 5, 5],
    "box.score_threshold": 0.05,
    "box.selection.nms_iou": 0.5,
}
WKENTARO = CHAINER | {
    "input.resize": "opencv",
    "input.pixel_mean": [103.063, 115.903, 123.152],
    "backbone.stem_pool": "padded_ceil",
    "backbone.frozen_stages": 2,
    "backbone.norm_eps": 1e-5,
    "backbone.trained_affine": False,
    "rpn.proposals.min_size": -1,
    "box.pooler.sampling_ratio": 0,
    "box.sampling.batch_size": 512,
    "box.selection.max_detections": 100,
    "mask.initializer": "normal",
}
FCIS = {  # facts on Chainer, 3.1
    "input.min_size": 600,
    "input.max_size": 1000,
    "input.pixel_mean": [103.06, 115.9, 123.15],
    "input.pixel_std": [1, 1, 1],
    "backbone.stem_pool": "unpadded_ceil",
    "backbone.res5_dilation": 2,
    "rpn.width": 512,
    "rpn.anchors.sizes": [[64, 128, 256, 512]],  # scales 4 to 32 of 16
    "rpn.legacy.straddle": 0,
    "rpn.smooth_l1_beta": 1 / 9,
    "rpn.proposals.pre_nms_train": 6000,
    "rpn.proposals.post_nms_train": 300,
    "rpn.proposals.post_nms": 300,
    "rpn.proposals.min_size": 2,
    "fcis.groups": 7,
    "fcis.roi_size": 21,
    "fcis.width": 1024,
    "fcis.delta_weights": [5, 5, 2, 2],  # 1 / std
    "fcis.sampling.batch_size": 128,
    "fcis.sampling.positive_fraction": 0.25,
    "fcis.sampling.positive_iou": 0.5,
    "fcis.sampling.min_negative_iou": 0,
    "fcis.mask_threshold": 0.4,
    "fcis.score_threshold": 0.001,
    "fcis.nms_iou": 0.3,
    "fcis.vote_iou": 0.5,
}
DETECTRON2 = {  # Base-RCNN-FPN.yaml, Base-RCNN-C4.yaml, config/defaults.py
    "input.min_size": 800,
    "input.max_size": 1333,
    "input.pixel_mean": [103.53, 116.28, 123.675],
    "input.pixel_std": [1, 1, 1],
    "backbone.frozen_stages": 2,
    "backbone.stride_in_1x1": True,
    "backbone.trained_affine": False,
    "rpn.anchors.ratios": RATIOS,
    "rpn.legacy.straddle": -1,  # BOUNDARY_THRESH
    "rpn.smooth_l1_beta": 0,
    "rpn.sampling.batch_size": 256,
    "rpn.max_log_scale": math.log(1000 / 16),
    "box.sampling.batch_size": 512,
    "box.sampling.positive_fraction": 0.25,
    "box.smooth_l1_beta": 0,
    "box.pooler.aligned": True,
    "box.pooler.sampling_ratio": 0,
    "box.score_threshold": 0.05,
    "box.selection.nms_iou": 0.5,
}
NETWORKS = {
    "tensorpack/R50-FPN-1x": TENSORPACK
    | {
        "input.max_size": 1344,
        "rpn.anchors.sizes": FPN_SIZES,
        "rpn.max_log_scale": math.log(1344 / 16),
        "rpn.proposals.pre_nms_train": 2000,
        "rpn.proposals.pre_nms": 1000,
        "box.pooler.size": 7,
        "mask.pooler.size": 14,
    },
    "tensorpack/R50-C4-1x": TENSORPACK
    | {
        "input.max_size": 1333,
        "rpn.anchors.sizes": ONE_MAP,
        "rpn.max_log_scale": math.log(1333 / 16),
        "rpn.proposals.pre_nms_train": 12000,
        "rpn.proposals.pre_nms": 6000,
        "box.pooler.size": 14,
    },
    "chainer-mask-rcnn/R50-C4-COCO": WKENTARO,
    "chainer-mask-rcnn/R50-C4-VOC-8gpu": WKENTARO
    | {"input.min_size": 600, "input.max_size": 1000, "rpn.anchors.sizes": [[64, 128, 256, 512]]},
    "dena/R50-C4": CHAINER
    | {  # 2.2
        "input.resize": "opencv_float",
        "input.pixel_mean": [102.9801, 115.9465, 122.7717],
        "backbone.stem_pool": "padded",
        "backbone.frozen_stages": 0,
        "backbone.norm_eps": 2e-5,
        "backbone.trained_affine": True,
        "rpn.proposals.min_size": 4,
        "rpn.legacy.min_size_original": True,  # times the scale
        "box.pooler.sampling_ratio": 2,
        "box.sampling.batch_size": 128,
        "mask.target": "truncated_bitmap",
    },
    "fcis/R101-COCO-OHEM": FCIS
    | {
        "rpn.legacy.anchors": "detectron",  # rounded
        "rpn.legacy.normalizer": "sampled_objectness",  # the boxes by 256
        "rpn.legacy.min_size_original": False,
        "legacy.boxes": "inclusive",
        "fcis.ohem": True,
        "fcis.legacy.mask_loss": "regions",
    },
    "chainer-fcis/R101-COCO": FCIS
    | {  # 3.5
        "rpn.legacy.anchors": "plain",
        "rpn.legacy.normalizer": "sampled",
        "rpn.legacy.min_size_original": True,
        "legacy.boxes": "half_open",
        "fcis.ohem": False,
        "fcis.legacy.mask_loss": "pixels",
        "fcis.legacy.rounded_regions": True,
    },
    "chainercv/fcis-R101-COCO": FCIS
    | {
        "rpn.legacy.anchors": "plain",
        "rpn.legacy.normalizer": "sampled",
        "legacy.boxes": "half_open",
        "fcis.ohem": False,
        "fcis.legacy.mask_loss": "regions",
        "fcis.legacy.rounded_regions": False,
        "fcis.legacy.clip_votes": True,
    },
    "mask-faster-rcnn/res101": {  # 4.2
        "input.min_size": 600,
        "input.max_size": 1000,
        "input.pixel_mean": [102.9801, 115.9465, 122.7717],
        "backbone.frozen_stages": 2,
        "backbone.res5_stride": 1,
        "rpn.width": 512,
        "rpn.anchors.sizes": [[64, 128, 256, 512]],
        "rpn.legacy.anchors": "detectron",
        "rpn.legacy.objectness": "softmax",
        "rpn.legacy.straddle": 0,
        "rpn.legacy.normalizer": "sampled",
        "rpn.smooth_l1_beta": 1 / 9,
        "rpn.proposals.pre_nms_train": 12000,
        "rpn.proposals.post_nms_train": 2000,
        "rpn.proposals.pre_nms": 6000,
        "rpn.proposals.post_nms": 300,
        "rpn.proposals.min_size": -1,
        "box.append_ground_truth": False,
        "box.sampling.batch_size": 256,
        "box.sampling.positive_fraction": 0.25,
        "box.sampling.min_negative_iou": 0,
        "box.smooth_l1_beta": 1,
        "box.score_threshold": 0,
        "box.selection.nms_iou": 0.3,
        "mask.target": "nearest_bitmap",
    },
    "detectron2/mask_rcnn_R_50_FPN_1x": DETECTRON2
    | {
        "rpn.anchors.sizes": FPN_SIZES,
        "rpn.proposals.pre_nms_train": 2000,
        "rpn.proposals.post_nms_train": 1000,
        "rpn.proposals.pre_nms": 1000,
        "rpn.proposals.post_nms": 1000,
        "box.pooler.size": 7,
        "mask.pooler.size": 14,
    },
    "detectron2/mask_rcnn_R_50_C4_1x": DETECTRON2
    | {
        "rpn.anchors.sizes": ONE_MAP,
        "rpn.proposals.pre_nms_train": 12000,
        "rpn.proposals.post_nms_train": 2000,
        "rpn.proposals.pre_nms": 6000,
        "rpn.proposals.post_nms": 1000,
        "box.pooler.size": 14,
    },
    "detectron2/rpn_R_50_C4_1x": {"rpn.proposals.pre_nms": 12000, "rpn.proposals.post_nms": 2000},
    "detectron2/rpn_R_50_FPN_1x": {"rpn.proposals.pre_nms": 1000, "rpn.proposals.post_nms": 2000},
    "detectron2/keypoint_rcnn_R_50_FPN_1x": DETECTRON2
    | {"num_classes": 1, "box.smooth_l1_beta": 0.5, "rpn.proposals.post_nms_train": 1500},
    # mask_rcnn_R_50_FPN_100ep_LSJ.py
    "lsj/R50-FPN-100ep": DETECTRON2
    | {
        "backbone.frozen_stages": 0,
        "backbone.norm": "sync_bn",
        "rpn.convs": 2,
        "box.convs": 4,
        "box.conv_width": 256,
        "box.fcs": 1,
        "box.fc_width": 1024,
        "box.norm": "sync_bn",
        "mask.norm": "sync_bn",
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_that_of_the_facts(name: str) -> None:
    recipe = find_recipe(name)
    ours = setting_values(override(model_config(recipe.model), recipe.model_settings))
    different = dict[str, tuple[object, object]]()
    for key, expected in NETWORKS[name].items():
        equal = pytest.approx(expected) if isinstance(expected, float) else expected
        different |= {} if ours[key] == equal else {key: (ours[key], expected)}
    assert different == {}


@pytest.mark.parametrize("name", RECIPES)
def test_the_first_weights_are_those_of_the_facts(name: str) -> None:
    longest = max((start for start in WEIGHTS if name.startswith(start)), key=len)
    assert find_recipe(name).weights == WEIGHTS[longest]


@pytest.mark.parametrize(
    ("name", "rate", "first", "steps"),
    [
        ("tensorpack/R50-FPN-1x", 0.01, 1e-5, 1000),  # facts on tensorpack, 3: with 8 GPUs and more, from 1e-5
        ("tensorpack/R50-FPN-4x-GN-CasAug", 0.02, 1e-5, 1000),
        ("tensorpack/R101-FPN-9x-GN-CasAug-scratch", 0.08, 1e-5, 1000),
        ("detectron2/mask_rcnn_R_50_FPN_1x", 0.02, 2e-5, 1000),
        ("lsj/R50-FPN-100ep", 0.1, 0.0067, 500),
        ("lsj/R50-FPN-200ep", 0.1, 0.0067, 1000),  # 500 / 184375 of the run
        ("lsj/R101-FPN-400ep", 0.1, 0.0067, 2000),
        ("dena/R50-C4", 8e-3, 8e-4, 400),
        ("fcis/R101-COCO-OHEM", 4e-3, 4e-4, 250),
    ],
)
def test_the_warm_up_is_that_of_the_facts(name: str, rate: float, first: float, steps: int) -> None:
    recipe = find_recipe(name)
    settings = changed_by(TrainConfig(), recipe.training_settings)
    settings, _ = recipe.with_published_batch(settings, processes=1, given=())
    assert settings.scaled_lr() == pytest.approx(rate)
    assert (settings.warmup_factor * rate, settings.warmup_steps) == (pytest.approx(first), steps)


def test_the_recall_of_proposals_is_published() -> None:
    """MODEL_ZOO.md: average recall of 1000 proposals per image."""
    assert find_recipe("detectron2/rpn_R_50_C4_1x").recall == 51.6
    assert find_recipe("detectron2/rpn_R_50_FPN_1x").recall == 58.0
    assert "proposal AR1000 58.0 on COCO val2017" in find_recipe("detectron2/rpn_R_50_FPN_1x").describe()


@pytest.mark.parametrize(
    ("name", "each", "epochs", "evaluations"),
    [  # facts, 1.1 (every epoch of 12.17), 3.1 and 3.2 (a checkpoint per epoch of the doubled set), 3.3, 3.4
        ("chainer-mask-rcnn/R50-C4-COCO", 8, 1, 13),
        ("chainer-mask-rcnn/R101-C4-VOC-4gpu", 4, 1, 13),
        ("fcis/R101-COCO-OHEM", 8, 2, 8),
        ("fcis/R101-COCO-random", 8, 2, 8),
        ("fcis/R101-VOC-random", 4, 2, 22),
        ("chainer-fcis/R101-COCO", 8, 1, 18),
        ("chainer-fcis/R101-SBD", 1, 8, 6),
        ("chainercv/fcis-R101-COCO", 3, 12, 2),  # at the decay, and at the end
        ("chainercv/fcis-R101-SBD", 1, 28, 2),
    ],
)
@pytest.mark.parametrize("images", [5_623, 118_287])
def test_evaluations_are_those_of_the_epochs_of_the_publisher(
    name: str, each: int, epochs: int, evaluations: int, images: int
) -> None:
    recipe = find_recipe(name)
    settings = changed_by(TrainConfig(), recipe.training_settings)
    trained, _ = with_length(settings, images=images, processes=each, given=())
    settings, reasons = recipe.with_evaluations(trained, images=images, processes=each, given=())
    assert 0 <= settings.evaluate_every * each - epochs * images < each
    assert -(-settings.steps // settings.evaluate_every) == evaluations
    assert name in reasons["evaluate_every"]
    assert recipe.with_evaluations(trained, images=images, processes=each, given={"evaluate_every"}) == (trained, {})


def test_a_recipe_names_the_depth_that_its_model_does_not() -> None:
    assert find_recipe("lsj/R101-FPN-100ep").network == ("mask_rcnn_r50_fpn_syncbn_caffe", "backbone.depth=101")
    assert find_recipe("lsj/R50-FPN-100ep").network == ("mask_rcnn_r50_fpn_syncbn_caffe",)
