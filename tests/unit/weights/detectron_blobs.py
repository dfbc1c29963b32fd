"""Detectron's files as written by Python 2: blob names and shapes (model_final.pkl), and the bytes of the pickle."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

import numpy as np

Fill = Callable[[str, tuple[int, ...]], np.ndarray]
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def empty(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros that take no memory."""
    return np.broadcast_to(np.float32(0), shape)


def blobs(
    *,
    depth: int = 50,
    fpn: bool = True,
    group_norm: bool = False,
    groups: int = 1,
    width: int = 64,
    classes: int | None = 81,
    masks: bool = False,
    keypoints: int = 0,
    blocks: tuple[int, ...] = (),
    fill: Fill = empty,
) -> dict[str, np.ndarray]:
    """All blobs of such a detector (`classes` with the background; None: an RPN), plus those that training adds."""
    shapes = _trunk(blocks or BLOCKS[depth], group_norm, groups, width)
    shapes |= _pyramid(blocks or BLOCKS[depth], group_norm) if fpn else {}
    channels, anchors, suffix = (256, 3, "_fpn2") if fpn else (1024, 15, "")
    shapes |= _layer(f"conv_rpn{suffix}", (channels, channels, 3, 3))
    shapes |= _layer(f"rpn_cls_logits{suffix}", (anchors, channels, 1, 1))
    shapes |= _layer(f"rpn_bbox_pred{suffix}", (4 * anchors, channels, 1, 1))
    if classes is not None:
        shapes |= _boxes(fpn, group_norm, classes)
    if masks and classes is not None:
        shapes |= _masks(fpn, group_norm, classes)
    for number in range(1, 9) if keypoints else ():
        shapes |= _layer(f"conv_fcn{number}", (512, 256 if number == 1 else 512, 3, 3))
    if keypoints:
        shapes |= _layer("kps_score_lowres", (512, keypoints, 4, 4), keypoints)
        shapes |= _layer("kps_score", (keypoints, keypoints, 4, 4))
    shapes |= {"conv1_b": (64,), "fc1000_w": (1000, 2048), "fc1000_b": (1000,), "res2_0_branch2a_b": (64,),
               "fc6_w_momentum": (1024, 12544), "conv_rpn_fpn2_b_momentum": (256,)}  # fmt: skip
    return {name: fill(name, shape) for name, shape in shapes.items()}


LEFT = {"conv1_b", "fc1000_w", "fc1000_b", "res2_0_branch2a_b", "fc6_w_momentum", "conv_rpn_fpn2_b_momentum"}


def _layer(name: str, weight: tuple[int, ...], outputs: int = 0) -> dict[str, tuple[int, ...]]:
    return {f"{name}_w": weight, f"{name}_b": (outputs or weight[0],)}


def _normed(name: str, weight: tuple[int, ...], norm: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}_w": weight, f"{norm}_s": (weight[0],), f"{norm}_b": (weight[0],)}


def _trunk(blocks: tuple[int, ...], group_norm: bool, groups: int, width: int) -> dict[str, tuple[int, ...]]:
    kind = "gn" if group_norm else "bn"
    shapes = _normed("conv1", (64, 3, 7, 7), "conv1_gn" if group_norm else "res_conv1_bn")
    into = 64
    for stage, count in zip((2, 3, 4, 5), blocks, strict=True):
        middle, out = groups * width * 2 ** (stage - 2), 256 * 2 ** (stage - 2)
        for block in range(count):
            name = f"res{stage}_{block}_branch"
            for branch, shape in (
                ("1", (out, into, 1, 1)),
                ("2a", (middle, into, 1, 1)),
                ("2b", (middle, middle // groups, 3, 3)),
                ("2c", (out, middle, 1, 1)),
            ):
                if branch != "1" or block == 0:
                    shapes |= _normed(f"{name}{branch}", shape, f"{name}{branch}_{kind}")
            into = out
    return shapes


def _pyramid(blocks: tuple[int, ...], group_norm: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for stage, count in zip((2, 3, 4, 5), blocks, strict=True):
        inner = f"fpn_inner_res{stage}_{count - 1}_sum" + ("" if stage == 5 else "_lateral")
        outer = f"fpn_res{stage}_{count - 1}_sum"
        for name, shape in ((inner, (256, 256 * 2 ** (stage - 2), 1, 1)), (outer, (256, 256, 3, 3))):
            shapes |= _normed(name, shape, f"{name}_gn") if group_norm else _layer(name, shape)
    return shapes


def _boxes(fpn: bool, group_norm: bool, classes: int) -> dict[str, tuple[int, ...]]:
    shapes = {}
    if fpn and group_norm:
        for number in range(1, 5):
            shapes |= _normed(f"head_conv{number}", (256, 256, 3, 3), f"head_conv{number}_gn")
    if fpn:
        shapes |= _layer("fc6", (1024, 12544))
        shapes |= {} if group_norm else _layer("fc7", (1024, 1024))
    width = 1024 if fpn else 2048
    return shapes | _layer("cls_score", (classes, width)) | _layer("bbox_pred", (4 * classes, width))


def _masks(fpn: bool, group_norm: bool, classes: int) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for number in range(1, 5) if fpn else ():
        name = f"_mask_fcn{number}" if group_norm else f"_[mask]_fcn{number}"
        shapes |= _normed(name, (256, 256, 3, 3), f"{name}_gn") if group_norm else _layer(name, (256, 256, 3, 3))
    shapes |= _layer("conv5_mask", (256 if fpn else 2048, 256, 2, 2), 256)
    return shapes | _layer("mask_fcn_logits", (classes, 256, 1, 1))


def python2_pickle(values: Mapping[str, np.ndarray], cfg: str | None) -> bytes:
    """What Python 2's pickle wrote for dict(blobs=values, cfg=cfg), protocol 2: strings are bytes, arrays numpy 1's."""
    out = [b"\x80\x02}", _text("blobs"), b"}("]
    for name, value in values.items():
        out += [_text(name), _array(value)]
    out += [b"us"]
    if cfg is not None:
        out += [_text("cfg"), _text(cfg), b"s"]
    return b"".join(out) + b"."


def _text(text: str) -> bytes:
    data = text.encode("latin1")
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data


def _array(value: np.ndarray) -> bytes:
    sides = b"".join(b"J" + struct.pack("<i", side) for side in value.shape)
    dtype = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = np.ascontiguousarray(value, "<f4").tobytes()
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    return b"".join([head, b"(K\x01(", sides, b"t", dtype, b"\x89T", struct.pack("<i", len(data)), data, b"tb"])
