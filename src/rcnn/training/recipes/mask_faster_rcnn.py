"""mask-faster-rcnn (lichengunc): ResNet C4 for MAttNet, trained without the test images of the REFER data sets.

Its configs vgg16 and mobile have no recipe: its VGG-16 and MobileNet have no mask branch, so it cannot train them.
"""

from __future__ import annotations

from rcnn.training.recipes.recipe import Recipe

SOURCE = "lichengunc/mask-faster-rcnn at 45e2818: README.md, experiments/cfgs, experiments/scripts"
SYSTEM = (
    "input.min_size=600",
    "input.max_size=1000",
    "input.resize=opencv_float",
    "input.size_rounding=factor_limit",
    "input.rescale=factor",
    "input.channel_order=bgr",
    "input.pixel_mean=[102.9801,115.9465,122.7717]",
    "input.pixel_std=[1,1,1]",
    "backbone.stride_in_1x1=true",
    "backbone.res5_stride=1",
    "rpn.width=512",
    "rpn.anchors.sizes=[[64,128,256,512]]",
    "rpn.smooth_l1_beta=0.1111111111111111",
    "rpn.max_log_scale=100",
    "rpn.proposals.post_nms=300",
    "rpn.proposals.min_size=-1",
    "rpn.legacy.anchors=detectron",
    "rpn.legacy.objectness=softmax",
    "rpn.legacy.straddle=0",
    "rpn.legacy.normalizer=sampled",
    "box.max_log_scale=100",
    "box.sampling.batch_size=256",
    "box.append_ground_truth=false",
    "box.smooth_l1_beta=1",
    "box.score_threshold=0",
    "box.selection.nms_iou=0.3",
    "mask.target=nearest_bitmap",
    "mask.paste=stretched",
    "legacy.boxes=inclusive_loose",
    "train.batch_size=1",
    "train.lr=0.001",
    "train.reference_batch=1",
    "train.warmup_steps=0",
    "train.momentum=0.9",
    "train.weight_decay=0.0001",
    'train.weight_decays={"*.bias": 0}',
    "train.flip=0.5",
    "train.filter_empty=true",
    "train.checkpoint_every=5000",
    "train.evaluate_every=0",
)
NOTIME = ("train.steps=1250000", "train.milestones=[0.64]")


def _pooler(kind: str) -> tuple[str, ...]:
    """POOLING_MODE crop: regions of 7 x 7; with POOLING_ALIGN the maxima of 14 x 14 samples."""
    maxima = (f"pooler.kind={kind}", "pooler.size=7", "pooler.aligned=false")
    maxima += ("pooler.max_pool=true",) if kind == "image_affine" else ()
    return tuple(f"{head}.{setting}" for head in ("box", "mask") for setting in maxima)


def _recipe(
    name: str, *settings: str, depth: int = 101, box: float | None = None, mask: float | None = None, differs: str
) -> Recipe:
    return Recipe(
        name=f"mask-faster-rcnn/{name}",
        model=f"mask_rcnn_r{depth}_c4",
        weights=f"resnet{depth}@msra",
        settings=(*SYSTEM, *settings),
        images_per_step=1,
        trained_on=TRAINED_ON,
        evaluated_on=MINIVAL,
        box=box,
        mask=mask,
        hardware="1 GPU",
        source=SOURCE,
        differs=differs,
    )


TRAINED_ON = (
    "COCO train2014 without the images of the REFER val and test sets, and valminusminival2014 (make it with rcnn data "
    "minus-refer DIR, then --split train_minus_refer_valtest2014+valminusminival2014 --val-split minival2014)"
)
MINIVAL = "COCO minival2014"
DIFFERS = (
    "crowds are ignored; the original trains on them as objects. It repeats negative regions until there are 256, and "
    "adds the ground truth to the proposals of an image without a positive one"
)

RECIPES = (
    _recipe("res101", *_pooler("affine"), *NOTIME, box=35.8, mask=30.7, differs=DIFFERS),
    _recipe("res101-align", *_pooler("image_affine"), *NOTIME, differs=DIFFERS),
    _recipe(
        "res101-from-frcn",
        *_pooler("affine"),
        "train.steps=490000",
        "train.milestones=[0.7142857142857143]",
        'train.lr_factors={"*": 0.1, "mask_head.*": 1}',
        differs=f"{DIFFERS}; starts from ImageNet weights, the original from its own Faster R-CNN",
    ),
    _recipe("res50", *_pooler("affine"), *NOTIME, depth=50, differs=DIFFERS),
    _recipe(
        "res101-lg",
        *_pooler("affine"),
        *NOTIME,
        "input.min_size=800",
        "input.max_size=1333",
        "rpn.anchors.sizes=[[32,64,128,256,512]]",
        "rpn.proposals.post_nms=1000",
        differs=f"{DIFFERS}; the original has no script for this config, so the number of steps is that of res101",
    ),
)
