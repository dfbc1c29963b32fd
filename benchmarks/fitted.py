"""An R50-FPN that detects the objects of one photo with confidence, without a download, for both peers.

An untrained network has no two scores apart: what it "detects" is decided by the last bit, and nothing can be compared.
So the heads are fitted to one annotated photo; the trunk stays as drawn. Speed is that of any weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from rcnn.data import open_dataset
from rcnn.data.images import read_image
from rcnn.data.loading import pad_images
from rcnn.data.records import Dataset
from rcnn.data.targets import Masks, collate_targets, make_sample
from rcnn.data.transforms import Sample, preprocess
from rcnn.models import Detector, build_detector
from rcnn.preprocess import build_preprocessor
from rcnn.structures import ImageBatch, Targets
from rcnn.weights.systems import torchvision as torchvision_files
from rcnn.weights.systems.torchvision import to_torchvision


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One photo as both peers get it, and as the network sees it."""

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
    sample = make_sample(record, pixels, masks=masks, keypoints=keypoints)
    small = preprocess(sample, build_preprocessor(detector.config.input))
    images = pad_images([small.image], detector.config.input.divisor, "exact")
    return Photo(
        pixels=pixels,
        sample=sample,
        images=images,
        targets=collate_targets([small], (images.pixels.shape[2], images.pixels.shape[3])),
    )


def new_detector(name: str = "maskrcnn_resnet50_fpn") -> Detector:
    """Ours, of the settings and the draw of weights of torchvision's `name`."""
    torch.manual_seed(0)
    theirs = torchvision.models.detection.__dict__[name](weights=None, weights_backbone=None)
    converted = torchvision_files.SYSTEM.convert_state(theirs.state_dict())
    config = replace(converted.config, backbone=replace(converted.config.backbone, norm="frozen_bn"))  # ty: ignore
    detector = build_detector(config)
    state = {name: value for name, value in converted.state.items() if not name.endswith("num_batches_tracked")}
    detector.load_state_dict(state)
    return detector


def settle_norms(detector: Detector, photo: Photo) -> None:
    """Give the trunk's frozen norms the statistics of the photo, so that features as drawn tell its places apart."""
    for name, value in detector.named_buffers():
        if name.endswith("conv3.norm.weight"):
            value.fill_(0.1)  # blocks add little to their shortcut, as trained ones: else every layer enlarges rounding
    config = detector.config
    learning = build_detector(replace(config, backbone=replace(config.backbone, norm="bn")))  # ty: ignore
    learning.load_state_dict(detector.state_dict(), strict=False)
    for module in learning.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        learning.train().features(photo.images)
    statistics = {name: value for name, value in learning.state_dict().items() if ".running_" in name}
    detector.load_state_dict(statistics, strict=False)


def fit_heads(detector: Detector, photo: Photo, steps: int, objects: float = 0.25) -> float:
    """Fit all but the trunk to the photo, on fewer regions a step than training takes; the loss at the end.

    `objects` is the largest part of the 128 regions that are objects.
    """
    settle_norms(detector, photo)
    config = detector.config
    learning = build_detector(
        replace(
            config,
            rpn=replace(config.rpn, proposals=replace(config.rpn.proposals, post_nms_train=300)),
            box=replace(config.box, sampling=replace(config.box.sampling, batch_size=128, positive_fraction=objects)),
        )
    )
    learning.load_state_dict(detector.state_dict())
    learning.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
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
    """`values` with noise of that part of each added."""
    return values * (1 + by * torch.randn(values.shape, generator=generator))


def torchvision_twin(detector: Detector) -> torch.nn.Module:
    """torchvision's network with the same weights and its own settings."""
    name = "keypointrcnn_resnet50_fpn" if detector.config.keypoint is not None else "maskrcnn_resnet50_fpn"
    twin = torchvision.models.detection.__dict__[name](
        weights=None, weights_backbone=None, norm_layer=torchvision.ops.FrozenBatchNorm2d
    )
    twin.load_state_dict(to_torchvision(detector.state_dict(), detector.config))
    return twin
