"""What the three FCIS systems' files have in common: a ResNet, an RPN of two logits, and the maps.

Theirs: background first; anchors with the ratio outer and the size inner; two box slots, of which the background's is
never used. Ours: background last; size outer, ratio inner; one box.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from rcnn.models.config import DetectorConfig, ResNetConfig
from rcnn.models.zoo.fcis import COCO_SIZES, VOC_SIZES, for_voc, with_depth
from rcnn.weights.readers.stored import shape_of
from rcnn.weights.systems.converted import VOC_CLASSES, class_names

RATIOS = 3
DEPTHS = {6: 50, 23: 101, 36: 152}  # blocks of res4
# rows of a layer come in so many
MULTIPLES = {"rpn.objectness": 2 * RATIOS, "rpn.deltas": 4 * RATIOS, "box_head.maps": 98, "box_head.deltas": 392}
XYXY, YXYX = (0, 1, 2, 3), (1, 0, 3, 2)  # order of a box's four numbers, x y w h


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a system writes what is not written alike in all of them."""

    coordinates: tuple[int, int, int, int]  # of box deltas
    interleaved: bool  # RPN logits: background and object of each anchor in turn; or all backgrounds, then all objects


def converted_tensor(ours: str, value: Tensor, layout: Layout, source: str) -> Tensor:
    """A tensor of theirs in the order of rows that `ours`, our name, wants."""
    layer = ours.rpartition(".")[0]
    multiple = MULTIPLES.get(layer, 1)
    if value.ndim == 0 or len(value) % multiple:
        raise ValueError(
            f"{source}: {ours} (in our names) is {tuple(value.shape)}; wanted a multiple of {multiple} rows"
        )
    if layer == "rpn.objectness":
        if not layout.interleaved:
            value = value.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
        return _anchors(value, 2)
    if layer == "rpn.deltas":
        return _anchors(_coordinates(value.unflatten(0, (-1, 4)), layout).flatten(0, 1), 4)
    if layer == "box_head.deltas":
        return _coordinates(value.unflatten(0, (2, 4, -1))[1:], layout).flatten(0, 2).contiguous()
    if layer == "box_head.maps":
        groups = value.unflatten(0, (-1, 98))
        return groups.roll(-1, 0).flatten(0, 1)
    return value


def _coordinates(value: Tensor, layout: Layout) -> Tensor:
    """`value` (n, 4, ...) with dx, dy, dw, dh in its second axis."""
    return value[:, list(layout.coordinates)]


def _anchors(value: Tensor, each: int) -> Tensor:
    """Rows (ratio, size, each) as (size, ratio, each)."""
    return value.unflatten(0, (RATIOS, -1, each)).transpose(0, 1).flatten(0, 2).contiguous()


def config_of(
    state: Mapping[str, Tensor], rename: Callable[[str], str | None], base: DetectorConfig, voc_name: str, source: str
) -> tuple[DetectorConfig, tuple[str, ...]]:
    """The config of a file of these tensors, and what it does not say and is assumed."""
    ours = {our: name for name in state if (our := rename(name)) is not None}
    needed = ("box_head.maps.weight", "rpn.objectness.weight", "rpn.convs.0.weight")
    if missing := [name for name in needed if name not in ours]:
        raise ValueError(f"{source} has no {', '.join(missing)} (in our names): it is not whole")
    rows, logits, width = (shape_of(state, ours[name])[0] for name in needed)
    blocks = len({name.split(".")[2] for name in ours if name.startswith("backbone.res4.")})
    if blocks not in DEPTHS:
        raise ValueError(f"{source} has a ResNet of {blocks} blocks in res4; known: 6, 23 and 36 (R-50, R-101, R-152)")
    if rows % 98 or rows < 196 or logits % (2 * RATIOS):
        raise ValueError(
            f"{source} has {rows} class maps and {logits} anchor scores; wanted multiples of 98 and of {2 * RATIOS}"
        )
    classes, sizes = rows // 98 - 1, logits // (2 * RATIOS)
    known = {len(COCO_SIZES[0]): "COCO's", len(VOC_SIZES[0]): "VOC's"}
    voc = sizes == len(VOC_SIZES[0])
    config = for_voc(base, voc_name) if voc else base
    assumed = [
        f"{known.get(sizes, 'the largest')} anchors, the system's thresholds and its input of {config.input.min_size} "
        f"to {config.input.max_size} pixels"
    ]
    if sizes not in known:
        config = replace(
            config,
            rpn=replace(
                config.rpn,
                anchors=replace(config.rpn.anchors, sizes=(tuple(512.0 / 2**n for n in range(sizes))[::-1],)),
            ),
        )
    config = replace(config, num_classes=classes, rpn=replace(config.rpn, width=width))
    depth = DEPTHS[blocks]
    if isinstance(config.backbone, ResNetConfig) and config.backbone.depth != depth:
        config = with_depth(config, depth)
    return config, tuple(assumed)


def names_of(count: int) -> tuple[str, ...]:
    """VOC's names for 20 classes, which SBD has too, else as everywhere."""
    return VOC_CLASSES if count == len(VOC_CLASSES) else class_names(count)
