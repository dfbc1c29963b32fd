"""ResNets trained on ImageNet, to start a detector from: torchvision, timm, Caffe and MSRA, tensorpack, Chainer.

A file of one becomes a checkpoint of the backbone alone, with the input that it was trained on. The classifier on top
is left behind. What such a file does not say (where the stride is, colours, means) is its publisher's, and is printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from rcnn.models import model_config
from rcnn.models.config import DetectorConfig, InputConfig, Norm, ResNetConfig
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.converted import MOST_LISTED, Converted, few, require_fit
from rcnn.weights.systems.detectron import names as detectron_names
from rcnn.weights.systems.tensorpack import system as tensorpack

DEPTHS: dict[tuple[int, ...], Literal[50, 101, 152]] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
IMAGENET = InputConfig()  # RGB, torchvision's mean and deviation
CAFFE = InputConfig(channel_order="bgr", pixel_mean=(102.9801, 115.9465, 122.7717), pixel_std=(1.0, 1.0, 1.0))
CHAINER = replace(CAFFE, pixel_mean=(103.063, 115.903, 123.152))
TENSORPACK = replace(
    IMAGENET, channel_order="bgr", pixel_mean=IMAGENET.pixel_mean[::-1], pixel_std=IMAGENET.pixel_std[::-1]
)
FAIR = replace(CAFFE, pixel_mean=(103.53, 116.28, 123.675))
RESNEXT = replace(FAIR, pixel_std=(57.375, 57.12, 58.395))
CAFFE_SPREAD = (
    30.0  # of the first norm's variance over the squares of its kernel: deviations of 1 give 1, of 58 give 3400
)
TORCH_NAMES = (
    (r"(?:conv1)\.weight", r"stem.conv1.weight"),
    (r"bn1\.(.+)", r"stem.conv1.norm.\1"),
    (r"layer(\d)\.(\d+)\.conv([123])\.weight", r"res{}.\2.conv\3.weight"),
    (r"layer(\d)\.(\d+)\.bn([123])\.(.+)", r"res{}.\2.conv\3.norm.\4"),
    (r"layer(\d)\.(\d+)\.downsample\.0\.weight", r"res{}.\2.shortcut.weight"),
    (r"layer(\d)\.(\d+)\.downsample\.1\.(.+)", r"res{}.\2.shortcut.norm.\3"),
)
CHAINER_VALUES = {"W": "weight", "b": "bias", "gamma": "norm.weight", "beta": "norm.bias",
                  "avg_mean": "norm.running_mean", "avg_var": "norm.running_var"}  # fmt: skip
CHAINER_EPS = 2e-5  # chainer.links.BatchNormalization
# classifiers, counters, and blobs of the data's own
LEFT = re.compile(
    r"fc\.(weight|bias)|(stem\.)?fc\.\w+|fc\d+/.*|fc\d+_[wb]|linear/.*|.*num_batches_tracked|.*/N|pred_[wb]|conv1_b"
)


@dataclass(frozen=True)
class Kind:
    """One way of naming a ResNet's tensors."""

    name: str
    mark: frozenset[str]  # tensors that all such files have ...
    rename: Callable[[str], str | None]  # our name; None where it has none


def _torch_name(name: str) -> str | None:
    for pattern, new in TORCH_NAMES:
        if found := re.fullmatch(pattern, name):
            stage = f"{int(found[1]) + 1}" if name.startswith("layer") else ""
            return "backbone." + re.sub(pattern, new, name).replace("{}", stage)
    return None


def _detectron2_name(name: str) -> str | None:
    return f"backbone.{name}" if re.fullmatch(r"(stem\.conv1|res\d\.\d+\.(conv[123]|shortcut))\..+", name) else None


def _msra_name(name: str) -> str | None:
    return detectron_names.our_name(name) or None


def _tensorpack_name(name: str) -> str | None:
    return tensorpack.rename(name.removesuffix(":0"))


def _chainer_name(name: str) -> str | None:
    if found := re.fullmatch(r"(?:conv|bn)1/(\w+)", name):
        return f"backbone.stem.conv1.{CHAINER_VALUES.get(found[1], found[1])}"
    if found := re.fullmatch(r"res(\d)/(a|b\d+)/(?:conv|bn)([1234])/(\w+)", name):
        conv = "shortcut" if found[3] == "4" else f"conv{found[3]}"
        return f"backbone.res{found[1]}.{found[2][1:] or 0}.{conv}.{CHAINER_VALUES.get(found[4], found[4])}"
    return None


KINDS = (
    Kind(
        "torchvision or timm",
        frozenset({"conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"}),
        _torch_name,
    ),
    Kind(
        "Detectron2", frozenset({"stem.conv1.weight", "res2.0.conv1.weight", "res5.0.conv1.weight"}), _detectron2_name
    ),
    Kind("Caffe2 (MSRA)", frozenset({"conv1_w", "res2_0_branch2a_w", "res5_0_branch2a_w"}), _msra_name),
    Kind("tensorpack", frozenset({"conv0/W", "group0/block0/conv1/W", "group3/block0/conv1/W"}), _tensorpack_name),
    Kind("Chainer", frozenset({"conv1/W", "res2/a/conv1/W", "res5/a/conv1/W"}), _chainer_name),
)
DETECTOR = re.compile(
    r"(rpn|roi_heads|head|fpn|mask|keypoint)[._/]|(rpn|conv_rpn|cls_score|bbox_pred|fpn_)\w*|.*/rpn.*"
)


def _kind(names: Collection[str]) -> Kind | None:
    plain = {name.removesuffix(":0") for name in names}
    if any(DETECTOR.match(name) for name in plain):
        return None
    return next((kind for kind in KINDS if kind.mark <= plain), None)


def is_backbone(names: Collection[str]) -> bool:
    """Whether tensors of these names are of a ResNet alone."""
    return _kind(names) is not None


def convert_backbone(found: Found) -> Converted:
    """The backbone in `found`: a config that has it, and the tensors of `backbone.` alone.

    Raises ValueError that names the file and the tensors that are no such ResNet's.
    """
    kind, source = _kind(list(found.state)), found.source
    if kind is None:
        raise ValueError(f"{source} is no ResNet that we know")
    names = {name: kind.rename(name) for name in found.state if not _idle(name.removesuffix(":0"))}
    if unknown := [name for name, ours in names.items() if ours is None]:
        raise ValueError(
            f"{source} looks like a ResNet of {kind.name}, but has tensors without a counterpart here: "
            f"{few(unknown, MOST_LISTED)}"
        )
    state: dict[str, Tensor] = {}
    for name, ours in names.items():
        if ours is not None:
            value = found.state[name]
            state[ours] = tensorpack.converted_tensor(ours, value) if kind.name == "tensorpack" else value
    _move_biases(state)
    affine = _add_statistics(state)
    config, assumed = _config(kind, state, affine, found)
    if kind.name == "Chainer":
        for name in [name for name in state if name.endswith("running_var")]:
            state[name] = state[name] + (CHAINER_EPS - 1e-5)
    require_fit(config, state, source, part="backbone.")
    left = tuple(name for name in found.state if name not in names)
    report = f"ImageNet ResNet-{_depth(state)} of {kind.name}, {len(state)} tensors, the backbone alone"
    return Converted(
        config=config, state=state, classes=(), report=report, system=kind.name, assumed=assumed,
        left=(*left, *found.left),
    )  # fmt: skip


def _idle(name: str) -> bool:
    """Whether a tensor is none of the backbone's, but lies beside it in such files."""
    return bool(LEFT.fullmatch(name) or tensorpack.LEFT.fullmatch(name))


def _move_biases(state: dict[str, Tensor]) -> None:
    """A convolution's bias goes into the norm's: into its mean, of which it is taken away, or into its shift."""
    for name in [name for name in state if name.endswith(".bias") and ".norm." not in name]:
        layer, bias = name.removesuffix(".bias"), state.pop(name)
        if f"{layer}.norm.running_mean" in state:
            state[f"{layer}.norm.running_mean"] = state[f"{layer}.norm.running_mean"] - bias
        elif f"{layer}.norm.weight" in state:
            state[f"{layer}.norm.bias"] = state[f"{layer}.norm.bias"] + state[f"{layer}.norm.weight"] * bias


def _add_statistics(state: dict[str, Tensor]) -> bool:
    """Mean 0 and variance 1 where norms have scale and shift alone; whether that is so. Not for group norm (GN)."""
    layers = [name.removesuffix(".weight") for name in state if name.endswith(".norm.weight")]
    if any(f"{layer}.running_mean" in state for layer in layers):
        return False
    for layer in layers:
        state[f"{layer}.running_mean"] = torch.zeros_like(state[f"{layer}.weight"])
        state[f"{layer}.running_var"] = torch.ones_like(state[f"{layer}.weight"])
    return True


def _config(kind: Kind, state: dict[str, Tensor], affine: bool, found: Found) -> tuple[DetectorConfig, tuple[str, ...]]:
    """A config with this backbone and the input that it was trained on, and what of it was assumed."""
    blocks = tuple(_blocks(state, stage) for stage in (2, 3, 4, 5))
    width, within = (state["backbone.res2.0.conv2.weight"].shape[axis] for axis in (0, 1))
    groups = width // within
    grouped = any(name.endswith("_gn_s") or "/gn/" in name for name in found.state)
    norm: Norm = "gn" if grouped else "frozen_bn"
    if grouped:
        for name in [name for name in state if name.rpartition(".")[2] in ("running_mean", "running_var")]:
            del state[name]
    given, one_by_one, pool, why = _publisher(kind, state, groups, grouped, affine, found)
    config = model_config("faster_rcnn_r50_fpn")
    backbone = ResNetConfig(
        depth=DEPTHS.get(blocks, 50),
        blocks=() if blocks in DEPTHS else blocks,
        groups=groups,
        width_per_group=within,
        stride_in_1x1=one_by_one,
        norm=norm,
        norm_eps=0.0 if affine and not grouped else 1e-5,
        stem_pool=pool,
        padding="align" if kind.name == "tensorpack" else "symmetric",
    )
    assumed = (
        f"pixels as {why}: {given.channel_order.upper()}, mean {_numbers(given.pixel_mean)}, deviation "
        f"{_numbers(given.pixel_std)} (input.channel_order, input.pixel_mean, input.pixel_std)",
        f"stride in the {'1x1' if one_by_one else '3x3'} convolutions, as {why} (backbone.stride_in_1x1)",
        f"pooling of the stem: {pool}, as {why} (backbone.stem_pool)",
    )
    return replace(config, input=given, backbone=backbone), assumed


def _publisher(
    kind: Kind, state: Mapping[str, Tensor], groups: int, grouped: bool, affine: bool, found: Found
) -> tuple[InputConfig, bool, Literal["padded", "unpadded_ceil"], str]:
    """Input, whether the stride is in the 1x1 convolutions, the stem's pooling, and whose they are."""
    if kind.name == "Chainer":
        return CHAINER, True, "unpadded_ceil", "Chainer's copy of Caffe's ResNets"
    if kind.name == "tensorpack":
        return TENSORPACK, False, "padded", "tensorpack's AlignPadding files"
    if kind.name == "Caffe2 (MSRA)":
        if groups > 1:
            return RESNEXT, False, "padded", "FAIR's ResNeXt in Detectron2"
        if grouped:
            return FAIR, False, "padded", "FAIR's group-norm ResNets in Detectron2"
        return CAFFE, True, "padded", "MSRA's ResNets in Detectron"
    if found.extras.get("__author__") == "torchvision":
        return IMAGENET, False, "padded", "torchvision's"
    if not affine and _spread(state) > CAFFE_SPREAD:
        why = f"Caffe's (the first norm's variance is {_spread(state):.0f} times what pixels of deviation 1 give)"
        return CAFFE, True, "padded", why
    if affine and not grouped:
        return FAIR, True, "padded", "MSRA's ResNets in Detectron2"
    return IMAGENET, False, "padded", "torchvision's"


def _spread(state: Mapping[str, Tensor]) -> float:
    """Variance that the first norm has seen over that of white noise of deviation 1: which pixels it was trained on."""
    kernel, variance = state["backbone.stem.conv1.weight"], state.get("backbone.stem.conv1.norm.running_var")
    if variance is None:
        return 0.0
    return float((variance / kernel.flatten(1).square().sum(1).clamp(min=1e-12)).median())


def _blocks(state: Mapping[str, Tensor], stage: int) -> int:
    return len({name.split(".")[2] for name in state if name.startswith(f"backbone.res{stage}.")})


def _depth(state: Mapping[str, Tensor]) -> int:
    return 2 + 3 * sum(_blocks(state, stage) for stage in (2, 3, 4, 5))


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
