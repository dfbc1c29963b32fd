"""The two Chainer Mask R-CNNs: wkentaro's chainer-mask-rcnn and DeNA's Chainer_Mask_R-CNN, both ResNet C4."""

from __future__ import annotations

from rcnn.training.recipes.recipe import Recipe

WKENTARO = "wkentaro/chainer-mask-rcnn at d7fb449: README.md, examples, train_common.py"
DENA = "DeNA/Chainer_Mask_R-CNN at 315a5b0: README.md, train.py"
BOTH = (
    "input.size_rounding=factor",
    "input.channel_order=bgr",
    "input.pixel_std=[1,1,1]",
    "backbone.stride_in_1x1=true",
    "rpn.anchors.offset=0.5",
    "rpn.smooth_l1_beta=0.1111111111111111",
    "rpn.max_log_scale=100",
    "rpn.legacy.straddle=0",
    "rpn.legacy.normalizer=sampled",
    "box.max_log_scale=100",
    "box.smooth_l1_beta=1",
    "box.pooler.aligned=false",
    "mask.pooler.aligned=false",
    "train.batch_size=1",
    "train.reference_batch=8",
    "train.momentum=0.9",
    "train.filter_empty=true",
    "train.flip=0.5",
)
# 12.17 epochs: 180,000 steps of 8 of COCO's 118,287 images, and as many epochs of other data sets
CHAINER_MASK_RCNN = (
    *BOTH,
    "input.resize=opencv",
    "input.rescale=factor",
    "input.pixel_mean=[103.063,115.903,123.152]",
    "backbone.stem_pool=padded_ceil",
    "rpn.proposals.min_size=-1",
    "mask.target=resized_bitmap",
    "mask.paste=padded",
    "mask.initializer=normal",
    "legacy.drop_subpixel=true",
    "train.epochs=12.173780719774785",
    "train.lr=0.01",
    "train.warmup_steps=0",
    "train.milestones=[0.6666666666666666,0.8888888888888888]",
    "train.weight_decay=0.0001",
    "train.checkpoint_every=5000",
)
VOC = ("input.min_size=600", "input.max_size=1000", "rpn.anchors.sizes=[[64,128,256,512]]")


def _voc(name: str, model: str, weights: str, gpus: int, mask: float) -> Recipe:
    return Recipe(
        name=f"chainer-mask-rcnn/{name}",
        model=model,
        weights=weights,
        settings=(*CHAINER_MASK_RCNN, *VOC),
        images_per_step=gpus,
        evaluate_epochs=1,
        trained_on="SBD train",
        evaluated_on="SBD val",
        mask=mask,
        metric="AP50 (VOC 2007)",
        hardware=f"{gpus} GPUs",
        source=WKENTARO,
    )


RECIPES = (
    Recipe(
        name="chainer-mask-rcnn/R50-C4-COCO",
        model="mask_rcnn_r50_c4",
        weights="resnet50@msra",
        settings=CHAINER_MASK_RCNN,
        images_per_step=8,
        evaluate_epochs=1,
        trained_on="COCO trainval35k (2014)",
        evaluated_on="COCO minival2014",
        mask=31.4,
        hardware="8 GPUs",
        source=WKENTARO,
    ),
    _voc("R50-C4-VOC-4gpu", "mask_rcnn_r50_c4", "resnet50@msra", 4, 66.0),
    _voc("R50-C4-VOC-8gpu", "mask_rcnn_r50_c4", "resnet50@msra", 8, 65.5),
    _voc("R101-C4-VOC-4gpu", "mask_rcnn_r101_c4", "resnet101@msra", 4, 67.5),
    _voc("R101-C4-VOC-8gpu", "mask_rcnn_r101_c4", "resnet101@msra", 8, 67.1),
    # Gradients of 8 images are summed, not averaged: its learning rate of 0.001 is 0.008 here, and its weight decay of
    # 0.0001 is an eighth. Its two schedulers start from the same rate, so the decay at 120,000 steps is by 100.
    Recipe(
        name="dena/R50-C4",
        model="mask_rcnn_r50_c4",
        weights="resnet50@msra",
        settings=(
            *BOTH,
            "input.resize=opencv_float",
            "input.rescale=width",
            "input.pixel_mean=[102.9801,115.9465,122.7717]",
            "backbone.norm_eps=2e-05",
            "backbone.trained_affine=true",
            "backbone.frozen_stages=0",
            "rpn.proposals.min_size=4",
            "rpn.legacy.min_size_original=true",
            "rpn.legacy.min_size_first=true",
            "box.pooler.sampling_ratio=2",
            "box.sampling.batch_size=128",
            "box.selection.max_detections=1000",
            "mask.pooler.sampling_ratio=2",
            "mask.target=truncated_bitmap",
            "mask.paste=squeezed",
            "train.steps=180000",
            "train.lr=0.008",
            "train.warmup_steps=400",
            "train.warmup_factor=0.1",
            "train.milestones=[0.6666666666666666]",
            "train.decay=0.01",
            "train.weight_decay=1.25e-05",
            "train.norm_weight_decay=1.25e-05",
            "train.evaluate_every=30000",
            "train.checkpoint_every=4000",
        ),
        images_per_step=8,
        box=34.6,
        mask=28.7,
        hardware="1 GPU",
        source=DENA,
        differs="the warm-up is linear; the original has a tenth of the learning rate for 400 steps. It drops "
        "objects with a side of 10 pixels or less, trains on the image before in place of an image without objects, "
        "and starts the last layer of the boxes with a standard deviation of .01 (here .001)",
    ),
)
