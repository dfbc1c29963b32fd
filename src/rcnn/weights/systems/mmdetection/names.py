"""MMDetection's names for our tensors."""

from __future__ import annotations

import re

from rcnn.models import DetectorConfig
from rcnn.models.config import Norm, ResNetConfig

# what a norm layer is called beside its convolution
NORM_NAMES: dict[Norm, str] = {"frozen_bn": "bn", "bn": "bn", "sync_bn": "bn", "gn": "gn"}


def mmdetection_name(name: str, config: DetectorConfig) -> str:
    """MMDetection's name (2.0 and later) for our `name` of a detector of `config`; a ValueError if it has none."""
    part, _, rest = name.partition(".")
    match part:
        case "backbone" if isinstance(config.backbone, ResNetConfig):
            return "backbone." + _in_resnet(rest, NORM_NAMES.get(config.backbone.norm, ""))
        case "fpn" if config.fpn is not None:
            found = re.fullmatch(r"(lateral|output)(\d)\.(.+)", rest)
            if found:
                kind, level, inner = found.groups()
                place = f"neck.{'lateral' if kind == 'lateral' else 'fpn'}_convs.{int(level) - 2}"
                return f"{place}.{_in_conv(inner, config.fpn.norm)}"
        case "rpn":
            rest = rest.replace("objectness.", "rpn_cls.").replace("deltas.", "rpn_reg.")
            if config.rpn.convs == 1:
                rest = rest.replace("convs.0.", "rpn_conv.")
            return "rpn_head." + re.sub(r"convs\.(\d+)\.", r"rpn_conv.\1.conv.", rest)
        case "box_head":
            if found := re.fullmatch(r"trunk\.res5\.(.+)", rest):
                norm = config.backbone.norm if isinstance(config.backbone, ResNetConfig) else "none"
                return "roi_head.shared_head." + _in_resnet(f"res5.{found[1]}", NORM_NAMES.get(norm, ""))
            stage, rest = _stage(rest)
            return f"roi_head.bbox_head.{stage}{_in_box_head(rest, config.box.norm)}"
        case "mask_head" if config.mask is not None:
            stage, rest = _stage(rest)
            rest = rest.replace("deconv.", "upsample.").replace("logits.", "conv_logits.")
            if found := re.fullmatch(r"trunk\.conv(\d+)\.(.+)", rest):
                rest = f"convs.{int(found[1]) - 1}.{_in_conv(found[2], config.mask.norm)}"
            return f"roi_head.mask_head.{stage}{rest}"
    raise ValueError(f"MMDetection has no counterpart of our tensor {name!r}")


def _in_resnet(rest: str, norm: str) -> str:
    if found := re.fullmatch(r"stem\.conv1\.(norm\.)?(.+)", rest):
        return f"{f'{norm}1' if found[1] else 'conv1'}.{found[2]}"
    found = re.fullmatch(r"res(\d)\.(\d+)\.(conv(\d)|shortcut)\.(norm\.)?(.+)", rest)
    if found is None:
        raise ValueError(f"MMDetection has no counterpart of our tensor {rest!r} of a ResNet")
    stage, block, conv, number, is_norm, last = found.groups()
    place = f"layer{int(stage) - 1}.{block}"
    if conv == "shortcut":
        return f"{place}.downsample.{int(is_norm is not None)}.{last}"
    return f"{place}.{norm}{number}.{last}" if is_norm else f"{place}.{conv}.{last}"


def _in_conv(rest: str, norm: Norm) -> str:
    """Inside a ConvModule: the convolution, or its norm."""
    return f"{NORM_NAMES[norm]}.{rest.removeprefix('norm.')}" if rest.startswith("norm.") else f"conv.{rest}"


def _in_box_head(rest: str, norm: Norm) -> str:
    if found := re.fullmatch(r"trunk\.conv(\d+)\.(.+)", rest):
        return f"shared_convs.{int(found[1]) - 1}.{_in_conv(found[2], norm)}"
    if found := re.fullmatch(r"trunk\.fc(\d+)\.(.+)", rest):
        return f"shared_fcs.{int(found[1]) - 1}.{found[2]}"
    return rest.replace("logits.", "fc_cls.").replace("deltas.", "fc_reg.")


def _stage(rest: str) -> tuple[str, str]:
    """The number of a cascade's stage, as they write it before a name, and the name without ours."""
    found = re.fullmatch(r"stages\.(\d+)\.(.+)", rest)
    return (f"{found[1]}.", found[2]) if found else ("", rest)
