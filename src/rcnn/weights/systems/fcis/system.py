"""FCIS of the two Chainer ports (`.npz`): ChainerCV's and knorth55's chainer-fcis.

The two differ in names, in what their code computes (models/zoo/fcis.py) and in one epsilon each: ChainerCV's first
norm, chainer-fcis's norms of the shortcuts, both 2e-5 where all others have 1e-5. Boxes are y, x, height, width.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from rcnn.models.config import DetectorConfig, ResNetConfig
from rcnn.models.zoo.fcis import fcis_r101_coco_chainer, fcis_r101_coco_chainercv
from rcnn.weights.systems.converted import Converted, require_fit, unplaced
from rcnn.weights.systems.fcis.names import YXYX, Layout, config_of, converted_tensor, names_of

EPS = 2e-5  # where it is not the 1e-5 of the rest
LAYOUT = Layout(coordinates=YXYX, interleaved=True)
COMMON = (
    (r"rpn/conv1", lambda found: "rpn.convs.0"),
    (r"rpn/score", lambda found: "rpn.objectness"),
    (r"rpn/loc", lambda found: "rpn.deltas"),
)
Layers = tuple[tuple[str, Callable[[re.Match[str]], str]], ...]


def _block(found: re.Match[str]) -> str:
    """Stage and block of names such as res4/b7, res4/res4_b7 and res4/a."""
    return f"backbone.res{found[1]}.{found[2][1:] or 0}"


CHAINERCV: Layers = (
    *COMMON,
    (r"extractor/conv1/(?:conv|bn)", lambda found: "backbone.stem.conv1"),
    (r"extractor/res(\d)/(a|b\d+)/(conv\d)/(?:conv|bn)", lambda found: f"{_block(found)}.{found[3]}"),
    (r"extractor/res(\d)/(a|b\d+)/residual_conv/(?:conv|bn)", lambda found: f"{_block(found)}.shortcut"),
    (r"head/conv1", lambda found: "box_head.reduce"),
    (r"head/cls_seg", lambda found: "box_head.maps"),
    (r"head/ag_loc", lambda found: "box_head.deltas"),
)
CHAINER_FCIS: Layers = (
    *COMMON,
    (r"extractor/res1/(?:conv|bn)1", lambda found: "backbone.stem.conv1"),
    (r"extractor/res(\d)/res\1_(a|b\d+)/(?:conv|bn)([123])", lambda found: f"{_block(found)}.conv{found[3]}"),
    (r"extractor/res(\d)/res\1_(a|b\d+)/(?:conv|bn)4", lambda found: f"{_block(found)}.shortcut"),
    (r"head/psroi_conv1", lambda found: "box_head.reduce"),
    (r"head/psroi_conv2", lambda found: "box_head.maps"),
    (r"head/psroi_conv3", lambda found: "box_head.deltas"),
)
VALUES = {
    "W": "weight", "b": "bias", "gamma": "norm.weight", "beta": "norm.bias",
    "avg_mean": "norm.running_mean", "avg_var": "norm.running_var",
}  # fmt: skip
COUNTER = re.compile(r".*/bn\d?/N")  # how many batches a norm has seen
# their settings that a detector has; some of them had other names once
SETTINGS: dict[str, Callable[[DetectorConfig, Any], DetectorConfig]] = {
    "min_size": lambda config, value: replace(config, input=replace(config.input, min_size=int(value))),
    "max_size": lambda config, value: replace(config, input=replace(config.input, max_size=int(value))),
    "anchor_scales": lambda config, value: replace(
        config,
        rpn=replace(
            config.rpn, anchors=replace(config.rpn.anchors, sizes=(tuple(16.0 * float(scale) for scale in value),))
        ),
    ),
    "proposal_min_size": lambda config, value: _proposals(config, {"min_size": value}),
    "proposal_creator_params": lambda config, value: _proposals(config, dict(value)),
    "score_thresh": lambda config, value: _fcis(config, score_threshold=float(value)),
    "nms_thresh": lambda config, value: _fcis(config, nms_iou=float(value)),
    "mask_merge_thresh": lambda config, value: _fcis(config, vote_iou=float(value)),
    "binary_thresh": lambda config, value: _fcis(config, mask_threshold=float(value)),
    "min_drop_size": lambda config, value: _fcis(config, min_size=float(value)),
    "limit": lambda config, value: _fcis(config, max_detections=int(value)),
    "iter2": lambda config, value: _fcis(config, refine=bool(value)),
}
ALIASES = {"target_height": "min_size", "max_width": "max_size", "merge_thresh": "mask_merge_thresh"}
OF_THE_RUN = re.compile(r"seed|random_seed|gpu|out|config|resume|use_sbd|dataset|.*(epoch|iter|lr|cooldown|warmup).*")


def recognises_chainercv(names: Collection[str]) -> bool:
    """Whether tensors of these names are of ChainerCV's FCIS."""
    return "head/ag_loc/W" in names


def recognises_chainer_fcis(names: Collection[str]) -> bool:
    """Whether tensors of these names are of chainer-fcis."""
    return "head/psroi_conv1/W" in names


def from_chainercv(state: Mapping[str, Tensor], config_file: str | Path | None = None, source: str = "") -> Converted:
    """ChainerCV's `state`; `config_file` has arguments of its FCISResNet101, YAML or KEY=VALUE words.

    Raises ValueError that names `source` and the tensors or settings that have no place.
    """
    base, sbd = fcis_r101_coco_chainercv(), "fcis_r101_sbd_chainercv"
    return _converted(state, config_file, source, "ChainerCV's FCIS", CHAINERCV, base, sbd)


def from_chainer_fcis(
    state: Mapping[str, Tensor], config_file: str | Path | None = None, source: str = ""
) -> Converted:
    """chainer-fcis's `state`; `config_file` is its demo.yaml or train.yaml, or KEY=VALUE words.

    Raises ValueError that names `source` and the tensors or settings that have no place.
    """
    base, sbd = fcis_r101_coco_chainer(), "fcis_r101_sbd_chainer"
    return _converted(state, config_file, source, "chainer-fcis", CHAINER_FCIS, base, sbd)


def _converted(
    state: Mapping[str, Tensor],
    config_file: str | Path | None,
    source: str,
    system: str,
    layers: Layers,
    base: DetectorConfig,
    sbd: str,
) -> Converted:
    source = source or "the state dict"
    left = tuple(name for name in state if COUNTER.fullmatch(name))
    ours = {name: rename(name, layers) for name in state if not COUNTER.fullmatch(name)}
    if unknown := [name for name, our in ours.items() if our is None]:
        raise ValueError(f"{source} looks like {system}'s, but has {unplaced(unknown)}")
    config, assumed = config_of(state, lambda name: ours.get(name), base, sbd, source)
    config, said = _with_settings(config, config_file)
    eps = config.backbone.norm_eps if isinstance(config.backbone, ResNetConfig) else 1e-5
    tensors = {}
    for name, our in ours.items():
        assert our is not None
        value = converted_tensor(our, state[name], LAYOUT, source)
        wider = "backbone.stem." if layers is CHAINERCV else ".shortcut."
        if wider in our and our.endswith("running_var"):
            value = value + (EPS - eps)
        tensors[our] = value
    require_fit(config, tensors, source)
    return Converted(
        config=config,
        state=tensors,
        classes=names_of(config.num_classes),
        report=f"{system} {config.name}, {len(tensors)} tensors, {config.num_classes} classes",
        system=system,
        assumed=(*(() if config_file is not None else assumed), *said),
        left=left,
    )


def rename(name: str, layers: Layers) -> str | None:
    """Our name for theirs; None for one that has no counterpart here."""
    layer, _, value = name.rpartition("/")
    if value in VALUES:
        for theirs, ours in layers:
            if found := re.fullmatch(theirs, layer):
                return f"{ours(found)}.{VALUES[value]}"
    return None


def _with_settings(config: DetectorConfig, given: str | Path | None) -> tuple[DetectorConfig, tuple[str, ...]]:
    """`config` by the settings of a file or of words, and a sentence about those that play no part."""
    if given is None:
        return config, ()
    ignored = []
    for key, value in _read(given).items():
        key = ALIASES.get(key, key)
        if key in SETTINGS:
            try:
                config = SETTINGS[key](config, value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{given}: {key} is {value!r}, which is not its kind of value") from error
        elif not OF_THE_RUN.fullmatch(key):
            ignored.append(key)
    said = f"settings not understood, and left alone: {', '.join(ignored)}; known: {', '.join(SETTINGS)}"
    return config, (said,) if ignored else ()


def _read(given: str | Path) -> dict[str, Any]:
    """Keys and values of a YAML file, or of KEY=VALUE words."""
    try:
        path = Path(given) if Path(given).is_file() else None
    except OSError:  # words that are too long for the name of a file
        path = None
    try:
        if path is not None:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        else:
            words = [word.partition("=") for word in shlex.split(str(given))]
            if not all(sign for _, sign, _ in words):
                raise ValueError(f"{given} is neither a file nor KEY=VALUE words")
            content = {key: yaml.safe_load(value) for key, _, value in words}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{given} is no YAML of plain values: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{given} has no keys and values; wanted min_size: 600 and the like")
    return content


def _proposals(config: DetectorConfig, given: Mapping[str, Any]) -> DetectorConfig:
    """`config` by the arguments of ChainerCV's ProposalCreator; that of where its NMS runs plays no part."""
    counts = {
        "n_train_pre_nms": "pre_nms_train", "n_train_post_nms": "post_nms_train",
        "n_test_pre_nms": "pre_nms", "n_test_post_nms": "post_nms",
    }  # fmt: skip
    changes: dict[str, Any] = {ours: int(given[theirs]) for theirs, ours in counts.items() if theirs in given}
    if "nms_thresh" in given:
        changes["nms_iou"] = float(given["nms_thresh"])
    if "min_size" in given:
        changes["min_size"] = float(given["min_size"]) or -1.0  # 0 drops nothing, not even what has no area
    if others := given.keys() - counts.keys() - {"nms_thresh", "min_size", "force_cpu_nms"}:
        raise ValueError(f"proposals have no {', '.join(sorted(others))}")
    proposals = replace(config.rpn.proposals, **changes)
    return replace(config, rpn=replace(config.rpn, proposals=proposals))


def _fcis(config: DetectorConfig, **changes: Any) -> DetectorConfig:
    assert config.fcis is not None
    return replace(config, fcis=replace(config.fcis, **changes))
