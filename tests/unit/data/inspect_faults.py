"""A clean data set and a generator of faults in it, each with the id that `rcnn data check` must report."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Tables = dict[str, Any]
Data = dict[str, Tables]  # split -> tables
SIZE = (96, 128)  # height, width
CORNERS = ["tl", "tr", "br", "bl"]


@dataclass(frozen=True)
class Fault:
    """A change of a clean data set, and the finding that it must lead to."""

    kind: str
    put: Callable[[Path, Data, random.Random], None]  # changes the tables, or files below the folder
    images: bool = False  # whether it is in an image file


def write_clean(root: Path, seed: int = 0) -> Data:
    """Two splits of 4 images with 3 objects each: polygons, one with run lengths; corners as keypoints."""
    data: Data = {}
    generator = np.random.default_rng(seed)
    for split in ("train", "val"):
        tables: Tables = {"images": [], "annotations": [], "categories": []}
        for number, name in enumerate(("cup", "kite"), start=1):
            tables["categories"].append(
                {"id": number, "name": name, "keypoints": CORNERS, "skeleton": [[1, 2], [2, 3], [3, 4], [4, 1]]}
            )
        (root / split).mkdir(parents=True)
        for image in range(1, 5):
            noise = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
            name = f"{image}.png"
            Image.fromarray(noise).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(root / split / name)
            tables["images"].append({"id": image, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
            for place in range(3):
                tables["annotations"].append(_object(generator, len(tables["annotations"]) + 1, image, place))
        data[split] = tables
    write_tables(root, data)
    return data


def _object(generator: np.random.Generator, number: int, image: int, place: int) -> dict[str, Any]:
    width, height = (int(side) for side in generator.integers(20, 36, 2))
    x = 42 * place + int(generator.integers(0, 42 - width))
    y = int(generator.integers(0, SIZE[0] - height))
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    points = [v for i in range(0, 8, 2) for v in (corners[i], corners[i + 1], 2)]
    entry: dict[str, Any] = {"id": number, "image_id": image, "category_id": 1 + number % 2, "iscrowd": 0}
    entry |= {"bbox": [x, y, width, height], "area": float(width * height), "segmentation": [corners]}
    return entry | {"keypoints": points, "num_keypoints": 4}


def write_tables(root: Path, data: Data) -> None:
    """The annotation files alone."""
    (root / "annotations").mkdir(exist_ok=True)
    for split, tables in data.items():
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(tables))


def changed(data: Data, fault: Fault, root: Path, seed: int) -> Data:
    """A copy of `data` with a fault at a place that `seed` chooses."""
    faulty = copy.deepcopy(data)
    fault.put(root, faulty, random.Random(seed))
    return faulty


def _set(table: str, field: str, *values: Any) -> Callable[[Path, Data, random.Random], None]:
    """One field of one entry gets one of `values`; a function is called with the entry."""

    def put(root: Path, data: Data, chance: random.Random) -> None:
        entry = chance.choice(data[chance.choice(["train", "val"])][table])
        value = chance.choice(values)
        entry[field] = value(entry) if callable(value) else copy.deepcopy(value)

    return put


def _computed(
    table: str, field: str, value: Callable[[dict[str, Any]], Any]
) -> Callable[[Path, Data, random.Random], None]:
    """One field of one entry gets the value that is computed from the entry."""
    return _set(table, field, value)


def _remove(table: str, *fields: str) -> Callable[[Path, Data, random.Random], None]:
    def put(root: Path, data: Data, chance: random.Random) -> None:
        entry = chance.choice(data[chance.choice(["train", "val"])][table])
        for field in fields:
            entry.pop(field, None)

    return put


def _area_of_box(entry: dict[str, Any]) -> None:
    x, y, width, height = entry["bbox"]
    entry["segmentation"] = [[x, y, x + width, y, x, y + height]]
    entry["area"] = width * height


def _to_crowd(entry: dict[str, Any]) -> None:
    entry["iscrowd"] = int(entry["id"] % 2)


def _all(change: Callable[[dict[str, Any]], None]) -> Callable[[Path, Data, random.Random], None]:
    """Every annotation of a split is changed."""

    def put(root: Path, data: Data, chance: random.Random) -> None:
        for entry in data[chance.choice(["train", "val"])]["annotations"]:
            change(entry)

    return put


def _doubled(table: str) -> Callable[[Path, Data, random.Random], None]:
    """An entry gets the id of another."""

    def put(root: Path, data: Data, chance: random.Random) -> None:
        first, second = chance.sample(data[chance.choice(["train", "val"])][table], 2)
        second["id"] = first["id"]

    return put


def _to_corners(entry: dict[str, Any]) -> None:
    x, y, width, height = entry["bbox"]
    entry["bbox"] = [x, y, x + width, y + height]


def _boxes_alone_as_corners(entry: dict[str, Any]) -> None:
    entry.pop("segmentation")
    x, y, width, height = entry["bbox"]
    x1, y1 = 60 + x / 2, 45 + y / 2  # in the lower right, where width and height would lead outside
    entry["bbox"] = [x1, y1, x1 + width / 2, y1 + height / 2]


def _to_fractions(entry: dict[str, Any]) -> None:
    entry["bbox"] = [v / (SIZE[0] if i % 2 else SIZE[1]) for i, v in enumerate(entry["bbox"])]


def _outline_to_fractions(entry: dict[str, Any]) -> None:
    entry["segmentation"] = [
        [v / (SIZE[0] if i % 2 else SIZE[1]) for i, v in enumerate(part)] for part in entry["segmentation"]
    ]


def _bow_tie(entry: dict[str, Any]) -> Any:
    a, b, c, d = (entry["segmentation"][0][i : i + 2] for i in range(0, 8, 2))
    return [[*a, *c, *b, *d]]


def _shrunk_box(part: float) -> Callable[[dict[str, Any]], Any]:
    return lambda entry: [*entry["bbox"][:2], entry["bbox"][2] * part, entry["bbox"][3] * part]


def _tiny(entry: dict[str, Any]) -> Any:
    x, y = entry["bbox"][:2]
    return [[x, y, x + 1.5, y, x + 1.5, y + 1.5, x, y + 1.5]]


def _keypoint(value: Any, at: int) -> Callable[[dict[str, Any]], Any]:
    def put(entry: dict[str, Any]) -> Any:
        points = list(entry["keypoints"])
        points[at] = value
        return points

    return put


def _no_objects(root: Path, data: Data, chance: random.Random) -> None:
    data[chance.choice(["train", "val"])]["annotations"].clear()


def _all_crowd(root: Path, data: Data, chance: random.Random) -> None:
    for entry in data[chance.choice(["train", "val"])]["annotations"]:
        entry["iscrowd"] = 1


def _cleared(table: str) -> Callable[[Path, Data, random.Random], None]:
    def put(root: Path, data: Data, chance: random.Random) -> None:
        data[chance.choice(["train", "val"])][table].clear()

    return put


def _repeat(root: Path, data: Data, chance: random.Random) -> None:
    entries = data[chance.choice(["train", "val"])]["annotations"]
    entries.append(chance.choice(entries) | {"id": 1000})


def _shared_file(root: Path, data: Data, chance: random.Random) -> None:
    first, second = chance.sample(data[chance.choice(["train", "val"])]["images"], 2)
    second["file_name"] = first["file_name"]


def _new_class(root: Path, data: Data, chance: random.Random) -> None:
    data["val"]["categories"].append({"id": 9, "name": "dog"})
    entry = chance.choice(data["val"]["annotations"])
    entry["category_id"] = 9
    del entry["keypoints"], entry["num_keypoints"]


def _similar_name(root: Path, data: Data, chance: random.Random) -> None:
    name = chance.choice(["Cup", "cup ", " CUP"])
    for tables in data.values():
        tables["categories"][1]["name"] = name


def _all_names(count: int) -> Callable[[Path, Data, random.Random], None]:
    """Each category of a split names `count` keypoints; the objects have 4."""

    def put(root: Path, data: Data, chance: random.Random) -> None:
        for category in data[chance.choice(["train", "val"])]["categories"]:
            category["keypoints"] = [f"k{number}" for number in range(count)]
            category["skeleton"] = []

    return put


def _empty_class(root: Path, data: Data, chance: random.Random) -> None:
    for tables in data.values():
        tables["categories"].append({"id": chance.randint(5, 99), "name": "dog"})


def _image_of(root: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(root.glob("*/*.png")))


def _cut_image(root: Path, data: Data, chance: random.Random) -> None:
    path = _image_of(root, chance)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * chance.uniform(0, 0.9))])


def _text_image(root: Path, data: Data, chance: random.Random) -> None:
    _image_of(root, chance).write_text("<html>404</html>")


def _cups_in_training(root: Path, data: Data, chance: random.Random) -> None:
    for entry in data["train"]["annotations"]:
        entry["category_id"] = 1


def _other_size(root: Path, data: Data, chance: random.Random) -> None:
    path = _image_of(root, chance)
    with Image.open(path) as image:
        image.resize(chance.choice([(96, 128), (128, 95), (256, 192)])).save(path)


def _copied(quality: int | None, same: bool) -> Callable[[Path, Data, random.Random], None]:
    """An image is copied over another: into the same split or the other one, as it is or compressed."""

    def put(root: Path, data: Data, chance: random.Random) -> None:
        split = chance.choice(["train", "val"])
        other = split if same else {"train": "val", "val": "train"}[split]
        first, second = chance.sample(range(1, 5), 2)
        with Image.open(root / split / f"{first}.png") as image:
            copied = image.convert("RGB")
        if quality:
            copied = Image.fromarray(np.asarray(copied) // 8 * 8 + 4)
        copied.save(root / other / f"{second}.png")

    return put


def _faint_copied(root: Path, data: Data, chance: random.Random) -> None:
    """Both splits get the same image of little contrast, which has no perceptual hash."""
    split = chance.choice(["train", "val"])
    first, second = chance.sample(range(1, 5), 2)
    noise = Image.fromarray(np.random.default_rng(0).integers(100, 103, SIZE, dtype=np.uint8))
    noise.save(root / split / f"{first}.png")
    noise.save(root / {"train": "val", "val": "train"}[split] / f"{second}.png")


def _changed_copy(root: Path, data: Data, chance: random.Random) -> None:
    """An image of one split is put into the other: mirrored, or with borders above and below."""
    split = chance.choice(["train", "val"])
    first, second = chance.sample(range(1, 5), 2)
    with Image.open(root / split / f"{first}.png") as image:
        copied = image.convert("RGB")
    width, height = copied.size
    if chance.random() < 0.5:
        copied = copied.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:
        inner = copied.resize((width, round(height * 0.7)))
        copied = Image.new("RGB", copied.size, (114, 114, 114))
        copied.paste(inner, (0, round(height * 0.15)))
    copied.save(root / {"train": "val", "val": "train"}[split] / f"{second}.png")


NAN, INF = math.nan, math.inf
RLE_SIZE = [SIZE[0], SIZE[1]]
PIXELS = SIZE[0] * SIZE[1]
FAULTS = (
    Fault("no-objects", _no_objects),
    Fault("no-objects", _all_crowd),
    Fault("no-images", _cleared("images")),
    Fault("no-categories", _cleared("categories")),
    Fault("missing-field", _remove("annotations", "category_id")),
    Fault("missing-field", _remove("annotations", "image_id")),
    Fault("missing-field", _remove("images", "id")),
    Fault("missing-field", _remove("categories", "id")),
    Fault("bad-id", _set("images", "id", None, 1.5, [1], True)),
    Fault("bad-id", _set("categories", "id", "kite", -1, None)),
    Fault("repeated-id", _doubled("images")),
    Fault("repeated-id", _doubled("categories")),
    Fault("unknown-reference", _set("annotations", "image_id", 77, "x", None)),
    Fault("unknown-reference", _set("annotations", "category_id", 77, "x", None)),
    Fault("bad-file-name", _set("images", "file_name", 7, None, ["1.png"])),
    Fault("missing-image", _set("images", "file_name", "9.png", "other/9.png", "1.jpeg")),
    Fault("image-outside", _set("images", "file_name", "../../../secret.png")),
    Fault("image-folder", _computed("images", "file_name", lambda e: f"photos/2024/{e['file_name']}")),
    Fault("file-name", _computed("images", "file_name", lambda e: e["file_name"].upper())),
    Fault("shared-image-file", _shared_file),
    Fault("bad-size", _set("images", "height", -96, 0, NAN, 96.5)),
    Fault("text-number", _set("images", "width", "128")),
    Fault("id-type", _computed("annotations", "image_id", lambda e: str(e["image_id"]))),
    Fault("id-type", _computed("annotations", "category_id", lambda e: str(e["category_id"]))),
    Fault("no-annotation-id", _remove("annotations", "id")),
    Fault("repeated-annotation-id", _doubled("annotations")),
    Fault("bad-iscrowd", _set("annotations", "iscrowd", "no", None, [], NAN)),
    Fault("text-number", _computed("annotations", "bbox", lambda e: [str(v) for v in e["bbox"]])),
    Fault("bad-box", _set("annotations", "bbox", [1, 2, 3], [NAN, 1, 2, 3], [INF] * 4, [9, 9, -4, 5], "1 2 3 4")),
    Fault("no-box", _remove("annotations", "bbox", "segmentation")),
    Fault("relative-coordinates", _all(_to_fractions)),
    Fault("relative-coordinates", _all(_outline_to_fractions)),
    Fault("box-form", _all(_to_corners)),
    Fault("box-form", _all(_boxes_alone_as_corners)),
    Fault("box-contradicts-outline", _set("annotations", "bbox", _shrunk_box(0.4))),
    Fault("empty-box", _computed("annotations", "bbox", lambda e: [*e["bbox"][:2], 0, e["bbox"][3]])),
    Fault("box-outside", _set("annotations", "bbox", [200, 10, 20, 20], [10, -50, 20, 20])),
    Fault("box-beyond-edge", _computed("annotations", "bbox", lambda e: [*e["bbox"][:2], 140, e["bbox"][3]])),
    Fault("bad-area", _set("annotations", "area", NAN, INF, -4, 1.1e10, [])),
    Fault("bad-outline", _set("annotations", "segmentation", "mask.png", 7, [["a"] * 6], [[None] * 6])),
    Fault("outline-form", _computed("annotations", "segmentation", lambda e: e["segmentation"][0])),
    Fault("short-polygon", _set("annotations", "segmentation", [[1, 1, 9, 9]], [[1, 1, 9, 1, 9, 9, 4]])),
    Fault("polygon-not-finite", _set("annotations", "segmentation", [[1, 1, 9, INF, 9, 9]], [[1, 1, 1e9, 1, 9, 9]])),
    Fault("bad-mask", _set("annotations", "segmentation", {"size": RLE_SIZE, "counts": [5, 9]})),
    Fault("bad-mask", _set("annotations", "segmentation", {"size": [5, 5], "counts": [25]})),
    Fault("empty-mask", _set("annotations", "segmentation", {"size": RLE_SIZE, "counts": [PIXELS]})),
    Fault("empty-mask", _set("annotations", "segmentation", {"size": RLE_SIZE, "counts": []})),
    Fault("keypoint-form", _computed("annotations", "keypoints", lambda e: [[1, 2, 2]] * 4)),
    Fault("keypoint-count", _all_names(3)),
    Fault("keypoint-count", _all_names(20_000)),
    Fault("keypoint-count", _set("annotations", "keypoints", [1, 2, 2], [1, 2, 2] * 3, [1] * 13)),
    Fault("bad-keypoint", _set("annotations", "keypoints", _keypoint(NAN, 0), _keypoint(1e9, 4))),
    Fault("bad-visibility", _set("annotations", "keypoints", _keypoint(5, 2), _keypoint(-1, 11))),
    Fault("num-keypoints", _set("annotations", "num_keypoints", 0, 3, 17)),
    Fault("bad-category-name", _set("categories", "name", None, "", 7, "x" * 100_000)),
    Fault("similar-category-names", _similar_name),
    Fault("bad-keypoint-names", _set("categories", "keypoints", ["a", "b", "c", "a"])),
    Fault("bad-skeleton", _set("categories", "skeleton", [[1, 9]], [[1]], "lines")),
    Fault("bad-sigmas", _set("categories", "sigmas", [0.1], [0, 0.1, 0.1, 0.1], "0.1")),
    Fault("class-not-in-training", _new_class),
    Fault("missing-outline", _remove("annotations", "segmentation")),
    Fault("self-crossing-outline", _set("annotations", "segmentation", _bow_tie)),
    Fault("tiny-outline", _set("annotations", "segmentation", _tiny)),
    Fault("box-differs", _set("annotations", "bbox", _shrunk_box(0.85))),
    Fault("area-differs", _all(_area_of_box)),
    Fault("area-differs", _computed("annotations", "area", lambda e: 4 * e["area"])),
    Fault("repeated-object", _repeat),
    Fault("empty-category", _empty_class),
    Fault("untrained-class", _cups_in_training),
    Fault("many-crowds", _all(_to_crowd)),
    Fault("unreadable-image", _cut_image, images=True),
    Fault("unreadable-image", _text_image, images=True),
    Fault("wrong-image-size", _other_size, images=True),
    Fault("leak", _copied(None, same=False), images=True),
    Fault("leak", _copied(60, same=False), images=True),
    Fault("leak", _faint_copied, images=True),
    Fault("changed-copy", _changed_copy, images=True),
    Fault("near-duplicate", _copied(None, same=True), images=True),
    Fault("near-duplicate", _copied(60, same=True), images=True),
)
