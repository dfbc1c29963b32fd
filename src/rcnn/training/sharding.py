"""Weights that are divided among the processes (torch's fully_shard): each holds its part of every large tensor.

For vision transformers, if weights, gradients, optimizer state and activations do not fit on one device. The weights
of a layer are gathered just before it is used, and dropped afterwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rcnn.models import Detector, DetectorConfig
from rcnn.models.backbones.vit import ViT
from rcnn.models.config import ViTConfig
from rcnn.training.settings import TrainConfig
from rcnn.weights.checkpoint import empty_detector


def require_divisible(config: DetectorConfig, settings: TrainConfig) -> None:
    """ValueError if `train.shard` is set for a model that cannot be divided."""
    if settings.shard and not isinstance(config.backbone, ViTConfig):
        raise ValueError(
            "train.shard=true divides the layers of a plain vision transformer (backbone.kind=vit), but "
            f"{config.name} has backbone.kind={config.backbone.kind}: leave train.shard out"
        )


def shard(detector: Detector, processes: int) -> None:
    """Divide the weights of `detector`, those of the first process, among the processes, in place.

    Each attention and each MLP of the transformer is a separate FSDP unit; the rest of the detector is another one.
    """
    for value in (*detector.parameters(), *detector.buffers()):
        dist.broadcast(value.detach(), src=0)
    # fully_shard warns that its wrapped modules return views, which must not be changed in place: ViT.forward does not
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    mesh = dist.init_device_mesh(detector.pixel_mean.device.type, (processes,))
    assert isinstance(detector.backbone, ViT)
    for block in detector.backbone.blocks:  # not the block itself, because ViT never calls its forward
        fully_shard(block.attn, mesh=mesh)
        fully_shard(block.mlp, mesh=mesh)
    fully_shard(detector, mesh=mesh)


@contextmanager
def without_reducing(model: FSDPModule) -> Iterator[None]:
    """A block in which backward passes add to the gradients of this process only."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor that is divided; any other tensor itself."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """The whole of a tensor that is divided, on the CPU; any other tensor itself. All processes call it together."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def whole_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """`state`, of a module or an optimizer, with whole tensors. All processes call it together."""
    return {key: _whole(value) for key, value in state.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    return whole(value) if isinstance(value, Tensor) else value


def whole_detector(detector: Detector) -> Detector:
    """`detector` with all its weights in this process, for predictions: a copy if they are divided.

    All processes call it together.
    """
    if not isinstance(detector, FSDPModule):
        return detector
    copied = empty_detector(detector.config).to(detector.pixel_mean.device, next(detector.parameters()).dtype)
    copied.load_state_dict(whole_state(detector.state_dict()))
    return copied.requires_grad_(False).train(detector.training)


def divided(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of the whole tensor `value`, if `like` is divided; else `value` itself."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def divided_state(state: Mapping[str, Tensor], detector: nn.Module) -> dict[str, Tensor]:
    """The whole tensors of `state`, divided like the tensors of `detector` with the same name and shape."""
    own = detector.state_dict()
    fits = {name for name, value in state.items() if name in own and own[name].shape == value.shape}
    return {name: divided(value, own[name]) if name in fits else value for name, value in state.items()}
