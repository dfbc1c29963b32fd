"""Whole models in benchmarks/gpu.py: no waiting for the device, compiled equals eager, times beside torchvision's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn

from gpu_report import Report
from rcnn.models import Detector, build_detector, model_config
from rcnn.models.inference import prepare_for_inference
from rcnn.models.overrides import override
from rcnn.structures import Detections, ImageBatch, Targets

COMPACT = [
    "faster_rcnn_compact",
    "mask_rcnn_compact",
    "cascade_mask_rcnn_compact",
    "keypoint_rcnn_compact",
    "fcis_compact",
]
OBJECTS = 8  # per image


def batch_of(device: torch.device, count: int, height: int, width: int) -> tuple[ImageBatch, Targets]:
    """Noise images of (height, width), each with 8 diamonds as objects: boxes, polygons, bitmaps and keypoints."""
    images = ImageBatch(
        pixels=torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8),
        sizes=torch.tensor([[height, width]] * count),
    )
    corner = torch.rand(count, OBJECTS, 2) * torch.tensor([width, height]) * 0.7
    boxes = torch.cat([corner, corner + torch.tensor([width, height]) * 0.25], -1)
    x1, y1, x2, y2 = boxes.unbind(-1)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    points = torch.stack([torch.stack(p, -1) for p in ((x, y1), (x2, y), (x, y2), (x1, y))], 2)  # (B, G, 4, 2)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    bitmaps = (columns >= x1[..., None, None]) & (columns < x2[..., None, None])
    bitmaps = bitmaps & (rows >= y1[..., None, None]) & (rows < y2[..., None, None])
    targets = Targets(
        boxes=boxes,
        labels=torch.zeros(count, OBJECTS, dtype=torch.int64),
        valid=torch.ones(count, OBJECTS, dtype=torch.bool),
        polygons=torch.cat([points, points.roll(-1, 2), torch.zeros(count, OBJECTS, 4, 1)], -1),
        bitmaps=bitmaps,
        keypoints=torch.stack([x, y, torch.full_like(x, 2.0)], -1)[:, :, None].expand(-1, -1, 17, -1).contiguous(),
    )
    return images.to(device), targets.to(device)


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """An error where the program waits for the GPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def sync_checks(report: Report) -> None:
    """Prediction and a training step of every compact model, without waiting for the device."""
    for name in COMPACT[1:2] if report.tiny else COMPACT:
        detector = build_detector(model_config(name)).to(report.device)
        images, targets = batch_of(report.device, 2, 64, 96)
        seed = torch.zeros((), dtype=torch.int64, device=report.device)
        predict = detector.eval().predict
        predict(images)  # first calls compile the kernels and load libraries, which may wait
        loss(detector.train(), images, targets, seed).backward()
        with report.checking(f"{name}: predict does not wait"), no_waiting(report.device):
            detector.eval().predict(images)
        with report.checking(f"{name}: a training step does not wait"), no_waiting(report.device):
            loss(detector.train(), images, targets, seed).backward()


def loss(detector: Any, images: ImageBatch, targets: Targets, seed: Tensor) -> Tensor:
    """The sum of the losses."""
    return torch.stack(list(detector(images, targets, seed).values())).sum()


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """One graph, with CUDA graphs on a GPU; on the CPU traced only."""
    if device.type == "cuda":
        return torch.compile(function, fullgraph=True, dynamic=False, mode="reduce-overhead")
    return torch.compile(function, fullgraph=True, dynamic=False, backend="eager")


def compiled_checks(report: Report) -> None:
    """Compiled prediction and losses of the compact models against eager ones."""
    for name in COMPACT[1:2] if report.tiny else COMPACT[1:4:2]:
        detector = build_detector(model_config(name)).to(report.device)
        images, targets = batch_of(report.device, 2, 64, 96)
        seed = torch.zeros((), dtype=torch.int64, device=report.device)
        with report.checking(f"{name}: compiled predict equals eager"):
            expected: Detections = detector.eval().predict(images)
            found: Detections = compiled(detector.predict, report.device)(images)
            torch.testing.assert_close(found.scores.sort()[0], expected.scores.sort()[0], rtol=1e-3, atol=1e-3)
        with report.checking(f"{name}: compiled losses equal eager ones"):
            eager = loss(detector.train(), images, targets, seed)
            again = loss(compiled(detector, report.device), images, targets, seed)
            torch.testing.assert_close(again, eager, rtol=1e-3, atol=1e-3)
        torch.compiler.reset()


def inference_rows(report: Report) -> None:
    """Mask R-CNN R50-FPN, 100 detections per image, ours and torchvision's."""
    height, width = (64, 96) if report.tiny else (800, 1344)
    config = override(
        model_config("mask_rcnn_compact" if report.tiny else "mask_rcnn_r50_fpn"), ["box.score_threshold=0"]
    )
    ours = prepare_for_inference(build_detector(config), "bfloat16").to(report.device)
    theirs = None if report.tiny else their_model(report.device).eval()
    # a dry run compiles for the checks only, which takes most of its time
    fast = ours.predict if report.tiny else compiled(ours.predict, report.device)
    for count in (1,) if report.tiny else (1, 8, 16):
        images, _ = batch_of(report.device, count, height, width)
        what = f"predict {height}x{width}, batch {count}"
        report.measure(f"{what}, rcnn bfloat16", lambda images=images: ours.predict(images))
        report.measure(f"{what}, rcnn bfloat16 compiled", lambda images=images: fast(images))
        if theirs is not None:
            pixels = list(images.pixels.float() / 255)
            for bf16 in (False, True):
                report.measure(
                    f"{what}, torchvision {'autocast' if bf16 else 'float32'}",
                    lambda pixels=pixels, bf16=bf16: predict_theirs(theirs, pixels, bf16),
                )
    torch.compiler.reset()


def their_model(device: torch.device) -> Any:
    """torchvision's Mask R-CNN R50-FPN, which keeps the size of its input."""
    sizes = {"min_size": 800, "max_size": 1344, "box_score_thresh": 0.0}
    return maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, **sizes).to(device)


@torch.no_grad()
def predict_theirs(model: Any, pixels: list[Tensor], bf16: bool) -> Any:
    """Detections of torchvision, masks in their boxes pasted, as it always does."""
    with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
        return model(pixels)


def training_rows(report: Report) -> None:
    """A training step with its optimizer, batch 16, ours and torchvision's reference."""
    height, width, count = (64, 96, 2) if report.tiny else (800, 1344, 16)
    images, targets = batch_of(report.device, count, height, width)
    detector = build_detector(model_config("mask_rcnn_compact" if report.tiny else "mask_rcnn_r50_fpn"))
    detector = detector.to(report.device).to(memory_format=torch.channels_last).train()
    what = f"training step {height}x{width}, batch {count}"
    report.measure(f"{what}, rcnn bfloat16", our_step(detector, detector, images, targets), repeats=5)
    fast = detector if report.tiny else torch.compile(detector, fullgraph=True, dynamic=False)
    report.measure(f"{what}, rcnn bfloat16 compiled", our_step(detector, fast, images, targets), repeats=5)
    if not report.tiny:
        for bf16 in (False, True):
            name = f"{what}, torchvision {'autocast' if bf16 else 'float32'}"
            report.measure(name, their_step(report.device, images, targets, bf16), repeats=5)
    torch.compiler.reset()


def our_step(detector: Detector, model: Any, images: ImageBatch, targets: Targets) -> Callable[[], None]:
    """Forward, backward and the fused optimizer; no value is read."""
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, fused=True)
    device = images.pixels.device
    seed = torch.zeros((), dtype=torch.int64, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(model, images, targets, seed)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def their_step(device: torch.device, images: ImageBatch, targets: Targets, bf16: bool) -> Callable[[], None]:
    """The step of torchvision's references/detection/engine.py."""
    model = their_model(device).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)
    if targets.bitmaps is None:
        raise ValueError("torchvision needs bitmaps")
    entries = [
        {"boxes": boxes, "labels": labels + 1, "masks": masks.to(torch.uint8)}
        for boxes, labels, masks in zip(targets.boxes, targets.labels, targets.bitmaps, strict=True)
    ]
    pixels = list(images.pixels.float() / 255)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            value = torch.stack(list(model(pixels, entries).values())).sum()
        value.item()  # the reference loop reads the loss at each step
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step
