"""Writes COCO tables in the layouts of other tools, each in the exact shape of its real exports."""

from __future__ import annotations

import base64
import copy
import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import yaml
from PIL import Image

from rcnn.ops.coco_backend import as_rle, rle_mask
from tests.unit.data.coco_folders import write_images

Tables = dict[str, Any]  # as COCO's file has them


def names_of(coco: Tables) -> list[str]:
    """The names of the classes by ascending id."""
    return [entry["name"] for entry in sorted(coco["categories"], key=lambda entry: entry["id"])]


def name_of(coco: Tables, annotation: dict[str, Any]) -> str:
    """The name of an object's class."""
    return next(entry["name"] for entry in coco["categories"] if entry["id"] == annotation["category_id"])


def objects_of(coco: Tables, image: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of an image."""
    return [one for one in coco["annotations"] if one["image_id"] == image["id"]]


def mask_of(annotation: dict[str, Any], image: dict[str, Any]) -> np.ndarray:
    """The pixels (H, W) bool of an object."""
    return rle_mask(as_rle(annotation["segmentation"], image["height"], image["width"]))


def link(source: Path, target: Path) -> None:
    """Copy an image into a data set."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def png(values: np.ndarray) -> str:
    """A PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def labelme_shape(label: str, points: list[Any], kind: str = "polygon", **fields: Any) -> dict[str, Any]:
    """A shape as labelme 5 writes it."""
    shape: dict[str, Any] = {"label": label, "points": points, "group_id": None, "description": ""}
    return shape | {"shape_type": kind, "flags": dict[str, bool](), "mask": None} | fields


def labelme_file(name: str, size: tuple[int, int], shapes: list[Any], **fields: Any) -> dict[str, Any]:
    """The content of a file of labelme 5 about an image of `size` (height, width)."""
    about = {"imagePath": name, "imageData": None, "imageHeight": size[0], "imageWidth": size[1]}
    return {"version": "5.4.1", "flags": dict[str, bool](), "shapes": shapes} | about | fields


def write_labelme(coco: Tables, images: Path, folder: Path) -> None:
    """A JSON file beside each image; parts of an object share a group, run lengths become masks."""
    for image in coco["images"]:
        shapes: list[dict[str, Any]] = []
        for group, one in enumerate(objects_of(coco, image)):
            label = name_of(coco, one)
            if isinstance(one["segmentation"], dict):
                mask = mask_of(one, image)
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                top, left, bottom, right = (int(v) for v in (rows[0], columns[0], rows[-1], columns[-1]))
                encoded = png(mask[top : bottom + 1, left : right + 1].astype(np.uint8))
                flags = {"crowd": bool(one.get("iscrowd"))}
                corners = [[float(left), float(top)], [float(right), float(bottom)]]
                shapes.append(labelme_shape(label, corners, "mask", mask=encoded, flags=flags))
                continue
            for part in one["segmentation"]:
                points = [list(pair) for pair in zip(part[::2], part[1::2], strict=True)]
                together = group if len(one["segmentation"]) > 1 else None
                shapes.append(labelme_shape(label, points, group_id=together))
        link(images / image["file_name"], folder / image["file_name"])
        content = labelme_file(image["file_name"], (image["height"], image["width"]), shapes)
        (folder / image["file_name"]).with_suffix(".json").write_text(json.dumps(content, indent=2))


def labelme_xml_object(name: str, shape: str, number: int, deleted: int = 0) -> str:
    """An object as CVAT writes it in its format "LabelMe 3.0"; `shape` is its `polygon` or `segm`."""
    parts = "<parts><hasparts></hasparts><ispartof></ispartof></parts><attributes></attributes>"
    about = f"<deleted>{deleted}</deleted><verified>0</verified><occluded>no</occluded><date></date><id>{number}</id>"
    return f"<object><name>{escape(name)}</name>{about}{parts}{shape}</object>"


def labelme_xml_polygon(points: list[float]) -> str:
    """A polygon of x, y, x, y, ..."""
    pairs = zip(points[::2], points[1::2], strict=True)
    return f"<polygon>{''.join(f'<pt><x>{x}</x><y>{y}</y></pt>' for x, y in pairs)}<username></username></polygon>"


def labelme_xml_file(name: str, size: tuple[int, int], objects: list[str]) -> str:
    """The content of a file about an image of `size` (height, width), as CVAT writes it."""
    source = "<source><sourceImage></sourceImage><sourceAnnotation>Datumaro</sourceAnnotation></source>"
    sides = f"<imagesize><nrows>{size[0]}</nrows><ncols>{size[1]}</ncols></imagesize>"
    about = f"<filename>{name}</filename><folder></folder>{source}{sides}"
    return f"<annotation>{about}{''.join(objects)}</annotation>"


def write_labelme_xml(coco: Tables, images: Path, folder: Path) -> None:
    """An XML file beside each image; the first object of an image is a polygon, the others are masks."""
    (folder / "Masks").mkdir(parents=True)
    for image in coco["images"]:
        link(images / image["file_name"], folder / image["file_name"])
        stem, objects = Path(image["file_name"]).stem, list[str]()
        for number, one in enumerate(objects_of(coco, image)):
            shape = labelme_xml_polygon(one["segmentation"][0])
            if number:
                name, box = f"{stem}_mask_{number}.png", "<box><xmin>0</xmin></box>"
                Image.fromarray(mask_of(one, image).astype(np.uint8) * 255).convert("RGB").save(folder / "Masks" / name)
                shape = f"<segm><mask>{name}</mask>{box}<username></username></segm>"
            objects.append(labelme_xml_object(name_of(coco, one), shape, number))
        content = labelme_xml_file(image["file_name"], (image["height"], image["width"]), objects)
        (folder / f"{stem}.xml").write_text(content)


def write_yolo(coco: Tables, images: Path, root: Path, split: str, *, polygons: bool) -> None:
    """Ultralytics' layout: data.yaml, images/SPLIT and labels/SPLIT; a line per part of an object, or per box."""
    names = names_of(coco)
    for image in coco["images"]:
        size = np.array([image["width"], image["height"]])
        lines: list[str] = []
        for one in objects_of(coco, image):
            label = names.index(name_of(coco, one))
            x, y, width, height = one["bbox"]
            box = np.array([x + width / 2, y + height / 2, width, height]).reshape(-1, 2) / size
            parts = [np.reshape(part, (-1, 2)) / size for part in one["segmentation"]] if polygons else [box]
            lines += [" ".join([str(label), *(f"{v:.6f}" for v in part.reshape(-1))]) for part in parts]
        link(images / image["file_name"], root / "images" / split / image["file_name"])
        labels = (root / "labels" / split / image["file_name"]).with_suffix(".txt")
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("\n".join(lines) + "\n" if lines else "")
    content = {"path": f"../datasets/{root.name}", split: f"images/{split}", "names": dict(enumerate(names))}
    (root / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def voc_object(name: str, box: tuple[int, int, int, int], difficult: int = 0) -> str:
    """An object of a VOC file; `box` is xmin, ymin, xmax, ymax as VOC counts, from 1."""
    tags = ("xmin", "ymin", "xmax", "ymax")
    corners = "".join(f"\t\t\t<{tag}>{value}</{tag}>\n" for tag, value in zip(tags, box, strict=True))
    return (
        f"\t<object>\n\t\t<name>{escape(name)}</name>\n\t\t<pose>Frontal</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>{difficult}</difficult>\n\t\t<bndbox>\n{corners}\t\t</bndbox>\n\t</object>\n"
    )


def voc_file(name: str, size: tuple[int, int], objects: list[str]) -> str:
    """The content of a VOC file about an image of `size` (height, width)."""
    about = f"\t\t<width>{size[1]}</width>\n\t\t<height>{size[0]}</height>\n\t\t<depth>3</depth>\n"
    return (
        f"<annotation>\n\t<folder>VOC2012</folder>\n\t<filename>{name}</filename>\n\t<size>\n{about}\t</size>\n"
        f"\t<segmented>1</segmented>\n{''.join(objects)}</annotation>\n"
    )


def write_voc(coco: Tables, images: Path, root: Path, split: str) -> None:
    """VOC's layout with boxes and instances, and class_names.txt; later objects cover earlier ones."""
    names = names_of(coco)
    for folder in (
        "Annotations",
        "SegmentationObject",
        "SegmentationClass",
        "ImageSets/Main",
        "ImageSets/Segmentation",
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
    stems = [Path(image["file_name"]).stem for image in coco["images"]]
    for kind in ("Main", "Segmentation"):
        (root / "ImageSets" / kind / f"{split}.txt").write_text("\n".join(stems) + "\n")
    (root / "class_names.txt").write_text("\n".join(["_background_", *names]) + "\n")
    for image, stem in zip(coco["images"], stems, strict=True):
        size = (image["height"], image["width"])
        objects: list[str] = []
        ids, classes = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        for number, one in enumerate(objects_of(coco, image), start=1):
            x, y, width, height = one["bbox"]
            low, high = (round(x) + 1, round(y) + 1), (round(x + width), round(y + height))
            objects.append(voc_object(name_of(coco, one), (*low, max(high[0], low[0]), max(high[1], low[1]))))
            mask = mask_of(one, image)
            ids[mask], classes[mask] = number, names.index(name_of(coco, one)) + 1
        link(images / image["file_name"], root / "JPEGImages" / f"{stem}{Path(image['file_name']).suffix}")
        (root / "Annotations" / f"{stem}.xml").write_text(voc_file(image["file_name"], size, objects))
        for folder, values in (("SegmentationObject", ids), ("SegmentationClass", classes)):
            picture = Image.fromarray(values)
            picture.putpalette([v for i in range(256) for v in (i, 255 - i, (i * 7) % 256)])
            picture.save(root / folder / f"{stem}.png")


def write_masks(coco: Tables, images: Path, root: Path) -> None:
    """A file per object: images/NAME and masks/STEM/CLASS/NUMBER.png."""
    for image in coco["images"]:
        link(images / image["file_name"], root / "images" / image["file_name"])
        stem = Path(image["file_name"]).stem
        for number, one in enumerate(objects_of(coco, image)):
            folder = root / "masks" / stem / name_of(coco, one)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask_of(one, image).astype(np.uint8) * 255).save(folder / f"{number}.png")


def write_refer(coco: Tables, images: Path, root: Path, refs: list[dict[str, Any]], by: str = "unc") -> None:
    """REFER's layout: refcoco/instances.json, refs(BY).p of protocol 2, and images/mscoco/images/train2014."""
    place = root / "refcoco"
    place.mkdir(parents=True, exist_ok=True)
    (place / "instances.json").write_text(json.dumps(coco | {"info": {}, "licenses": []}))
    (place / f"refs({by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    for image in coco["images"]:
        target = root / "images" / "mscoco" / "images" / "train2014" / image["file_name"]
        if not target.exists():
            link(images / image["file_name"], target)


def reference(number: int, annotation: dict[str, Any], split: str, sentences: list[str]) -> dict[str, Any]:
    """An entry of refs(*).p."""
    entries = [
        {"tokens": text.lower().split(), "raw": text, "sent_id": 10 * number + i, "sent": text.lower()}
        for i, text in enumerate(sentences)
    ]
    return {
        "sent_ids": [entry["sent_id"] for entry in entries],
        "file_name": f"COCO_train2014_{annotation['image_id']:012}_{annotation['id']}.jpg",
        "ann_id": annotation["id"],
        "ref_id": number,
        "image_id": annotation["image_id"],
        "split": split,
        "sentences": entries,
        "category_id": annotation["category_id"],
    }


def write_sbd(root: Path, ids: list[str], classes: tuple[int, ...] = (8, 12)) -> Path:
    """benchmark_RELEASE/dataset with a split train; instance 1 (10, 5)-(30, 25) and 2 (30, 5)-(50, 35)."""
    from scipy.io import savemat

    place = root / "benchmark_RELEASE" / "dataset"
    segmentation = np.zeros((40, 60), np.uint8)
    segmentation[5:25, 10:30], segmentation[5:35, 30:50] = 1, 2
    write_images(place / "img", [f"{one}.jpg" for one in ids])
    (place / "inst").mkdir()
    for one in ids:
        boundaries = np.empty((2, 1), object)  # cells of sparse matrices in the real files
        boundaries[0, 0], boundaries[1, 0] = np.eye(3), np.eye(2)
        content = {"Segmentation": segmentation, "Boundaries": boundaries, "Categories": np.array(classes)[:, None]}
        savemat(place / "inst" / f"{one}.mat", {"GTinst": content}, do_compression=True)
    (place / "train.txt").write_text("\n".join(ids) + "\n")
    return root


def write_lvis(coco: Tables, images: Path, root: Path, split: str) -> None:
    """LVIS' layout: the first image is in train2017, the others in val2017, and no image has a file_name."""
    tables = copy.deepcopy(coco)
    for number, image in enumerate(tables["images"]):
        folder, name = "val2017" if number else "train2017", image.pop("file_name")
        image["coco_url"] = f"http://images.cocodataset.org/{folder}/{name}"
        image |= {"neg_category_ids": list[int](), "not_exhaustive_category_ids": list[int]()}
        link(images / name, root / folder / name)
    for entry in tables["categories"]:
        entry |= {"frequency": "f", "synset": f"{entry['name']}.n.01", "image_count": 1}
    (root / "annotations").mkdir()
    (root / "annotations" / f"lvis_v1_{split}.json").write_text(json.dumps(tables))


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Ids of three instances (10, 5)-(30, 25), (30, 5)-(50, 35) and (0, 36)-(9, 40), and their classes 1, 2, 1."""
    ids, classes = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    ids[5:25, 10:30], ids[5:35, 30:50], ids[36:40, 0:9] = 1, 2, 3
    classes[5:25, 10:30], classes[5:35, 30:50], classes[36:40, 0:9] = 1, 2, 1
    return ids, classes
