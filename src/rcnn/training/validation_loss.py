"""The loss on a validation set, with train.validation_loss: it shows overfitting earlier than average precision."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from rcnn.data import Dataset
from rcnn.data.loading import numbered_batches
from rcnn.data.messages import named_images
from rcnn.models import Detector
from rcnn.runtime.processes import Processes
from rcnn.training.plan import RunPlan
from rcnn.training.targets import target_options


@torch.no_grad()
def validation_loss(detector: Detector, validation: Dataset, plan: RunPlan, processes: Processes) -> float:
    """The mean training loss over the images of `validation`, without augmentation; all processes call it together.

    Each process takes one image at a time; with several, the last group is filled up with images that were taken
    before. Batch norm uses its running statistics, and the random samples of anchors and regions are the same each
    time.
    """
    settings = replace(
        plan.settings, batch_size=1, accumulate=1, flip=0.0, scales=(), scale_range=(), jitter=0.0, augment=()
    )
    settings = replace(settings, workers=0, repeat_threshold=0.0)
    batches = numbered_batches(
        validation,
        plan.config.input,
        settings,
        targets=target_options(plan.config),
        rank=processes.rank,
        world=processes.count,
        skip_unreadable=not plan.request.strict,
    )
    count = math.ceil(len(validation) / processes.count)
    training, device, total = detector.training, detector.pixel_mean.device, 0.0
    detector.eval()
    for number in range(count):
        if processes.stopping is not None:
            processes.stopping()
        batch = batches.make(number).to(device)
        processes.doing(f"the validation loss of {named_images(batch.image_ids)}")
        seed = torch.tensor([0, number * processes.count + batch.first], device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            losses = detector.losses(batch.images, batch.targets, seed)
        total += processes.mean(torch.stack(list(losses.values())).sum()[None]).item() / count
    processes.rest()
    detector.train(training)
    return total
