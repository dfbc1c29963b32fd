"""Write 24 photos of COCO's val2017 with persons as labelme files: a data set of benchmarks/defaults.py.

    python benchmarks/labelme24.py --coco COCO --output DIR/labelme24

`rcnn data download coco2017 --split val2017 --output COCO` downloads the photos and annotations. Every person is an
object with the polygons of COCO; those of a person in several parts share a group_id. Crowds are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

PERSON = 1  # COCO's category
PHOTOS = (  # ids of the images: the first with persons in coco449, a part of val2017 (docs/results.md)
    5001, 10764, 20992, 25560, 25603, 34417, 64523, 85329, 87038, 109313, 117645, 158227, 165518, 168974, 184324,
    192699, 205401, 214753, 223747, 229358, 239274, 241668, 243204, 269316,
)  # fmt: skip


def labelme(image: dict[str, Any], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """The labelme file of a COCO image, with the persons among its annotations."""
    shapes = list[dict[str, Any]]()
    for number, person in enumerate(annotations):
        if person["category_id"] != PERSON or person["iscrowd"]:
            continue
        parts = person["segmentation"]
        for part in parts:
            points = [part[i : i + 2] for i in range(0, len(part), 2)]
            group = number if len(parts) > 1 else None
            shape: dict[str, Any] = {"label": "person", "points": points, "group_id": group, "description": ""}
            shapes.append(shape | {"shape_type": "polygon", "flags": {}, "mask": None})
    file: dict[str, Any] = {"version": "5.5.0", "flags": {}, "shapes": shapes}
    file |= {"imagePath": image["file_name"], "imageData": None}
    return file | {"imageHeight": image["height"], "imageWidth": image["width"]}


def write(annotation_file: Path, images: Path, output: Path, photos: Collection[int] = PHOTOS) -> None:
    """Copy the `photos` (ids) from the folder `images` to `output`, each with its labelme file.

    ValueError if the COCO file lacks one of them.
    """
    coco = json.loads(annotation_file.read_text(encoding="utf-8"))
    by_id = {image["id"]: image for image in coco["images"]}
    if missing := [photo for photo in photos if photo not in by_id]:
        raise ValueError(f"{annotation_file} lacks the images {missing}; expected the file of all of val2017")
    of_image: dict[int, list[dict[str, Any]]] = {photo: [] for photo in photos}
    for annotation in coco["annotations"]:
        if annotation["image_id"] in of_image:
            of_image[annotation["image_id"]].append(annotation)
    output.mkdir(parents=True)
    for photo, found in of_image.items():
        image = by_id[photo]
        shutil.copy(images / image["file_name"], output)
        file = output / Path(image["file_name"]).with_suffix(".json").name
        file.write_text(json.dumps(labelme(image, found)), encoding="utf-8")


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True, help="has annotations/instances_val2017.json and val2017/")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    given = parser.parse_args()
    write(given.coco / "annotations/instances_val2017.json", given.coco / "val2017", given.output)
    print(f"{len(PHOTOS)} photos in {given.output}")


if __name__ == "__main__":
    main()
