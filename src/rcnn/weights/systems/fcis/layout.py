"""The layout of the tensors of the three FCIS systems, and the config that the tensors show.

Theirs: background first; anchors ordered by ratio, then size; a box for background (unused) and one for objects.
Ours: background last; anchors ordered by size, then ratio; one box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rcnn.models.config import DetectorConfig, ResNetConfig
from rcnn.models.zoo.classic import with_depth
from rcnn.models.zoo.fcis import COCO_SIZES, VOC_SIZES, for_voc
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.setting_texts import with_settings
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.layout import anchors_from_ratio_outer, deltas_from_yx, layer_of, paired_logits
from rcnn.weights.systems.resnets import blocks_of, known_depth

RATIOS = 3
# layer -> its number of rows is a multiple of this
MULTIPLES = {"rpn.objectness": 2 * RATIOS, "rpn.deltas": 4 * RATIOS, "box_head.maps": 98, "box_head.deltas": 392}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The order of values that differs between the FCIS systems."""

    yx: bool  # box deltas are dy, dx, dh, dw
    interleaved: bool  # RPN logits: background and object of each anchor; else all backgrounds, then all objects

    def tensor(self, name: str, value: Tensor, config: DetectorConfig) -> Tensor:
        """Our tensor `name` in our layout. Raises ValueError that names it if the number of rows is wrong."""
        layer = layer_of(name)
        multiple = MULTIPLES.get(layer, 1)
        if value.ndim == 0 or len(value) % multiple:
            raise ValueError(
                f"{name} (rcnn's name) has shape {tuple(value.shape)}; expected a multiple of {multiple} rows"
            )
        match layer:
            case "rpn.objectness" if not self.interleaved:
                value = paired_logits(value)
            case "rpn.deltas" if self.yx:
                value = deltas_from_yx(value)
            case "box_head.deltas":
                value = value.unflatten(0, (2, 4, -1))[1]
                return (value[[1, 0, 3, 2]] if self.yx else value).flatten(0, 1)
            case "box_head.maps":
                return value.unflatten(0, (-1, 98)).roll(-1, 0).flatten(0, 1)
        return anchors_from_ratio_outer(name, value, config)


def config_of(
    found: Found, names: Mapping[str, str], base: DetectorConfig, voc_name: str
) -> tuple[DetectorConfig, tuple[Assumption, ...]]:
    """The config of a file with these `names` (theirs -> ours), and the assumptions. Raises ValueError with the source.

    `base` is the config for COCO, `voc_name` the name of the config for VOC, chosen by the number of anchor sizes.
    """
    source, ours = found.source, {our: name for name, our in names.items()}
    needed = ("box_head.maps.weight", "rpn.objectness.weight", "rpn.convs.0.weight")
    if missing := [name for name in needed if name not in ours]:
        raise ValueError(f"{source} is incomplete: it has no {', '.join(missing)} (rcnn's names)")
    rows, logits, width = (found.shape(ours[name])[0] for name in needed)
    depth = known_depth(blocks_of(ours), source)
    if rows % 98 or rows < 196 or logits % (2 * RATIOS):
        raise ValueError(
            f"{source} has {rows} class maps and {logits} anchor scores; expected multiples of 98 and of {2 * RATIOS}"
        )
    classes, sizes = rows // 98 - 1, logits // (2 * RATIOS)
    known = {len(COCO_SIZES[0]): "the system's for COCO", len(VOC_SIZES[0]): "the system's for VOC"}
    voc = sizes == len(VOC_SIZES[0])
    config = for_voc(base, voc_name) if voc else base
    if sizes not in known:
        config = with_settings(config, {"rpn.anchors.sizes": [[512.0 / 2**n for n in range(sizes)][::-1]]})
    config = with_settings(config, {"num_classes": classes, "rpn.width": width})
    if isinstance(config.backbone, ResNetConfig) and config.backbone.depth != depth:
        config = with_depth(config, depth)
    return config, (
        Assumption("anchors", known.get(sizes, "sizes from 512 pixels down"), ("rpn.anchors.sizes",)),
        Assumption("image size", "the system's default", ("input.min_size", "input.max_size")),
        Assumption("detections", "the system's default", ("fcis.score_threshold", "fcis.nms_iou", "fcis.vote_iou")),
    )
