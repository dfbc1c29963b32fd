"""Data sets of a few empty images for tests of annotation files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


def annotation(number: Any, image_id: Any = 1, category_id: Any = 3, **fields: Any) -> dict[str, Any]:
    """A square of 20 pixels from (10, 10); a field given as None is omitted."""
    entry = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": [10, 10, 20, 20], "area": 400.0}
    entry |= {"iscrowd": 0, "segmentation": SQUARE} | fields
    return {name: value for name, value in entry.items() if value is not None}


def coco_tables(annotations: list[dict[str, Any]], images: int = 2) -> dict[str, Any]:
    """Images 1, 2, .. of 60x40 pixels (width x height), and the categories 3 (kite) and 7 (cup), in the order 7, 3."""
    entries = [{"id": n, "file_name": f"{n}.png", "height": 40, "width": 60} for n in range(1, images + 1)]
    categories = [{"id": 7, "name": "cup"}, {"id": 3, "name": "kite"}]
    return {"images": entries, "annotations": annotations, "categories": categories}


def write_images(folder: Path, names: list[str], size: tuple[int, int] = (60, 40)) -> None:
    """Black pictures of `size` (width, height)."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(folder / name)


def write_coco(root: Path, tables: Any, split: str = "val") -> Path:
    """COCO's layout, with pictures for the images of `tables`; returns the root."""
    write_images(root / split, [image["file_name"] for image in tables["images"]])
    write_annotations(root, tables, split)
    return root


def write_annotations(root: Path, tables: Any, split: str = "val") -> None:
    """The annotation file alone."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(tables))
