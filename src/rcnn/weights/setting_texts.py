"""Settings of a config by dotted key (box.selection.nms_iou), and their values as they are typed on a command line."""

from __future__ import annotations

from collections.abc import Mapping

from rcnn.models import DetectorConfig
from rcnn.models.overrides import config_from_dict, config_to_dict


def setting_values(config: DetectorConfig) -> dict[str, object]:
    """The value of each setting by its dotted key. A part that is switched off is None, e.g. `fpn`."""
    return _flat(config_to_dict(config), "")


def with_settings(config: DetectorConfig, values: Mapping[str, object]) -> DetectorConfig:
    """`config` with `values` (by dotted key), set together and then checked. Raises ValueError like `override`."""
    content = config_to_dict(config)
    for key, value in values.items():
        *parts, last = key.split(".")
        node = content
        for part in parts:
            node = node[part]
        node[last] = value
    return config_from_dict(content)


def value_text(value: object) -> str:
    """`value` as it is written in KEY=VALUE: true, 0.5, [[32,64],[128]]."""
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(value_text(each) for each in value) + "]"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _flat(values: Mapping[str, object], prefix: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
