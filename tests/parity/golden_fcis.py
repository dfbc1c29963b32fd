"""The Chainer ports' FCIS fixtures (../shared/golden/chainer): their file, written by the test and converted."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from rcnn.models import Detector
from rcnn.weights.checkpoint import empty_detector
from rcnn.weights.systems.converted import Converted
from rcnn.weights.systems.known import convert
from tests.narrow import save_npz

FIXTURES = ("fcis_resnet101_coco_chainercv", "fcis_resnet101_coco_chainer_fcis")
# of the fixtures: their photos are small
SETTINGS = "min_size=192 max_size=320"


def chainer_rule(shared: Path) -> ModuleType:
    """The peer-independent rule that makes every array from its own name."""
    spec = importlib.util.spec_from_file_location("weights_rule_chainer", shared / "golden/weights_rule_chainer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peer_arrays(shared: Path, name: str) -> dict[str, np.ndarray]:
    """Every array of the peer's snapshot, by its own name."""
    rule = chainer_rule(shared)
    arrays = {}
    for key, (shape, kind, crc) in json.loads((shared / "golden/chainer" / name / "names.json").read_text())[
        "arrays"
    ].items():
        arrays[key] = rule.generate(key, shape, kind)
        assert rule.checksum(arrays[key]) == crc, f"numpy's stream has changed: {key}"
    return arrays


def write_peer_file(shared: Path, name: str, folder: Path) -> Path:
    """The peer's own file, as chainer.serializers.save_npz writes it."""
    path = folder / f"{name}.npz"
    if not path.exists():
        save_npz(path, peer_arrays(shared, name))
    return path


def converted_detector(path: Path, settings: str | None = SETTINGS) -> tuple[Detector, Converted]:
    """Our detector from the peer's file, through the converter that a user would use."""
    converted = convert(path, settings)
    detector = empty_detector(converted.config)
    detector.load_state_dict(converted.state)
    return detector.eval(), converted


def xyxy(boxes: np.ndarray) -> Tensor:
    """Their boxes (N, 4), y1 x1 y2 x2, in our order."""
    return torch.from_numpy(boxes[:, [1, 0, 3, 2]].copy())


def unpacked(packed: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Bit-packed masks (N, H, W) bool."""
    bits = np.unpackbits(packed, axis=1)[:, : int(shape[1]) * int(shape[2])]
    return bits.reshape(len(packed), *(int(side) for side in shape[1:])).astype(bool)
