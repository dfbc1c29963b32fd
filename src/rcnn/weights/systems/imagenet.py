"""Networks trained on ImageNet, to start training from.

ResNets of torchvision, timm, Caffe and MSRA, tensorpack, Chainer; MobileNetV3-Large of torchvision.

Such a file becomes a checkpoint of the backbone, with the input that it was trained on; the classifier is skipped.
Stride, colors and means are not in the file: those of its publisher are used and reported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from rcnn.models import model_config
from rcnn.models.config import DetectorConfig, InputConfig, Norm, ResNetConfig
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems import timm
from rcnn.weights.systems.chainer.names import EPS as CHAINER_EPS
from rcnn.weights.systems.chainer.names import VALUE as CHAINER_VALUE
from rcnn.weights.systems.chainer.names import WORDS as CHAINER_WORDS
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.detectron.names import RULES as CAFFE2
from rcnn.weights.systems.layout import fold_biases, identity_statistics, kernel_from_hwio
from rcnn.weights.systems.renaming import Placed, Rules
from rcnn.weights.systems.resnets import blocks_of, depth_and_blocks, torch_blocks
from rcnn.weights.systems.settings import SettingsSource
from rcnn.weights.systems.system import Plan, System
from rcnn.weights.systems.tensorpack.system import RULES as TENSORPACK_RULES

PIXELS = ("input.channel_order", "input.pixel_mean", "input.pixel_std")
IMAGENET = InputConfig()  # RGB, torchvision's mean and deviation
CAFFE = InputConfig(channel_order="bgr", pixel_mean=(102.9801, 115.9465, 122.7717), pixel_std=(1.0, 1.0, 1.0))
CHAINER = replace(CAFFE, pixel_mean=(103.063, 115.903, 123.152))
TENSORPACK = replace(
    IMAGENET, channel_order="bgr", pixel_mean=IMAGENET.pixel_mean[::-1], pixel_std=IMAGENET.pixel_std[::-1]
)
FAIR = replace(CAFFE, pixel_mean=(103.53, 116.28, 123.675))
RESNEXT = replace(FAIR, pixel_std=(57.375, 57.12, 58.395))
# limit of `_spread`: pixels of standard deviation 1 give about 1, pixels of standard deviation 58 about 58**2 = 3400
CAFFE_SPREAD = 30.0
VALUE = "(weight|bias|running_mean|running_var)"
TORCH = Rules(
    (
        (r"conv1\.weight", "backbone.stem.conv1.weight"),
        (rf"bn1\.{VALUE}", "backbone.stem.conv1.norm.{1}"),
        *torch_blocks(r"layer(\d)\.(\d+)", "backbone.res{1+1}.{2}"),
    )
)  # fmt: skip
DETECTRON2 = Rules(((r"((?:stem\.conv1|res\d\.\d+\.(?:conv[123]|shortcut))\.(?!.*tracked).+)", "backbone.{1}"),))
CHAINER_RULES = Rules(
    (
        (rf"(?:conv|bn)1/{CHAINER_VALUE}", "backbone.stem.conv1.{1:value}"),
        (rf"res(\d)/(a|b\d+)/(?:conv|bn)([1234])/{CHAINER_VALUE}", "backbone.res{1}.{2:block}.{3:conv}.{4:value}"),
    ),
    words=CHAINER_WORDS,
)
# tensors that are skipped: classifiers, counters, and the bias of conv1 in Caffe2's files
SKIP = r"fc\.(weight|bias)|(stem\.)?fc\.\w+|fc\d+/.*|fc\d+_[wb]|linear/.*|.*num_batches_tracked|.*/N|pred_[wb]|conv1_b"
# names of detectors and of ResNet variants: such files are no plain ResNets
DETECTOR = re.compile(
    r"layer1\.0\.(se|attn_last|conv2\.\w+)\..+|(rpn|roi_heads|head|fpn|mask|keypoint)[._/]|(rpn|conv_rpn|cls_score|bbox_pred|fpn_)\w*|.*/rpn.*"
)
# timm's networks that are plain ResNets; BASIC ones have blocks of two convolutions
PLAIN = re.compile(r"(tv_)?(resnet\d+(_gn)?|resnext\d+_\d+x\d+d|wide_resnet\d+_\d+)")
BASIC = re.compile(r"(tv_)?resnet(18|34)(?!\d)")
# timm's ResNets with a blur or an average in place of strides: the tensors have the names of a plain ResNet
POOLED = re.compile(r"resnet(aa|blur)\d+")
# below `features`, the names are the same
MOBILENET = Rules(((r"features\.(\d+\..+)", "backbone.features.{1}"),), skip=r"classifier\..+")
MOBILENET_MARK = frozenset({"features.0.0.weight", "features.4.block.2.fc1.weight", "features.16.0.weight"})
Publisher = Literal["torchvision or timm", "Detectron2", "Caffe2 (MSRA)", "tensorpack", "Chainer"]
TORCHVISION: Publisher = "torchvision or timm"
TORCH_NAMES = (TORCHVISION, "Detectron2")


@dataclass(frozen=True)
class Kind:
    """One way of naming the tensors of a ResNet."""

    publisher: Publisher
    mark: frozenset[str]  # tensors that all such files have
    rules: Rules


KINDS = (
    Kind(TORCHVISION, frozenset({"conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"}), TORCH),
    Kind("Detectron2", frozenset({"stem.conv1.weight", "res2.0.conv1.weight", "res5.0.conv1.weight"}), DETECTRON2),
    Kind("Caffe2 (MSRA)", frozenset({"conv1_w", "res2_0_branch2a_w", "res5_0_branch2a_w"}), CAFFE2),
    Kind("tensorpack", frozenset({"conv0/W", "group0/block0/conv1/W", "group3/block0/conv1/W"}), TENSORPACK_RULES),
    Kind("Chainer", frozenset({"conv1/W", "res2/a/conv1/W", "res5/a/conv1/W"}), CHAINER_RULES),
)


def read(found: Found, kind: Kind, settings: SettingsSource) -> Plan:
    """The ResNet in `found`, which has the names of `kind`; `settings` is its name in timm.

    A network of timm that is no plain ResNet is read as such. Raises ValueError for blocks of two convolutions.
    """
    if kind.publisher == TORCHVISION and _is_variant(found, settings):
        return timm.read(found, settings)
    rules = replace(kind.rules, skip=f"{kind.rules.skip}|{SKIP}" if kind.rules.skip else SKIP)
    placed = rules.place(found.state, found.source, f"an ImageNet ResNet of {kind.publisher}")
    shapes = {ours: found.shape(name) for name, ours in placed.ours.items()}
    if not any(".conv3." in ours for ours in shapes):
        name = ": give its name with config (--config), e.g. resnet18" if kind.publisher == TORCHVISION else ""
        raise ValueError(
            f"{found.source} is a ResNet with blocks of two convolutions (ResNet-18, ResNet-34), which is supported "
            f"only as a network of timm{name}"
        )
    affine = not any(ours.endswith("running_mean") for ours in shapes)  # norms of scale and shift only, or group norm
    # batch norm that is folded into scale and shift is only known from Caffe2
    grouped = affine and kind.publisher in TORCH_NAMES
    grouped |= any(name.endswith("_gn_s") or "/gn/" in name for name in found.state)
    config, assumed = _config(kind, shapes, grouped, affine, found, placed)

    def complete(state: dict[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
        fold_biases(state)
        if affine and isinstance(config.backbone, ResNetConfig) and config.backbone.norm != "gn":
            state = identity_statistics(state)
        if kind.publisher == "Chainer":
            return {name: value + (CHAINER_EPS - 1e-5) if name.endswith("running_var") else value
                    for name, value in state.items()}  # fmt: skip
        return state

    return Plan(
        config=config,
        placed=placed,
        tensor=lambda name, value, config: kernel_from_hwio(value.float()) if kind.publisher == "tensorpack" else value,
        complete=complete,
        summary=f"an ImageNet ResNet-{2 + 3 * sum(blocks_of(shapes))}; backbone only",
        assumed=assumed,
    )


def read_mobilenet(found: Found) -> Plan:
    """The MobileNetV3-Large in `found`. Its norms get the eps of torchvision's detectors, which start from it."""
    return Plan(
        config=model_config("faster_rcnn_mobilenet_v3_large_fpn"),
        placed=MOBILENET.place(found.state, found.source, "an ImageNet MobileNetV3-Large of torchvision"),
        summary="an ImageNet MobileNetV3-Large; backbone only",
        assumed=(Assumption("pixels", "torchvision's", PIXELS),),
    )


def _config(
    kind: Kind, shapes: Mapping[str, tuple[int, ...]], grouped: bool, affine: bool, found: Found, placed: Placed
) -> tuple[DetectorConfig, tuple[Assumption, ...]]:
    """A config with this backbone and the input settings of its training, and the assumptions."""
    depth, blocks = depth_and_blocks(blocks_of(shapes))
    # tensorpack's kernels are (height, width, in, out)
    inner = shapes["backbone.res2.0.conv2.weight"]
    width, within = (inner[3], inner[2]) if kind.publisher == "tensorpack" else inner[:2]
    groups = width // within
    norm: Norm = "gn" if grouped else "frozen_bn"
    given, one_by_one, pool, why = _publisher(kind, groups, grouped, affine, found, placed)
    config = model_config("faster_rcnn_r50_fpn")
    backbone = ResNetConfig(
        depth=depth,
        blocks=blocks,
        groups=groups,
        width_per_group=within,
        stride_in_1x1=one_by_one,
        norm=norm,
        norm_eps=0.0 if affine and not grouped else 1e-5,
        stem_pool=pool,
        padding="align" if kind.publisher == "tensorpack" else "symmetric",
    )
    stride = f"stride in the {'1x1' if one_by_one else '3x3'} convolutions"
    assumed = (
        Assumption("pixels", why, PIXELS),
        Assumption(stride, why, ("backbone.stride_in_1x1",)),
        Assumption("pooling of the stem", why, ("backbone.stem_pool",)),
    )
    if grouped and kind.publisher in TORCH_NAMES:
        assumed = (*assumed, Assumption("group norm", "the norms have no means and variances", ("backbone.norm",)))
    return replace(config, input=given, backbone=backbone), assumed


def _publisher(
    kind: Kind, groups: int, grouped: bool, affine: bool, found: Found, placed: Placed
) -> tuple[InputConfig, bool, Literal["padded", "unpadded_ceil"], str]:
    """Input, whether the stride is in the 1x1 convolutions, the pooling of the stem, and the source of these values."""
    if kind.publisher == "Chainer":
        return CHAINER, True, "unpadded_ceil", "Chainer's copy of Caffe's ResNets"
    if kind.publisher == "tensorpack":
        return TENSORPACK, False, "padded", "tensorpack's AlignPadding files"
    if kind.publisher == "Caffe2 (MSRA)":
        if groups > 1:
            return RESNEXT, False, "padded", "FAIR's ResNeXt in Detectron2"
        if grouped:
            return FAIR, False, "padded", "FAIR's group-norm ResNets in Detectron2"
        return CAFFE, True, "padded", "MSRA's ResNets in Detectron"
    if found.extras.get("__author__") == "torchvision":
        return IMAGENET, False, "padded", "torchvision's"
    spread = _spread(found.state, {our: name for name, our in placed.ours.items()})
    if not affine and spread > CAFFE_SPREAD:
        return CAFFE, True, "padded", f"Caffe's: the first norm's variance is {spread:.0f} times that of scaled pixels"
    return IMAGENET, False, "padded", "torchvision's"


def _spread(state: Mapping[str, Tensor], names: Mapping[str, str]) -> float:
    """How many times larger the variance of the first norm is than for white noise of standard deviation 1.

    It shows the scale of the pixels. 0 if the file has no such norm.
    """
    kernel, variance = (names.get(f"backbone.stem.conv1.{value}") for value in ("weight", "norm.running_var"))
    if kernel is None or variance is None:
        return 0.0
    return float((state[variance] / state[kernel].flatten(1).square().sum(1).clamp(min=1e-12)).median())


def _is_variant(found: Found, settings: SettingsSource) -> bool:
    """Whether `settings`, or the name of the file, is a network of timm that our ResNet does not build."""
    if settings is None:
        names = (Path(found.source).name.lower(), timm.architecture_beside(Path(found.source)))
        return any(POOLED.match(name) or BASIC.match(name) for name in names)
    name = str(settings).partition(".")[0]
    return PLAIN.fullmatch(name) is None or BASIC.fullmatch(name) is not None


def _recognises(names: Collection[str], kind: Kind) -> bool:
    plain = {name.removesuffix(":0") for name in names}
    return kind.mark <= plain and not any(DETECTOR.match(name) for name in plain)


def _system(kind: Kind) -> System:
    return System(
        name=f"ImageNet ResNet ({kind.publisher})",
        files="backbone only, to start training from",
        recognises=lambda names: _recognises(names, kind),
        settings="the name of the network in timm, e.g. resnetblur50" if kind.publisher == TORCHVISION else "",
        read=lambda found, settings: read(found, kind, settings),
        kind="backbone",
    )


MOBILENET_SYSTEM = System(
    name="ImageNet MobileNetV3 (torchvision)",
    files="backbone only, to start training from",
    recognises=lambda names: set(names) >= MOBILENET_MARK,
    read=lambda found, settings: read_mobilenet(found),
    kind="backbone",
)
SYSTEMS = (*(_system(kind) for kind in KINDS), MOBILENET_SYSTEM)
