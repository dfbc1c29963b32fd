"""The rule by which the masks of a model are pasted into the image."""

from __future__ import annotations

from rcnn.models.config import DetectorConfig
from rcnn.ops.pasting import Paste, Pasting


def pasting_of(config: DetectorConfig) -> Pasting:
    """How the masks of a detector with this `config` are pasted into the image."""
    kind: Paste = "accurate" if config.mask is None else config.mask.paste
    if config.fcis is not None:
        kind = "fitted" if config.fcis.legacy.mask_inclusive else "fitted_above"
    return Pasting(
        kind=kind,
        last_pixel_inside=config.legacy.boxes.startswith("inclusive") and kind in ("padded", "squeezed", "stretched"),
        threshold=0.5 if config.fcis is None else config.fcis.mask_threshold,
    )
