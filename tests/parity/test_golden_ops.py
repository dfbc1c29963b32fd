"""Every op against what Detectron2, torchvision and pycocotools computed for it (shared/golden/ops; README there)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.ops.anchors import cell_anchors, grid_anchors
from rcnn.ops.boxes import box_iou
from rcnn.ops.coco_backend import as_rle, encode_mask, encode_pasted, rle_area, rle_box, rle_mask
from rcnn.ops.deltas import MAX_LOG_SCALE, decode_deltas, encode_deltas
from rcnn.ops.losses import smooth_l1
from rcnn.ops.masks import crop_bitmaps, paste_masks
from rcnn.ops.matching import highest_iou, match_anchors
from rcnn.ops.nms import nms
from rcnn.ops.polygons import rasterize_polygons
from rcnn.ops.rle import mask_outline
from rcnn.ops.roi_align import assign_levels, roi_align
from rcnn.preprocess import InputConfig, build_preprocessor
from tests.deviations import assert_within
from tests.whole_masks import whole_masks

RATIOS = (0.5, 1.0, 2.0)
TESTED = ["anchors", "box2box", "losses", "matcher", "nms", "paste_masks", "polygons", "resize", "rle"]
TESTED += ["roi_align", "roi_pooler"]
WITHOUT_AN_OP_YET = ["keypoints"]  # comes with the keypoint head

Golden = Callable[[str], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    """Reads a file of the folder by its stem."""

    def read(stem: str) -> dict[str, np.ndarray]:
        with np.load(shared / "golden" / "ops" / f"{stem}.npz") as arrays:
            return dict(arrays)

    return read


def unpacked(bits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Masks (N, height, width) bool of their bits (N, bytes)."""
    return np.unpackbits(bits, axis=1)[:, : height * width].reshape(-1, height, width).astype(bool)


def assert_close(ours: Tensor, golden: np.ndarray, rtol: float, atol: float) -> None:
    assert_within("values", ours, golden, rtol=rtol, atol=atol)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def test_every_file_is_tested(shared: Path) -> None:
    stems = {file.stem for file in (shared / "golden" / "ops").glob("*.npz")}
    assert stems
    assert stems <= {*TESTED, *WITHOUT_AN_OP_YET}


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_anchors(golden: Golden, offset: float) -> None:
    expected = golden("anchors")
    for level, (size, stride, grid) in enumerate(
        zip(expected["sizes"].tolist(), expected["strides"].tolist(), expected["grids_hw"].tolist(), strict=True)
    ):
        cell = cell_anchors((size,), RATIOS)
        assert_close(cell, expected[f"fpn_cell_l{level}"], 0, 1e-4)
        assert_close(grid_anchors(cell, tuple(grid), stride, offset), expected[f"fpn_offset{offset}_l{level}"], 0, 1e-4)
    cell = cell_anchors((32, 64, 128, 256, 512), RATIOS)
    assert_close(cell, expected["c4_cell"], 0, 1e-4)
    assert_close(grid_anchors(cell, (2, 3), 16), expected["c4_grid2x3"], 0, 1e-4)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)])
def test_box_deltas(golden: Golden, weights: tuple[int, ...]) -> None:
    expected = golden("box2box")
    source, target = torch.from_numpy(expected["src"]), torch.from_numpy(expected["tgt"])
    tag = "w1" if weights[0] == 1 else "w" + "_".join(str(w) for w in weights)
    deltas = encode_deltas(target, source, weights)
    assert_close(deltas, expected[f"encoded_{tag}"], 1e-5, 1e-5)
    assert_close(decode_deltas(deltas, source, weights), expected[f"decoded_roundtrip_{tag}"], 1e-5, 1e-3)
    classes = torch.from_numpy(expected[f"deltas_{tag}"]).unflatten(1, (3, 4))
    assert_close(decode_deltas(classes, source[:, None], weights).flatten(1), expected[f"decoded_{tag}"], 1e-5, 1e-3)
    assert float(expected["scale_clamp"]) == MAX_LOG_SCALE


@pytest.mark.parametrize("objects", ["", "_zerorow", "_nogt"])
@pytest.mark.parametrize(
    ("tag", "low", "high", "low_quality"),
    [("rpn", 0.3, 0.7, True), ("rpn_nolow", 0.3, 0.7, False), ("roi", 0.5, 0.5, False), ("cascade2", 0.6, 0.6, False)],
)
def test_matching(golden: Golden, tag: str, low: float, high: float, low_quality: bool, objects: str) -> None:
    expected = golden("matcher")
    anchors, targets = torch.from_numpy(expected["anchors"]), torch.from_numpy(expected["gt"])
    assert_close(box_iou(targets, anchors), expected["iou"], 1e-6, 1e-6)
    valid = ones(1, 7)
    if objects == "_zerorow":
        targets[6] = torch.tensor([9000.0, 9000, 9010, 9010])  # the object that overlaps nothing
        assert_close(box_iou(targets, anchors), expected["iou_with_zero_row"], 1e-6, 1e-6)
    elif objects == "_nogt":
        valid = ~valid
    if low_quality:
        matched, label = match_anchors(anchors, targets[None], valid, low, high)
    else:
        iou, matched = highest_iou(anchors, targets[None], valid)
        label = torch.where(iou < low, 0, torch.where(iou < high, -1, 1))
    assert np.array_equal(matched[0].numpy(), expected[f"matches_{tag}{objects}"])
    assert np.array_equal(label[0].numpy(), expected[f"labels_{tag}{objects}"])


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("sampling", [0, 2])
def test_roi_align(golden: Golden, sampling: int, aligned: int) -> None:
    """In float64: a gradient adds up to 100 terms, and its float32 rounding alone is half of the tolerance."""
    expected = golden("roi_align")
    features = torch.from_numpy(expected["features"]).double().requires_grad_()
    rois, scale = torch.from_numpy(expected["rois_b_x0y0x1y1"]), float(expected["spatial_scale"])
    boxes, valid = rois[:, 1:].expand(2, -1, -1), rois[:, 0] == torch.arange(2)[:, None]  # (2, 24): each in its image
    levels = torch.zeros(2, 24, dtype=torch.int64)
    pooled = roi_align([features], boxes, levels, valid, [scale], 7, sampling, bool(aligned)).sum(0)
    name = f"aligned{aligned}_sr{sampling}_7x7"
    assert_within("pooled features", pooled.detach(), expected[f"out_{name}"], atol=1e-5, fixed=True)
    pooled.backward(torch.from_numpy(expected["grad_output"]).double())
    assert features.grad is not None
    assert_within("gradient of the maps", features.grad, expected[f"gradin_{name}"], atol=1e-5, fixed=True)


def test_roi_pooler(golden: Golden) -> None:
    expected = golden("roi_pooler")
    images = [torch.from_numpy(expected[f"boxes{i}"]) for i in (0, 1)]
    assert np.array_equal(assign_levels(torch.cat(images)).numpy(), expected["levels"])
    boxes = torch.nn.utils.rnn.pad_sequence(images, batch_first=True)  # (2, 40, 4)
    valid = torch.arange(40) < torch.tensor([[40], [20]])
    features = [torch.from_numpy(expected[f"feat{level}"]) for level in range(4)]
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    pooled = roi_align(features, boxes, assign_levels(boxes), valid, scales, 7, 0, True)[valid]
    assert_close(pooled[:16], expected["out_first16"], 0, 1e-5)
    assert_close(pooled[-8:], expected["out_last8"], 0, 1e-5)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms(golden: Golden, threshold: float) -> None:
    expected = golden("nms")
    boxes, scores, classes = (torch.from_numpy(expected[name])[None] for name in ("boxes", "scores", "idxs"))
    for name, groups in (("batched", classes), ("nms", torch.zeros_like(classes))):
        index, kept = nms(boxes, scores, groups, ones(1, 300), threshold, 300)
        assert np.array_equal(index[kept].numpy(), expected[f"{name}_keep_{threshold}"])


def test_pasting(golden: Golden) -> None:
    given = golden("paste_masks")
    height, width = given["image_hw"].tolist()
    masks, boxes = torch.from_numpy(given["masks"]), torch.from_numpy(given["boxes"])
    expected = unpacked(given["pasted_bits"], height, width)
    assert expected.any((1, 2)).sum() >= 12
    assert np.array_equal(whole_masks(masks, boxes, (height, width)).numpy(), expected)
    for pasted, mask in zip(paste_masks(masks, boxes, (height, width)), expected, strict=True):
        assert encode_pasted(*pasted, (height, width)) == encode_mask(mask)
    # their soft values, cut down to 8 bits, are exact at whatever threshold is a whole step
    for step in (60, 128, 200):
        soft = given["pasted_soft_uint8"] >= step
        differing = whole_masks(masks, boxes, (height, width), threshold=step / 255).numpy() != soft
        assert differing.mean() < 1e-4, step


@pytest.fixture
def outlines(golden: Golden) -> tuple[dict[str, np.ndarray], list[list[np.ndarray]]]:
    """The arrays of polygons.npz, and the parts (n, 2) float64 of its six objects."""
    given = golden("polygons")
    parts = np.split(given["poly_xy"], np.cumsum(given["poly_len"])[:-1])
    owners = given["poly_owner"].tolist()
    objects = [[p.reshape(-1, 2) for p, o in zip(parts, owners, strict=True) if o == i] for i in range(6)]
    return given, objects


@pytest.mark.parametrize("size", [14, 28])
def test_cropping_polygons(outlines: tuple[dict[str, np.ndarray], list[list[np.ndarray]]], size: int) -> None:
    given, objects = outlines
    edges = torch.full((1, 6, 50, 5), -1.0)
    for slot, parts in zip(edges[0], objects, strict=True):
        start = 0
        for number, part in enumerate(parts):
            rows = slot[start : start + len(part)]
            rows[:, :2], rows[:, 2:4] = torch.from_numpy(part), torch.from_numpy(np.roll(part, -1, 0))
            rows[:, 4] = number
            start += len(part)
    boxes = torch.from_numpy(given["boxes"])[None]
    masks = rasterize_polygons(edges, torch.arange(6)[None], boxes, ones(1, 6), size)
    assert np.array_equal(masks[0].numpy(), given[f"crop_and_resize_{size}"])


def test_masks_of_polygons(outlines: tuple[dict[str, np.ndarray], list[list[np.ndarray]]]) -> None:
    given, objects = outlines
    expected = unpacked(given["bitmask_100x130"], 100, 130)
    masks = [rle_mask(as_rle([part.reshape(-1).tolist() for part in parts], 100, 130)) for parts in objects]
    assert np.array_equal(np.stack(masks), expected)
    for mask, box in zip(masks, given["bitmask_boxes"], strict=True):
        x, y, width, height = rle_box(encode_mask(mask))
        assert [x, y, x + width, y + height] == box.tolist()


def test_cropping_bitmaps(golden: Golden) -> None:
    given = golden("polygons")
    bitmaps = torch.from_numpy(unpacked(given["bitmask_100x130"], 100, 130))[None]
    boxes = torch.from_numpy(given["boxes"])[None]
    masks = crop_bitmaps(bitmaps, torch.arange(6)[None], boxes, ones(1, 6), 28, True, 0.5)
    differing = (masks[0].numpy() != given["bitmask_crop_and_resize_28"]).sum((1, 2))
    assert differing.max() <= 2


def test_run_lengths(golden: Golden) -> None:
    given = golden("rle")
    height, width = given["size_hw"].tolist()
    masks = unpacked(given["masks_bits"], height, width)
    runs = np.split(given["counts_uncompressed"], np.cumsum(given["counts_uncompressed_len"])[:-1])
    for mask, counts, lengths, area, box in zip(
        masks, given["counts_compressed"].tolist(), runs, given["area"], given["bbox_xywh"], strict=True
    ):
        rle = encode_mask(mask)
        assert rle == {"size": [height, width], "counts": counts}
        again = as_rle({"size": [height, width], "counts": lengths.tolist()}, height, width)
        assert again["counts"].decode() == counts
        assert np.array_equal(rle_mask(rle), mask)
        assert rle_area(rle) == area
        assert list(rle_box(rle)) == box.tolist()


def test_run_lengths_of_polygons(golden: Golden) -> None:
    polygons, given = golden("polygons"), golden("rle")
    parts = np.split(polygons["poly_xy"], np.cumsum(polygons["poly_len"])[:-1])
    height, width = given["size_hw"].tolist()
    for part, counts in zip(parts, given["poly_counts"].tolist(), strict=True):
        assert as_rle([part.tolist()], height, width)["counts"].decode() == counts


def test_outlines_of_bitmaps_fill_to_them(golden: Golden) -> None:
    given = golden("rle")
    masks = unpacked(given["masks_bits"], *given["size_hw"].tolist())
    outlines = [torch.from_numpy(mask_outline(mask)) for mask in masks]
    edges = torch.full((1, len(masks), max(map(len, outlines)), 5), -1.0)
    for slot, outline in zip(edges[0], outlines, strict=True):
        slot[: len(outline), :4], slot[: len(outline), 4] = outline, 0
    whole = torch.tensor([0.0, 0, 130, 130]).expand(1, len(masks), 4)
    filled = rasterize_polygons(edges, torch.arange(len(masks))[None], whole, ones(1, len(masks)), 130)[0].numpy()
    assert np.array_equal(filled[:, :100], masks)
    assert not filled[:, 100:].any()


def test_smooth_l1(golden: Golden) -> None:
    given = golden("losses")
    x, y = torch.from_numpy(given["x"]), torch.from_numpy(given["y"])
    for beta, name in ((0.0, "smooth_l1_beta0_sum"), (1 / 9, "smooth_l1_beta_1_9_sum")):
        assert_close(smooth_l1(x, y, beta).sum(), given[name], 1e-5, 0)


def test_resizing(golden: Golden) -> None:
    given = golden("resize")
    image = torch.from_numpy(given["image"]).permute(2, 0, 1)
    for shortest, longest in ((64, 1000), (20, 1000), (64, 80)):
        resized, _ = build_preprocessor(InputConfig(min_size=shortest, max_size=longest))(image)
        ours = resized.permute(1, 2, 0).numpy()
        assert np.array_equal(ours, given[f"resized_min{shortest}_max{longest}"])
    for before, after in zip(given["sizes_in"].tolist(), given["sizes_800_1333"].tolist(), strict=True):
        assert list(build_preprocessor(InputConfig()).resized_size(tuple(before))) == after
