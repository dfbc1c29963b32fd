"""Each recipe against the facts about the system that published it: network, training, results.

tensorpack's facts are tables in ../shared. Networks are compared with those that the converters of weights build from
the systems' own settings.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from rcnn.data.transforms import ScaleJitter
from rcnn.models import DetectorConfig, model_config
from rcnn.models.config import ResNetConfig
from rcnn.models.overrides import override
from rcnn.models.validate import validate
from rcnn.training.length import changed_by, with_length
from rcnn.training.parameter_groups import parameter_groups
from rcnn.training.recipes import RECIPES, Recipe, find_recipe
from rcnn.training.recipes.fitting import fitted
from rcnn.training.schedule import milestone_steps
from rcnn.training.settings import TrainConfig
from rcnn.weights.catalogue.names import entries, imagenet_entry
from rcnn.weights.checkpoint import empty_detector
from rcnn.weights.setting_texts import setting_values
from rcnn.weights.systems import mask_faster_rcnn
from rcnn.weights.systems.chainer import system as chainer
from rcnn.weights.systems.settings import typed_settings
from rcnn.weights.systems.tensorpack import config as tensorpack
from rcnn.weights.systems.tensorpack.settings import Settings as TensorpackSettings

Shapes = dict[str, tuple[int, ...]]
# row of tensorpack's table (facts, section 7): recipe, network of tensorpack_vars.tsv
TENSORPACK = {
    1: ("R50-FPN-super-quick", "fpnnomask"),
    2: ("R50-C4-1x-boxes", "c4nomask"),
    3: ("R50-FPN-1x-boxes", "fpnnomask"),
    4: ("R50-C4-1x", "c4"),
    5: ("R50-FPN-1x", "fpn"),
    6: ("R50-FPN-2x", "fpn"),
    7: ("R50-FPN-2x-GN", "fpngn"),
    8: ("R50-FPN-1x-Cas", "fpncas"),
    9: ("R50-FPN-4x-GN-CasAug", "fpncasgn"),
    10: ("R101-C4-1x", "r101c4"),
    11: ("R101-FPN-1x", "r101fpn"),
    12: ("R101-FPN-3x-CasAug", "r101cas"),
    13: ("R101-FPN-9x-GN-CasAug-scratch", "r101scratch"),
}
# settings of a converted network that the weights decide, or that say nothing about training
OF_WEIGHTS = {"name", "input.channel_order", "input.pixel_mean", "backbone.norm_eps"}


def network(recipe: Recipe) -> DetectorConfig:
    config = override(model_config(recipe.model), recipe.model_settings)
    validate(config)
    return config


def training(recipe: Recipe, images: int = 118_287, processes: int = 1) -> TrainConfig:
    settings = changed_by(TrainConfig(), recipe.training_settings)
    settings, _ = recipe.with_published_batch(settings, processes, given=())
    return with_length(settings, images=images, processes=processes, given=(), published=recipe.images_per_step)[0]


def different(recipe: Recipe, theirs: DetectorConfig, skip: set[str]) -> dict[str, tuple[object, object]]:
    ours, expected = setting_values(network(recipe)), setting_values(theirs)
    keys = {key for key in ours.keys() | expected.keys() if key not in skip}
    return {key: (ours.get(key), expected.get(key)) for key in keys if ours.get(key) != expected.get(key)}


@pytest.fixture(scope="module")
def tensorpack_rows(shared: Path) -> dict[int, list[str]]:
    """The cells of each row of tensorpack's table."""
    text = (shared / "facts/tensorpack.md").read_text(encoding="utf-8").partition("## 7. Results")[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if re.match(r"\| \d", line)]
    return {int(cells[0]): cells for cells in rows}


@pytest.fixture(scope="module")
def tensorpack_tensors(shared: Path) -> dict[str, tuple[Shapes, str]]:
    """Shapes and settings of each network that tensorpack's own program built."""
    shapes, words = defaultdict[str, Shapes](dict), dict[str, str]()
    with (shared / "facts/tensorpack_vars.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            shapes[row["config"]][row["name"]] = tuple(map(int, row["shape"].split("x")))
            words[row["config"]] = row["command_line_overrides"]
    return {name: (shapes[name], words[name]) for name in shapes}


@pytest.mark.parametrize("row", TENSORPACK)
def test_tensorpack(
    row: int, tensorpack_rows: dict[int, list[str]], tensorpack_tensors: dict[str, tuple[Shapes, str]]
) -> None:
    assert set(TENSORPACK) == set(tensorpack_rows)
    name, built = TENSORPACK[row]
    recipe = find_recipe(f"tensorpack/{name}")
    _, title, box, mask, _, time, words, file = tensorpack_rows[row]
    assert (f"{recipe.box}", f"{recipe.mask}" if recipe.mask else "-") == (box, mask)
    gpus = int(time.partition(", ")[2].split()[0]) if "," in time else 8
    assert (recipe.hours, recipe.images_per_step) == (float(time.split()[0]), gpus)
    assert recipe.hardware == f"{gpus} V100"
    assert not file or file.lower().endswith(name.replace("-", "").lower())

    shapes, settings = tensorpack_tensors[built]
    given = f"{settings} PREPROC.MAX_SIZE=1024 FRCNN.BATCH_PER_IM=64" if "super quick" in title else settings
    given += " TEST.RESULT_SCORE_THRESH=1e-4" if "1e-4" in words else ""
    theirs = tensorpack.config_of(shapes, typed_settings(TensorpackSettings, given or None), built)
    assert different(recipe, theirs, {"name"}) == {}

    trained = training(recipe, processes=gpus)
    end = {"1x": 180, "2x": 360, "3x": 540, "4x": 720, "9x": 1620}[trained.schedule]
    assert trained.schedule == next(iter(re.findall(r"\dx", title)), "1x")
    drops = [120, 160] if end == 180 else [end - 120, end - 40]
    assert (*milestone_steps(trained), trained.steps) == tuple(1000 * 8 // gpus * part for part in (*drops, end))
    # section 3: effective learning rate BASE_LR * GPUs / 8; decay 1e-4 on kernels only
    assert trained.scaled_lr(gpus) == pytest.approx(0.01 * gpus / 8)
    assert (trained.batch_size, trained.accumulate, trained.images_per_step(gpus)) == (1, 1, gpus)
    assert (trained.momentum, trained.warmup_steps) == (0.9, 1000)
    assert trained.warmup_factor * trained.scaled_lr(gpus) == pytest.approx(1e-5)
    assert (trained.optimizer, trained.clip_norm, trained.ema, trained.flip) == ("sgd", 0, 0, 0.5)
    assert trained.filter_empty
    scales = {"[500,800]": (500, 800), "[640,800]": (640, 800)}
    assert trained.scale_range == next((scales[text] for text in re.findall(r"\[\d{3},\d{3}\]", words)), ())
    assert (trained.evaluate_every, trained.checkpoint_every) == (50 * 500, 20 * 500)  # EVAL_PERIOD, CHECKPOINT_PERIOD


def test_decay_of_tensorpack_is_on_kernels_only() -> None:
    recipe = find_recipe("tensorpack/R50-FPN-1x")
    detector = empty_detector(network(recipe))
    groups = parameter_groups(detector, training(recipe))
    decayed = {name for group in groups if group.weight_decay for name in group.names}
    kernels = {
        name for name, parameter in detector.named_parameters() if parameter.requires_grad and parameter.ndim > 1
    }
    assert decayed == kernels
    assert len(decayed) == 63  # facts, section 3


def test_one_gpu_takes_the_same_steps() -> None:
    recipe = find_recipe("tensorpack/R50-FPN-1x")
    settings = training(recipe, processes=1)
    assert (settings.accumulate, settings.images_per_step(), settings.steps) == (8, 8, 180_000)
    assert settings.scaled_lr() == pytest.approx(0.01)


DETECTRON2 = [recipe for name, recipe in RECIPES.items() if name.startswith("detectron2/")]


@pytest.mark.parametrize("recipe", DETECTRON2, ids=lambda recipe: recipe.name)
def test_detectron2(recipe: Recipe) -> None:
    """configs/Base-RCNN-FPN.yaml and config/defaults.py; hours: seconds per step x steps, from MODEL_ZOO.md."""
    gpus = recipe.images_per_step // 2
    trained = training(recipe, processes=gpus)
    steps = {"1x": (60_000, 80_000, 90_000), "3x": (210_000, 250_000, 270_000), "9x": (187_500, 197_500, 202_500)}
    assert (*milestone_steps(trained), trained.steps) == steps[trained.schedule]
    assert f"_{trained.schedule}" in recipe.name
    assert trained.scaled_lr(gpus) == pytest.approx({16: 0.02, 64: 0.08}[recipe.images_per_step])
    assert (trained.batch_size, trained.accumulate, trained.images_per_step(gpus)) == (2, 1, recipe.images_per_step)
    assert (trained.warmup_steps, trained.warmup_factor, trained.momentum) == (1000, 1 / 1000, 0.9)
    assert (trained.weight_decay, trained.norm_weight_decay, trained.weight_decays) == (1e-4, 0, {})
    assert trained.scales == (640, 672, 704, 736, 768, 800)
    entry = entries()[f"{recipe.model}@detectron2-{trained.schedule}"]  # the results of the same table
    scores = (recipe.box, recipe.mask, recipe.keypoints, recipe.recall)
    assert scores == (entry.box, entry.mask, entry.keypoints, entry.proposals)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("lsj/")])
def test_large_scale_jitter(name: str) -> None:
    """configs/new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py; 200 and 400 epochs multiply steps and milestones."""
    recipe = find_recipe(name)
    depth, epochs = map(int, re.findall(r"\d+", name))
    trained, config, factor = training(recipe, processes=64), network(recipe), epochs // 100
    assert (*milestone_steps(trained), trained.steps) == (163_889 * factor, 177_546 * factor, 184_375 * factor)
    assert (trained.scaled_lr(64), trained.warmup_steps, trained.warmup_factor) == (0.1, 500 * factor, 0.067)
    assert (trained.weight_decay, trained.norm_weight_decay, trained.bf16) == (4e-5, 0, True)
    [step] = trained.augment
    assert step == ScaleJitter(scale=(0.1, 2.0), size=1024)
    entry = entries()[f"mask_rcnn_r{depth}_fpn_syncbn_caffe@detectron2-lsj-{epochs}ep"]
    assert (recipe.box, recipe.mask, recipe.weights) == (entry.box, entry.mask, "none")
    assert isinstance(config.backbone, ResNetConfig)
    assert (config.backbone.depth, config.backbone.norm, config.backbone.frozen_stages) == (depth, "sync_bn", 0)
    assert (config.rpn.convs, config.box.convs, config.box.fcs, config.box.norm) == (2, 4, 1, "sync_bn")


def chainer_shapes(depth: int, classes: int, anchors: int) -> Shapes:
    """As many shapes as show a Chainer network."""
    shapes: Shapes = {
        "rpn.objectness.weight": (anchors, 1024, 1, 1),
        "rpn.convs.0.weight": (1024, 1024, 3, 3),
        "box_head.logits.weight": (classes + 1, 2048),
    }
    return shapes | resnet_shapes(depth)


def resnet_shapes(depth: int) -> Shapes:
    blocks = zip((2, 3, 4), {50: (3, 4, 6), 101: (3, 4, 23)}[depth], strict=True)
    return {f"backbone.res{stage}.{n}.conv1.weight": (1, 1, 1, 1) for stage, count in blocks for n in range(count)}


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("chainer-mask-rcnn/")])
def test_chainer_mask_rcnn(name: str) -> None:
    """Facts, 1.1, 1.2 and 1.5: lr 0.00125 per image, no warm-up, decay 1e-4 on every parameter, 12.17 epochs."""
    recipe, coco = find_recipe(name), name.endswith("COCO")
    depth, gpus = (101 if "R101" in name else 50), (8 if coco else int(name[-4]))
    shapes = chainer_shapes(depth, 80 if coco else 20, 15 if coco else 12)
    theirs = chainer._config("wkentaro", chainer.Settings(roi_size=14), shapes, 14, name)
    theirs = override(theirs, ["mask.initializer=normal"])
    assert different(recipe, theirs, OF_WEIGHTS | {"num_classes"}) == {}
    config = network(recipe)
    assert config.input.pixel_mean[::-1] == (123.152, 115.903, 103.063)
    images = 118_287 if coco else 5_623
    trained = training(recipe, images=images, processes=gpus)
    assert trained.scaled_lr(gpus) == pytest.approx(0.00125 * gpus)
    assert trained.steps == round(180_000 * 8 / 118_287 * images / gpus)
    assert milestone_steps(trained) == [round(trained.steps * part) for part in (2 / 3, 8 / 9)]
    assert (trained.warmup_steps, trained.weight_decay, trained.weight_decays) == (0, 1e-4, {})
    results = {"R50-C4-COCO": 31.4, "R50-C4-VOC-4gpu": 66.0, "R50-C4-VOC-8gpu": 65.5}
    results |= {"R101-C4-VOC-4gpu": 67.5, "R101-C4-VOC-8gpu": 67.1}
    assert (recipe.mask, recipe.images_per_step) == (results[name.partition("/")[2]], gpus)


def test_dena() -> None:
    """Facts, 2.1 and 2.2: gradients of 8 images are summed, decay 1e-4 on everything, rate / 100 at step 120,000."""
    recipe = find_recipe("dena/R50-C4")
    theirs = chainer._config("dena", chainer.Settings(roi_size=14), chainer_shapes(50, 80, 15), 14, "dena")
    assert different(recipe, theirs, {"name"}) == {}
    trained = training(recipe)
    assert (trained.batch_size, trained.accumulate, trained.steps) == (1, 8, 180_000)
    assert (trained.scaled_lr(), milestone_steps(trained), trained.decay) == (pytest.approx(8e-3), [120_000], 0.01)
    # lr * (sum of 8 gradients + decay * w) = 8 lr * (mean + decay / 8 * w)
    assert trained.weight_decay == trained.norm_weight_decay == pytest.approx(1e-4 / 8)
    assert (trained.warmup_steps, trained.warmup_factor) == (400, pytest.approx(1e-4 / 1e-3))
    assert (trained.evaluate_every, trained.checkpoint_every) == (30_000, 4_000)
    assert (recipe.box, recipe.mask) == (34.6, 28.7)


# facts, 3.1, 3.3, 3.4 and 3.7: (recipe, GPUs, epochs over images that are flipped at random, epoch of the decay,
# learning rate on the mean gradient, weight decay on it, warm-up steps, mask AP, OHEM)
FCIS = (
    ("fcis/R101-COCO-OHEM", 8, 2 * 8, 2 * 5.33, 8 * 5e-4, 5e-4 / 8, 250, 29.2, True),
    ("fcis/R101-COCO-random", 8, 2 * 8, 2 * 5.33, 8 * 5e-4, 5e-4 / 8, 250, 28.8, False),
    ("fcis/R101-VOC-random", 4, 2 * 22, 2 * 14, 4 * 5e-4, 5e-4 / 4, 0, 66.0, False),
    ("chainer-fcis/R101-COCO", 8, 18, 12, 5e-4, 5e-4, 4000, 22.9, False),
    ("chainer-fcis/R101-SBD", 1, 44, 28, 5e-4, 5e-4, 0, 63.2, False),
    ("chainercv/fcis-R101-COCO", 3, 18, 12, 3 * 5e-4, 5e-4, 667, 24.3, False),
    ("chainercv/fcis-R101-SBD", 1, 42, 28, 5e-4, 5e-4, 0, 64.1, False),
)


@pytest.mark.parametrize("row", FCIS, ids=lambda row: row[0])
def test_fcis(row: tuple[str, int, float, float, float, float, int, float, bool]) -> None:
    name, gpus, epochs, drop, rate, decay, warmup, mask, ohem = row
    recipe, config = find_recipe(name), network(find_recipe(name))
    trained = training(recipe, images=24_000, processes=gpus)
    assert trained.steps == round(epochs * 24_000 / gpus)
    assert milestone_steps(trained) == [round(drop / epochs * trained.steps)]
    assert (trained.scaled_lr(gpus), trained.weight_decay) == (pytest.approx(rate), pytest.approx(decay))
    assert (trained.warmup_steps, trained.momentum, trained.filter_empty) == (warmup, 0.9, True)
    assert not warmup or trained.warmup_factor == 0.1
    assert trained.lr_factors == {"box_head.reduce.*": 3}  # psroi_conv1, conv_new_1
    assert trained.weight_decays == ({"*.bias": 0} if name.startswith("fcis/") else {})
    assert (recipe.mask, recipe.images_per_step) == (mask, gpus)
    assert config.fcis is not None
    assert config.fcis.ohem is ohem
    zoo = model_config(recipe.model)  # compared with the originals by the parity tests
    changed = {"input.channel_order", "input.pixel_mean", *(["fcis.ohem"] if name.endswith("COCO-random") else [])}
    assert set(different(recipe, zoo, set())) == changed
    assert config.input.pixel_mean == zoo.input.pixel_mean[::-1]


# facts, 4.1: what res101-lg.yml changes; SCALES and MAX_SIZE in training too
LARGE = ("TEST.SCALES=[800]", "TEST.MAX_SIZE=1333", "TEST.RPN_POST_NMS_TOP_N=1000", "ANCHOR_SCALES=[2,4,8,16,32]")


@pytest.mark.parametrize(
    ("name", "words", "steps", "drop"),
    [
        ("res101", "", 1_250_000, 800_000),
        ("res101-align", "POOLING_ALIGN=True", 1_250_000, 800_000),
        ("res101-from-frcn", "", 490_000, 350_000),
        ("res50", "", 1_250_000, 800_000),
        ("res101-lg", " ".join(LARGE), 1_250_000, 800_000),
    ],
)
def test_mask_faster_rcnn(name: str, words: str, steps: int, drop: int) -> None:
    """Facts, 4.1 and 4.2: lr 1e-3 for one image, decay 1e-4 on weights, none on biases."""
    recipe = find_recipe(f"mask-faster-rcnn/{name}")
    depth = 50 if name == "res50" else 101
    assert (recipe.model, recipe.weights) == (f"mask_rcnn_r{depth}_c4", f"resnet{depth}@msra")
    assert "rcnn data minus-refer" in recipe.describe()
    shapes: Shapes = resnet_shapes(depth) | {
        "rpn.convs.0.weight": (512, 1024, 3, 3),
        "rpn.deltas.weight": (60 if name == "res101-lg" else 48, 512, 1, 1),
        "box_head.logits.weight": (81, 2048),
        "mask_head.deconv.weight": (2048, 256, 2, 2),
        "backbone.stem.conv1.weight": (64, 3, 7, 7),
    }
    shapes |= {f"box_head.trunk.res5.{n}.conv1.weight": (1, 1, 1, 1) for n in range(3)}
    theirs = mask_faster_rcnn._config(shapes, typed_settings(mask_faster_rcnn.Settings, words or None), name)
    assert different(recipe, theirs, {"name"}) == {}
    trained = training(recipe)
    assert (trained.steps, milestone_steps(trained), trained.decay) == (steps, [drop], 0.1)
    assert (trained.scaled_lr(), trained.warmup_steps, trained.momentum) == (pytest.approx(1e-3), 0, 0.9)
    assert (trained.weight_decay, trained.weight_decays, trained.flip) == (1e-4, {"*.bias": 0}, 0.5)
    factors = {"*": 0.1, "mask_head.*": 1} if name.endswith("frcn") else {}  # FROM_FRCN: all but the mask branch
    assert (trained.lr_factors, recipe.images_per_step) == (factors, 1)
    assert (recipe.box, recipe.mask) == ((35.8, 30.7) if name == "res101" else (None, None))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_recipe_is_complete(recipe: Recipe) -> None:
    config = network(recipe)
    assert RECIPES[recipe.name] is recipe
    assert all(recipe.name.partition("/"))
    assert recipe.source
    known = recipe.weights == "none" or recipe.weights in entries()
    assert known or (recipe.weights == "imagenet" and imagenet_entry(config) is not None)
    assert training(recipe).images_per_step() == recipe.images_per_step
    keys = {word.partition("=")[0] for word in recipe.training_settings}
    assert "train.checkpoint_every" in keys
    assert ("train.evaluate_every" in keys) is not bool(recipe.evaluate_epochs)  # not the default of 500 steps


def test_an_unknown_recipe_is_refused_with_similar_names() -> None:
    with pytest.raises(
        ValueError, match=r"no recipe named 'tensorpack/R50-FPN'; did you mean .*tensorpack/R50-FPN-\dx"
    ):
        find_recipe("tensorpack/R50-FPN")


@pytest.mark.parametrize(
    ("name", "model", "left_out", "weights"),
    [
        (
            "tensorpack/R50-FPN-1x",
            "mask_rcnn_compact",
            ["backbone.padding=align", "backbone.trained_affine=true", "--weights resnet50@tensorpack"],
            "",
        ),
        (
            "tensorpack/R50-FPN-1x",
            "faster_rcnn_r50_fpn",
            ["mask.pooler.sampling_ratio=2", "mask.target=sampled_bitmap"],
            "resnet50@tensorpack",
        ),
        ("lsj/R50-FPN-100ep", "mask_rcnn_compact", ["backbone.frozen_stages=0"], "none"),
        (
            "chainer-mask-rcnn/R50-C4-VOC-4gpu",  # sizes of anchors are for one feature map
            "mask_rcnn_compact",
            [
                "backbone.stride_in_1x1=true",
                "backbone.stem_pool=padded_ceil",
                "rpn.anchors.sizes=[[64,128,256,512]]",
                "--weights resnet50@msra",
            ],
            "",
        ),
        (
            "fcis/R101-COCO-random",
            "mask_rcnn_compact",
            ["fcis.ohem=false", 'train.lr_factors={"box_head.reduce.*": 3}', "--weights resnet101@msra"],
            "",
        ),
        ("tensorpack/R50-FPN-1x", "mask_rcnn_r101_fpn", ["--weights resnet50@tensorpack"], ""),
    ],
)
def test_a_recipe_for_another_model_leaves_out_what_that_model_lacks(
    name: str, model: str, left_out: list[str], weights: str
) -> None:
    recipe = find_recipe(name)
    found, warning = fitted(recipe, model, model_config(model), [])
    assert warning == f"recipe {name}: these settings do not fit {model} and are skipped: {', '.join(left_out)}"
    assert set(recipe.settings) - set(found.settings) == {word for word in left_out if "--" not in word}
    assert found.weights == weights
    config = override(model_config(model), found.model_settings)
    assert parameter_groups(empty_detector(config), training(found))


def test_a_recipe_that_fits_another_model_has_no_warning() -> None:
    recipe = find_recipe("lsj/R50-FPN-100ep")
    found, warning = fitted(recipe, "faster_rcnn_r50_fpn", model_config("faster_rcnn_r50_fpn"), [])
    assert (set(found.settings), warning) == (set(recipe.settings), "")


def test_a_batch_that_cannot_be_that_of_the_recipe_says_so() -> None:
    recipe = replace(next(iter(RECIPES.values())), name="a/b", images_per_step=8)
    for processes, accumulate, reason in (
        (2, 4, "for the 8 images per step of recipe a/b"),
        (3, 2, "6 images per step, in place of the 8 images per step of recipe a/b"),
    ):
        settings, reasons = recipe.with_published_batch(TrainConfig(batch_size=1), processes, given=())
        assert (settings.accumulate, reasons) == (accumulate, {"accumulate": reason})
