"""Reads a converted checkpoint back and runs it once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.data.messages import counted, few
from rcnn.models import build_detector
from rcnn.models.config import DetectorConfig
from rcnn.structures import ImageBatch
from rcnn.weights.checkpoint import empty_detector, load_checkpoint
from rcnn.weights.files import WEIGHTS_FILE
from rcnn.weights.readers.torch_files import read_safetensors

CHUNK = 1 << 22  # numbers compared at a time
CURE = "check the settings of its framework (--config), or use another checkpoint"
SIDES = (224, 288)  # height, width of the image: small, and a multiple of every stride


def generated_image(seed: int = 0) -> Tensor:
    """An image (3, H, W) uint8 RGB of shaded shapes on a textured background; deterministic for a `seed`."""
    rng = np.random.default_rng(seed)
    height, width = SIDES
    ground = torch.from_numpy(rng.random((1, 3, 7, 9)))
    picture = F.interpolate(ground, (height, width), mode="bilinear", align_corners=True)[0].permute(1, 2, 0).numpy()
    rows, columns = np.mgrid[:height, :width]
    for _ in range(4):
        y, x, tall, wide = rng.integers((30, 30, 20, 20), (height - 30, width - 30, 60, 60))
        inside = ((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2 < 1
        light = 0.6 + 0.4 * (columns - x + rows - y) / (tall + wide)
        picture[inside] = rng.random(3) * light[inside][:, None]
    return torch.from_numpy((picture.clip(0, 1) * 255).astype(np.uint8)).permute(2, 0, 1).contiguous()


def check_detector(folder: Path) -> str:
    """Run the checkpoint in `folder`; returns a line about the result. Raises ValueError for NaN or infinity."""
    checkpoint = load_checkpoint(folder)
    detector = empty_detector(checkpoint.config)
    detector.load_state_dict(checkpoint.state, assign=True)  # assigned: no tensor is in memory twice
    detector.eval()
    with torch.inference_mode():
        found = detector.predict(_batch(checkpoint.config))
    values = {"boxes": found.boxes, "scores": found.scores, "masks": found.masks, "keypoints": found.keypoints}
    real = {name: value[found.valid] for name, value in values.items() if value is not None}
    if wrong := [name for name, value in real.items() if not bool(value.isfinite().all())]:
        raise ValueError(
            f"the converted network gives NaN or infinity in its {few(wrong)} on a generated image: {CURE}"
        )
    best = f", the best scored {real['scores'].max():.3f}" if len(real["scores"]) else ""
    return (
        f"self-check: read back bit for bit; on a generated image of {SIDES[1]} x {SIDES[0]} pixels, "
        f"{counted(len(real['scores']), 'detection')}{best}; all finite"
    )


def check_backbone(folder: Path) -> str:
    """Like `check_detector`, for a checkpoint that contains only a backbone."""
    checkpoint = load_checkpoint(folder)
    detector = build_detector(checkpoint.config)
    detector.load_state_dict(checkpoint.state, strict=False)
    detector.eval()
    with torch.inference_mode():
        features = detector.backbone(detector.normalize(_batch(checkpoint.config)))
    if wrong := [name for name, value in features.items() if not bool(value.isfinite().all())]:
        raise ValueError(
            f"the converted backbone gives NaN or infinity in its features {few(wrong)} on a generated image: {CURE}"
        )
    deviations = ", ".join(f"{name} {value.std():.3g}" for name, value in features.items() if value.ndim == 4)
    return (
        "self-check: read back bit for bit; standard deviation of its features on a generated image: "
        f"{deviations}; all finite"
    )


def _batch(config: DetectorConfig) -> ImageBatch:
    pixels = generated_image()
    if config.input.divisor:
        down, right = (-side % config.input.divisor for side in SIDES)
        pixels = F.pad(pixels, (0, right, 0, down))
    return ImageBatch(pixels=pixels[None], sizes=torch.tensor([SIDES]))


def require_same(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the weight file has the bits of `state`; one tensor at a time is read into memory."""
    stored = read_safetensors(folder / WEIGHTS_FILE)  # not mapped: the pages of a mapped file count as memory
    other = list(set(stored) ^ set(state))
    other += [
        name for name in set(stored) & set(state) if not _same_bits(torch.as_tensor(stored[name].read()), state[name])
    ]
    if other:
        raise ValueError(
            f"{folder.parent} returns different values from those written ({few(sorted(other))}): check the disk, or "
            "choose another output"
        )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same bits, NaN included."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    pairs = zip(*(value.reshape(-1).split(CHUNK) for value in (a, b)), strict=True)
    return all(torch.equal(*(each.contiguous().view(torch.uint8) for each in pair)) for pair in pairs)
