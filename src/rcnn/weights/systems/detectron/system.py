"""Detectron's (Caffe2) checkpoints, `model_final.pkl`: Faster, Mask and Keypoint R-CNN and the RPN alone.

The file contains the blobs and the text of all settings. The rules of the old network (boxes that include their last
pixel, rounded anchors, RoIAlign without the half-pixel shift) are kept in the config.
"""

from __future__ import annotations

from collections.abc import Mapping

from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.detectron.config import config_of
from rcnn.weights.systems.detectron.names import RULES, in_our_layout
from rcnn.weights.systems.detectron.settings import not_kept, read_yaml, yaml_settings
from rcnn.weights.systems.detectron.tensors import settings_of_tensors
from rcnn.weights.systems.detectron2.config import classes_of
from rcnn.weights.systems.layout import identity_statistics
from rcnn.weights.systems.renaming import Placed
from rcnn.weights.systems.resnets import blocks_of, known_depth
from rcnn.weights.systems.settings import SettingsSource, existing_file, parse_settings
from rcnn.weights.systems.system import Plan, System, all_of


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of Detectron's blobs; `settings` are YAML or KEY=VALUE. None: those in the file, or of the zoo."""
    source = found.source
    placed = RULES.place(found.state, source, SYSTEM.name)
    if not any(name.startswith("conv_rpn") for name in found.state):
        raise ValueError(
            f"{source} is Fast R-CNN on proposals from a file: it has no RPN and cannot find boxes by itself; expected "
            "an end-to-end model"
        )
    depth = known_depth(blocks_of(placed.ours.values(), stages=(2, 3, 4)), source)
    theirs, summary, assumed = _settings(found, placed.ours, settings)
    config = config_of(theirs, depth=depth, source=source if settings is None else str(settings)[:200])
    if config.fpn is None and config.proposals_only:  # an RPN on res4 does not use the res5 of the ImageNet weights
        unused = [name for name, ours in placed.ours.items() if ours.startswith("backbone.res5.")]
        names = {name: ours for name, ours in placed.ours.items() if name not in unused}
        placed = Placed(names, (*placed.skipped, *unused))
    return Plan(
        config=config,
        placed=placed if config.fpn is not None else placed.with_res5_in_the_head(),
        tensor=in_our_layout,
        # AffineChannels have no statistics; a network with group norm has its own norms
        complete=lambda state, config: state if "conv1_gn_s" in found.state else identity_statistics(state),
        classes=classes_of(theirs.get("TRAIN.DATASETS", ()), config),
        summary=summary,
        assumed=assumed,
        notes=not_kept(theirs),
    )


def _settings(
    found: Found, names: Mapping[str, str], given: SettingsSource
) -> tuple[dict[str, object], str, tuple[Assumption, ...]]:
    """Detectron's settings for a file, where they come from, and what is assumed."""
    path = existing_file(given) if given is not None else None
    words: dict[str, object] = {} if given is None or path is not None else parse_settings(str(given), "--config")
    if given is not None and not words:
        return read_yaml(given), f"settings of {path.name if path else given}", ()
    text = found.extras.get("cfg")
    if isinstance(text, str) and text.strip():
        return yaml_settings(text, found.source) | words, "settings of the file", ()
    shapes = {ours: found.shape(name) for name, ours in names.items()}
    theirs, assumed = settings_of_tensors(shapes, group="conv1_gn_s" in found.state, source=found.source)
    return (
        theirs | words,
        "no settings in the file: give its YAML with config (--config) if it differs from the model zoo's",
        assumed,
    )


SYSTEM = System(
    name="Detectron",
    files=".pkl of Caffe2 blobs",
    settings="its YAML or KEY=VALUE",
    recognises=all_of("conv1_w", "(conv_rpn|cls_score_w|retnet_).*"),
    read=read,
)
