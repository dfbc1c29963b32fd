"""Outlines of the objects of the synthetic data set: closed rings in a unit frame, and their coverage of pixels.

Letters: P points of a ring. Coordinates: x to the right, y down; the radius of an object is about 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Ring = npt.NDArray[np.float64]  # (P, 2) x, y; closed: the last point joins the first
Coverage = npt.NDArray[np.floating]  # (h, w) in [0, 1], the part of each pixel that is covered

SUPERSAMPLING = 4  # subpixels along a pixel's side


@dataclass(frozen=True)
class Shape:
    """An outline, and the holes in it."""

    outer: Ring
    holes: tuple[Ring, ...] = ()


@dataclass(frozen=True)
class Pose:
    """Position of a shape: pixels = centre + matrix @ unit coordinates."""

    centre: npt.NDArray[np.float64]  # (2,)
    matrix: npt.NDArray[np.float64]  # (2, 2)

    def apply(self, ring: Ring) -> Ring:
        """Unit coordinates to pixels."""
        return ring @ self.matrix.T + self.centre

    def unit(
        self, x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]
    ) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
        """Pixels to unit coordinates."""
        inverse = np.linalg.inv(self.matrix)
        x, y = x - self.centre[0], y - self.centre[1]
        return inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y


def random_pose(rng: np.random.Generator, centre: tuple[float, float], radius: float, tilt: float = 0.3) -> Pose:
    """A random rotation at `radius` pixels, foreshortened in one direction by up to `tilt` (0 = seen from above)."""
    turn, lean = rng.uniform(0, 2 * np.pi, 2)
    squash = np.diag([1.0, 1.0 - rng.uniform(0, tilt)])
    return Pose(np.asarray(centre), radius * _rotation(lean) @ squash @ _rotation(-lean) @ _rotation(turn))


def cover(shape: Shape, pose: Pose, height: int, width: int) -> tuple[int, int, Coverage]:
    """Top, left and coverage (h, w) of the part of an image (`height`, `width`; pixels) that contains `shape`."""
    outer = pose.apply(shape.outer)
    left, top = np.maximum(np.floor(outer.min(0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(outer.max(0)).astype(int) + 1, [width, height])
    if right <= left or bottom <= top:
        return 0, 0, np.zeros((0, 0), dtype=np.float32)
    size = (int(right - left), int(bottom - top))
    canvas = Image.new("L", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    for ring, ink in [(outer, 255), *((pose.apply(hole), 0) for hole in shape.holes)]:
        # integer coordinates of Pillow are pixel centres
        pen.polygon([tuple(point) for point in (ring - [left, top]) * SUPERSAMPLING - 0.5], fill=ink)
    covered = np.asarray(canvas.resize(size, Image.Resampling.BOX), dtype=np.float32) / 255
    return int(top), int(left), covered


def star(rng: np.random.Generator) -> Shape:
    """A starfish: five or six soft arms."""
    arms = int(rng.integers(5, 7))
    angle = np.arange(2 * arms) * np.pi / arms
    radius = np.where(np.arange(2 * arms) % 2 == 0, 1.0, rng.uniform(0.38, 0.5)) * rng.uniform(0.92, 1.05, 2 * arms)
    return Shape(_rounded(_polar(angle + rng.uniform(-0.05, 0.05, 2 * arms), radius), times=2))


def ring(rng: np.random.Generator) -> Shape:
    """A doughnut: round, with a hole near the middle."""
    angle = _around(64)
    wobble = 1 + rng.uniform(0, 0.03) * np.sin(3 * angle + rng.uniform(0, 6))
    hole = _polar(angle, rng.uniform(0.32, 0.55) * wobble[::-1]) + rng.uniform(-0.05, 0.05, 2)
    return Shape(_polar(angle, wobble), (hole,))


def leaf(rng: np.random.Generator) -> Shape:
    """A pointed leaf, smooth or toothed, with its stalk."""
    along = np.linspace(0, 1, 40)
    wide = rng.uniform(0.34, 0.52) * np.sin(np.pi * along ** rng.uniform(0.75, 1.0))
    wide *= 1 + rng.uniform(0, 0.14) * np.sign(np.sin(2 * np.pi * rng.integers(5, 9) * along))
    x = -0.72 + 1.72 * along
    blade = np.concatenate([np.stack([x, wide], 1), np.stack([x, -wide], 1)[::-1]])
    stalk = np.array([[-0.7, -0.04], [-1.0, -0.05], [-1.0, 0.05], [-0.7, 0.04]])
    points = np.concatenate([blade, stalk])
    points[:, 1] += rng.uniform(-0.25, 0.25) * points[:, 0] ** 2
    return Shape(points)


def gear(rng: np.random.Generator) -> Shape:
    """A cogwheel with a bore."""
    teeth = int(rng.integers(8, 13))
    step = 2 * np.pi / teeth
    root = rng.uniform(0.74, 0.82)
    corners = [(-0.30, root), (-0.18, 1.0), (0.18, 1.0), (0.30, root)]
    angle = np.array([(tooth + part) * step for tooth in range(teeth) for part, _ in corners])
    outer = _polar(angle, np.array([radius for _, radius in corners] * teeth))
    return Shape(outer, (_polar(_around(40), rng.uniform(0.2, 0.34)),))


def crescent(rng: np.random.Generator) -> Shape:
    """A moon or a banana: an arc that becomes thin at both ends."""
    reach = rng.uniform(1.9, 2.5)
    angle = np.linspace(-reach / 2, reach / 2, 36)
    bulge = np.clip(np.cos(angle * np.pi / reach), 0, 1)  # rounding can make the cosine of a right angle negative
    thick = rng.uniform(0.32, 0.5) * bulge ** rng.uniform(0.6, 0.9) + 0.03
    outer, inner = _polar(angle, 1.0), _polar(angle, 1.0 - thick)[::-1]
    points = np.concatenate([outer, inner])
    points -= (points.max(0) + points.min(0)) / 2
    return Shape(points / np.abs(points).max())


def bottle(rng: np.random.Generator) -> Shape:
    """A bottle from the side: body, shoulder, neck, lip."""
    body, neck = rng.uniform(0.27, 0.4), rng.uniform(0.09, 0.14)
    shoulder = rng.uniform(-0.35, -0.05)
    rise = np.linspace(0, 1, 9)
    smooth = rise**2 * (3 - 2 * rise)
    side = [(body * 0.88, 1.0), (body, 0.94)]
    side += [(body + (neck - body) * s, shoulder - 0.32 * r) for r, s in zip(rise, smooth, strict=True)]
    side += [(neck, -0.86), (neck * 1.35, -0.86), (neck * 1.35, -1.0)]
    right = np.array(side)
    return Shape(np.concatenate([right, (right * [-1, 1])[::-1]]))


def pebble(rng: np.random.Generator) -> Shape:
    """A smooth stone: clutter without a class."""
    angle = _around(48)
    radius = 1 + sum(rng.uniform(-0.12, 0.12) * np.sin(k * angle + rng.uniform(0, 6)) for k in (2, 3, 4))
    return Shape(_polar(angle, radius) * [1.0, rng.uniform(0.6, 0.9)])


def stick(rng: np.random.Generator) -> Shape:
    """A thin twig: clutter that cuts objects in two."""
    along = np.linspace(-1, 1, 12)
    bend = rng.uniform(-0.12, 0.12) * along**2 + rng.uniform(-0.01, 0.01, 12)
    wide = rng.uniform(0.02, 0.035) * (1 + 0.3 * along)
    return Shape(np.concatenate([np.stack([along, bend + wide], 1), np.stack([along, bend - wide], 1)[::-1]]))


def card(rng: np.random.Generator) -> Shape:
    """A rectangle of paper: clutter."""
    high = rng.uniform(0.45, 0.75)
    return Shape(np.array([[-1, -high], [1, -high], [1, high], [-1, high]], dtype=np.float64))


OBJECTS: dict[str, Callable[[np.random.Generator], Shape]] = {
    "star": star, "ring": ring, "leaf": leaf, "gear": gear, "crescent": crescent, "bottle": bottle,
}  # fmt: skip
CLUTTER: dict[str, Callable[[np.random.Generator], Shape]] = {"pebble": pebble, "stick": stick, "card": card}


def _rotation(angle: float) -> npt.NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _around(count: int) -> npt.NDArray[np.float64]:
    return np.arange(count) * 2 * np.pi / count


def _polar(angle: npt.NDArray[np.float64], radius: npt.NDArray[np.float64] | float) -> Ring:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _rounded(points: Ring, times: int) -> Ring:
    """The ring with its corners cut off, `times` times (Chaikin 1974)."""
    for _ in range(times):
        following = np.roll(points, -1, 0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    return points
