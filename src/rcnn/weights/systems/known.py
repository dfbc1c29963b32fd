"""One way in for weights of other systems: which system a file is from is read from its tensors' names.

To add one: a module with `recognises(names)` and `from_<system>(state, config_file, source)`, and a line in SYSTEMS.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from rcnn.weights.readers.state_dict import Found, find_weights
from rcnn.weights.systems.chainer.system import from_dena, from_wkentaro, recognises_dena, recognises_wkentaro
from rcnn.weights.systems.converted import Converted, DoesNotFit, class_names, few
from rcnn.weights.systems.d2go import from_d2go, is_d2go
from rcnn.weights.systems.detectron.system import from_detectron
from rcnn.weights.systems.detectron.system import recognises as is_detectron
from rcnn.weights.systems.detectron2.system import from_detectron2
from rcnn.weights.systems.detectron2.system import recognises as is_detectron2
from rcnn.weights.systems.fcis.mxnet import from_mxnet_fcis
from rcnn.weights.systems.fcis.mxnet import recognises as is_mxnet_fcis
from rcnn.weights.systems.fcis.system import (
    from_chainer_fcis,
    from_chainercv,
    recognises_chainer_fcis,
    recognises_chainercv,
)
from rcnn.weights.systems.mask_faster_rcnn import from_mask_faster_rcnn
from rcnn.weights.systems.mask_faster_rcnn import recognises as is_mask_faster_rcnn
from rcnn.weights.systems.matterport import from_matterport
from rcnn.weights.systems.matterport import recognises as is_matterport
from rcnn.weights.systems.mmdetection.system import from_mmdetection
from rcnn.weights.systems.mmdetection.system import recognises as is_mmdetection
from rcnn.weights.systems.tensorpack.system import from_tensorpack
from rcnn.weights.systems.tensorpack.system import recognises as is_tensorpack
from rcnn.weights.systems.torchvision import from_torchvision, is_torchvision

Settings = str | Path | None  # a system's own configuration: a file, or a name or words that the system knows


@dataclass(frozen=True, kw_only=True)
class System:
    """A system whose files we read."""

    name: str
    files: str  # what its files are
    recognises: Callable[[Collection[str]], bool]  # by the names of the tensors
    read: Callable[[Found, Settings], Converted]
    settings: str = ""  # what --config takes; empty: nothing


def _plain(function: Callable[[Mapping[str, Tensor], Settings, str], Converted]) -> Callable[..., Converted]:
    """A `from_<system>` that needs the weights and the settings alone."""
    return lambda found, settings: function(found.state, settings, found.source)


def _d2go(found: Found, settings: Settings) -> Converted:
    return from_d2go({**found.extras, "model": found.state}, found.source)


def _torchvision(found: Found, settings: Settings) -> Converted:
    return from_torchvision(found.state, found.source)


def _mmdetection(found: Found, settings: Settings) -> Converted:
    return from_mmdetection(found.state, settings, found.source, found.extras)


def _detectron(found: Found, settings: Settings) -> Converted:
    return from_detectron(found.state, settings, found.source, found.extras)


# tried in order; the first that recognises the names reads the file
SYSTEMS: tuple[System, ...] = (
    System(name="D2Go", files=".pth, .pt of FBNetV3A detectors", recognises=is_d2go, read=_d2go),
    # before Detectron2's, whose heads have the same names
    System(name="torchvision", files=".pth", recognises=is_torchvision, read=_torchvision),
    System(
        name="Detectron2",
        files=".pkl, .pth",
        recognises=is_detectron2,
        read=_plain(from_detectron2),
        settings="its YAML, or the name of one of its zoo",
    ),
    System(
        name="Detectron",
        files=".pkl of Caffe2 blobs",
        recognises=is_detectron,
        read=_detectron,
        settings="its YAML",
    ),
    System(
        name="MMDetection",
        files=".pth of 2.x and 3.x",
        recognises=is_mmdetection,
        read=_mmdetection,
        settings="its config, a .py file",
    ),
    System(
        name="tensorpack",
        files=".npz",
        recognises=is_tensorpack,
        read=_plain(from_tensorpack),
        settings="its settings, KEY=VALUE ... or a file of them",
    ),
    System(
        name="ChainerCV's FCIS",
        files=".npz",
        recognises=recognises_chainercv,
        read=_plain(from_chainercv),
        settings="arguments of FCISResNet101, KEY=VALUE ... or a YAML of them",
    ),
    System(
        name="chainer-fcis",
        files=".npz",
        recognises=recognises_chainer_fcis,
        read=_plain(from_chainer_fcis),
        settings="its demo.yaml or train.yaml, or KEY=VALUE ...",
    ),
    System(
        name="chainer-mask-rcnn (wkentaro)",
        files=".npz",
        recognises=recognises_wkentaro,
        read=_plain(from_wkentaro),
        settings="the params.yaml of its log folder, or KEY=VALUE ...",
    ),
    System(
        name="Chainer_Mask_R-CNN (DeNA)",
        files=".npz",
        recognises=recognises_dena,
        read=_plain(from_dena),
        settings="the flags it was run with (--bn2affine ...), or a file of them",
    ),
    System(
        name="mask-faster-rcnn",
        files=".pth",
        recognises=is_mask_faster_rcnn,
        read=_plain(from_mask_faster_rcnn),
        settings="its YAML (experiments/cfgs), or KEY=VALUE ...",
    ),
    System(
        name="matterport's Mask R-CNN",
        files=".h5",
        recognises=is_matterport,
        read=_plain(from_matterport),
        settings="its Config, KEY=VALUE ... or a file of what display() prints",
    ),
    System(name="MXNet's FCIS", files=".params", recognises=is_mxnet_fcis, read=_plain(from_mxnet_fcis)),
)


def known_systems() -> str:
    """The systems and their files, for people."""
    return ", ".join(f"{system.name} ({system.files})" for system in SYSTEMS)


def convert(file: str | Path, settings: Settings = None) -> Converted:
    """The detector in `file`, a checkpoint of another system; `settings` are that system's own, where it has any.

    Nothing in the file is run. Raises FileNotFoundError, or ValueError that names the file and what is wrong with it.
    """
    return convert_found(find_weights(file), settings)


def convert_found(found: Found, settings: Settings = None, allow_missing: Sequence[str] = ()) -> Converted:
    """As `convert`, of a file that is open; tensors of ours that match a pattern of `allow_missing` may lack."""
    names = list(found.state)
    for system in SYSTEMS:
        if system.recognises(names):
            if settings is not None and not system.settings:
                raise ValueError(
                    f"{settings}: files of {system.name} come without settings, as {found.source} does; leave it out"
                )
            converted = _read(system, found, settings, allow_missing)
            return replace(converted, system=converted.system or system.name, left=(*converted.left, *found.left))
    if "box_head.logits.weight" in names and "rpn.objectness.weight" in names:
        raise ValueError(f"{found.source} is of a checkpoint of ours: commands take the folder that it is in")
    raise ValueError(f"{found.source} is of no system we know: its tensors are {few(names)}. Known: {known_systems()}")


def _read(system: System, found: Found, settings: Settings, allow_missing: Sequence[str]) -> Converted:
    """What `system` makes of the file, as far as it goes where what is missing may be."""
    try:
        return system.read(found, settings)
    except DoesNotFit as error:
        if not error.missing:
            raise
        if not all(any(fnmatch.fnmatchcase(name, p) for p in allow_missing) for name in error.missing):
            raise ValueError(f"{error}; --allow-missing PATTERN gives those that match initial values") from error
        config = error.config
        return Converted(
            config=config,
            state=dict(error.state),
            classes=class_names(config.num_classes),
            report=f"{system.name} {config.name}, incomplete; settings as for a whole file",
        )
    except KeyError as error:
        raise ValueError(f"{found.source} looks like {system.name}'s, but has no tensor {error}") from error
