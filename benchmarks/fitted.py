"""An R50-FPN that detects the objects of one photo with confidence, without a download, for both peers.

An untrained network has no two scores apart: what it "detects" is decided by the last bit, and nothing can be compared.
So the heads are fitted to one annotated photo; the trunk stays as drawn. Speed is that of any weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection import FasterRCNN, keypointrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

from rcnn.data import open_dataset
from rcnn.data.images import read_image
from rcnn.data.loading import pad_images
from rcnn.data.records import Dataset
from rcnn.data.targets import Masks, TargetOptions, collate_targets, make_sample
from rcnn.data.transforms import Sample, preprocess
from rcnn.models import Detector, build_detector
from rcnn.models.config import DetectorConfig, Norm, ResNetConfig
from rcnn.models.heads.box import BoxHead
from rcnn.models.layers import FrozenBatchNorm2d
from rcnn.preprocess import build_preprocessor
from rcnn.structures import ImageBatch, Targets
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems import torchvision as torchvision_files
from rcnn.weights.systems.torchvision import to_torchvision


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One photo, as both peers get it and as the network sees it."""

    pixels: Tensor  # (3, H, W) uint8 RGB, as decoded
    sample: Sample  # the same at its own size, with its objects
    images: ImageBatch  # resized and padded
    targets: Targets


def open_photo(data: Path, split: str, index: int, detector: Detector, masks: Masks | None = "bitmap") -> Photo:
    """Image `index` of a data set; its labels are spread over the detector's classes as they are."""
    keypoints = detector.config.keypoint is not None
    dataset: Dataset = open_dataset(data, split, keypoints=keypoints)
    record = dataset[index]
    pixels = read_image(record.path)
    sample = make_sample(record, pixels, TargetOptions(masks=masks, keypoints=keypoints))
    small, _ = preprocess(sample, build_preprocessor(detector.config.input))
    images = pad_images([small.image], detector.config.input.divisor, "exact")
    return Photo(
        pixels=pixels,
        sample=sample,
        images=images,
        targets=collate_targets([small], (images.pixels.shape[2], images.pixels.shape[3])),
    )


def new_detector(name: str = "maskrcnn_resnet50_fpn") -> Detector:
    """Our detector with the settings and random weights of torchvision's `name`."""
    torch.manual_seed(0)
    theirs = torchvision.models.detection.__dict__[name](weights=None, weights_backbone=None)
    converted = torchvision_files.SYSTEM.convert(Found(state=theirs.state_dict()))
    detector = build_detector(with_norm(converted.config, "frozen_bn"))
    state = {name: value for name, value in converted.state.items() if not name.endswith("num_batches_tracked")}
    detector.load_state_dict(state)
    return detector


def with_norm(config: DetectorConfig, norm: Norm) -> DetectorConfig:
    """`config` of a ResNet detector, with another norm in its backbone."""
    if not isinstance(config.backbone, ResNetConfig):
        raise TypeError(f"got the backbone {config.backbone.kind}; expected a resnet")
    return replace(config, backbone=replace(config.backbone, norm=norm))


def settle_norms(detector: Detector, images: ImageBatch) -> None:
    """Set the norms' statistics to those of `images`, so that random features are neither alike nor endless.

    As drawn, each block of a deep network enlarges its input, until the last maps overflow.
    """
    for name, value in [*detector.named_buffers(), *detector.named_parameters()]:
        if name.endswith("conv3.norm.weight"):
            value.detach().fill_(0.1)  # blocks add little to their shortcut, as trained ones: rounding stays small

    def settle(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.get_buffer("running_mean").copy_(mean)
        norm.get_buffer("running_var").copy_(variance)

    norms = [module for module in detector.modules() if isinstance(module, FrozenBatchNorm2d | _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    detector.eval().predict(images)
    for hook in hooks:
        hook.remove()


def fit_heads(detector: Detector, photo: Photo, steps: int, objects: float = 0.25) -> float:
    """Fit all but the backbone to the photo, on fewer regions per step than training uses; return the final loss.

    `objects` is the largest part of the 128 regions that are objects.
    """
    settle_norms(detector, photo.images)
    config = detector.config
    learning = build_detector(
        replace(
            config,
            rpn=replace(config.rpn, proposals=replace(config.rpn.proposals, post_nms_train=300)),
            box=replace(config.box, sampling=replace(config.box.sampling, batch_size=128, positive_fraction=objects)),
        )
    )
    learning.load_state_dict(detector.state_dict())
    learning.to(memory_format=torch.channels_last).train()
    with torch.no_grad():
        maps = learning.features(photo.images)
    noise = torch.Generator().manual_seed(0)
    # what another order of additions, or bfloat16, changes must not decide what is found
    learning.features = lambda images: {  # type: ignore[method-assign]
        name: rattled(value, noise) for name, value in maps.items()
    }
    heads = [learning.rpn, learning.box_head, learning.mask_head, learning.keypoint_head]
    parameters = [parameter for head in heads if head is not None for parameter in head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    loss = torch.zeros(())
    for step in range(steps):
        loss = torch.stack(list(learning.losses(photo.images, photo.targets, torch.tensor(step)).values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    detector.load_state_dict(learning.state_dict())
    return float(loss.detach())


def rattled(values: Tensor, generator: torch.Generator, by: float = 0.05) -> Tensor:
    """`values` with relative noise of size `by` added."""
    return values * (1 + by * torch.randn(values.shape, generator=generator))


def set_score_threshold(detector: Detector, threshold: float) -> None:
    """Report detections that score `threshold` or higher."""
    if not isinstance(detector.box_head, BoxHead):
        raise TypeError(f"got {type(detector.box_head).__name__}; expected a detector with a box head")
    detector.box_head.config = replace(detector.box_head.config, score_threshold=threshold)


def torchvision_twin(detector: Detector, score_threshold: float = 0.05) -> FasterRCNN:
    """torchvision's network with the same weights and its own settings, except for the score threshold."""
    build = keypointrcnn_resnet50_fpn if detector.config.keypoint is not None else maskrcnn_resnet50_fpn
    twin = build(
        weights=None,
        weights_backbone=None,
        norm_layer=torchvision.ops.FrozenBatchNorm2d,
        box_score_thresh=score_threshold,
    )
    twin.load_state_dict(to_torchvision(detector.state_dict(), detector.config))
    return twin
