"""tensorpack's Mask R-CNN example: all rows of its table of results."""

from __future__ import annotations

from rcnn.training.recipes.recipe import Recipe

SOURCE = "tensorpack/tensorpack at 1547a54e: examples/FasterRCNN/README.md, config.py, train.py"
V100S = "8 V100"
# 8 images per step, one per GPU. Convolutions and linear layers have weight decay, but neither biases nor norms
TRAINING = (
    "train.batch_size=1",
    "train.lr=0.01",
    "train.reference_batch=8",
    "train.warmup_steps=1000",
    "train.momentum=0.9",
    "train.weight_decay=0.0001",
    "train.norm_weight_decay=0",
    'train.weight_decays={"*.bias": 0}',
    "train.filter_empty=true",
    "train.flip=0.5",
    "train.evaluate_every=25000",
    "train.checkpoint_every=10000",
)
SYSTEM = (
    "input.resize=opencv",
    "input.rescale=geometric",
    "input.channel_order=bgr",
    "input.pixel_mean=[103.53,116.28,123.675]",
    "input.pixel_std=[57.375,57.12,58.395]",
    "backbone.padding=align",
    "rpn.smooth_l1_beta=0.1111111111111111",
    "rpn.proposals.min_size=-1",
    "rpn.legacy.low_quality=overruled",
    "rpn.legacy.straddle=0",
    "rpn.legacy.crowd_ioa=9.99",
    "box.pooler.sampling_ratio=2",
    *TRAINING,
)
AFFINE = ("backbone.trained_affine=true",)  # FreezeBN fixes the statistics only
# the largest size is rounded up to a multiple of 32; decoded boxes are limited to it
PYRAMID = (
    "input.max_size=1344",
    "rpn.max_log_scale=4.430816798843313",
    "box.max_log_scale=4.430816798843313",
    "rpn.proposals.post_nms_train=2000",
)
SINGLE_MAP = ("rpn.max_log_scale=4.4225985979389275", "box.max_log_scale=4.4225985979389275")
MASKS = ("mask.pooler.sampling_ratio=2", "mask.target=sampled_bitmap")
GROUP_NORM = ("fpn.conv_bias=true", "box.norm_after_relu=true", "mask.norm_after_relu=true")  # ReLU before the norm
LARGE_SCALES = ("train.scale_range=[640,800]",)
WARM_UP_RATE = 1e-5  # the first learning rate, with 8 GPUs and more
DIFFERS = (
    "training images are resized as uint8, tensorpack's as float32; with fewer GPUs, its warm-up has fewer updates"
)
IMAGENET_R50, IMAGENET_R101, IMAGENET_GN = "resnet50@tensorpack", "resnet101@tensorpack", "resnet50_gn@tensorpack"


def _recipe(
    name: str,
    model: str,
    box: float,
    mask: float | None,
    hours: float,
    *settings: str,
    weights: str = IMAGENET_R50,
    images_per_step: int = 8,
    hardware: str = V100S,
    differs: str = "",
) -> Recipe:
    warm_up = f"train.warmup_factor={WARM_UP_RATE / (0.01 * images_per_step / 8):g}"
    return Recipe(
        name=f"tensorpack/{name}",
        model=model,
        weights=weights,
        settings=(*SYSTEM, warm_up, *settings),
        images_per_step=images_per_step,
        box=box,
        mask=mask,
        hours=hours,
        hardware=hardware,
        source=SOURCE,
        differs=f"{DIFFERS}; {differs}" if differs else DIFFERS,
    )


RECIPES = (
    _recipe(
        "R50-FPN-super-quick",
        "faster_rcnn_r50_fpn",
        34.8,
        None,
        6.5,
        *AFFINE,
        "rpn.proposals.post_nms_train=2000",
        "input.max_size=1024",
        "rpn.max_log_scale=4.1588830833596715",
        "box.max_log_scale=4.1588830833596715",
        "box.sampling.batch_size=64",
        "train.scale_range=[500,800]",
        "train.schedule=1x",
    ),
    _recipe("R50-C4-1x-boxes", "faster_rcnn_r50_c4", 35.6, None, 22.5, *AFFINE, *SINGLE_MAP, "train.schedule=1x"),
    _recipe("R50-FPN-1x-boxes", "faster_rcnn_r50_fpn", 37.5, None, 10.5, *AFFINE, *PYRAMID, "train.schedule=1x"),
    _recipe("R50-C4-1x", "mask_rcnn_r50_c4", 36.2, 31.8, 23, *AFFINE, *SINGLE_MAP, *MASKS, "train.schedule=1x"),
    _recipe("R50-FPN-1x", "mask_rcnn_r50_fpn", 38.2, 34.8, 12.5, *AFFINE, *PYRAMID, *MASKS, "train.schedule=1x"),
    _recipe("R50-FPN-2x", "mask_rcnn_r50_fpn", 38.9, 35.4, 24, *AFFINE, *PYRAMID, *MASKS, "train.schedule=2x"),
    _recipe(
        "R50-FPN-2x-GN",
        "mask_rcnn_r50_fpn_gn",
        40.4,
        36.3,
        29,
        *PYRAMID,
        *MASKS,
        *GROUP_NORM,
        "train.schedule=2x",
        weights=IMAGENET_GN,
    ),
    _recipe(
        "R50-FPN-1x-Cas", "cascade_mask_rcnn_r50_fpn", 41.7, 36.2, 16, *AFFINE, *PYRAMID, *MASKS, "train.schedule=1x"
    ),
    _recipe(
        "R50-FPN-4x-GN-CasAug",
        "cascade_mask_rcnn_r50_fpn_gn",
        46.1,
        40.1,
        36,
        *PYRAMID,
        *MASKS,
        *LARGE_SCALES,
        "train.schedule=4x",
        weights=IMAGENET_GN,
        images_per_step=16,
        hardware="16 V100",
    ),
    _recipe(
        "R101-C4-1x",
        "mask_rcnn_r101_c4",
        40.1,
        34.6,
        27,
        *AFFINE,
        *SINGLE_MAP,
        *MASKS,
        "train.schedule=1x",
        weights=IMAGENET_R101,
    ),
    _recipe(
        "R101-FPN-1x",
        "mask_rcnn_r101_fpn",
        40.7,
        36.8,
        17,
        *AFFINE,
        *PYRAMID,
        *MASKS,
        "train.schedule=1x",
        weights=IMAGENET_R101,
    ),
    _recipe(
        "R101-FPN-3x-CasAug",
        "cascade_mask_rcnn_r101_fpn",
        46.6,
        40.3,
        64,
        *AFFINE,
        *PYRAMID,
        *MASKS,
        *LARGE_SCALES,
        "box.score_threshold=0.0001",
        "train.schedule=3x",
        weights=IMAGENET_R101,
    ),
    _recipe(
        "R101-FPN-9x-GN-CasAug-scratch",
        "cascade_mask_rcnn_r101_fpn_gn_scratch",
        47.7,
        41.7,
        28,
        *PYRAMID,
        *MASKS,
        *LARGE_SCALES,
        "train.schedule=9x",
        weights="none",
        images_per_step=64,
        hardware="64 V100",
        differs="scales of the backbone's norms start at 1; tensorpack's at random values, by mistake",
    ),
)
