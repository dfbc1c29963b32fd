"""Settings that exist in every config, but have no effect in some models: refused where the user gives them."""

from __future__ import annotations

from rcnn.models.config import DetectorConfig
from rcnn.models.overrides import Overrides, as_overrides, override
from rcnn.models.setting_tables import setting_paths

OF_CASCADE = {"box.delta_weights": "cascade.delta_weights", "box.sampling.positive_iou": "cascade.ious"}


def override_used(config: DetectorConfig, overrides: Overrides) -> DetectorConfig:
    """Like `override`, and a setting that has no effect in the model is a ValueError, too."""
    changed = override(config, overrides)
    require_used(changed, overrides)
    return changed


def require_used(config: DetectorConfig, overrides: Overrides) -> None:
    """Raise ValueError if one of the user's `overrides`, which `config` contains, has no effect in its model."""
    for text in as_overrides(overrides):
        key = text.partition("=")[0].strip()
        if reason := _reason(config, key):
            raise ValueError(f"{key} has no effect in {config.name}: {reason}")


def _reason(config: DetectorConfig, key: str) -> str:
    """Why the setting `key` has no effect, and what to set; empty if it has one."""
    if key.partition(".")[0] == "box" and config.fcis is not None:
        return f"FCIS has no box head; {_similar(key, 'fcis')}"
    if key.partition(".")[0] == "box" and config.proposals_only:
        return f"proposals_only=true builds no box head; {_similar(key, 'rpn')}"
    if config.cascade is not None and key in OF_CASCADE:
        return f"each stage of the cascade has its own value; set {OF_CASCADE[key]}"
    return ""


def _similar(key: str, part: str) -> str:
    """What to set in `part` (fcis, rpn) instead of the setting `key` of the box head."""
    last = f".{key.rpartition('.')[2]}"
    found = [path for path in setting_paths(DetectorConfig) if path.startswith(f"{part}.") and path.endswith(last)]
    return f"set {' or '.join(found)}" if found else f"its settings start with {part}"
