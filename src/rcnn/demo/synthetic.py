"""A small synthetic instance data set: six kinds of textured, overlapping objects on photo-like backgrounds.

It has COCO's layout: annotations/instances_SPLIT.json and SPLIT/*.jpg. An image depends only on the seed, its split and
its number.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.background import DaemonThreads
from rcnn.data.read_ahead import read_ahead
from rcnn.demo.outlines import polygons
from rcnn.demo.shapes import CLUTTER, OBJECTS, Coverage, Pose, cover, random_pose
from rcnn.demo.textures import BACKGROUNDS, SURFACES, Picture, Plane, blur, dull, noise, paint, relief
from rcnn.outputs import OutputFolder
from rcnn.threads import available_cores

CLASSES = tuple(OBJECTS)
SPLITS = {"train": 500, "val": 60, "unseen": 8}
MIN_VISIBLE = 0.4  # smallest visible fraction of an object; a new object that hides more of it is placed elsewhere
MIN_AREA = 90.0  # smallest visible area of an object, pixels
CROWDED = 0.06  # fraction of the images that have a crowd
THREADS = 4  # at most, that draw images at the same time


@dataclass
class Layer:
    """An object or clutter in a scene, and the part of it that later layers do not hide."""

    name: str
    top: int
    left: int
    whole: Coverage  # (h, w) within the image
    visible: Coverage  # (h, w), without the parts that later layers hide
    crowd: bool = False

    def hide(self, other: Layer) -> Coverage:
        """`visible` after `other` is painted on top."""
        visible = self.visible.copy()
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + visible.shape[0], other.top + other.whole.shape[0])
        right = min(self.left + visible.shape[1], other.left + other.whole.shape[1])
        if bottom > top and right > left:
            above = other.whole[top - other.top : bottom - other.top, left - other.left : right - other.left]
            visible[top - self.top : bottom - self.top, left - self.left : right - self.left] *= 1 - above
        return visible


@dataclass
class Scene:
    """An image while it is painted, from back to front."""

    picture: Picture  # (H, W, 3) float32 in [0, 1]
    light: tuple[float, float]  # x, y of the direction towards the light
    layers: list[Layer] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.picture.shape[0], self.picture.shape[1]

    def add(self, rng: np.random.Generator, name: str, pose: Pose, radius: float, crowd: bool = False) -> bool:
        """Paint an object or clutter on top, and return True.

        If too little of it, or of another object, would be visible, paint nothing and return False.
        """
        shape = (OBJECTS | CLUTTER)[name](rng)
        top, left, coverage = cover(shape, pose, *self.size)
        area = float(abs(np.linalg.det(pose.matrix))) * _unit_area(shape.outer, shape.holes)
        if coverage.sum() < max(0.6 * area, 0 if crowd else MIN_AREA):
            return False
        layer = Layer(name=name, top=top, left=left, whole=coverage, visible=coverage, crowd=crowd)
        remaining = [other.hide(layer) for other in self.layers]
        for other, visible in zip(self.layers, remaining, strict=True):
            alone = other.name in OBJECTS and not other.crowd
            if alone and visible.sum() < max(MIN_VISIBLE * other.whole.sum(), MIN_AREA):
                return False
        for other, visible in zip(self.layers, remaining, strict=True):
            other.visible = visible
        self.layers.append(layer)
        self._paint(rng, layer, pose, radius)
        return True

    def _paint(self, rng: np.random.Generator, layer: Layer, pose: Pose, radius: float) -> None:
        height, width = layer.whole.shape
        self._shade(layer, radius)
        y, x = np.mgrid[layer.top : layer.top + height, layer.left : layer.left + width].astype(
            np.float32
        ) + np.float32(0.5)
        u, v = (plane.astype(np.float32) for plane in pose.unit(x, y))
        material = dull if layer.name in CLUTTER else SURFACES[layer.name]
        surface = paint if layer.name in OBJECTS and rng.random() < 0.1 else material
        colour, gloss = surface(rng, u, v)
        flat = layer.name == "card"
        diffuse, specular = relief(layer.whole, 0.6 if flat else max(1.0, 0.17 * radius), self.light)
        colour = colour * (0.42 + 0.8 * diffuse)[..., None] + (0.45 * gloss * specular)[..., None]
        window = self.picture[layer.top : layer.top + height, layer.left : layer.left + width]
        window += (colour - window) * layer.whole[..., None]

    def _shade(self, layer: Layer, radius: float) -> None:
        """Draw the shadow of a layer on the picture below it."""
        soft = max(1.0, 0.1 * radius)
        reach = int(4 * soft)
        shadow = 1 - 0.5 * blur(np.pad(layer.whole, reach), soft)
        height, width = self.size
        top = layer.top - reach - round(self.light[1] * soft * 1.3)
        left = layer.left - reach - round(self.light[0] * soft * 1.3)
        y0, x0 = max(0, top), max(0, left)
        y1, x1 = min(height, top + shadow.shape[0]), min(width, left + shadow.shape[1])
        self.picture[y0:y1, x0:x1] *= shadow[y0 - top : y1 - top, x0 - left : x1 - left, None]


def make_shapes(
    directory: Path,
    splits: Mapping[str, int] = SPLITS,
    *,
    size: tuple[int, int] = (320, 400),
    seed: int = 0,
    advance: Callable[[], object] | None = None,
) -> Path:
    """Write the data set into `directory`, and return `directory`. `splits`: name -> number of images.

    `size`: (height, width), pixels; for one image in four, they are swapped. The size of the objects is proportional.
    `advance` is called after each image. Raises FileExistsError for files that rcnn did not write.
    """
    threads = min(THREADS, available_cores())
    with OutputFolder(directory) as folder, DaemonThreads(threads) as pool:
        for split, count in splits.items():
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            start = partial(pool.submit, _drawn, split, size, seed)
            for number, drawing in read_ahead(range(1, count + 1), start, 2 * threads):
                encoded, (height, width), found = drawing.result()
                name = f"{number:06d}.jpg"
                with folder.writing(f"{split}/{name}") as path:
                    path.write_bytes(encoded)
                images.append({"id": number, "file_name": name, "height": height, "width": width})
                for annotation in found:
                    annotations.append({"id": len(annotations) + 1, "image_id": number} | annotation)
                if advance is not None:
                    advance()
            content = {
                "info": {"description": f"rcnn's synthetic objects, split {split}, seed {seed}"},
                "images": images,
                "annotations": annotations,
                "categories": [
                    {"id": i, "name": name, "supercategory": "object"} for i, name in enumerate(CLASSES, start=1)
                ],
            }
            folder.write_json(f"annotations/instances_{split}.json", content)
    return directory


def _drawn(
    split: str, size: tuple[int, int], seed: int, number: int
) -> tuple[bytes, tuple[int, int], list[dict[str, Any]]]:
    """One image: its JPEG file, (height, width), and annotations without ids."""
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), number])
    scene = draw_scene(rng, size if rng.random() < 0.75 else (size[1], size[0]))
    encoded = io.BytesIO()
    photograph(rng, scene).save(encoded, "JPEG", quality=int(rng.integers(84, 96)))
    return encoded.getvalue(), scene.size, annotate(scene)


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """A background, clutter, up to seven overlapping objects, sometimes a crowd, and sometimes a twig on top."""
    height, width = size
    angle = rng.uniform(0, 2 * np.pi)
    kind = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    picture = _defocus(BACKGROUNDS[kind](rng, height, width).astype(np.float32), rng.uniform(0, 1.6))
    scene = Scene(picture=np.ascontiguousarray(picture), light=(0.8 * float(np.cos(angle)), 0.8 * float(np.sin(angle))))
    unit = min(size) / 300

    def place(near: Layer | None) -> tuple[float, float]:
        if near is None:
            return float(rng.uniform(0.08, 0.92) * width), float(rng.uniform(0.08, 0.92) * height)
        spread = 0.6 * np.array(near.whole.shape)
        y, x = np.array([near.top, near.left]) + np.array(near.whole.shape) / 2 + rng.uniform(-1, 1, 2) * spread
        return float(x), float(y)

    for _ in range(rng.integers(0, 4)):
        radius = unit * rng.uniform(12, 45)
        scene.add(rng, ("pebble", "card")[rng.integers(2)], random_pose(rng, place(None), radius), radius)
    if rng.random() < CROWDED:
        _add_crowd(rng, scene, unit)
    count = rng.integers(3, 8)
    for _ in range(4 * count):
        objects = [layer for layer in scene.layers if layer.name in OBJECTS and not layer.crowd]
        if len(objects) >= count:
            break
        near = objects[rng.integers(len(objects))] if objects and rng.random() < 0.3 else None
        radius = unit * float(np.exp(rng.uniform(np.log(30), np.log(85))))
        scene.add(rng, CLASSES[rng.integers(len(CLASSES))], random_pose(rng, place(near), radius), radius)
    for _ in range(rng.integers(0, 2)):
        radius = unit * rng.uniform(60, 140)
        scene.add(rng, "stick", random_pose(rng, place(None), radius, tilt=0.0), radius)
    return scene


def annotate(scene: Scene) -> list[dict[str, Any]]:
    """COCO annotations without ids for the objects of a scene: polygons, and one RLE for its crowd."""
    found: list[dict[str, Any]] = []
    crowd = np.zeros(scene.size, dtype=np.float32)
    name = ""
    for layer in scene.layers:
        window = np.s_[layer.top : layer.top + layer.whole.shape[0], layer.left : layer.left + layer.whole.shape[1]]
        if layer.crowd:
            crowd[window] = np.maximum(crowd[window], layer.visible)
            name = layer.name
        elif layer.name in OBJECTS:
            outlines = [_moved(outline, layer.left, layer.top) for outline in polygons(layer.visible)]
            if outlines:
                points = np.concatenate([np.reshape(outline, (-1, 2)) for outline in outlines])
                area = float((layer.visible >= 0.5).sum())
                found.append(_annotation(layer.name, outlines, area, points.min(0), points.max(0)))
    mask = crowd >= 0.5
    if mask.any():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        low, high = np.array([columns[0], rows[0]]), np.array([columns[-1], rows[-1]]) + 1
        rle = {"size": list(scene.size), "counts": run_lengths(mask)}
        found.append(_annotation(name, rle, float(mask.sum()), low, high) | {"iscrowd": 1})
    return found


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths of a mask (H, W), in column order, starting with pixels that are not set."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def photograph(rng: np.random.Generator, scene: Scene) -> Image.Image:
    """The scene as a photo: with uneven light, darker corners, a colour cast, slight blur and grain."""
    height, width = scene.size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    lit: Plane = 1 + 0.14 * (scene.light[0] * x + scene.light[1] * y) - rng.uniform(0.02, 0.16) * (x**2 + y**2)
    lit = lit * (0.9 + 0.2 * noise(rng, height, width, cell=160, octaves=1))
    cast = rng.normal(1, 0.03, 3).astype(np.float32) * np.float32(rng.uniform(0.92, 1.2))
    picture = _defocus(np.clip(scene.picture, 0, 1) * lit[..., None] * cast, rng.uniform(0, 0.6))
    picture = picture + rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(0.004, 0.02))
    return Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))


def _add_crowd(rng: np.random.Generator, scene: Scene, unit: float) -> None:
    """Add a crowd: many objects of one class, too small to annotate one by one."""
    height, width = scene.size
    name = CLASSES[rng.integers(len(CLASSES))]
    centre = rng.uniform(0.2, 0.8, 2) * [width, height]
    for _ in range(rng.integers(14, 26)):
        radius = unit * rng.uniform(7, 11)
        x, y = centre + rng.normal(0, 24, 2) * unit
        scene.add(rng, name, random_pose(rng, (float(x), float(y)), radius), radius, crowd=True)


def _defocus(picture: Picture, radius: float) -> Picture:
    return picture if radius < 0.3 else blur(picture, radius)


def _unit_area(outer: npt.NDArray[np.float64], holes: tuple[npt.NDArray[np.float64], ...]) -> float:
    def area(ring: npt.NDArray[np.float64]) -> float:
        x, y = ring.T
        return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2

    return area(outer) - sum(area(hole) for hole in holes)


def _moved(outline: list[float], left: int, top: int) -> list[float]:
    return np.round(np.reshape(outline, (-1, 2)) + np.array([left, top]), 2).ravel().tolist()


def _annotation(
    name: str,
    segmentation: list[list[float]] | dict[str, Any],
    area: float,
    low: npt.NDArray[np.floating],
    high: npt.NDArray[np.floating],
) -> dict[str, Any]:
    box = [round(float(value), 2) for value in (*low, *(high - low))]
    return {
        "category_id": CLASSES.index(name) + 1,
        "segmentation": segmentation,
        "area": area,
        "bbox": box,
        "iscrowd": 0,
    }
