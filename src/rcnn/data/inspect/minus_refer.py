"""`rcnn data minus-refer`: COCO's training images without those of the REFER sets' validation and test expressions.

A detector that will be used for referring expressions must not be trained on the images on which these are evaluated.
The result equals that of tools/make_coco_minus_refer_instances.py of lichengunc/mask-faster-rcnn: images with
expressions in the splits val, testA or testB of RefCOCO (UNC's splits), or val or test of RefCOCOg (UMD's), are
removed from `images`. `annotations` do not change: those of removed images stay. RefCOCO+ has the images and
splits of RefCOCO.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rcnn.commands import as_typed
from rcnn.data.formats.refer import read_references
from rcnn.outputs import OutputFolder
from rcnn.text_files import read_json

SOURCE = "annotations/instances_train2014.json"
RESULT = "annotations/instances_train_minus_refer_valtest2014.json"
EXCLUDED = {  # file of references -> its splits with the images to remove
    "refcoco/refs(unc).p": ("val", "testA", "testB"),
    "refcocog/refs(umd).p": ("val", "test"),
}


@dataclass(frozen=True, kw_only=True)
class MinusRefer:
    """What `minus_refer` wrote."""

    path: Path
    images: int  # left
    removed: int

    def line(self) -> str:
        """A summary in one line."""
        return f"wrote {self.path}: {self.images:,} images, without {self.removed:,} of REFER's val and test splits"


def minus_refer(data: Path | str, output: Path | str = "", *, refer: Path | str = "") -> MinusRefer:
    """Write instances_train_minus_refer_valtest2014.json to `output`/annotations (default: the folder `data`).

    `data` is the folder of COCO 2014; `refer` contains refcoco/ and refcocog/, and defaults to `data`. Raises
    FileNotFoundError for a missing file, ValueError for a damaged one, FileExistsError for a result that rcnn did not
    write.
    """
    data, refer = Path(data), Path(refer or data)
    for file in (data / SOURCE, *(refer / name for name in EXCLUDED)):
        if not file.is_file():
            name, place = ("coco2014", data) if file == data / SOURCE else ("refcoco", refer)
            command = as_typed("rcnn", "data", "download", name, "--output", place)
            raise FileNotFoundError(f"{file} does not exist; get it with: {command}")
    with OutputFolder(output or data) as folder:
        folder.require_free(RESULT)
        excluded = excluded_images(refer)
        tables = read_json(data / SOURCE)
        images = tables.get("images") if isinstance(tables, dict) else None
        entries = images if isinstance(images, list) else [None]
        if not isinstance(tables, dict) or not all(map(_has_id, entries)):
            raise ValueError(f"{data / SOURCE} has no list of images with ids; download COCO's annotations again")
        kept = [image for image in entries if image["id"] not in excluded]
        folder.write_json(RESULT, {**tables, "images": kept})
        return MinusRefer(path=folder.path / RESULT, images=len(kept), removed=len(entries) - len(kept))


def _has_id(image: object) -> bool:
    return isinstance(image, dict) and isinstance(image.get("id"), (int, str))


def excluded_images(refer: Path) -> set[int | str]:
    """Ids of the images with expressions of the splits that are excluded."""
    return {
        one.image_id
        for name, splits in EXCLUDED.items()
        for one in read_references(refer / name)[0]
        if one.split in splits
    }
