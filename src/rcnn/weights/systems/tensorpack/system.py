"""tensorpack's checkpoints (`.npz`): Faster, Mask and Cascade R-CNN on C4 and FPN; frozen, synchronised or group norm.

Its kernels lie height, width, in, out (deconvolutions height, width, out, in: one permutation serves both), its fully
connected ones in, out, of a map in order channel, height, width: ours. Background is its first class, with a box of its
own that nothing uses. It reads BGR. What a network looks like is in the names; what it was given, in the settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from rcnn.models.config import Norm, ResNetConfig
from rcnn.weights.readers.stored import shape_of
from rcnn.weights.systems.converted import Converted, class_names, few, require_fit, unplaced
from rcnn.weights.systems.tensorpack.config import config_of
from rcnn.weights.systems.tensorpack.settings import Settings, read_settings


def _box_head(stage: str | None) -> str:
    return "box_head" if stage is None else f"box_head.stages.{int(stage) - 1}"


# their layer, and ours; tried in order, the whole name must match
LAYERS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"conv0", lambda found: "backbone.stem.conv1"),
    (r"group(\d)/block(\d+)/conv([123])", lambda found: f"backbone.res{int(found[1]) + 2}.{found[2]}.conv{found[3]}"),
    (r"group(\d)/block(\d+)/convshortcut", lambda found: f"backbone.res{int(found[1]) + 2}.{found[2]}.shortcut"),
    (r"fpn/lateral_1x1_c(\d)", lambda found: f"fpn.lateral{found[1]}"),
    (r"fpn/posthoc_3x3_p(\d)", lambda found: f"fpn.output{found[1]}"),
    (r"fpn/gn_c(\d)", lambda found: f"fpn.lateral{found[1]}.norm"),
    (r"fpn/gn_p(\d)", lambda found: f"fpn.output{found[1]}.norm"),
    (r"rpn/conv0", lambda found: "rpn.convs.0"),
    (r"rpn/class", lambda found: "rpn.objectness"),
    (r"rpn/box", lambda found: "rpn.deltas"),
    (r"(?:fastrcnn|cascade_rcnn_stage(\d)/head)/fc6?", lambda found: f"{_box_head(found[1])}.trunk.fc1"),
    (r"(?:fastrcnn|cascade_rcnn_stage(\d)/head)/fc7", lambda found: f"{_box_head(found[1])}.trunk.fc2"),
    (
        r"(?:fastrcnn|cascade_rcnn_stage(\d)/head)/(conv|gn)(\d)",
        lambda found: f"{_box_head(found[1])}.trunk.conv{int(found[3]) + 1}{'.norm' if found[2] == 'gn' else ''}",
    ),
    (
        r"(?:fastrcnn(?:/outputs)?|cascade_rcnn_stage(\d)/outputs)/(class|box)",
        lambda found: f"{_box_head(found[1])}.{'logits' if found[2] == 'class' else 'deltas'}",
    ),
    (
        r"maskrcnn/(fcn|gn)(\d)",
        lambda found: f"mask_head.trunk.conv{int(found[2]) + 1}{'.norm' if found[1] == 'gn' else ''}",
    ),
    (r"maskrcnn/deconv", lambda found: "mask_head.deconv"),
    (r"maskrcnn/conv", lambda found: "mask_head.logits"),
)
VALUES = {  # what a layer's tensor is called
    "W": "weight", "b": "bias",
    "bn/gamma": "norm.weight", "bn/beta": "norm.bias",
    "bn/mean/EMA": "norm.running_mean", "bn/variance/EMA": "norm.running_var",
    "gn/gamma": "norm.weight", "gn/beta": "norm.bias",
    "gamma": "weight", "beta": "bias",
}  # fmt: skip
TENSOR = re.compile(rf"(.+?)/({'|'.join(VALUES)})")
# a training's own state, and the ImageNet classifier
LEFT = re.compile(
    r"learning_rate|global_step|apply_gradients.*|EMA/.*|(?:.*/)?(?:Momentum|AccumGrad[^/]*)(?:_\d+)?(?:/.*)?"
    r"|AccumGrad.*|beta[12]_power|linear/(?:W|b)"
)


def recognises(names: Collection[str]) -> bool:
    """Whether tensors of these names are of a tensorpack detector."""
    return {"conv0/W", "rpn/class/W"} <= {name.removesuffix(":0") for name in names}


def rename(name: str) -> str | None:
    """Our name for tensorpack's (without `:0`); None for one that has no counterpart here."""
    if tensor := TENSOR.fullmatch(name):
        for theirs, ours in LAYERS:
            if found := re.fullmatch(theirs, tensor[1]):
                return f"{ours(found)}.{VALUES[tensor[2]]}"
    return None


def converted_tensor(ours: str, value: Tensor) -> Tensor:
    """A tensor of tensorpack's in the layout and class order that `ours`, our name, wants."""
    value = value.float()
    if value.ndim == 4:
        value = value.permute(3, 2, 0, 1)
    elif value.ndim == 2:
        value = value.t()
    layer = ours.rpartition(".")[0].rpartition(".")[2]
    if ours.startswith("box_head.") and layer == "logits":
        value = value.roll(-1, 0)
    elif ours.startswith("box_head.") and layer == "deltas" and len(value) > 4:
        value = value[4:]
    return value.contiguous()


def from_tensorpack(state: Mapping[str, Tensor], config_file: str | Path | None = None, source: str = "") -> Converted:
    """tensorpack's `state` with its settings (a file, or `KEY=VALUE` words); without them, its defaults.

    Raises ValueError that names `source` and the tensors that have no place, or a setting that the tensors contradict.
    """
    source = source or "the state dict"
    settings = read_settings(config_file)
    names = {name: name.removesuffix(":0") for name in state}
    left = tuple(name for name, plain in names.items() if LEFT.fullmatch(plain))
    ours = {name: rename(plain) for name, plain in names.items() if name not in left}
    if unknown := [name for name, our in ours.items() if our is None]:
        raise ValueError(f"{source} looks like tensorpack's, but has {unplaced(unknown)}")
    shapes = {plain: shape_of(state, name) for name, plain in names.items()}
    config = config_of(shapes, settings, source)
    shared = config.fpn is None  # res5 is the head
    tensors = {}
    for name, our in ours.items():
        assert our is not None
        place = our.replace("backbone.res5.", "box_head.trunk.res5.") if shared else our
        tensors[place] = converted_tensor(our, state[name])
    if isinstance(config.backbone, ResNetConfig):
        tensors |= _missing_in_theirs(tensors, config.backbone.norm)
    require_fit(config, tensors, source)
    classes = tuple(str(name) for name in settings.get["DATA.CLASS_NAMES"][1:])
    if len(classes) != config.num_classes:
        classes = class_names(config.num_classes)
    report = f"tensorpack {config.name}, {len(tensors)} tensors, {config.num_classes} classes"
    if left:
        report += f"; left behind: {few(left)}"
    return Converted(
        config=config, state=tensors, classes=classes, report=report, system="tensorpack",
        assumed=_assumed(settings), left=left,
    )  # fmt: skip


def _missing_in_theirs(tensors: Mapping[str, Tensor], norm: Norm) -> dict[str, Tensor]:
    """What our network holds besides: counters of synchronised norms, biases where no norm has them."""
    trunk = [name for name in tensors if name.startswith("backbone.") or ".res5." in name]
    if norm == "none":
        kernels = [name for name in trunk if name.endswith(".weight")]
        return {f"{name.removesuffix('weight')}bias": torch.zeros(len(tensors[name])) for name in kernels}
    if norm == "sync_bn":
        means = [name for name in trunk if name.endswith("running_mean")]
        return {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in means}
    return {}


def _assumed(settings: Settings) -> tuple[str, ...]:
    """A sentence for each thing that neither tensors nor settings said."""
    words = {
        "BACKBONE.STRIDE_1X1": "stride in the 3x3 convolutions",
        "BACKBONE.TF_PAD_MODE": "padding larger at the top and left (AlignPadding)",
        "PREPROC.PIXEL_MEAN": "ImageNet's pixel means",
        "PREPROC.PIXEL_STD": "ImageNet's pixel deviations",
        "PREPROC.TEST_SHORT_EDGE_SIZE": "a shorter side of 800 pixels",
        "RPN.ANCHOR_SIZES": "anchors of 32 to 512 pixels",
        "FPN.PROPOSAL_MODE": "proposals chosen level by level, where there are levels",
        "TEST.RESULT_SCORE_THRESH": "detections scored above 0.05",
        "DATA.CLASS_NAMES": "COCO's classes, if there are 80",
    }
    said = [f"{word} ({key}={settings.get[key]!r}): tensorpack's default" for key, word in words.items()]
    said = [sentence for key, sentence in zip(words, said, strict=True) if key not in settings.given]
    if settings.of_the_run:
        said.append(f"settings of the training, which play no part here: {', '.join(settings.of_the_run)}")
    if settings.unknown:
        said.append(f"settings that tensorpack does not have, left out: {', '.join(settings.unknown)}")
    return tuple(said)
