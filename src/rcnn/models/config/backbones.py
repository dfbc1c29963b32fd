"""Settings of the backbones and of the pyramid over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rcnn.models.config.parts import plain_arguments

# frozen_bn: fixed statistics, scale and shift; bn: of each process's batch; sync_bn: of the batch over all processes;
# gn: 32 groups of channels of each image; ln: the channels at each place (ViTDet); none: no norm, or one folded into
# the convolution, which then has a bias
Norm = Literal["frozen_bn", "bn", "sync_bn", "gn", "ln", "none"]


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """ResNet (He et al. 2016), bottleneck blocks."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[50, 101, 152] = 50
    blocks: tuple[int, ...] = ()  # of res2, res3, res4, res5; none given: those of the depth
    groups: int = 1  # of the 3x3 convolutions; ResNeXt (Xie et al. 2017) has 32 ...
    width_per_group: int = 64  # ... of 8 channels each in res2
    stages: tuple[int, ...] = (2, 3, 4, 5)  # stages built and given to the FPN; C4 builds 2, 3, 4 and uses the last
    stride_in_1x1: bool = False  # caffe and MSRA put the stride in the first 1x1 convolution, torchvision in the 3x3
    norm: Norm = "frozen_bn"
    norm_eps: float = 1e-5
    trained_affine: bool = False  # frozen_bn fixes the statistics alone; scale and shift are trained (tensorpack)
    frozen_stages: int = 2  # not trained: 0 nothing, 1 the stem, 2 the stem and res2, ... 5 all
    # of the stem's 3x3 pooling: one pixel, sides rounded down or up; or none, rounded up (FCIS)
    stem_pool: Literal["padded", "padded_ceil", "unpadded_ceil"] = "padded"
    # strided convolutions: as PyTorch; 3 left and 2 right (tensorpack's AlignPadding); 2 left and 3 right (TensorFlow)
    padding: Literal["symmetric", "align", "tensorflow"] = "symmetric"
    res5_dilation: Literal[1, 2] = 1  # 2: res5 keeps the stride of 16, its 3x3 convolutions dilated (DC5, FCIS)
    res5_stride: Literal[1, 2] = 2  # of an undilated res5; 1: as a head, on regions of 7x7 (mask-faster-rcnn)

    def __post_init__(self) -> None:
        if self.blocks and (len(self.blocks) != 4 or min(self.blocks) < 1):
            raise ValueError(f"backbone.blocks is {self.blocks}; wanted four numbers, for res2, res3, res4 and res5")
        if not self.stages or self.stages != (2, 3, 4, 5)[: len(self.stages)]:
            raise ValueError(f"backbone.stages is {self.stages}; wanted (2, 3, 4, 5), or the first of them")
        if not 0 <= self.frozen_stages <= 5:
            raise ValueError(f"backbone.frozen_stages is {self.frozen_stages}; wanted 0 (nothing) to 5 (all)")
        if self.trained_affine and self.norm != "frozen_bn":
            raise ValueError(f"backbone.trained_affine is for norm=frozen_bn; norm={self.norm} trains its own anyway")
        if self.padding != "symmetric" and self.stem_pool != "padded":
            raise ValueError(
                f"backbone.padding={self.padding} says how the stem pools, too, and so does "
                f"backbone.stem_pool={self.stem_pool}: leave out one of the two"
            )


@dataclass(frozen=True, kw_only=True)
class FBNetConfig:
    """FBNetV3A trunk to stride 16, 112 channels (Dai et al. 2021), as D2Go's detectors use it; norms folded."""

    kind: Literal["fbnet"] = "fbnet"
    width: float = 1.0  # all channels, of the heads too, are multiplied by it and rounded to multiples of 8
    frozen_blocks: int = 0  # the first blocks that are not trained


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """A small residual network with batch norm, to be trained from scratch in minutes."""

    kind: Literal["compact"] = "compact"
    widths: tuple[int, int, int, int] = (32, 48, 64, 96)  # channels of res2..res5, strides 4..32
    stem_width: int = 16
    res5_stride: Literal[1, 2] = 2  # 1: c5 has the stride of c4, 16 (FCIS)
    norm: Literal["bn", "none"] = "bn"  # none: folded
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        # oneDNN's backward pass of a strided 1x1 convolution on fewer channels, innermost in memory, ends the process
        if min(*self.widths, self.stem_width) < 16:
            raise ValueError(f"backbone widths are {self.stem_width}, {self.widths}; wanted 16 channels or more")


@dataclass(frozen=True, kw_only=True)
class MobileNetConfig:
    """MobileNetV3-Large (Howard et al. 2019) as torchvision's detectors use it: two maps, both of stride 32."""

    kind: Literal["mobilenet"] = "mobilenet"
    norm: Literal["frozen_bn", "bn"] = "frozen_bn"
    frozen_stages: int = 0  # of six, from the image on

    def __post_init__(self) -> None:
        if not 0 <= self.frozen_stages <= 6:
            raise ValueError(f"backbone.frozen_stages is {self.frozen_stages}; wanted 0 (nothing) to 6 (all)")


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """Any `features_only` network of the timm library: ResNet-D, ConvNeXt, Swin, ... Needs rcnn[timm]."""

    kind: Literal["timm"] = "timm"
    name: str = "resnet50d"  # as timm.list_models() has it
    pretrained: bool = False  # download timm's weights when the detector is built
    frozen_stages: int = 0  # not trained: 0 nothing, 1 all up to c2, ... 4 all
    out_norm: bool = False  # layer norm of each map's channels, as Swin's and ConvNeXt's detectors have it
    drop_path: float = 0.0  # stochastic depth, where the network has it

    def __post_init__(self) -> None:
        if not 0 <= self.frozen_stages <= 4:
            raise ValueError(f"backbone.frozen_stages is {self.frozen_stages}; wanted 0 (nothing) to 4 (all)")


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Plain vision transformer of timm with ViTDet's windows and simple pyramid (Li et al. 2022). Needs rcnn[timm]."""

    kind: Literal["vit"] = "vit"
    # as timm.list_models() has it, after the dot which of its weights; patches of 16 pixels a side
    name: str = "vit_base_patch16_224.mae"
    pretrained: bool = False
    window: int = 14  # tokens a side that attend to each other; 0: all to all in every block
    global_blocks: int = 4  # evenly spread blocks in which all attend to all
    image_size: int = 1024  # pixels a side for which position embeddings are kept; other sizes interpolate them
    channels: int = 256  # of the simple pyramid p2..p5
    drop_path: float = 0.1


@dataclass(frozen=True, kw_only=True)
class OwnBackboneConfig:
    """A backbone that a function or class in the user's own code makes (models/own.py)."""

    kind: Literal["own"] = "own"
    factory: str  # its import path: FILE.py:NAME or PACKAGE.MODULE:NAME
    arguments: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the factory

    def __post_init__(self) -> None:
        if not self.factory:
            raise ValueError("backbone.factory is empty; expected FILE.py:NAME or PACKAGE.MODULE:NAME")
        object.__setattr__(self, "arguments", plain_arguments(self.arguments, "backbone.arguments"))


BackboneConfig = (
    ResNetConfig | FBNetConfig | CompactConfig | MobileNetConfig | TimmConfig | ViTConfig | OwnBackboneConfig
)


@dataclass(frozen=True, kw_only=True)
class FPNConfig:
    """Feature pyramid network (Lin et al. 2017): p2..p5, and p6 by subsampling p5."""

    channels: int = 256
    norm: Norm = "none"  # what is trained from scratch diverges without (He et al. 2019)
    conv_bias: bool = False  # convolutions have biases beside their norm (tensorpack)
