"""The supported frameworks. The names of the tensors show which one wrote a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rcnn.data.messages import few
from rcnn.weights.readers.state_dict import Found, find_weights
from rcnn.weights.systems import d2go, imagenet, mask_faster_rcnn, maskrcnn_benchmark, matterport, timm, torchvision
from rcnn.weights.systems.chainer import system as chainer
from rcnn.weights.systems.converted import Converted
from rcnn.weights.systems.detectron import system as detectron
from rcnn.weights.systems.detectron2 import system as detectron2
from rcnn.weights.systems.fcis import system as fcis
from rcnn.weights.systems.mmdetection import system as mmdetection
from rcnn.weights.systems.settings import SettingsSource
from rcnn.weights.systems.system import Export, System
from rcnn.weights.systems.tensorpack import system as tensorpack

# tried in order; the first that recognises the names reads the file
SYSTEMS: tuple[System, ...] = (
    d2go.SYSTEM,
    maskrcnn_benchmark.SYSTEM,
    torchvision.SYSTEM,  # before Detectron2: its heads have the same names
    detectron2.SYSTEM,
    detectron.SYSTEM,
    mmdetection.SYSTEM,
    tensorpack.SYSTEM,
    fcis.CHAINERCV,
    fcis.CHAINER_FCIS,
    chainer.WKENTARO,
    chainer.DENA,
    mask_faster_rcnn.SYSTEM,
    matterport.SYSTEM,
    fcis.MXNET,
    *imagenet.SYSTEMS,
    timm.SYSTEM,
)
EXPORTS: dict[str, tuple[System, Export]] = {
    system.export.option: (system, system.export)
    for system in sorted(SYSTEMS, key=lambda system: system.name)
    if system.export is not None
}


def convert(file: str | Path, settings: SettingsSource = None) -> Converted:
    """The weights in `file`, a checkpoint of another system; `settings` are that system's own.

    Nothing in the file is run. Raises FileNotFoundError, or ValueError that names the file and what is wrong with it.
    """
    return convert_found(find_weights(file), settings)


def convert_found(
    found: Found,
    settings: SettingsSource = None,
    *,
    overrides: Sequence[str] = (),
    allow_missing: Sequence[str] = (),
) -> Converted:
    """Like `convert`, for an opened file.

    `overrides` are KEY=VALUE of rcnn's config, `allow_missing` patterns of rcnn's tensor names that may be missing.
    """
    names = list(found.state)
    for system in SYSTEMS:
        if system.recognises(names):
            return system.convert(found, settings, overrides=overrides, allow_missing=allow_missing)
    if "box_head.logits.weight" in names and "rpn.objectness.weight" in names:
        raise ValueError(f"{found.source} belongs to an rcnn checkpoint: give commands the folder that it is in")
    known = ", ".join(f"{system.name} ({system.files})" for system in SYSTEMS if system.kind == "detector")
    raise ValueError(
        f"{found.source} belongs to no known system: its tensors are {few(names)}. Expected a file of {known}, "
        "an ImageNet ResNet or MobileNetV3, or a backbone of timm"
    )
