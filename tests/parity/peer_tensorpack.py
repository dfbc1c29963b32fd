"""Small tensorpack checkpoints in its own names and layouts, every value a function of its name (facts' recipe)."""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path

import numpy as np

from tests.narrow import save_npz

BLOCKS = (1, 2, 1, 1)
CLASSES = 5
SETTINGS = (
    "FPN.NUM_CHANNEL=32 RPN.HEAD_DIM=32 FPN.FRCNN_CONV_HEAD_DIM=32 FPN.FRCNN_FC_HEAD_DIM=64 MRCNN.HEAD_DIM=32 "
    "BACKBONE.RESNET_NUM_BLOCKS=[1,2,1,1] RPN.TRAIN_PER_LEVEL_NMS_TOPK=60 RPN.TEST_PER_LEVEL_NMS_TOPK=60 "
    "RPN.TEST_PRE_NMS_TOPK=120 RPN.TEST_POST_NMS_TOPK=60 TEST.RESULTS_PER_IM=20"
)


def peer_shapes(
    *, pyramid: bool = True, norm: str = "bn", head: str = "2fc", head_norm: bool = False, cascade: bool = False
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a small Mask R-CNN of tensorpack's."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, *shape: int) -> None:
        shapes[f"{name}/W"] = shape
        values = {"bn": ("gamma", "beta", "mean/EMA", "variance/EMA"), "gn": ("gamma", "beta"), "none": ()}[norm]
        shapes.update({f"{name}/{norm}/{value}": shape[-1:] for value in values})

    def layer(name: str, *shape: int, out: int | None = None) -> None:
        shapes[f"{name}/W"], shapes[f"{name}/b"] = shape, (out or shape[-1],)

    def group(name: str, width: int) -> None:
        shapes[f"{name}/gamma"] = shapes[f"{name}/beta"] = (width,)

    conv("conv0", 7, 7, 3, 64)
    channels = 64
    for stage, count in enumerate(BLOCKS):
        width = 64 * 2**stage
        for block in range(count):
            place = f"group{stage}/block{block}"
            conv(f"{place}/conv1", 1, 1, channels, width)
            conv(f"{place}/conv2", 3, 3, width, width)
            conv(f"{place}/conv3", 1, 1, width, 4 * width)
            if block == 0:
                conv(f"{place}/convshortcut", 1, 1, channels, 4 * width)
            channels = 4 * width
    if pyramid:
        for level in (2, 3, 4, 5):
            layer(f"fpn/lateral_1x1_c{level}", 1, 1, 64 * 2**level, 32)
            layer(f"fpn/posthoc_3x3_p{level}", 3, 3, 32, 32)
            if head_norm:
                group(f"fpn/gn_c{level}", 32)
                group(f"fpn/gn_p{level}", 32)
    layer("rpn/conv0", 3, 3, 32 if pyramid else 1024, 32)
    anchors = 3 if pyramid else 15
    layer("rpn/class", 1, 1, 32, anchors)
    layer("rpn/box", 1, 1, 32, 4 * anchors)
    heads = [f"cascade_rcnn_stage{k}" for k in (1, 2, 3)] if cascade else ["fastrcnn"]
    for place in heads:
        inner, outputs = (f"{place}/head", f"{place}/outputs") if cascade else (place, f"{place}/outputs")
        if not pyramid:
            layer("fastrcnn/class", 2048, CLASSES + 1)
            layer("fastrcnn/box", 2048, 4 * (CLASSES + 1))
            continue
        if head == "2fc":
            layer(f"{inner}/fc6", 32 * 49, 64)
            layer(f"{inner}/fc7", 64, 64)
        else:
            for number in range(4):
                layer(f"{inner}/conv{number}", 3, 3, 32, 32)
                if head_norm:
                    group(f"{inner}/gn{number}", 32)
            layer(f"{inner}/fc", 32 * 49, 64)
        layer(f"{outputs}/class", 64, CLASSES + 1)
        layer(f"{outputs}/box", 64, 4 if cascade else 4 * (CLASSES + 1))
    if pyramid:
        for number in range(4):
            layer(f"maskrcnn/fcn{number}", 3, 3, 32, 32)
            if head_norm:
                group(f"maskrcnn/gn{number}", 32)
    layer("maskrcnn/deconv", 2, 2, 32, 32 if pyramid else 2048, out=32)
    layer("maskrcnn/conv", 1, 1, 32, CLASSES)
    return shapes


@cache  # legacy generators are slow, and variants share most of their tensors
def peer_value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The recipe of facts/tensorpack.md, section 9. All calls get the same array: it must not be changed."""
    draw = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("variance/EMA"):
        value = draw.rand(*shape) + 0.5
    elif name.endswith("gamma"):
        value = (draw.rand(*shape) + 0.5) * (0.3 if "/conv3/" in name else 1.0)
    elif name.endswith(("mean/EMA", "beta", "/b")):
        value = draw.randn(*shape) * 0.1
    else:
        value = draw.randn(*shape) * np.sqrt(1 / np.prod(shape[:-1]))
        if name.endswith("class/W"):
            value = value * (0.5 if name.startswith("rpn") else 2.0)
        elif name.endswith("box/W"):
            value = value * 0.1
    return value.astype(np.float32)


def write_peer_file(path: Path, shapes: dict[str, tuple[int, ...]], suffix: str = "") -> None:
    """The `.npz` of these tensors, names ending in `suffix` (`:0` in some files)."""
    save_npz(path, {name + suffix: peer_value(name, shape) for name, shape in shapes.items()})


def peer_image() -> np.ndarray:
    """The recipe's image (101, 139, 3) uint8 BGR, already resized."""
    return np.random.RandomState(7).randint(0, 256, (101, 139, 3)).astype(np.uint8)
