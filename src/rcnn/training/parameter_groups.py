"""Learning rate and weight decay of each parameter: for norm layers, for the backbone, by layer, and by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from rcnn.data.messages import counted
from rcnn.models.layers import FrozenBatchNorm2d
from rcnn.training.settings import TrainConfig

NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d, nn.GroupNorm, nn.LayerNorm)
BACKBONE = "backbone."
# blocks of ConvNeXt's third stage that share a learning rate (Liu et al. 2022, their detection code)
CONVNEXT_BLOCKS = 3
LAST_STAGE = 1_000  # above all layer numbers: ConvNeXt's last stage gets its own once the third stage is counted


class Kind(NamedTuple):
    """What the parameters of a group have in common. Groups are sorted by it, also in the optimizer's state file."""

    backbone: bool
    norm: bool
    layer: int  # of the backbone, with train.layer_decay; -1: none
    lr_pattern: str  # the pattern of train.lr_factors that applies; empty: none
    decay_pattern: str  # the pattern of train.weight_decays that applies; empty: none


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that an optimizer treats alike."""

    lr_factor: float  # of the learning rate of the step
    weight_decay: float
    names: list[str] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)


def describe_groups(groups: Sequence[ParameterGroup]) -> Iterator[str]:
    """A line for --dry-run per learning rate and weight decay. The optimizer has more groups, e.g. for the backbone."""
    alike = dict[tuple[float, float], list[str]]()
    for group in groups:
        alike.setdefault((group.lr_factor, group.weight_decay), []).extend(group.names)
    for (factor, decay), names in alike.items():
        shown = names[0] + (", ..." if len(names) > 1 else "")
        yield f"learning rate x {factor:g}, weight decay {decay:g}: {counted(len(names), 'tensor')} ({shown})"


def parameter_groups(detector: nn.Module, settings: TrainConfig) -> list[ParameterGroup]:
    """The parameters that are not frozen, in groups.

    The learning rate of a parameter is the rate of the step, times `backbone_lr` in the backbone, times the factor of
    its layer (`layer_decay`), times the value of the last pattern of `lr_factors` that matches. Its weight decay is the
    value of the last pattern of `weight_decays` that matches, else `norm_weight_decay` in norm layers and
    `weight_decay` elsewhere. ValueError as for `require_parameters`.
    """
    layers = require_parameters(detector, settings)
    norms = {id(p) for module in detector.modules() if isinstance(module, NORMS) for p in module.parameters()}
    last = max(layers.values(), default=0) + 1  # what follows the backbone
    groups = dict[Kind, ParameterGroup]()
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = Kind(
            backbone=name.startswith(BACKBONE),
            norm=id(parameter) in norms,
            layer=layers.get(name, -1),
            lr_pattern=_last_match(name, settings.lr_factors),
            decay_pattern=_last_match(name, settings.weight_decays),
        )
        group = groups.setdefault(kind, _group(kind, settings, last))
        group.names.append(name)
        group.parameters.append(parameter)
    return [groups[kind] for kind in sorted(groups)]


def require_parameters(detector: nn.Module, settings: TrainConfig) -> dict[str, int]:
    """The layers that `layer_decay` numbers, by the names of their parameters; none if it is 1.

    ValueError for a pattern that no parameter matches, and for `layer_decay` with a backbone without such layers.
    """
    for setting, patterns in (("lr_factors", settings.lr_factors), ("weight_decays", settings.weight_decays)):
        _require_matches(setting, patterns, [name for name, _ in detector.named_parameters()])
    if settings.layer_decay == 1:
        return {}
    return layer_numbers([name for name, parameter in detector.named_parameters() if parameter.requires_grad])


def _group(kind: Kind, settings: TrainConfig, last: int) -> ParameterGroup:
    """An empty group with the learning rate and the weight decay of `kind`."""
    factor = settings.backbone_lr if kind.backbone else 1.0
    if kind.layer >= 0:
        factor *= settings.layer_decay ** (last - kind.layer)
    decay = settings.norm_weight_decay if kind.norm else settings.weight_decay
    return ParameterGroup(
        lr_factor=factor * settings.lr_factors.get(kind.lr_pattern, 1.0),
        weight_decay=settings.weight_decays.get(kind.decay_pattern, decay),
    )


def _last_match(name: str, patterns: Mapping[str, float]) -> str:
    return next((pattern for pattern in list(patterns)[::-1] if fnmatchcase(name, pattern)), "")


def _require_matches(setting: str, patterns: Mapping[str, float], names: list[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=2, cutoff=0.3) or names[:2]
            raise ValueError(
                f"train.{setting}: no parameter of the model matches {pattern!r}; parameters have names such as "
                f"{' or '.join(near)}, and * stands for any part of a name"
            )


def layer_numbers(names: list[str]) -> dict[str, int]:
    """The layer of each parameter of a ViT or ConvNeXt among `names`, counted from the input; ValueError for others.

    ViT: 0 for the patch and position embeddings, then one number per block. ConvNeXt: 0 for the stem, one number per
    stage, and one per three blocks of the third stage. The feature pyramid, its norms and the heads have no number.
    """
    blocks = {name: number for name in names for number in _vit_layer(name)}
    if not blocks:
        blocks = {name: number for name in names for number in _convnext_layer(name)}
        beyond = max((number for number in blocks.values() if number < LAST_STAGE), default=0) + 1
        blocks = {name: min(number, beyond) for name, number in blocks.items()}
    if not blocks:
        raise ValueError(
            "train.layer_decay works with ViT and ConvNeXt backbones only; leave it out, or set the learning rates of "
            "layers with train.lr_factors"
        )
    return blocks


def _vit_layer(name: str) -> Iterator[int]:
    if found := re.match(r"backbone\.blocks\.(\d+)\.", name):
        yield int(found[1]) + 1
    elif re.match(r"backbone\.(patches|positions|first_norm)\b", name):
        yield 0


def _convnext_layer(name: str) -> Iterator[int]:
    if re.match(r"backbone\.net\.stem_\d", name):
        yield 0
    elif found := re.match(r"backbone\.net\.stages_(\d)\.(?:blocks\.(\d+))?", name):
        stage, block = int(found[1]), int(found[2] or 0)
        if stage < 2:
            yield stage + 1
        else:
            yield 3 + block // CONVNEXT_BLOCKS if stage == 2 else LAST_STAGE
