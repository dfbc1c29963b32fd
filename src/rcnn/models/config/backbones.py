"""Settings of the backbones and of the pyramid over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rcnn.models.config.parts import plain_arguments
from rcnn.models.setting_types import set_types

# frozen_bn: batch norm with fixed statistics, scale and shift; bn: batch norm per process; sync_bn: batch norm over
# all processes; gn: group norm with 32 groups; ln: layer norm over the channels at each position (ViTDet); none: no
# norm, or one folded into the convolution, which then has a bias
Norm = Literal["frozen_bn", "bn", "sync_bn", "gn", "ln", "none"]


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """ResNet (He et al. 2016), bottleneck blocks."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[50, 101, 152] = 50
    blocks: tuple[int, ...] = ()  # of res2, res3, res4, res5; (): those of the depth
    groups: int = 1  # of the 3x3 convolutions; ResNeXt (Xie et al. 2017): 32
    width_per_group: int = 64  # channels per group in res2; ResNeXt: 8
    stages: tuple[int, ...] = (2, 3, 4, 5)  # stages built and passed to the FPN; C4: 2, 3, 4, the last is used
    stride_in_1x1: bool = False  # caffe and MSRA put the stride in the first 1x1 convolution, torchvision in the 3x3
    norm: Norm = "frozen_bn"
    norm_eps: float = 1e-5
    trained_affine: bool = False  # with frozen_bn: train scale and shift, with fixed statistics (tensorpack)
    frozen_stages: int = 2  # not trained: 0: none, 1: the stem, 2: the stem and res2, ... 5: all
    # the stem's 3x3 pooling: padded by one pixel, with sides rounded down or up; or not padded, rounded up (FCIS)
    stem_pool: Literal["padded", "padded_ceil", "unpadded_ceil"] = "padded"
    # of strided layers, e.g. 7x7: symmetric: 3 left, 3 right; align: 3 left, 2 right (tensorpack); tensorflow: 2, 3
    padding: Literal["symmetric", "align", "tensorflow"] = "symmetric"
    res5_dilation: Literal[1, 2] = 1  # 2: res5 has stride 16 and dilated 3x3 convolutions (DC5, FCIS)
    res5_stride: Literal[1, 2] = 2  # of res5 without dilation; 1: in a head, on regions of 7x7 (mask-faster-rcnn)

    def __post_init__(self) -> None:
        set_types(self, "backbone.")
        if self.blocks and (len(self.blocks) != 4 or min(self.blocks) < 1):
            raise ValueError(f"backbone.blocks is {self.blocks}; expected four numbers, for res2, res3, res4 and res5")
        if not self.stages or self.stages != (2, 3, 4, 5)[: len(self.stages)]:
            raise ValueError(f"backbone.stages is {self.stages}; expected (2, 3, 4, 5), or the first of them")
        if not 0 <= self.frozen_stages <= 5:
            raise ValueError(f"backbone.frozen_stages is {self.frozen_stages}; expected 0 (none) to 5 (all)")
        if self.trained_affine and self.norm != "frozen_bn":
            raise ValueError(f"backbone.trained_affine is for norm=frozen_bn only; norm={self.norm} is always trained")
        if self.padding != "symmetric" and self.stem_pool != "padded":
            raise ValueError(
                f"backbone.padding={self.padding} and backbone.stem_pool={self.stem_pool} both set the padding of the "
                "stem's pooling; set one of the two"
            )


@dataclass(frozen=True, kw_only=True)
class FBNetConfig:
    """FBNetV3A trunk to stride 16, 112 channels (Dai et al. 2021), as D2Go's detectors use it; norms folded."""

    kind: Literal["fbnet"] = "fbnet"
    width: float = 1.0  # factor of all channels, also of the heads; rounded to multiples of 8
    frozen_blocks: int = 0  # number of blocks at the start that are not trained


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """A small residual network with batch norm, for training from scratch in minutes."""

    kind: Literal["compact"] = "compact"
    widths: tuple[int, int, int, int] = (32, 48, 64, 96)  # channels of res2..res5, strides 4..32
    stem_width: int = 16
    res5_stride: Literal[1, 2] = 2  # 1: c5 has the stride of c4, 16 (FCIS)
    norm: Literal["bn", "none"] = "bn"  # none: folded
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        set_types(self, "backbone.")
        # oneDNN crashes in the backward pass of a strided 1x1 convolution in channels_last layout with fewer channels
        if min(*self.widths, self.stem_width) < 16:
            raise ValueError(
                f"backbone.stem_width is {self.stem_width}, backbone.widths is {self.widths}; expected 16 or more each"
            )


@dataclass(frozen=True, kw_only=True)
class MobileNetConfig:
    """MobileNetV3-Large (Howard et al. 2019) as torchvision's detectors use it: two maps, both with stride 32."""

    kind: Literal["mobilenet"] = "mobilenet"
    norm: Literal["frozen_bn", "bn"] = "frozen_bn"
    frozen_stages: int = 0  # number of stages at the start, of six, that are not trained

    def __post_init__(self) -> None:
        set_types(self, "backbone.")
        if not 0 <= self.frozen_stages <= 6:
            raise ValueError(f"backbone.frozen_stages is {self.frozen_stages}; expected 0 (none) to 6 (all)")


@dataclass(frozen=True, kw_only=True)
class MobileNetV1Config:
    """MobileNet (Howard et al. 2017) up to stride 16; its last two blocks are the box head (box.trunk=mobilenet_v1)."""

    kind: Literal["mobilenet_v1"] = "mobilenet_v1"
    width: float = 1.0  # factor of all channels, also of the box head; at least 8 channels remain
    frozen_layers: int = 5  # number of layers at the start, of twelve, that are not trained

    def __post_init__(self) -> None:
        set_types(self, "backbone.")
        if not 0 <= self.frozen_layers <= 12:
            raise ValueError(f"backbone.frozen_layers is {self.frozen_layers}; expected 0 (none) to 12 (all)")


@dataclass(frozen=True, kw_only=True)
class VGGConfig:
    """VGG-16 (Simonyan and Zisserman 2015) up to conv5_3, stride 16 (Ren et al. 2015); its fully connected layers are
    the box head's (box.trunk=fc, box.fc_width=4096).
    """

    kind: Literal["vgg16"] = "vgg16"
    frozen_stages: int = 2  # number of stages at the start, of five, that are not trained

    def __post_init__(self) -> None:
        set_types(self, "backbone.")
        if not 0 <= self.frozen_stages <= 5:
            raise ValueError(f"backbone.frozen_stages is {self.frozen_stages}; expected 0 (none) to 5 (all)")


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """Any `features_only` network of the timm library: ResNet-D, ConvNeXt, Swin, ... Needs rcnn[timm]."""

    kind: Literal["timm"] = "timm"
    name: str = "resnet50d"  # one of timm.list_models()
    pretrained: bool = False  # download timm's weights when the detector is built
    frozen_stages: int = 0  # not trained: 0: none, 1: all up to c2, ... 4: all
    frozen_norms: bool = False  # batch norms keep their statistics, scale and shift, as small batches need
    out_norm: bool = False  # layer norm of each map, as in the detectors of Swin and ConvNeXt
    drop_path: float = 0.0  # rate of stochastic depth, if the network has it

    def __post_init__(self) -> None:
        set_types(self, "backbone.")
        if not 0 <= self.frozen_stages <= 4:
            raise ValueError(f"backbone.frozen_stages is {self.frozen_stages}; expected 0 (none) to 4 (all)")


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Plain vision transformer of timm with ViTDet's windows and simple pyramid (Li et al. 2022). Needs rcnn[timm]."""

    kind: Literal["vit"] = "vit"
    # one of timm.list_models() with patches of 16x16 pixels; the part after the dot names the weights
    name: str = "vit_base_patch16_224.mae"
    pretrained: bool = False
    window: int = 14  # side of the attention windows, tokens; 0: global attention in every block
    global_blocks: int = 4  # number of evenly spaced blocks with global attention
    image_size: int = 1024  # side of the image that the position embeddings are for, pixels; interpolated for others
    channels: int = 256  # of the simple pyramid p2..p5
    drop_path: float = 0.1


@dataclass(frozen=True, kw_only=True)
class OwnBackboneConfig:
    """A backbone that a function or class in the user's own code makes (models/own.py)."""

    kind: Literal["own"] = "own"
    factory: str  # its import path: FILE.py:NAME or PACKAGE.MODULE:NAME
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)  # keyword arguments of the factory

    def __post_init__(self) -> None:
        set_types(self, "backbone.")
        if not self.factory:
            raise ValueError("backbone.factory is empty; expected FILE.py:NAME or PACKAGE.MODULE:NAME")
        object.__setattr__(self, "arguments", plain_arguments(self.arguments, "backbone.arguments"))


BackboneConfig = (
    ResNetConfig
    | FBNetConfig
    | CompactConfig
    | MobileNetConfig
    | MobileNetV1Config
    | VGGConfig
    | TimmConfig
    | ViTConfig
    | OwnBackboneConfig
)


@dataclass(frozen=True, kw_only=True)
class FPNConfig:
    """Feature pyramid network (Lin et al. 2017): p2..p5, and p6 by subsampling p5."""

    channels: int = 256
    norm: Norm = "none"  # training from scratch needs one (He et al. 2019)
    conv_bias: bool = False  # convolutions with a norm also have biases (tensorpack)
