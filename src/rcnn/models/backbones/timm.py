"""Networks of the timm library as backbones: any network with feature maps of strides 4, 8, 16 and 32."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from rcnn.models.backbones.backbone import Backbone
from rcnn.models.config import TimmConfig, ViTConfig
from rcnn.models.layers import ChannelNorm

STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
# options that let networks with windows accept images of any size; the first that the constructor accepts is used
ANY_SIZE: tuple[dict[str, bool], ...] = (
    {"strict_img_size": False, "always_partition": True},  # Swin: shifted windows in the last stage as well
    {"strict_img_size": False},
    {},
)


class TimmNet(Backbone):
    """Images (B, 3, H, W) -> {"c2": (B, C2, H/4, W/4), ..., "c5": (B, C5, H/32, W/32)}."""

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.net = build_features(config)
        info = self.net.feature_info
        reductions: list[int] = info.reduction()
        if missing := [stride for stride in STRIDES.values() if stride not in reductions]:
            raise ValueError(
                f"backbone.name={config.name!r} has maps of strides {reductions}, but the pyramid also needs "
                f"{', '.join(map(str, missing))}; choose another network, or backbone.kind=vit for a plain ViT"
            )
        # the index of each map; of several maps with the same stride, the last
        indices = {name: len(reductions) - 1 - reductions[::-1].index(stride) for name, stride in STRIDES.items()}
        self.indices = indices
        self.channels = {name: info.channels()[index] for name, index in indices.items()}
        self.strides = dict(STRIDES)
        self.channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        self.norms = nn.ModuleDict({name: ChannelNorm(width, eps=1e-6) for name, width in self.channels.items()})
        if not config.out_norm:
            self.norms.clear()
        self._try(config.name)
        frozen = batch_norms(self.net) if config.frozen_norms else []
        if config.frozen_stages:
            last = info.module_name()[indices[f"c{config.frozen_stages + 1}"]]
            frozen += parts_up_to(self.net, last, config)
        self.freeze(frozen)

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.net(x)
        features = {}
        for name, index in self.indices.items():
            feature = maps[index].permute(0, 3, 1, 2) if self.channels_last else maps[index]
            features[name] = self.norms[name](feature) if name in self.norms else feature
        return features

    @torch.no_grad()
    def _try(self, name: str) -> None:
        """Raise ValueError if an image of an unusual size fails, or gives maps of unexpected shapes."""
        training = self.training
        try:
            maps = self.eval()(torch.zeros(1, 3, 96, 160))
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"backbone.name={name!r} does not accept images of every size ({error}); choose one that does, e.g. "
                "a ResNet, ConvNeXt or Swin"
            ) from error
        self.train(training)
        for key, feature in maps.items():
            stride = self.strides[key]
            if feature.shape != (expected := (1, self.channels[key], 96 // stride, 160 // stride)):
                raise ValueError(
                    f"backbone.name={name!r} has a map {key} of shape {tuple(feature.shape)} for an image of 96x160; "
                    f"expected {expected} from timm's description. Choose another network"
                )


def batch_norms(net: nn.Module) -> list[nn.Module]:
    """The batch norms of `net`."""
    return [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def parts_up_to(net: nn.Module, last: str, config: TimmConfig) -> list[nn.Module]:
    """The modules of `net` from its input to the end of its module `last`. Raises ValueError if there is no `last`."""
    parts = dict(net.named_modules())
    stage = next((parts[name] for name in (last, last.replace(".", "_"), f"model.{last}") if name in parts), None)
    if stage is None:
        raise ValueError(
            f"backbone.frozen_stages={config.frozen_stages}: {config.name} has no module {last}, where timm says that "
            "this stage ends; set backbone.frozen_stages=0"
        )
    order = {id(module): number for number, module in enumerate(net.modules())}
    end = max(order[id(module)] for module in stage.modules())
    return [part for part in net.modules() if max(order[id(module)] for module in part.modules()) <= end]


def build_features(config: TimmConfig) -> Any:
    """The network of `config` that outputs feature maps. Raises ValueError, with similar names, if timm has none."""
    options: dict[str, Any] = {"pretrained": config.pretrained, "features_only": True}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    unknown = ""
    for any_size in ANY_SIZE:
        try:
            return create(config, **options, **any_size)
        except TypeError as error:
            unknown = str(error)
            if "unexpected keyword argument" not in unknown:
                raise
            if "drop_path_rate" in unknown:
                raise ValueError(
                    f"backbone.drop_path is {config.drop_path}, but {config.name} has no stochastic depth; set "
                    "backbone.drop_path=0"
                ) from error
    raise ValueError(
        f"backbone.name={config.name!r} cannot be built for its feature maps ({unknown}); choose another network"
    )


def create(config: TimmConfig | ViTConfig, **options: Any) -> Any:
    """`timm.create_model` for the network that `config` names. Raises ValueError, with similar names, if unknown."""
    pretrained_cfg(config)
    return import_timm().create_model(config.name, **options)


def pretrained_cfg(config: TimmConfig | ViTConfig) -> Any:
    """timm's description of the weights that `config` names; None if timm has none for the network.

    Raises ValueError, with similar names, for an unknown network or unknown weights.
    """
    timm = import_timm()
    known = timm.list_models(pretrained=False)
    base = config.name.partition(".")[0]  # the part after the dot names a set of weights
    if base not in known:
        close = difflib.get_close_matches(base, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists the names"
        raise ValueError(f"backbone.name={config.name!r} is not a network of timm {timm.__version__}; {hint}")
    try:
        return timm.get_pretrained_cfg(config.name)
    except RuntimeError as error:
        tagged = timm.list_pretrained(f"{base}.*")
        close = difflib.get_close_matches(config.name, tagged, n=3) or tagged[:3]
        hint = f"; expected {base}, or with weights, e.g. {' or '.join(close)}" if close else f"; expected {base}"
        raise ValueError(f"backbone.name={config.name!r} names weights that timm does not have{hint}") from error


def pixel_statistics(config: TimmConfig | ViTConfig) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation (RGB, 0..255) that timm's weights were trained with; None if timm has no weights."""
    found = pretrained_cfg(config)
    if found is None:
        return None
    return tuple(255 * value for value in found.mean), tuple(255 * value for value in found.std)


def import_timm() -> Any:
    """The timm library. Raises ImportError, with the pip command, if it is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ImportError("this backbone needs the timm library: pip install 'rcnn[timm]'") from error
