"""FCIS by its authors (MXNet), with online hard example mining (OHEM) or random regions, and two Chainer ports."""

from __future__ import annotations

from rcnn.training.recipes.recipe import Recipe

AUTHORS = "msracver/FCIS at 309f6c9: README.md, experiments/fcis/cfgs; random regions: knorth55/chainer-fcis's README"
CHAINER_FCIS = "knorth55/chainer-fcis at a3dcebf: README.md, examples"
CHAINERCV = "chainer/chainercv at 7159616: examples/fcis"
WEIGHTS = "resnet101@msra"
TRAINING = (
    "input.channel_order=bgr",
    "input.pixel_mean=[103.06,115.9,123.15]",
    "train.batch_size=1",
    "train.momentum=0.9",
    'train.lr_factors={"box_head.reduce.*": 3}',
    "train.filter_empty=true",
    "train.flip=0.5",
    "train.checkpoint_every=5000",
)
# The authors sum the gradients of all GPUs, and count each flipped image as a further image. So their learning rate of
# 0.0005 is multiplied by the number of GPUs here, their weight decay of 0.0005 is divided by it, and the number of
# epochs is doubled. They save a checkpoint after each of their epochs, which is when a run evaluates here.
AUTHORS_COCO = (
    *TRAINING,
    'train.weight_decays={"*.bias": 0}',
    "train.epochs=16",
    "train.lr=0.004",
    "train.reference_batch=8",
    "train.weight_decay=6.25e-05",
    "train.milestones=[0.66625]",
    "train.warmup_steps=250",
    "train.warmup_factor=0.1",
)
PORTS = (*TRAINING, "train.weight_decay=0.0005")
WARM_UP = "the warm-up is linear; the original has a tenth of the learning rate in its first steps"
COCO_2014 = "COCO trainval35k (2014)"
MINIVAL = "COCO minival2014"

RECIPES = (
    Recipe(
        name="fcis/R101-COCO-OHEM",
        model="fcis_r101_coco",
        weights=WEIGHTS,
        settings=AUTHORS_COCO,
        images_per_step=8,
        evaluate_epochs=2,
        trained_on=COCO_2014,
        evaluated_on=MINIVAL,
        mask=29.2,
        hardware="8 GPUs",
        source=AUTHORS,
        differs=WARM_UP,
    ),
    Recipe(
        name="fcis/R101-COCO-random",
        model="fcis_r101_coco",
        weights=WEIGHTS,
        settings=("fcis.ohem=false", *AUTHORS_COCO),
        images_per_step=8,
        evaluate_epochs=2,
        trained_on=COCO_2014,
        evaluated_on=MINIVAL,
        mask=28.8,
        hardware="8 GPUs",
        source=AUTHORS,
        differs=WARM_UP,
    ),
    Recipe(
        name="fcis/R101-VOC-random",
        model="fcis_r101_voc",
        weights=WEIGHTS,
        settings=(
            *TRAINING,
            'train.weight_decays={"*.bias": 0}',
            "train.epochs=44",
            "train.lr=0.002",
            "train.reference_batch=4",
            "train.weight_decay=0.000125",
            "train.milestones=[0.6363636363636364]",
            "train.warmup_steps=0",
        ),
        images_per_step=4,
        evaluate_epochs=2,
        trained_on="VOC 2012 train (SBD)",
        evaluated_on="VOC 2012 val (SBD)",
        mask=66.0,
        metric="AP50 (VOC)",
        hardware="4 GPUs",
        source=AUTHORS,
    ),
    Recipe(
        name="chainer-fcis/R101-COCO",
        model="fcis_r101_coco_chainer",
        weights=WEIGHTS,
        settings=(
            *PORTS,
            "train.epochs=18",
            "train.lr=0.0005",
            "train.reference_batch=8",
            "train.milestones=[0.6666666666666666]",
            "train.warmup_steps=4000",
            "train.warmup_factor=0.1",
        ),
        images_per_step=8,
        evaluate_epochs=1,
        trained_on="COCO trainval2014",
        evaluated_on=MINIVAL,
        mask=22.9,
        source=CHAINER_FCIS,
        differs=f"{WARM_UP}; its number of GPUs is not published, 8 are assumed",
    ),
    Recipe(
        name="chainer-fcis/R101-SBD",
        model="fcis_r101_sbd_chainer",
        weights=WEIGHTS,
        settings=(
            *PORTS,
            "train.epochs=44",
            "train.lr=0.0005",
            "train.reference_batch=1",
            "train.milestones=[0.6363636363636364]",
            "train.warmup_steps=0",
        ),
        images_per_step=1,
        evaluate_epochs=8,
        trained_on="SBD train",
        evaluated_on="SBD val",
        mask=63.2,
        metric="AP50 (VOC)",
        hardware="1 GPU",
        source=CHAINER_FCIS,
    ),
    Recipe(
        name="chainercv/fcis-R101-COCO",
        model="fcis_r101_coco_chainercv",
        weights=WEIGHTS,
        settings=(
            *PORTS,
            "train.epochs=18",
            "train.lr=0.0005",
            "train.reference_batch=1",
            "train.milestones=[0.6666666666666666]",
            "train.warmup_steps=667",
            "train.warmup_factor=0.1",
        ),
        images_per_step=3,
        evaluate_epochs=12,
        trained_on=COCO_2014,
        evaluated_on="COCO val2017",
        mask=24.3,
        hardware="3 GPUs",
        source=CHAINERCV,
        differs=WARM_UP,
    ),
    Recipe(
        name="chainercv/fcis-R101-SBD",
        model="fcis_r101_sbd_chainercv",
        weights=WEIGHTS,
        settings=(
            *PORTS,
            "train.epochs=42",
            "train.lr=0.0005",
            "train.reference_batch=1",
            "train.milestones=[0.6666666666666666]",
            "train.warmup_steps=0",
        ),
        images_per_step=1,
        evaluate_epochs=28,
        trained_on="SBD train",
        evaluated_on="SBD val",
        mask=64.1,
        metric="AP50 (VOC)",
        hardware="1 GPU",
        source=CHAINERCV,
    ),
)
