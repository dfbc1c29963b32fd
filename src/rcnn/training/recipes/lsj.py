"""Large-scale jitter from random weights, 100 to 400 epochs: Detectron2's new baselines (Ghiasi et al. 2021)."""

from __future__ import annotations

from rcnn.training.recipes.recipe import Recipe

SOURCE = "facebookresearch/detectron2 at 02b5c4e2: MODEL_ZOO.md, configs/new_baselines"
# 100 epochs are 184,375 steps of 64 images; the learning rate decays after 163,889 and 177,546 of them
STEPS = 184_375
WARM_UP = 500  # steps in 100 epochs; it is a fraction of the run
SETTINGS = (
    "backbone.frozen_stages=0",
    "rpn.convs=2",
    "train.batch_size=1",
    "train.lr=0.1",
    "train.reference_batch=64",
    "train.warmup_factor=0.067",
    "train.milestones=[0.8888894915254237,0.9629613559322034]",
    "train.momentum=0.9",
    "train.weight_decay=4e-05",
    "train.norm_weight_decay=0",
    "train.bf16=true",
    "train.filter_empty=true",
    "train.flip=0.5",
    "train.augment=[{kind: scale_jitter, scale: [0.1, 2.0], size: 1024}]",
    "train.evaluate_every=5000",
    "train.checkpoint_every=5000",
)


def _recipe(depth: int, epochs: int, box: float, mask: float) -> Recipe:
    factor = epochs // 100
    deeper = () if depth == 50 else (f"backbone.depth={depth}",)  # the model has 50 layers
    return Recipe(
        name=f"lsj/R{depth}-FPN-{epochs}ep",
        model="mask_rcnn_r50_fpn_syncbn_caffe",
        weights="none",
        settings=(*deeper, *SETTINGS, f"train.steps={factor * STEPS}", f"train.warmup_steps={factor * WARM_UP}"),
        images_per_step=64,
        box=box,
        mask=mask,
        source=SOURCE,
        differs="bfloat16 in place of float16; the mean colour in place of grey around small images",
    )


RECIPES = (
    _recipe(50, 100, 44.6, 40.3),
    _recipe(50, 200, 46.3, 41.7),
    _recipe(50, 400, 47.4, 42.5),
    _recipe(101, 100, 46.4, 41.6),
    _recipe(101, 200, 48.0, 43.1),
    _recipe(101, 400, 48.9, 43.7),
)
