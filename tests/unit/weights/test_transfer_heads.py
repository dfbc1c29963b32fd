"""Transfer to a detector with other classes: which rows of each head belong to a class."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rcnn.models import build_detector, model_config
from rcnn.models.config import CascadeConfig, DetectorConfig
from rcnn.models.overrides import override
from rcnn.weights.checkpoint import Checkpoint
from rcnn.weights.systems.converted import expected_state
from rcnn.weights.transfer import transfer

THEIRS = ("cat", "dog", "boat", "car", "bus", "cup")
OURS = ("balloon", "boat", "cat")


def checkpoint_of(config: DetectorConfig) -> Checkpoint:
    torch.manual_seed(1)
    detector = build_detector(replace(config, num_classes=len(THEIRS)))
    state = {name: torch.randn_like(value.float()).to(value.dtype) for name, value in detector.state_dict().items()}
    return Checkpoint(config=detector.config, classes=THEIRS, state=state, provenance={})


def variant(agnostic: bool, mask_heads: str) -> DetectorConfig:
    config = model_config("cascade_mask_rcnn_compact")
    assert config.mask is not None
    return replace(
        config,
        box=replace(config.box, class_agnostic=agnostic),
        mask=replace(config.mask, class_agnostic=agnostic),
        cascade=CascadeConfig(mask_heads=mask_heads),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("mask_heads", ["one", "each"])
@pytest.mark.parametrize("agnostic", [True, False])
def test_a_cascade_keeps_the_rows_of_names_that_match(agnostic: bool, mask_heads: str) -> None:
    config = variant(agnostic, mask_heads)
    checkpoint = checkpoint_of(config)
    detector = build_detector(replace(config, num_classes=len(OURS)))
    fresh = {name: value.clone() for name, value in detector.state_dict().items()}
    transfer(detector, checkpoint, OURS)
    ours, theirs = detector.state_dict(), checkpoint.state
    masks = [f"mask_head.stages.{i}.logits" for i in range(3)] if mask_heads == "each" else ["mask_head.logits"]
    per_class = {f"box_head.stages.{i}.logits": 1 for i in range(3)}
    per_class |= {} if agnostic else {f"box_head.stages.{i}.deltas": 4 for i in range(3)} | dict.fromkeys(masks, 1)
    seen = 0
    for name, value in ours.items():
        rows = per_class.get(name.rpartition(".")[0])
        if rows is None:
            assert torch.equal(value, theirs[name]), name
            continue
        seen += 1
        blocks = dict(zip([*THEIRS, "background"], theirs[name].split(rows), strict=False))
        for label, block in zip([*OURS, "background"], value.split(rows), strict=False):
            expected = fresh[name][:rows] if label == "balloon" else blocks[label]
            assert torch.equal(block, expected), (name, label)
    assert seen == 2 * len(per_class)


def test_a_box_for_each_class_does_not_come_from_one_for_all() -> None:
    checkpoint = checkpoint_of(variant(True, "one"))
    detector = build_detector(replace(variant(False, "one"), num_classes=len(OURS)))
    with pytest.raises(ValueError, match=r"built differently: box\.class_agnostic .*remove the settings"):
        transfer(detector, checkpoint, OURS)


def test_the_maps_of_fcis_are_those_of_their_class() -> None:
    config = model_config("fcis_compact")
    assert config.fcis is not None
    rows = 2 * config.fcis.groups**2
    checkpoint = checkpoint_of(config)
    detector = build_detector(replace(config, num_classes=len(OURS)))
    transfer(detector, checkpoint, OURS)
    ours, theirs = (state["box_head.maps.weight"].split(rows) for state in (detector.state_dict(), checkpoint.state))
    assert torch.equal(ours[1], theirs[2])  # boat
    assert torch.equal(ours[2], theirs[0])  # cat
    assert torch.equal(ours[3], theirs[6])  # background
    assert torch.equal(detector.state_dict()["box_head.deltas.weight"], checkpoint.state["box_head.deltas.weight"])


def test_keypoints_of_another_width_are_refused_like_other_layers() -> None:
    """The nose is in both, but its slice has another shape."""
    config = override(model_config("keypoint_rcnn_compact"), ["num_classes=1", "keypoint.convs=1"])
    assert config.keypoint is not None
    state = dict(expected_state(config))
    checkpoint = Checkpoint(config=config, classes=("person",), state=state, provenance={})
    names = ("nose", "tail")
    points = replace(config.keypoint, names=names, flip_pairs=(), sigmas=(0.1, 0.1), skeleton=(), width=32)
    with torch.device("meta"):
        detector = build_detector(replace(config, keypoint=points))
    with pytest.raises(ValueError, match=r"built differently: keypoint\.names .*; keypoint\.width is .* \(add "):
        transfer(detector, checkpoint, ("person",))
