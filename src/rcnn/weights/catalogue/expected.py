"""Checks that a converted file is the model that its name says: the only check for files without a published digest."""

from __future__ import annotations

from pathlib import Path

from rcnn.models import MODELS, model_config
from rcnn.models.config import DetectorConfig
from rcnn.weights.catalogue.entry import Entry
from rcnn.weights.catalogue.names import CAFFE, network_name
from rcnn.weights.systems.converted import Converted


def require_model(converted: Converted, entry: Entry, file: Path) -> None:
    """Raise ValueError that names `file` and each difference unless `converted` has the architecture of `entry`.

    For models that are not in the zoo, the names are compared: converters choose the name from the architecture.
    """
    if wrong := different_parts(converted, entry):
        raise ValueError(
            f"{file} is not the file of {entry.name}: it contains {converted.config.name}; {'; '.join(wrong)}. "
            f"Delete it and get {entry.file} from {entry.source}"
        )


def different_parts(converted: Converted, entry: Entry) -> list[str]:
    """`PART: expected X, got Y` for each part of the architecture that differs from that of the entry's model."""
    if converted.kind != entry.kind:
        return [f"kind: expected {entry.kind}, got {converted.kind}"]
    if entry.kind == "backbone":
        found = _backbone(converted.config)
        return [] if found == entry.model else [f"backbone: expected {entry.model}, got {found}"]
    if entry.model not in MODELS:
        name, expected_name = (one.removesuffix(CAFFE) for one in (converted.config.name, entry.model))
        return [] if name == expected_name else [f"model: expected {expected_name}, got {name}"]
    expected, got = _parts(model_config(entry.model)), _parts(converted.config)
    if entry.data != "COCO" or converted.config.proposals_only:  # the zoo's number of classes is COCO's
        del expected["classes"]
    return [f"{part}: expected {value}, got {got[part]}" for part, value in expected.items() if value != got[part]]


def _parts(config: DetectorConfig) -> dict[str, str]:
    """The parts that decide what a detector returns, and its backbone. Widths and norms differ between publishers."""
    return {
        "masks": _yes(config.has_masks),
        "keypoints": _yes(config.keypoint is not None),
        "cascade": _yes(config.cascade is not None),
        "FCIS": _yes(config.fcis is not None),
        "only proposals": _yes(config.proposals_only),
        "classes": str(config.num_classes),
        "FPN": _yes(config.fpn is not None),
        "backbone": _backbone(config),
    }


def _yes(there: bool) -> str:
    return "yes" if there else "no"


def _backbone(config: DetectorConfig) -> str:
    """The name of the network, or the kind of backbone if its sizes have no usual name."""
    return network_name(config) or config.backbone.kind
