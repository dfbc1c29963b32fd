"""Transforms against Pillow, torchvision's detection transform, Detectron2's outputs, pycocotools, and loops."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from pycocotools import mask as coco_mask

from rcnn.data.transforms import (
    Sample,
    augment,
    canvas_place,
    flip,
    jitter,
    resize,
    resize_factor,
    resize_image,
    resize_shortest,
    resized_size,
    sample_on_canvas,
)

SIZES = [(480, 640), (640, 480), (427, 640), (333, 500), (1200, 1600), (97, 1000), (500, 500), (1, 3000)]


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def edges_of(*parts: list[float]) -> np.ndarray:
    """Edges (E, 5) of polygons given as COCO gives them, by a slow loop."""
    edges = []
    for number, part in enumerate(parts):
        points = list(zip(part[::2], part[1::2], strict=True))
        for place, point in enumerate(points):
            edges.append([*point, *points[(place + 1) % len(points)], number])
    return np.array(edges, dtype=np.float64)


def sample(height: int = 40, width: int = 60) -> Sample:
    bitmaps = torch.zeros(2, height, width, dtype=torch.bool)
    bitmaps[0, 5:20, 10:30] = True
    bitmaps[1, 8:9, 50:60] = True
    return Sample(
        image=noise(height, width),
        boxes=torch.tensor([[10.0, 5, 30, 20], [50, 8, 60, 9]]),
        labels=torch.tensor([1, 0]),
        outlines=(edges_of([10, 5, 30, 5, 30, 20], [11, 15, 12, 15, 11, 18]), edges_of([50, 8, 60, 8, 60, 9, 50, 9])),
        bitmaps=bitmaps,
        keypoints=torch.tensor(
            [[[10.5, 5.5, 2], [29.5, 6.5, 1], [0, 0, 0]], [[50.5, 8.5, 2], [0, 0, 0], [59.5, 8.5, 2]]]
        ),
    )


def test_sizes_and_pixels_equal_detectron2(shared):
    golden = np.load(shared / "golden" / "ops" / "resize.npz")
    found = [resized_size((h, w), 800, 1333, "antialias") for h, w in golden["sizes_in"].tolist()]
    assert found == [tuple(size) for size in golden["sizes_800_1333"].tolist()]
    image = torch.from_numpy(golden["image"]).permute(2, 0, 1)
    for low, high in ((64, 1000), (20, 1000), (64, 80)):
        resized = resize_shortest(image, low, high, "antialias")
        assert resized.dtype == torch.uint8
        np.testing.assert_array_equal(resized.permute(1, 2, 0).numpy(), golden[f"resized_min{low}_max{high}"])


@pytest.mark.parametrize("size", [(53, 37), (37, 53), (64, 64), (200, 31)])
@pytest.mark.parametrize("contiguous", [True, False])
def test_antialias_is_pillow(size, contiguous):
    image = noise(*size)
    rows = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    if not contiguous:
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    resized = resize_image(image, (48, 29), "antialias")
    np.testing.assert_array_equal(resized.permute(1, 2, 0).numpy(), np.array(rows.resize((29, 48), Image.BILINEAR)))


@pytest.mark.parametrize("size", [size for size in SIZES if min(size) > 1])
def test_bilinear_is_torchvisions_transform(size):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    low, high = 64, 100
    transform = torchvision.models.detection.transform.GeneralizedRCNNTransform(low, high, mean, std)
    image = noise(*size)
    batch, _ = transform([image / 255])
    height, width = batch.image_sizes[0]
    ours = resize_shortest(image, low, high, "bilinear")
    assert tuple(ours.shape[1:]) == (height, width)
    normal = (ours / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(normal, batch.tensors[0, :, :height, :width], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(48, 64), (31, 20), (64, 48), (27, 40)])
def test_align_corners_by_a_loop(size):
    image = noise(*size)
    resized = resize_shortest(image, 24, 40, "align_corners")
    scale = min(24 / min(size), 40 / max(size))
    height, width = int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)
    assert tuple(resized.shape) == (3, height, width)
    for y, x in ((0, 0), (height - 1, width - 1), (5, 7), (height // 2, 1)):
        v, u = y * (size[0] - 1) / (height - 1), x * (size[1] - 1) / (width - 1)
        top, left = min(int(v), size[0] - 2), min(int(u), size[1] - 2)
        window = image[:, top : top + 2, left : left + 2].double()
        rows = window[:, 0] * (1 - (v - top)) + window[:, 1] * (v - top)
        expected = rows[:, 0] * (1 - (u - left)) + rows[:, 1] * (u - left)
        torch.testing.assert_close(resized[:, y, x].double(), expected, atol=1e-2, rtol=0)


def test_a_line_of_pixels_keeps_a_pixel():
    assert resized_size((1, 3000), 800, 1333, "antialias") == (1, 1333)
    assert resize_shortest(noise(1, 3000), 800, 1333, "bilinear").shape == (3, 1, 1333)


def test_resizing_takes_uint8_rgb_only():
    with pytest.raises(ValueError, match=r"\(1, 8, 8\) torch.uint8, wanted \(3, H, W\) uint8"):
        resize_shortest(noise(8, 8)[:1], 8, 8, "antialias")


def test_resize_moves_objects_with_the_image():
    before = sample()
    after = resize(before, (60, 120), "antialias")  # y by 1.5, x by 2
    assert after.boxes.tolist() == [[20, 7.5, 60, 30], [100, 12, 120, 13.5]]
    expected = edges_of([20, 7.5, 60, 7.5, 60, 30], [22, 22.5, 24, 22.5, 22, 27])
    np.testing.assert_array_equal(after.outlines[0], expected)
    assert after.keypoints[1].tolist() == [[101, 12.75, 2], [0, 0, 0], [119, 12.75, 2]]
    assert before.boxes[0].tolist() == [10, 5, 30, 20]


@pytest.mark.parametrize("kind", ["antialias", "bilinear"])
def test_bitmaps_are_resized_as_the_peers_do(kind):
    before = sample()
    after = resize(before, (33, 47), kind).bitmaps
    for mask, resized in zip(before.bitmaps, after, strict=True):
        if kind == "antialias":
            expected = np.array(Image.fromarray(mask.numpy().astype(np.uint8)).resize((47, 33), Image.NEAREST))
        else:
            expected = torch.nn.functional.interpolate(mask[None, None].float(), size=(33, 47))[0, 0].numpy()
        np.testing.assert_array_equal(resized.numpy(), expected.astype(bool))


def test_flip_by_hand():
    after = flip(sample(), pairs=[(0, 1)])
    assert torch.equal(after.image[:, :, 0], sample().image[:, :, 59])
    assert after.boxes.tolist() == [[30, 5, 50, 20], [0, 8, 10, 9]]
    assert after.keypoints.tolist() == [
        [[30.5, 6.5, 1], [49.5, 5.5, 2], [0, 0, 0]],
        [[0, 0, 0], [9.5, 8.5, 2], [0.5, 8.5, 2]],
    ]


def test_flip_marks_the_same_pixels():
    """The pixel under a keypoint, and the pixels in a box and an outline, are the same before and after."""
    before, after = sample(), flip(sample())
    for place in range(2):
        for (x, y, seen), (u, v, _) in zip(
            before.keypoints[place].tolist(), after.keypoints[place].tolist(), strict=True
        ):
            if seen:
                assert torch.equal(before.image[:, int(y), int(x)], after.image[:, int(v), int(u)])
        for one in (before, after):
            ys, xs = one.bitmaps[place].nonzero(as_tuple=True)
            around = [xs.min().item(), ys.min().item(), xs.max().item() + 1, ys.max().item() + 1]
            assert one.boxes[place].tolist() == around
    one = edges_of([3, 4, 41.5, 6.25, 20, 33, 7, 20])
    flipped = flip(Sample(image=noise(40, 60), boxes=torch.zeros(1, 4), labels=torch.zeros(1), outlines=(one,)))
    masks = []
    for edges in (one, flipped.outlines[0]):
        rles = coco_mask.frPyObjects([edges[:, :2].reshape(-1).tolist()], 40, 60)
        masks.append(coco_mask.decode(coco_mask.merge(rles)))
    # pycocotools rounds halves to the right, so a mirrored outline may differ by pixels that it only grazes
    assert masks[0].sum() > 500
    assert np.abs(masks[0][:, ::-1].astype(int) - masks[1]).sum() <= 0.06 * masks[0].sum()


def test_flip_twice_is_the_sample():
    once, twice = sample(), flip(flip(sample(), [(0, 1)]), [(0, 1)])
    assert torch.equal(once.image, twice.image)
    assert torch.equal(once.boxes, twice.boxes)
    assert torch.equal(once.keypoints, twice.keypoints)
    assert torch.equal(once.bitmaps, twice.bitmaps)
    np.testing.assert_allclose(once.outlines[0], twice.outlines[0])


def test_no_objects():
    empty = Sample(
        image=noise(10, 20),
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        outlines=(),
        bitmaps=torch.zeros(0, 10, 20, dtype=torch.bool),
        keypoints=torch.zeros(0, 17, 3),
    )
    after = flip(resize(empty, (20, 40), "antialias"))
    assert after.size == (20, 40)
    assert after.boxes.shape == (0, 4)
    assert after.keypoints.shape == (0, 17, 3)
    assert after.bitmaps.shape == (0, 20, 40)


def test_a_sample_counts_its_objects():
    with pytest.raises(ValueError, match="1 labels for 2 boxes"):
        Sample(image=noise(4, 4), boxes=torch.zeros(2, 4), labels=torch.zeros(1))


def test_jitter_by_hand():
    image = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    image[0, 0, 0] = 200
    assert torch.equal(jitter(image, 1, 1, 1), image)
    bright = jitter(image, 1.5, 1, 1)
    assert bright[0].tolist() == [[255, 150], [150, 150]]
    grey = jitter(image, 1, 1, 0)[:, 0, 0]  # ITU-R 601: 0.2989 R + 0.587 G + 0.114 B
    assert grey.tolist() == pytest.approx([129, 129, 129], abs=1)


def settings(**changes) -> SimpleNamespace:
    return SimpleNamespace(**({"flip": 0.5, "scales": (), "jitter": 0.0} | changes))


MODEL = SimpleNamespace(min_size=20, max_size=100, resize="antialias", size_rounding="round", canvas=0, divisor=32)


def test_augmentation_depends_on_its_place_alone():
    first = [augment(sample(), settings(jitter=0.3), MODEL, (3, place)) for place in range(8)]
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    second = [augment(sample(), settings(jitter=0.3), MODEL, (3, place)) for place in reversed(range(8))][::-1]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.boxes, other.boxes)
    assert len({one.image.float().mean().item() for one in first}) == 8
    other = augment(sample(), settings(jitter=0.3), MODEL, (4, 0))
    assert not torch.equal(other.image, first[0].image)


def test_augmentation_keeps_to_its_settings():
    plain = resize(sample(), (20, 30), "antialias")
    for place in range(20):
        assert torch.equal(augment(sample(), settings(flip=0), MODEL, (0, place)).image, plain.image)
        assert torch.equal(augment(sample(), settings(flip=1), MODEL, (0, place)).image, plain.image.flip(-1))
    sides = [augment(sample(), settings(scales=(10, 20, 40)), MODEL, (0, place)).size[0] for place in range(60)]
    assert {side: sides.count(side) > 8 for side in sides} == {10: True, 20: True, 40: True}
    mirrored = [torch.equal(augment(sample(), settings(), MODEL, (0, p)).boxes, plain.boxes) for p in range(100)]
    assert 35 <= sum(mirrored) <= 65


def test_settings_do_not_disturb_each_other():
    for place in range(10):
        with_jitter = augment(sample(), settings(jitter=0.5), MODEL, (0, place))
        assert torch.equal(with_jitter.boxes, augment(sample(), settings(), MODEL, (0, place)).boxes)


def test_a_negative_seed_is_a_seed():
    assert augment(sample(), settings(), MODEL, (-1, 0)).size == (20, 30)


def test_sizes_of_the_systems_that_use_opencv() -> None:
    """600 over 427 is 1.40515: 640 becomes 899.3. OpenCV rounds halves to even, some systems round before the limit."""
    assert resized_size((427, 640), 600, 1000, "opencv_float", "floor") == (600, 899)
    assert resized_size((427, 640), 600, 1000, "opencv_float", "factor") == (600, 899)
    assert resized_size((150, 210), 192, 320, "opencv", "factor") == (192, 269)
    assert resized_size((150, 210), 192, 320, "opencv_float", "floor") == (192, 268)
    # 600 / 599 * 999 = 1000.67 is more than 1000; 600 / 2399 * 4000 = 1000.42 only before it is rounded
    for rounding in ("factor", "factor_limit"):
        assert resize_factor((599, 999), 600, 1000, rounding) == 1000 / 999
    assert resize_factor((2399, 4000), 600, 1000, "factor") == 1000 / 4000
    assert resize_factor((2399, 4000), 600, 1000, "factor_limit") == 600 / 2399
    # tensorpack: 480 x 640 to 800 x 1067, 360 x 640 to 756 x 1344 with a pyramid (facts of the real program)
    assert resized_size((480, 640), 800, 1344, "opencv") == (800, 1067)
    assert resized_size((360, 640), 800, 1344, "opencv") == (756, 1344)
    assert resized_size((360, 640), 800, 1333, "opencv") == (750, 1333)


def test_a_sample_on_a_black_square() -> None:
    sample = sample_of_one_square()
    square = sample_on_canvas(sample, 50)
    top, left = canvas_place(sample.size, 50)
    assert square.size == (50, 50)
    torch.testing.assert_close(square.boxes, sample.boxes + torch.tensor([left, top, left, top]).float())
    assert square.outlines is not None
    assert sample.outlines is not None
    np.testing.assert_array_equal(square.outlines[0][:, :2], sample.outlines[0][:, :2] + (left, top))
    assert square.bitmaps is not None
    assert sample.bitmaps is not None
    inside = (..., slice(top, top + sample.size[0]), slice(left, left + sample.size[1]))
    assert torch.equal(square.bitmaps[inside], sample.bitmaps)
    assert square.bitmaps.sum() == sample.bitmaps.sum()
    assert torch.equal(square.image[inside], sample.image)
    assert square.image.sum() == sample.image.sum()
    with pytest.raises(ValueError, match="does not fit"):
        sample_on_canvas(sample, 10)


def sample_of_one_square() -> Sample:
    """An image (20, 31) with one object of 6 x 5 pixels."""
    bitmap = torch.zeros(1, 20, 31, dtype=torch.bool)
    bitmap[0, 4:9, 7:13] = True
    corners = np.array([[7.0, 4], [13, 4], [13, 9], [7, 9]])
    edges = np.concatenate([corners, np.roll(corners, -1, 0), np.zeros((4, 1))], 1)
    return Sample(
        image=torch.randint(1, 256, (3, 20, 31), dtype=torch.uint8),
        boxes=torch.tensor([[7.0, 4.0, 13.0, 9.0]]),
        labels=torch.tensor([0]),
        outlines=(edges,),
        bitmaps=bitmap,
    )
