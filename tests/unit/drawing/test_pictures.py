"""Pictures: what is drawn where, by the values of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.drawing.labels import LabelWriter
from rcnn.drawing.palette import Colour, object_colour, readable_on
from rcnn.drawing.pictures import (
    OPACITY,
    draw_dashed_boxes,
    draw_objects,
    line_width,
    pasted_mask_of,
    scale_for_objects,
)
from rcnn.ops.masks import PastedMask

GREY = np.full((60, 80, 3), 100, dtype=np.uint8)
NAMES = ("cup", "boat")
AWAY = [[70.0, 50.0, 75.0, 55.0]]  # a box that hides nothing of what a test looks at


def contrast(one: Colour, other: Colour) -> float:
    """WCAG 2.1's contrast ratio, written from its definition."""

    def luminance(value: Colour) -> float:
        parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in value]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def disc(side: int = 21) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return x * x + y * y <= (side // 2) ** 2


def test_every_value_of_a_pixel_is_blended_as_in_float32() -> None:
    canvas = np.arange(256 * 3, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)
    canvas = np.pad(canvas, ((4, 60), (4, 60), (0, 0)))
    drawn = np.asarray(draw_objects(canvas, AWAY, [0], NAMES, masks=[PastedMask(2, 2, np.ones((20, 20), dtype=bool))]))
    values = canvas[4:20, 4:20].astype(np.float32)
    ink = np.asarray(object_colour(0), dtype=np.float32)
    expected = np.rint(values * np.float32(1 - OPACITY) + ink * np.float32(OPACITY)).astype(np.uint8)
    np.testing.assert_array_equal(drawn[4:20, 4:20], expected)
    assert len(np.unique(canvas[4:20, 4:20, 0])) == 256


def test_a_mask_is_blended_and_edged() -> None:
    mask = disc()
    drawn = np.asarray(draw_objects(GREY, AWAY, [0], NAMES, masks=[PastedMask(5, 30, mask)]))
    part = drawn[30:51, 5:26]
    ink = np.array(object_colour(0))
    np.testing.assert_array_equal(part[10, 10], np.rint(100 * (1 - OPACITY) + ink * OPACITY))
    for y in range(21):
        for x in range(21):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            is_edge = mask[y, x] and not all(0 <= v < 21 and 0 <= u < 21 and mask[v, u] for v, u in around)
            assert (part[y, x] == ink).all() == is_edge
            assert (part[y, x] == 100).all() == (not mask[y, x])


def test_a_contour_leaves_the_area_alone() -> None:
    mask = np.ones((9, 9), dtype=bool)
    drawn = np.asarray(draw_objects(GREY, AWAY, [0], NAMES, masks=[PastedMask(5, 30, mask)], contour=True))
    assert line_width(60, 80) == 1
    assert line_width(300, 400) * 10 == pytest.approx(line_width(3000, 4000), abs=5)
    framed = (drawn[30:39, 5:14] == object_colour(0)).all(axis=2)
    expected = np.ones((9, 9), dtype=bool)
    expected[1:-1, 1:-1] = False
    np.testing.assert_array_equal(framed, expected)
    assert (drawn[31:38, 6:13] == 100).all()


def test_objects_outside_the_image_are_not_drawn() -> None:
    mask = np.ones((40, 40), dtype=bool)
    drawn = np.asarray(draw_objects(GREY, AWAY, [0], NAMES, masks=[PastedMask(-30, 25, mask)]))
    assert (drawn[25:50, :10] != 100).any(axis=2).all()
    assert (drawn[25:60, 10:54] == 100).all()
    nowhere = draw_objects(GREY, AWAY, [0], NAMES, masks=[PastedMask(200, 0, mask)])
    np.testing.assert_array_equal(nowhere, draw_objects(GREY, AWAY, [0], NAMES, masks=[None]))


def test_a_box_is_drawn_on_the_pixels_it_covers() -> None:
    drawn = np.asarray(draw_objects(GREY, [[10.2, 30.7, 20.0, 40.5]], [1], NAMES, colour_by="class"))
    row, column = (drawn[35] == object_colour(1)).all(axis=1), (drawn[:, 15] == object_colour(1)).all(axis=1)
    assert np.flatnonzero(row).tolist() == [10, 19]
    assert {30, 40} <= set(np.flatnonzero(column).tolist())
    assert not column[31:40].any()
    assert not column[41:].any()


def test_a_tensor_and_an_array_give_the_same_picture_and_stay_as_they_were() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    kept = image.copy()
    boxes, labels, scores = [[5.0, 20.0, 40.0, 50.0], [30.0, 30.0, 70.0, 55.0]], [0, 1], [0.912, 0.5]
    masks = [PastedMask(5, 20, np.ones((30, 35), dtype=bool)), None]
    one = draw_objects(image, boxes, labels, NAMES, scores=scores, masks=masks)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    two = draw_objects(tensor, torch.tensor(boxes), np.array(labels), NAMES, scores=torch.tensor(scores), masks=masks)
    assert isinstance(one, Image.Image)
    assert one.size == (80, 60)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(image, kept)


def test_no_objects_leave_the_image_as_it_is() -> None:
    np.testing.assert_array_equal(draw_objects(GREY, np.zeros((0, 4)), [], NAMES, scores=[], masks=[]), GREY)


def test_an_image_too_small_for_a_name_gets_none() -> None:
    tiny = np.full((4, 4, 3), 100, dtype=np.uint8)
    drawn = np.asarray(draw_objects(tiny, [[0.0, 0.0, 4.0, 4.0]], [0], NAMES))
    assert (drawn[1:3, 1:3] == 100).all()
    assert (drawn[0] == object_colour(0)).all()


def test_a_name_and_a_score_are_written_on_the_objects_colour() -> None:
    bare = draw_objects(GREY, [[20.0, 30.0, 60.0, 50.0]], [0], ("",))
    named = np.asarray(draw_objects(GREY, [[20.0, 30.0, 60.0, 50.0]], [0], ("cup",)))
    scored = np.asarray(draw_objects(GREY, [[20.0, 30.0, 60.0, 50.0]], [0], ("cup",), scores=[0.914]))
    same = np.asarray(draw_objects(GREY, [[20.0, 30.0, 60.0, 50.0]], [0], ("cup 0.91",)))
    np.testing.assert_array_equal(scored, same)
    ground = [(picture[:30] == object_colour(0)).all(axis=2).sum() for picture in (named, scored)]
    assert 20 < ground[0] < ground[1]
    assert (np.asarray(bare) != named).any()


@pytest.mark.parametrize("size", [(640, 480), (120, 90), (60, 400)])
def test_names_stay_inside_the_image(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size)
    writer = LabelWriter(picture)
    random = np.random.default_rng(0)
    for _ in range(60):
        corner = random.uniform(-50, 1.2 * max(size), 2)
        writer.write("person", np.concatenate([corner, corner + random.uniform(0, 300, 2)]), (200, 0, 0))
    written = np.array(writer.taken)
    assert len(written) >= 5
    assert (written >= 0).all()
    assert (written[:, 2] <= size[0]).all()
    assert (written[:, 3] <= size[1]).all()


def test_captions_are_drawn_instead_of_names() -> None:
    image = np.zeros((60, 200, 3), np.uint8)
    boxes, labels = [[10, 20, 60, 50], [110, 20, 160, 50]], [0, 1]
    captioned = draw_objects(image, boxes, labels, ["cat", "dog"], captions=["left one", ""]).tobytes()
    assert captioned == draw_objects(image, boxes, labels, ["left one", "dog"]).tobytes()
    assert captioned != draw_objects(image, boxes, labels, ["cat", "dog"]).tobytes()


def canvas_of(rectangles: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """How many of the rectangles (xyxy) cover each pixel."""
    canvas = np.zeros(size, int)
    for x0, y0, x1, y1 in np.asarray(rectangles).reshape(-1, 4).astype(int).tolist():
        canvas[max(0, y0) : y1, max(0, x0) : x1] += 1
    return canvas


def test_names_of_boxes_that_share_a_corner_do_not_hide_each_other() -> None:
    picture = Image.new("RGB", (640, 480))
    writer = LabelWriter(picture)
    for side in (100.0, 200.0, 300.0):
        writer.write("person", np.array([200.0, 100.0, 200 + side, 100 + side]), (200, 0, 0))
    assert len(writer.taken) == 3
    assert canvas_of(writer.taken, (480, 640)).max() == 1


def test_no_two_names_of_a_crowd_share_a_pixel() -> None:
    random = np.random.default_rng(0)
    writer = LabelWriter(Image.new("RGB", (640, 480)))
    for _ in range(80):
        x, y = random.uniform(100, 400), random.uniform(100, 300)
        writer.write("person 0.93", np.array([x, y, x + 90, y + 60]), (200, 0, 0))
    assert canvas_of(writer.taken, (480, 640)).max() == 1
    assert len(writer.taken) > 20  # the other names have no room


def test_names_do_not_hide_small_objects() -> None:
    """A column of objects of 12 pixels: above each of them is another one, and beside them there is room."""
    boxes = np.array([[200.0, y, 212, y + 12] for y in range(50, 250, 14)])
    writer = LabelWriter(Image.new("RGB", (640, 480)), objects=boxes)
    large = np.array([[100.0, 20, 400, 400]])
    careless = LabelWriter(Image.new("RGB", (640, 480)), objects=large)
    for box in boxes:
        writer.write("cup", box, (200, 0, 0))
        careless.write("cup", box, (200, 0, 0))
    objects = canvas_of(boxes.tolist(), (480, 640)) > 0
    assert (canvas_of(careless.taken, (480, 640))[objects] > 0).mean() > 0.2, "without the boxes, it would"
    assert (canvas_of(writer.taken, (480, 640))[objects] > 0).mean() == 0
    assert len(writer.taken) >= len(boxes) / 2


def test_keypoints_that_were_seen_are_dots_joined_by_lines() -> None:
    points = np.zeros((1, 3, 3))
    points[0] = [[10, 40, 1], [30, 40, 1], [50, 40, 0]]
    drawn = np.asarray(draw_objects(GREY, AWAY, [0], NAMES, keypoints=points, skeleton=[(0, 1), (1, 2)]))
    on_line = (drawn[40, :60] == object_colour(0)).all(axis=1)
    assert on_line[14:27].all()
    assert (drawn[40, 34:54] == 100).all()


def test_keypoints_of_a_small_object_are_small() -> None:
    def changed(side: int) -> int:
        """Pixels of a dot of an object of this size, away from its box."""
        grey = np.full((960, 1280, 3), 100, np.uint8)
        box = [[600 - side / 2, 500 - side / 2, 600 + side / 2, 500 + side / 2]]
        drawn = np.asarray(draw_objects(grey, box, [0], ["a"], keypoints=[[[200, 200, 1]]], with_names=False))
        return int((drawn[150:250, 150:250] != 100).any(-1).sum())

    assert line_width(960, 1280) == 4
    assert changed(400) == changed(160) > 100
    assert 5 <= changed(40) <= 16


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 60, 80), np.uint8), r"\(3, 60, 80\) and type uint8; expected uint8 RGB"),
        (np.zeros((60, 80, 3), np.float32), "type float32"),
        (torch.zeros((3, 60, 80)), "type torch.float32"),
    ],
)
def test_an_image_of_another_kind_is_refused(image: np.ndarray | torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_objects(image, AWAY, [0], NAMES)


def test_counts_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="1 boxes but 2 labels"):
        draw_objects(GREY, AWAY, [0, 1], NAMES)
    with pytest.raises(ValueError, match="argument 2 is longer"):
        draw_objects(GREY, AWAY, [0], NAMES, masks=[])


def test_region_of_a_mask_puts_it_back() -> None:
    mask = np.zeros((40, 50), dtype=bool)
    mask[7:12, 9:30] = disc(21)[3:8]
    pasted = pasted_mask_of(mask)
    assert pasted is not None
    whole = np.zeros_like(mask)
    whole[pasted.y0 : pasted.y0 + pasted.mask.shape[0], pasted.x0 : pasted.x0 + pasted.mask.shape[1]] = pasted.mask
    np.testing.assert_array_equal(whole, mask)
    assert pasted.mask[:, 0].any()
    assert pasted.mask[:, -1].any()
    assert pasted_mask_of(np.zeros((4, 4), dtype=bool)) is None


def test_colours_are_many_and_names_on_them_can_be_read() -> None:
    colours = [object_colour(index) for index in range(200)]
    assert len(set(colours)) == 200
    assert min(contrast(value, readable_on(value)) for value in colours) >= 4.5  # WCAG AA


def test_no_objects_with_no_keypoints_leave_the_picture_as_it_is() -> None:
    drawn = draw_objects(GREY, np.zeros((0, 4)), [], NAMES, keypoints=np.zeros((0, 17, 3)))
    assert np.array_equal(np.asarray(drawn), GREY)


def test_keypoints_scored_too_low_are_not_drawn() -> None:
    points = [[[20, 20, 0.04], [40, 40, 0.2]]]
    drawn = np.asarray(draw_objects(GREY, AWAY, [0], NAMES, keypoints=points, skeleton=[(0, 1)], keypoint_score=0.05))
    changed = (drawn != GREY).any(-1)
    assert changed[40, 40]
    assert not changed[20, 20]
    assert not changed[30, 30]


def test_ignored_objects_are_dashed_boxes() -> None:
    picture = Image.new("RGB", (60, 40), (90, 90, 90))
    draw_dashed_boxes(picture, np.array([[10, 5, 50, 30]], np.float32))
    pixels = np.asarray(picture)
    for edge in (pixels[5, 10:50], pixels[29, 10:50], pixels[5:30, 10], pixels[5:30, 49]):
        assert {tuple(one) for one in edge.tolist()} == {(0, 0, 0), (255, 255, 255)}
    pixels = np.delete(np.delete(pixels, [5, 29], axis=0), [10, 49], axis=1)
    assert (pixels == 90).all()


def test_boxes_far_outside_the_image_are_drawn_at_once() -> None:
    """Pillow draws each pixel of a line, even outside the picture: a side of 1e12 pixels would take minutes."""
    image = np.full((40, 60, 3), 90, np.uint8)
    far, near = [[-1e12, 5.0, 1e12, 1e12]], [[-70.0, 5.0, 70.0, 70.0]]
    pictures = [draw_objects(image, box, [0], ["cup"], with_names=False) for box in (far, near)]
    assert pictures[0].tobytes() == pictures[1].tobytes() != image.tobytes()
    lines = [
        draw_objects(
            image,
            [[0, 0, 9, 9]],
            [0],
            ["cup"],
            keypoints=[[[1, 20, 2], [x, 20, 2]]],
            skeleton=[(0, 1)],
            with_names=False,
        )
        for x in (1e12, 90)
    ]
    assert lines[0].tobytes() == lines[1].tobytes()
    assert (np.asarray(lines[0])[20] != 90).any(axis=1).all()
    dashed = Image.fromarray(image)
    draw_dashed_boxes(dashed, np.array(far))
    assert (np.asarray(dashed)[5] != 90).all()


@pytest.mark.parametrize("box", [[0, 0, 8.5, 5], [0, 0, 5, 8.5], [3.25, 3.25, 11.5, 11.5]])
def test_dashed_boxes_may_have_fractional_sides(box: list[float]) -> None:
    picture = Image.new("RGB", (80, 60), (90, 90, 90))
    draw_dashed_boxes(picture, np.array([box]))
    rows, columns = (np.asarray(picture) != 90).any(axis=2).nonzero()
    assert (columns.min(), rows.min()) == (int(box[0]), int(box[1]))
    assert columns.max() <= box[2]
    assert rows.max() <= box[3]


def test_without_names_and_with_wider_lines() -> None:
    image = np.full((60, 80, 3), 128, dtype=np.uint8)
    box = [[20, 20, 60, 50]]
    bare = np.asarray(draw_objects(image, box, [0], ["cup"], with_names=False))
    wide = np.asarray(draw_objects(image, box, [0], ["cup"], with_names=False, width=4))
    changed, wider = (bare != 128).any(axis=2), (wide != 128).any(axis=2)
    assert changed.sum() == 2 * 40 + 2 * 28, "a frame of one pixel, and nothing else"
    assert wider.sum() == 40 * 30 - 32 * 22, "a frame of four pixels"
    named = np.asarray(draw_objects(image, box, [0], ["cup"]))
    assert (named != 128).any(axis=2).sum() > changed.sum()


@pytest.mark.parametrize(
    ("size", "side", "line", "name"),
    [
        ((300, 400), 6, 1, 10),  # small images: the sizes depend on the image only
        ((1000, 1333), 6, 4, 27),
        ((3000, 4000), 1000, 12, 82),  # ... and in large images with large objects
        ((3000, 4000), 150, 8, 50),  # a third of the objects' side
        ((3000, 4000), 6, 4, 27),  # legible as in 1000 x 1333
        ((7500, 10_000), 6, 4, 27),
    ],
)
def test_names_and_lines_do_not_hide_the_small_objects_of_large_images(
    size: tuple[int, int], side: int, line: int, name: int
) -> None:
    boxes = np.array([[10, 10, 10 + side, 10 + side]] * 3 + [[0, 0, *size]], float)
    scale = scale_for_objects(*size, boxes)
    assert line_width(*size, scale) == line
    assert LabelWriter(Image.new("1", size[::-1]), scale).size == name
    assert scale_for_objects(*size, np.zeros((0, 4))) == 1
