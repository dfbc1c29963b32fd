"""Surfaces and backgrounds of the synthetic data set: noise, relief, light. Colours are float32 RGB in [0, 1]."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

Plane = npt.NDArray[np.floating]  # (h, w)
Picture = npt.NDArray[np.floating]  # (h, w, 3)
Colour = npt.NDArray[np.floating]  # (3,)


def noise(rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 4) -> Plane:
    """Value noise (height, width), about [0, 1]: random grids of `cell` pixels; each octave halves size and weight."""
    total, strength = np.zeros((height, width), dtype=np.float32), 0.0
    for octave in range(octaves):
        pitch = max(1.0, cell / 2**octave)
        grid = rng.random((int(height / pitch) + 3, int(width / pitch) + 3), dtype=np.float32)
        wide = Image.fromarray(grid).resize(
            (width, height), Image.Resampling.BICUBIC, box=(1, 1, 1 + width / pitch, 1 + height / pitch)
        )
        total += np.asarray(wide) * 0.5**octave
        strength += 0.5**octave
        if pitch == 1.0:
            break
    return total / np.float32(strength)


def contrast(plane: Plane) -> Plane:
    """The plane scaled to [0, 1]."""
    low, high = float(plane.min()), float(plane.max())
    return (plane - low) / np.float32(max(high - low, 1e-6))


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour from its hue (0 to 1, periodic), saturation and value."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, min(1, max(0, saturation)), min(1, max(0, value))), dtype=np.float32)


def mix(low: Colour, high: Colour, part: Plane) -> Picture:
    """A mixture of two colours: `low` where `part` is 0, `high` where it is 1."""
    return low + (high - low) * part[..., None]


def blur(plane: Plane, radius: float) -> Plane:
    """Gaussian blur over the first two axes; `radius` is the standard deviation in pixels."""
    reach = max(1, round(2.5 * radius))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        length = plane.shape[axis]
        padded = np.pad(plane, [(reach, reach) if axis == at else (0, 0) for at in range(plane.ndim)], mode="edge")
        parts = (padded[i : i + length] if axis == 0 else padded[:, i : i + length] for i in range(2 * reach + 1))
        plane = np.zeros_like(plane)
        for weight, part in zip(weights, parts, strict=True):
            plane += weight * part
    return plane


def relief(coverage: Plane, roundness: float, light: tuple[float, float]) -> tuple[Plane, Plane]:
    """Diffuse and specular light on a rounded body with this outline; `light` (x, y) points to the light source."""
    pad = max(2, round(roundness * 1.5))
    height = np.sqrt(np.clip(blur(np.pad(coverage, pad), roundness), 0, 1)) * np.float32(roundness * 1.8)
    down, right = np.gradient(height)
    down, right = down[pad:-pad, pad:-pad], right[pad:-pad, pad:-pad]
    length = np.sqrt(right**2 + down**2 + 1)
    facing = (1.1 - light[0] * right - light[1] * down) / (length * np.sqrt(1.1**2 + light[0] ** 2 + light[1] ** 2))
    diffuse = np.clip(facing, 0, 1).astype(np.float32)
    return diffuse, diffuse**24


def starfish(rng: np.random.Generator, u: Plane, v: Plane) -> tuple[Picture, float]:
    """Rough skin with rows of pale dots along the arms. Returns (colour, glossiness), as all surfaces here."""
    base = hsv(rng.choice([0.0, 0.03, 0.06]) + rng.normal(0, 0.01), rng.uniform(0.55, 0.9), rng.uniform(0.6, 0.95))
    grain = noise(rng, *u.shape, cell=5, octaves=2)
    dots = np.sin(u * rng.uniform(14, 22)) * np.sin(v * rng.uniform(14, 22))
    skin = mix(base * 0.72, base, grain)
    return skin + 0.3 * (dots > 0.55).astype(np.float32)[..., None], 0.15


def doughnut(rng: np.random.Generator, u: Plane, v: Plane) -> tuple[Picture, float]:
    """Icing with sprinkles, a tyre, or a glazed ring with bands."""
    kind = rng.choice(3, p=[0.45, 0.4, 0.15])
    if kind == 0:
        icing = hsv(rng.choice([0.92, 0.88, 0.95]), rng.uniform(0.3, 0.6), rng.uniform(0.55, 0.98))
        surface = np.broadcast_to(icing, (*u.shape, 3)).copy()
        spots = noise(rng, *u.shape, cell=4, octaves=1) > 0.78
        hues = noise(rng, *u.shape, cell=6, octaves=1)
        for low in (0.0, 0.42, 0.5, 0.58):
            surface[spots & (hues > low)] = hsv(rng.random(), 0.8, 0.95)
        return surface, 0.5
    if kind == 1:
        tread = np.sin(np.arctan2(v, u) * rng.integers(24, 40)) > 0
        return mix(hsv(0.6, 0.08, 0.12), hsv(0.6, 0.08, 0.28), tread.astype(np.float32)), 0.25
    bands = np.sin(np.arctan2(v, u) * rng.integers(4, 9) + 3 * np.hypot(u, v))
    hue = rng.random()
    return mix(
        hsv(hue, 0.75, 0.75), hsv(hue + rng.uniform(0.1, 0.5), 0.35, 0.95), (bands > 0.2).astype(np.float32)
    ), 0.6


def foliage(rng: np.random.Generator, u: Plane, v: Plane) -> tuple[Picture, float]:
    """Green or autumn, with veins."""
    hue = rng.choice([0.24, 0.28, 0.32, 0.36]) + rng.normal(0, 0.012)
    base = hsv(hue, rng.uniform(0.55, 0.9), rng.uniform(0.4, 0.85))
    other = hsv(hue + rng.uniform(-0.08, 0.04), 0.8, rng.uniform(0.5, 0.9))
    surface = mix(base, other, contrast(noise(rng, *u.shape, cell=22, octaves=3)))
    veins = np.exp(-((v / 0.025) ** 2)) + 0.6 * np.exp(-((np.sin((u - np.abs(v) * 0.9) * 14) / 0.2) ** 2))
    return surface + (0.22 * np.clip(veins, 0, 1))[..., None], 0.2


def metal(rng: np.random.Generator, u: Plane, v: Plane) -> tuple[Picture, float]:
    """Brushed steel, brass, or rust."""
    around = np.arctan2(v, u)
    sheen = 0.5 + 0.5 * np.sin(2 * around + rng.uniform(0, 6)) * np.cos(around * 3)
    base = [hsv(0.6, 0.06, 0.75), hsv(0.12, 0.5, 0.8), hsv(0.05, 0.55, 0.5), hsv(0.58, 0.25, 0.65)][rng.integers(4)]
    brushed = mix(
        base * 0.55, np.minimum(base * 1.25, 1), contrast(sheen + 0.5 * noise(rng, *u.shape, cell=3, octaves=1))
    )
    groove = np.exp(-(((np.hypot(u, v) - 0.62) / 0.025) ** 2))
    return brushed * (1 - 0.4 * groove)[..., None], 0.9


def fruit(rng: np.random.Generator, u: Plane, v: Plane) -> tuple[Picture, float]:
    """A banana's skin with brown marks, or the moon's with craters."""
    if rng.random() < 0.85:
        skin = mix(hsv(0.14, 0.75, 0.95), hsv(0.17 + rng.uniform(0, 0.06), 0.7, 0.8), contrast(u + 0.3 * v))
        marks = noise(rng, *u.shape, cell=7, octaves=2) > rng.uniform(0.68, 0.78)
        ends = (np.abs(v) > 0.9) | marks
        return skin * np.where(ends, np.float32(0.45), np.float32(1))[..., None], 0.3
    base = hsv(rng.random(), rng.uniform(0.05, 0.6), rng.uniform(0.7, 0.95))
    return mix(base * 0.6, base, contrast(noise(rng, *u.shape, cell=9, octaves=3))), 0.2


def glass(rng: np.random.Generator, u: Plane, v: Plane) -> tuple[Picture, float]:
    """Coloured glass, a streak of light along it, a label around its body, a cap."""
    base = hsv(
        rng.choice([0.45, 0.58, 0.62, 0.75]) + rng.normal(0, 0.02), rng.uniform(0.45, 0.9), rng.uniform(0.3, 0.75)
    )
    surface = mix(base * 0.7, np.minimum(base * 1.2, 1), contrast(np.cos(u * 3.5) + 0.2 * v))
    surface = surface + (0.4 * np.exp(-(((u + 0.14) / 0.035) ** 2)) * (v > -0.4))[..., None]
    top = rng.uniform(0.1, 0.3)
    label = (v > top) & (v < top + rng.uniform(0.3, 0.5))
    paper, ink = hsv(rng.random(), rng.uniform(0, 0.15), 0.95), hsv(rng.random(), 0.7, 0.5)
    lines = (np.sin(v * 42) > 0.3) & (np.abs(u) < 0.18)
    surface[label] = paper
    surface[label & lines] = ink
    surface[v < -0.84] = hsv(rng.random(), 0.6, 0.6)
    return surface, 1.0


def paint(rng: np.random.Generator, u: Plane, v: Plane) -> tuple[Picture, float]:
    """Stripes, checks or marble in two random colours, so that the colour alone does not determine the class."""
    hue = rng.random()
    first, second = hsv(hue, rng.uniform(0.2, 0.9), rng.uniform(0.4, 1)), hsv(hue + rng.uniform(0.1, 0.6), 0.6, 0.8)
    kind, pitch = rng.integers(3), rng.uniform(6, 16)
    if kind == 0:
        part = (np.sin(u * pitch + v * rng.uniform(-8, 8)) > 0).astype(np.float32)
    elif kind == 1:
        part = (np.sin(u * pitch) * np.sin(v * pitch) > 0).astype(np.float32)
    else:
        part = contrast(np.sin(8 * noise(rng, *u.shape, cell=20, octaves=3) + 3 * u)).astype(np.float32)
    return mix(first, second, part), 0.4


def dull(rng: np.random.Generator, u: Plane, v: Plane) -> tuple[Picture, float]:
    """Stone, bark or paper, for clutter."""
    base = hsv(rng.uniform(0.04, 0.11), rng.uniform(0.1, 0.55), rng.uniform(0.35, 0.85))
    return mix(base * 0.75, base, contrast(noise(rng, *u.shape, cell=6, octaves=3) + 0.1 * u + 0.1 * v)), 0.1


SURFACES: dict[str, Callable[[np.random.Generator, Plane, Plane], tuple[Picture, float]]] = {
    "star": starfish, "ring": doughnut, "leaf": foliage, "gear": metal, "crescent": fruit, "bottle": glass,
}  # fmt: skip


def wood(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Planks."""
    grain = contrast(noise(rng, height, width, cell=70, octaves=2))
    y = np.arange(height, dtype=np.float32)[:, None]
    streaks = np.asarray(
        Image.fromarray(rng.random((height, 6), dtype=np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    )
    rings = 0.5 + 0.5 * np.sin(y * rng.uniform(0.15, 0.4) + grain * rng.uniform(8, 16))
    hue, value = rng.uniform(0.05, 0.1), rng.uniform(0.35, 0.85)
    picture = mix(hsv(hue, 0.6, value * 0.6), hsv(hue + 0.02, 0.45, value), np.clip(0.6 * rings + 0.4 * streaks, 0, 1))
    plank = rng.uniform(60, 110)
    shift = rng.uniform(0.8, 1.15, int(height / plank) + 2).astype(np.float32)
    row = (y[:, 0] + rng.uniform(0, plank)) / plank
    picture *= shift[np.minimum(row.astype(int), len(shift) - 1)][:, None, None]
    return picture * np.where(row % 1 < 1.6 / plank, 0.45, 1).astype(np.float32)[:, None, None]


def cloth(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Woven cloth in folds, sometimes checked."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    weave = 0.5 + 0.25 * (np.sin(x * 2.1) + np.sin(y * 2.1))
    folds = contrast(noise(rng, height, width, cell=130, octaves=2))
    hue, pitch = rng.random(), rng.uniform(0.08, 0.2)
    base, other = (
        hsv(hue, rng.uniform(0.05, 0.3), rng.uniform(0.4, 0.9)),
        hsv(hue + 0.08, rng.uniform(0.05, 0.3), rng.uniform(0.4, 0.95)),
    )
    checks = (0.5 * (np.sin(x * pitch) > 0.4) + 0.5 * (np.sin(y * pitch) > 0.4)) * (rng.random() < 0.5)
    return mix(base, other, checks.astype(np.float32)) * (0.6 + 0.35 * folds + 0.12 * weave)[..., None]


def ground(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Sand, soil, moss or concrete: coarse and fine grain."""
    coarse, fine = (
        contrast(noise(rng, height, width, cell=90, octaves=5)),
        rng.random((height, width), dtype=np.float32),
    )
    hue, saturation = [(0.1, 0.35), (0.07, 0.4), (0.25, 0.25), (0.6, 0.06)][rng.integers(4)]
    low, high = (
        hsv(hue, saturation, rng.uniform(0.2, 0.45)),
        hsv(hue + rng.normal(0, 0.02), saturation * 0.8, rng.uniform(0.55, 0.9)),
    )
    return mix(low, high, np.clip(0.85 * coarse + 0.3 * (blur(fine, 0.7) - 0.5) * 2, 0, 1))


def lights(rng: np.random.Generator, height: int, width: int) -> Picture:
    """A distant background out of focus: soft gradients and discs of light."""
    slope = contrast(noise(rng, height, width, cell=200, octaves=2))
    hue = rng.random()
    picture = mix(
        hsv(hue, 0.3, rng.uniform(0.15, 0.4)), hsv(hue + rng.uniform(-0.2, 0.2), 0.25, rng.uniform(0.5, 0.9)), slope
    )
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(rng.integers(6, 18)):
        radius, shine = rng.uniform(6, 26), rng.uniform(0.06, 0.3)
        distance = np.hypot(x - rng.uniform(0, width), y - rng.uniform(0, height)) - radius
        disc = np.clip(0.5 - distance / 3, 0, 1)[..., None]
        picture = picture + (hsv(hue + rng.normal(0, 0.12), 0.4, 1) - picture) * disc * np.float32(shine)
    return picture


def tiles(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Tiles or bricks with joints."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    high, wide = rng.uniform(35, 70), rng.uniform(50, 110)
    row = np.floor(y / high)
    across = x / wide + 0.5 * (row % 2) * (rng.random() < 0.5)
    column = np.floor(across)
    shade = np.modf(np.abs(np.sin(row * 12.9898 + column * 78.233) * 43758.547))[0].astype(np.float32)
    joint = np.minimum(np.minimum(y % high, high - y % high), np.minimum(across % 1, 1 - across % 1) * wide) < 1.5
    hue = rng.choice([0.03, 0.55, 0.12, 0.9])
    surface = mix(
        hsv(hue, 0.3, 0.5), hsv(hue, 0.2, 0.8), 0.6 * shade + 0.4 * contrast(noise(rng, height, width, cell=30))
    )
    surface[joint] = hsv(0.1, 0.1, rng.uniform(0.5, 0.9))
    return surface


BACKGROUNDS: dict[str, Callable[[np.random.Generator, int, int], Picture]] = {
    "wood": wood, "cloth": cloth, "ground": ground, "lights": lights, "tiles": tiles,
}  # fmt: skip
