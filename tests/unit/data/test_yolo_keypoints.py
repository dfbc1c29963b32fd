"""Lines of YOLO's pose labels in data sets that do not say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rcnn.data import Dataset, open_dataset
from tests.unit.data.coco_folders import write_images

SIZE = (60, 40)  # width and height of the images


def write(root: Path, lines: list[str], yaml: str = "train: images\nval:\nnames: [person]\n") -> Dataset:
    """A data set of one image with these lines; without `yaml`, it has classes.txt."""
    write_images(root / "images", ["a.png"], SIZE)
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("\n".join(lines))
    name, text = ("data.yaml", yaml) if yaml else ("classes.txt", "person\n")
    (root / name).write_text(text)
    return open_dataset(root)


def pose_lines(keypoints: int, numbers: int, count: int = 8) -> list[str]:
    """Boxes with keypoints in them, some of which are not labelled, as Ultralytics writes both."""
    rng = np.random.default_rng(keypoints)
    lines: list[str] = []
    for _ in range(count):
        size = rng.uniform(0.1, 0.3, 2)
        centre = rng.uniform(size / 2, 1 - size / 2)
        points = np.ones((keypoints, numbers)) * 2
        points[:, :2] = centre + size * rng.uniform(-0.5, 0.5, (keypoints, 2))
        points[rng.random(keypoints) < 0.2] = 0
        points[0, :2] = centre
        points[0, 2:] = 1
        lines.append(f"0 {' '.join(f'{value:.6g}' for value in (*centre, *size, *points.ravel()))}")
    return lines


@pytest.mark.parametrize(("keypoints", "numbers"), [(1, 3), (2, 3), (17, 3), (3, 2), (17, 2)])
@pytest.mark.parametrize("yaml", ["train: images\nval:\nnames: [person]\nkpt_shape: [4, 2]\n", ""])
def test_keypoints_without_their_shape_are_no_polygon(tmp_path: Path, keypoints: int, numbers: int, yaml: str) -> None:
    lines = pose_lines(keypoints, numbers)
    dataset = write(tmp_path, lines, yaml)
    [warning] = dataset.warnings
    assert f"8 annotations have {keypoints} keypoint" in warning
    assert f"only the box was used; write kpt_shape: [{keypoints}, {numbers}] in data.yaml" in warning
    assert dataset[0].segmentations == (None,) * 8
    values = np.array([[float(word) for word in line.split()[1:5]] for line in lines]) * (*SIZE, *SIZE)
    expected = np.hstack([values[:, :2] - values[:, 2:] / 2, values[:, :2] + values[:, 2:] / 2])
    np.testing.assert_allclose(dataset[0].boxes, expected, atol=1e-3)


def test_the_shape_that_the_warning_names_is_right(tmp_path: Path) -> None:
    yaml = "train: images\nval:\nnames: [person]\nkpt_shape: [17, 2]\n"
    assert write(tmp_path, pose_lines(17, 2), yaml).warnings == ()


def polygon_line(rng: np.random.Generator, points: int) -> str:
    """A star-shaped polygon around a random centre."""
    radius = rng.uniform(0.05, 0.2)
    centre = rng.uniform(radius, 1 - radius, 2)
    angles = (np.arange(points) + rng.uniform(-0.4, 0.4, points)) * 2 * np.pi / points + rng.uniform(0, 2 * np.pi)
    radii = radius * rng.uniform(0.3, 1, points)
    outline = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return f"0 {' '.join(f'{value:.6f}' for value in outline.ravel())}"


@pytest.mark.parametrize("points", [4, 5, 6, 8, 19])  # 11, 13, 17 and 39 numbers are also those of keypoints
def test_polygons_with_the_same_number_of_points_are_polygons(tmp_path: Path, points: int) -> None:
    rng = np.random.default_rng(points)
    for place in range(6):
        dataset = write(tmp_path / str(place), [polygon_line(rng, points) for _ in range(1 + 2 * place)])
        assert None not in dataset[0].segmentations
        assert not any("keypoint" in line for line in dataset.warnings)


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("step", [1, -1])
def test_a_polygon_around_the_whole_image_is_a_polygon(tmp_path: Path, start: int, step: int) -> None:
    """Its coordinates are 0 and 1, like visibilities; it is closed, as some tools write it."""
    corners = ["0 0", "1 0", "1 1", "0 1"]
    line = " ".join(["0", *(corners[(start + step * place) % 4] for place in range(5))])
    dataset = write(tmp_path, [line])
    assert None not in dataset[0].segmentations
    assert dataset[0].boxes.tolist() == [[0, 0, *SIZE]]


def test_a_polygon_that_crosses_itself_is_not_a_box_with_keypoints(tmp_path: Path) -> None:
    """It was read as a box of half the size, with three keypoints."""
    dataset = write(tmp_path, ["0 .3 .3 .5 .5 .5 .3 .3 .5 .4 .6"])
    assert None not in dataset[0].segmentations
    np.testing.assert_allclose(dataset[0].boxes, [[0.3 * 60, 0.3 * 40, 0.5 * 60, 0.6 * 40]], atol=1e-3)
