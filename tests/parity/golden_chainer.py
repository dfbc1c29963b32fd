"""The Chainer segmenters' fixtures (../shared/golden/chainer): their files, written by the tests and converted."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from rcnn.models import Detector, DetectorConfig
from rcnn.models.overrides import override
from rcnn.weights.checkpoint import empty_detector
from rcnn.weights.systems.known import convert
from tests.narrow import save_npz


def chainer_rule(shared: Path) -> ModuleType:
    """The rule that makes every array from its own name."""
    spec = importlib.util.spec_from_file_location("weights_rule_chainer", shared / "golden/weights_rule_chainer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chainer_weights(shared: Path, name: str) -> dict[str, np.ndarray]:
    """All arrays of the fixture called `name`, by the peer's names."""
    rule = chainer_rule(shared)
    arrays = json.loads((shared / "golden/chainer" / name / "names.json").read_text())["arrays"]
    weights = {}
    for key, (shape, kind, crc32) in arrays.items():
        weights[key] = rule.generate(key, shape, kind)
        assert rule.checksum(weights[key]) == crc32, f"numpy's stream has changed: {key}"
    return weights


def converted_detector(
    shared: Path, name: str, folder: Path, settings: str, changes: Sequence[str]
) -> tuple[Detector, DetectorConfig]:
    """Our detector from the peer's `.npz` by the converter a user would use, with `changes` to its config."""
    path = folder / f"{name}.npz"
    if not path.exists():
        save_npz(path, chainer_weights(shared, name))
    converted = convert(path, settings)
    config = override(converted.config, changes)
    detector = empty_detector(config)
    detector.load_state_dict(converted.state)
    return detector.eval(), config
