"""Detectron2's fixtures (../shared/golden/detectron2): its checkpoint, written by the test, and its inputs."""

from __future__ import annotations

import importlib.util
import json
import pickle
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from rcnn.models import Detector
from rcnn.models.rpn import Level
from rcnn.structures import ImageBatch, Targets
from rcnn.weights.checkpoint import empty_detector
from rcnn.weights.systems.known import convert
from tests.deviations import assert_norm_within, assert_within


def weights_rule(shared: Path) -> ModuleType:
    """The peer-independent rule that makes every tensor from its own name."""
    spec = importlib.util.spec_from_file_location("weights_rule", shared / "golden" / "weights_rule.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peer_weights(shared: Path, name: str) -> dict[str, np.ndarray]:
    """The rule's weights of a fixture, by Detectron2's names."""
    rule = weights_rule(shared)
    weights = {}
    for entry in json.loads((shared / "golden/detectron2" / name / "names.json").read_text()):
        value = rule.generate(entry["name"], entry["shape"], entry["kind"])
        assert rule.checksum(value) == entry["crc32"], f"numpy's stream has changed: {entry['name']}"
        weights[entry["name"]] = value
    return weights


def write_peer_file(shared: Path, name: str, path: Path) -> dict[str, np.ndarray]:
    """Detectron2's own file (`.pkl` of arrays or `.pth` of tensors) with the rule's weights; returns the arrays.

    They come from the file of the other form if that is there: making them takes longer than reading them.
    """
    other = path.with_suffix({".pkl": ".pth", ".pth": ".pkl"}[path.suffix])
    weights = read_peer_file(other) if other.exists() else peer_weights(shared, name)
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": weights, "__author__": "any"}))
    else:
        torch.save({"model": {name: torch.from_numpy(value) for name, value in weights.items()}}, path)
    return weights


def read_peer_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a file that `write_peer_file` wrote."""
    if path.suffix == ".pkl":
        return pickle.loads(path.read_bytes())["model"]  # noqa: S301  the test wrote it
    state: dict[str, Tensor] = torch.load(path)["model"]
    return {name: value.numpy() for name, value in state.items()}


def golden_detector(
    shared: Path, name: str, folder: Path, config: str = "config.yaml", suffix: str = ".pkl"
) -> Detector:
    """Our detector from Detectron2's file and settings, through the converter a user would use."""
    path = folder / f"{name}{suffix}"
    if not path.exists():
        write_peer_file(shared, name, path)
    converted = convert(path, shared / "golden/detectron2" / name / config)
    detector = empty_detector(converted.config)
    detector.load_state_dict(converted.state)
    return detector.eval()


def golden_images(shared: Path, divisor: int) -> ImageBatch:
    """The fixture's two images after the peer's resize, RGB, padded to a multiple of `divisor` (0: to the largest)."""
    stored = np.load(shared / "golden/detectron2/inputs.npz")
    images = [torch.from_numpy(stored[f"resized{i}"][:, :, ::-1].copy()).permute(2, 0, 1) for i in range(2)]
    sizes = torch.tensor([image.shape[1:] for image in images])
    height, width = sizes.amax(0).tolist()
    if divisor:
        height, width = (-(-side // divisor) * divisor for side in (height, width))
    pixels = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    for slot, image in zip(pixels, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return ImageBatch(pixels=pixels, sizes=sizes)


def golden_targets(shared: Path, empty: tuple[int, ...] = ()) -> Targets:
    """The fixture's ground truth, in resized pixels; images in `empty` have none."""
    stored = np.load(shared / "golden/detectron2/inputs.npz")
    places, edges_most = 9, 32  # the largest counts are 9 and 28
    boxes, labels = torch.zeros(2, places, 4), torch.zeros(2, places, dtype=torch.int64)
    valid = torch.zeros(2, places, dtype=torch.bool)
    polygons = torch.zeros(2, places, edges_most, 5)
    polygons[..., 4] = -1
    for image in set(range(2)) - set(empty):
        count = len(stored[f"gt_boxes{image}"])
        boxes[image, :count] = torch.from_numpy(stored[f"gt_boxes{image}"])
        labels[image, :count] = torch.from_numpy(stored[f"gt_classes{image}"])
        valid[image, :count] = True
        outlines = np.split(stored[f"poly_xy{image}"], np.cumsum(stored[f"poly_len{image}"])[:-1])
        filled = [0] * places
        parts = [0] * places
        for outline, owner in zip(outlines, stored[f"poly_owner{image}"], strict=True):
            points = torch.from_numpy(outline.reshape(-1, 2)).float()
            rows = slice(filled[owner], filled[owner] + len(points))
            edges = torch.cat([points, points.roll(-1, 0), torch.full((len(points), 1), float(parts[owner]))], 1)
            polygons[image, owner, rows] = edges
            filled[owner] += len(points)
            parts[owner] += 1
    return Targets(boxes=boxes, labels=labels, valid=valid, polygons=polygons)


def assert_stage(stored: dict[str, np.ndarray], key: str, value: Tensor) -> None:
    """Compare a map (B, C, H, W) with the fixture's shape, statistics and slice of it."""
    assert tuple(stored[f"{key}_shape"]) == tuple(value.shape), key
    _, channels, height, width = value.shape
    every_channel = key.startswith("rpn_")
    steps = (1 if every_channel else max(1, channels // 8), max(1, height // 10), max(1, width // 10))
    part = value[:, :: steps[0], :: steps[1], :: steps[2]]
    name = re.sub(r"(_l)?\d$", "", key)  # one row of the table for all levels
    assert_norm_within(name, part, stored[f"{key}_slice"], 5e-5)
    expected = stored[f"{key}_meanstd"]
    got = [value.double().mean().item(), value.double().std(correction=0).item()]
    assert_within(f"{name}, mean and deviation", got, expected, rtol=1e-4, atol=1e-5)


def assert_rpn_stage(stored: dict[str, np.ndarray], levels: list[Level]) -> None:
    """Compare the logits and deltas of each level with the fixture's maps."""
    for number, level in enumerate(levels):
        for name, values in (("logits", level.logits), ("deltas", level.deltas)):
            rows = values.reshape(len(values), *level.grid, -1)  # (B, H, W, A or 4 A)
            assert_stage(stored, f"rpn_{name}_l{number}", rows.permute(0, 3, 1, 2))


def assert_same_ranking(check: str, boxes: np.ndarray, stored: np.ndarray, atol: float, *, fixed: bool = False) -> None:
    """The same boxes (N, 4) in the same order; neighbours of nearly equal score may change places by rounding."""
    order = match_sets(boxes, stored, None, None)
    assert_within(check, boxes[order], stored, atol=atol, fixed=fixed)
    assert np.abs(np.array(order) - np.arange(len(order))).max() <= 1, f"{check}: not in the same order"


def match_sets(
    boxes: np.ndarray, stored: np.ndarray, labels: np.ndarray | None, stored_labels: np.ndarray | None
) -> list[int]:
    """For each stored item, the index of the computed box nearest to it, of the same class; one to one."""
    assert len(boxes) == len(stored)
    distance = np.abs(boxes[None] - stored[:, None]).max(-1)  # (stored, ours)
    if labels is not None and stored_labels is not None:
        distance = np.where(labels[None] == stored_labels[:, None], distance, np.inf)
    order = distance.argmin(1)
    assert sorted(order) == list(range(len(boxes))), "not the same set"
    return order.tolist()
