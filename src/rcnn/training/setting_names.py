"""The names of KEY=VALUE settings, and the values of those of training: checked before anything else is read.

A run that is planned checks them all, together and with the model. This takes seconds less.
"""

from __future__ import annotations

from collections.abc import Sequence

from rcnn.models.config import DetectorConfig
from rcnn.models.overrides import parse_value, unknown_setting
from rcnn.models.setting_ranges import require_range
from rcnn.models.setting_tables import field_types, setting_paths
from rcnn.models.setting_types import checked, default_of
from rcnn.training.length import Prefixed
from rcnn.training.settings import PREFIX, RANGES, TrainConfig, split_overrides, without_auto


def require_known(overrides: Sequence[str]) -> None:
    """ValueError for a setting that no model and no training has, and for a training value of another type or range.

    The messages are those of `override`, and of `TrainConfig`.
    """
    ours, _ = without_auto(overrides)
    model, training = split_overrides(ours)
    for root, words in ((DetectorConfig, model), (Prefixed, training)):
        known = setting_paths(root)
        for key in (word.partition("=")[0].strip() for word in words):
            # a part, a setting, or an entry of a setting that is a mapping
            if not any(f"{path}.".startswith(f"{key}.") or key.startswith(f"{path}.") for path in known):
                raise ValueError(unknown_setting(key, root))
    hints = field_types(TrainConfig)
    for word in training:
        key, _, text = word.partition("=")
        key = key.strip()
        name = key.removeprefix(PREFIX)
        if name in hints:
            value = checked(hints[name], parse_value(key, text), key, default_of(TrainConfig, name))
            if name in RANGES:
                require_range(key, value, *RANGES[name])
