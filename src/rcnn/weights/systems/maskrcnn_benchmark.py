"""maskrcnn-benchmark's checkpoints (`.pth`): Faster, Mask and Keypoint R-CNN and the RPN alone, FPN and C4.

It is Detectron (Caffe2) in PyTorch with other names: inclusive boxes, rounded anchors, unaligned RoIAlign, background
first, frozen norms without eps. Its config is translated to Detectron's settings; images are resized by Pillow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.models.config import InputConfig
from rcnn.ops.anchors import legacy_cell_anchors
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.setting_texts import with_settings
from rcnn.weights.systems.classes import class_names
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.detectron.config import config_of
from rcnn.weights.systems.detectron.names import in_our_layout
from rcnn.weights.systems.detectron.tensors import settings_of_tensors
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.resnets import blocks_of, known_depth, torch_blocks
from rcnn.weights.systems.settings import SettingsSource, Three, read_settings, require_only, typed
from rcnn.weights.systems.system import Plan, System, all_of

VALUE = "(weight|bias|running_mean|running_var)"
CELL_ANCHORS = "rpn.anchor_generator.cell_anchors."

RULES = Rules(
    (
        (r"backbone\.body\.stem\.conv1\.(weight)", "backbone.stem.conv1.{1}"),
        (rf"backbone\.body\.stem\.bn1\.{VALUE}", "backbone.stem.conv1.norm.{1}"),
        *torch_blocks(r"backbone\.body\.layer([1234])\.(\d+)", "backbone.res{1+1}.{2}"),
        *torch_blocks(r"roi_heads\.box\.feature_extractor\.head\.layer4\.(\d+)", "box_head.trunk.res5.{1}"),
        (r"backbone\.fpn\.fpn_inner(\d)\.(weight|bias)", "fpn.lateral{1+1}.{2}"),
        (r"backbone\.fpn\.fpn_layer(\d)\.(weight|bias)", "fpn.output{1+1}.{2}"),
        (r"rpn\.head\.conv\.(weight|bias)", "rpn.convs.0.{1}"),
        (r"rpn\.head\.cls_logits\.(weight|bias)", "rpn.objectness.{1}"),
        (r"rpn\.head\.bbox_pred\.(weight|bias)", "rpn.deltas.{1}"),
        (r"roi_heads\.box\.feature_extractor\.fc([67])\.(weight|bias)", "box_head.trunk.fc{1-5}.{2}"),
        (r"roi_heads\.box\.predictor\.cls_score\.(weight|bias)", "box_head.logits.{1}"),
        (r"roi_heads\.box\.predictor\.bbox_pred\.(weight|bias)", "box_head.deltas.{1}"),
        (r"roi_heads\.mask\.feature_extractor\.mask_fcn(\d)\.(weight|bias)", "mask_head.trunk.conv{1}.{2}"),
        (r"roi_heads\.mask\.predictor\.conv5_mask\.(weight|bias)", "mask_head.deconv.{1}"),
        (r"roi_heads\.mask\.predictor\.mask_fcn_logits\.(weight|bias)", "mask_head.logits.{1}"),
        (r"roi_heads\.keypoint\.feature_extractor\.conv_fcn(\d)\.(weight|bias)", "keypoint_head.trunk.conv{1}.{2}"),
        (r"roi_heads\.keypoint\.predictor\.kps_score_lowres\.(weight|bias)", "keypoint_head.logits.{1}"),
    ),
    # anchors, which are compared, and the res5 that the mask head shares with the box head
    skip=rf"{CELL_ANCHORS}\d+|roi_heads\.mask\.feature_extractor\.head\..+",
)
# its settings -> Detectron's, which mean the same
TRANSLATED = {
    "INPUT.MIN_SIZE_TEST": "TEST.SCALE",
    "INPUT.MAX_SIZE_TEST": "TEST.MAX_SIZE",
    "INPUT.PIXEL_MEAN": "PIXEL_MEANS",
    "MODEL.RESNETS.STRIDE_IN_1X1": "RESNETS.STRIDE_1X1",
    "MODEL.RPN.ASPECT_RATIOS": "RPN.ASPECT_RATIOS",
    "MODEL.RPN.NMS_THRESH": "TEST.RPN_NMS_THRESH",
    "MODEL.RPN.PRE_NMS_TOP_N_TEST": "TEST.RPN_PRE_NMS_TOP_N",
    "MODEL.RPN.POST_NMS_TOP_N_TEST": "TEST.RPN_POST_NMS_TOP_N",
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": "TRAIN.RPN_PRE_NMS_TOP_N",
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": "TRAIN.RPN_POST_NMS_TOP_N",
    "MODEL.ROI_HEADS.SCORE_THRESH": "TEST.SCORE_THRESH",
    "MODEL.ROI_HEADS.NMS": "TEST.NMS",
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG": "TEST.DETECTIONS_PER_IM",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "TRAIN.BATCH_SIZE_PER_IM",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": "FAST_RCNN.ROI_XFORM_RESOLUTION",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": "MRCNN.ROI_XFORM_RESOLUTION",
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": "MRCNN.ROI_XFORM_SAMPLING_RATIO",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": "KRCNN.ROI_XFORM_RESOLUTION",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": "KRCNN.ROI_XFORM_SAMPLING_RATIO",
}
# settings with one supported value: any other would change predictions
ONLY = {
    "INPUT.TO_BGR255": True,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.ROI_HEADS.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
}
OWN = {"INPUT.PIXEL_STD", "MODEL.RPN.ANCHOR_SIZES"}  # the fields of `Settings`
# settings that the tensors show, or that only the training has
IDLE = re.compile(
    r"(SOLVER|DATASETS|DATALOADER|TEST|DTYPE|OUTPUT_DIR|PATHS_CATALOG|AMP_VERBOSE)(\..*)?|INPUT\..*"
    r"|MODEL\.(META_ARCHITECTURE|WEIGHT|DEVICE|MASK_ON|KEYPOINT_ON|RPN_ONLY|CLS_AGNOSTIC_BBOX_REG|BACKBONE\..*|FPN\..*"
    r"|RESNETS\..*|RPN\.(USE_FPN|ANCHOR_STRIDE)|ROI_\w+\.(USE_FPN|NUM_CLASSES|POOLER_SCALES|FEATURE_EXTRACTOR|PREDICTOR"
    r"|MLP_HEAD_DIM|CONV_LAYERS|RESOLUTION|SHARE_BOX_FEATURE_EXTRACTOR|USE_GN))"
)
ASSUMED = {
    "MODEL.RESNETS.STRIDE_IN_1X1": Assumption("stride of the blocks", "its default", ("backbone.stride_in_1x1",)),
    "INPUT.MIN_SIZE_TEST": Assumption("image size", "its configs", ("input.min_size",)),
    "INPUT.MAX_SIZE_TEST": Assumption("image size", "its configs", ("input.max_size",)),
    "INPUT.PIXEL_MEAN": Assumption("pixel mean", "its default", ("input.pixel_mean",)),
    "MODEL.RPN.ANCHOR_SIZES": Assumption("anchors", "its default", ("rpn.anchors.sizes", "rpn.anchors.ratios")),
    "MODEL.ROI_HEADS.NMS": Assumption("detections", "its default", ("box.score_threshold", "box.selection.nms_iou")),
}


@dataclass(frozen=True)
class Settings:
    """Settings that Detectron does not have in this form."""

    input_pixel_std: Three = (1.0, 1.0, 1.0)
    model_rpn_anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)  # with FPN, one for each level


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of a maskrcnn-benchmark file; `settings` are its YAML or KEY=VALUE."""
    given = read_settings(settings) if settings is not None else {}
    placed = RULES.place(found.state, found.source, SYSTEM.name)
    shapes = {ours: found.shape(name) for name, ours in placed.ours.items()}
    theirs, _ = settings_of_tensors(shapes, group=False, source=found.source)
    fpn = bool(theirs["FPN.FPN_ON"])
    theirs |= {"TEST.RPN_PRE_NMS_TOP_N": 1000 if fpn else 6000, "TEST.RPN_POST_NMS_TOP_N": 1000}
    theirs |= {"TRAIN.RPN_PRE_NMS_TOP_N": 2000 if fpn else 12000}
    require_only(given, ONLY, found.source)
    own = typed(Settings, given, found.source).values
    sizes = own.model_rpn_anchor_sizes
    if len(sizes) != len(Settings.model_rpn_anchor_sizes) if fpn else not sizes:
        expected = "one size for each of the 5 levels" if fpn else "at least one size"
        raise ValueError(f"{found.source}: MODEL.RPN.ANCHOR_SIZES={sizes} is not supported; expected {expected}")
    theirs |= {TRANSLATED[key]: value for key, value in given.items() if key in TRANSLATED}
    if "RPN.ASPECT_RATIOS" in theirs:
        theirs["FPN.RPN_ASPECT_RATIOS"] = theirs["RPN.ASPECT_RATIOS"]
    depth = known_depth(blocks_of(shapes, stages=(2, 3, 4)), found.source)
    config = with_settings(
        _in_pytorch(config_of(theirs, depth=depth, source=found.source)),
        {"input.pixel_std": own.input_pixel_std, "rpn.anchors.sizes": [[size] for size in sizes] if fpn else [sizes]},
    )
    cells = {name: found.state[name] for name in found.state if name.startswith(CELL_ANCHORS)}
    cells = {name: value for name, value in cells.items() if value.any()}

    def complete(state: dict[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
        _require_anchors(cells, config)
        return state

    known = given.keys() | ({"MODEL.RPN.ANCHOR_SIZES"} if cells else set())
    unknown = [key for key in given if key not in TRANSLATED.keys() | ONLY.keys() | OWN and not IDLE.fullmatch(key)]
    return Plan(
        config=config,
        placed=placed,
        tensor=in_our_layout,
        complete=complete,
        classes=("person",) if config.keypoint is not None else class_names(config.num_classes),
        assumed=tuple(assumption for key, assumption in ASSUMED.items() if key not in known),
        notes=(f"settings that are not used: {', '.join(unknown)}",) if unknown else (),
    )


def _require_anchors(cells: Mapping[str, Tensor], config: DetectorConfig) -> None:
    """Raise ValueError unless the anchors (A, 4) of each level in the file are those of `config`."""
    for name, theirs in cells.items():
        level = int(name.removeprefix(CELL_ANCHORS))
        sizes = dict(enumerate(config.rpn.anchors.sizes)).get(level, ())
        ratios, stride = config.rpn.anchors.ratios, 4 * 2**level if config.fpn else 16
        cell = legacy_cell_anchors(sizes, ratios, stride)
        cell[:, 2:] -= 1  # theirs include their last pixel, and are ordered by ratio, then size
        ours = cell.view(len(sizes), len(ratios), 4).transpose(0, 1).flatten(0, 1)
        if theirs.shape != ours.shape or not theirs.allclose(ours):
            raise ValueError(
                f"{name} has the anchors {theirs.tolist()}; expected {ours.tolist()}: give MODEL.RPN.ANCHOR_SIZES and "
                "MODEL.RPN.ASPECT_RATIOS of the training with config (--config)"
            )


def _in_pytorch(config: DetectorConfig) -> DetectorConfig:
    """`config` with the differences from Detectron: Pillow resizes, boxes are rescaled per side, no minimum size."""
    plain = InputConfig()
    return with_settings(
        config,
        {
            "input.resize": "antialias",
            "input.size_rounding": plain.size_rounding,
            "input.rescale": plain.rescale,
            "rpn.proposals.min_size": -1.0,
            "rpn.legacy.min_size_original": False,
        },
    )


SYSTEM = System(
    name="maskrcnn-benchmark",
    files=".pth",
    settings="its YAML or KEY=VALUE",
    recognises=all_of(r"backbone\.body\.stem\.conv1\.weight", r"rpn\.head\.cls_logits\.weight"),
    read=read,
)
