"""Mutated files of every format but COCO and VIA, of test_fuzz_annotations.py: read, or refused.

What is read must also come through to the records and to COCO's metrics, as for COCO's and VIA's files.
RCNN_FUZZ sets the number of mutants.
"""

from __future__ import annotations

import base64
import copy
import json
import pickle
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, fromstring
from xml.sax.saxutils import escape

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rcnn.data import open_dataset
from tests.faults.mutations import MUTANTS, mutate, require_plain_lines
from tests.faults.test_fuzz_annotations import check_metrics, check_records
from tests.faults.test_fuzz_files import mutated_bytes
from tests.unit.data.coco_folders import annotation, coco_tables, write_images
from tests.unit.data.format_folders import (
    drawn,
    labelme_file,
    labelme_shape,
    png,
    reference,
    voc_file,
    voc_object,
    write_labelme_xml,
    write_lvis,
    write_masks,
    write_refer,
    write_voc,
    write_yolo,
)

SIZE = (40, 60)
SHARE = 8  # each of the kinds of files gets this part of the mutants, and a few more


def tables() -> dict[str, Any]:
    return coco_tables([annotation(1), annotation(2, category_id=7), annotation(3, image_id=2)])


def labelme(root: Path) -> tuple[Path, str]:
    write_images(root, ["a.png", "b.png"])
    triangle = [[10, 5], [30, 5], [30, 25.5]]
    shapes = [
        labelme_shape("kite", triangle, group_id=1),
        labelme_shape("kite", [[1, 2], [3, 4]], "rectangle", group_id=1, flags={"crowd": False}),
        labelme_shape("cup", [[20, 20], [25, 25]], "circle", difficult=True),
        labelme_shape("cup", [[20, 10], [39, 19]], "mask", mask=png(np.ones((10, 20), np.uint8))),
        labelme_shape("cup", [[2, 1], [3, 3]], "mask", mask=png(np.ones((3, 2), np.uint8)), group_id="x"),
        labelme_shape("cup", triangle, group_id="x"),
    ]
    (root / "b.json").write_text(json.dumps(labelme_file("b.png", SIZE, shapes[:1])))
    content = labelme_file("a.png", SIZE, shapes, imageData=png(np.ones(SIZE, np.uint8)))
    (root / "a.json").write_text(json.dumps(content))
    return root / "a.json", "all"


def labelme_names(root: Path) -> tuple[Path, str]:
    labelme(root)
    (root / "labels.txt").write_text("__ignore__\n_background_\nkite\ncup\n")
    return root / "labels.txt", "all"


def labelme_nested(root: Path) -> tuple[Path, str]:
    for name in ("monday", "tuesday"):
        (root / "set" / "train" / name).mkdir(parents=True)
        file, _ = labelme(root / "set" / "train" / name)
    return file, "train"


def labelme_xml(root: Path) -> tuple[Path, str]:
    write_images(root / "pictures", ["1.png", "2.png"])
    write_labelme_xml(tables(), root / "pictures", root / "set" / "train")
    return root / "set" / "train" / "1.xml", "train"


def labelme_xml_mask(root: Path) -> tuple[Path, str]:
    labelme_xml(root)
    return root / "set" / "train" / "Masks" / "1_mask_1.png", "train"


def lvis(root: Path) -> tuple[Path, str]:
    write_images(root / "pictures", ["1.png", "2.png"])
    write_lvis(tables(), root / "pictures", root / "set", "val")
    return root / "set" / "annotations" / "lvis_v1_val.json", "val"


def yolo(root: Path) -> tuple[Path, str]:
    write_images(root / "pictures", ["1.png", "2.png"])
    write_yolo(tables(), root / "pictures", root / "set", "train", polygons=True)
    labels = root / "set" / "labels" / "train" / "1.txt"
    labels.write_text(labels.read_text() + "1 0.5 0.5 0.25 0.5\n")
    return labels, "train"


def yolo_config(root: Path) -> tuple[Path, str]:
    yolo(root)
    return root / "set" / "data.yaml", "train"


def yolo_number(root: Path) -> tuple[Path, str]:
    yolo(root)
    (root / "set" / "data.yaml").write_text("path: .\ntrain: images/train\nnc: 9\n")
    return root / "set" / "data.yaml", "train"


def darknet(root: Path) -> tuple[Path, str]:
    write_images(root / "set" / "obj", ["1.png", "2.png"])
    (root / "set" / "obj" / "1.txt").write_text("1 0.5 0.5 0.25 0.5\n0 .1 .1 .2 .1 .2 .2 .1 .2\n")
    (root / "set" / "train.txt").write_text("obj/1.png\ndata/obj/2.png\n")
    (root / "set" / "obj.names").write_text("kite\ncup\n")
    (root / "set" / "obj.data").write_text("classes = 2\ntrain = train.txt\nnames = obj.names\n")
    return root / "set" / "obj.data", "train"


def darknet_list(root: Path) -> tuple[Path, str]:
    darknet(root)
    return root / "set" / "train.txt", "train"


def darknet_names(root: Path) -> tuple[Path, str]:
    darknet(root)
    return root / "set" / "obj.names", "train"


def voc(root: Path) -> tuple[Path, str]:
    write_images(root / "pictures", ["1.png", "2.png"])
    write_voc(tables(), root / "pictures", root / "set", "train")
    file = root / "set" / "Annotations" / "1.xml"
    file.write_text(voc_file("1.png", SIZE, [voc_object("kite", (11, 11, 30, 30)), voc_object("cup", (1, 1, 9, 9), 1)]))
    return file, "train"


def voc_list(root: Path) -> tuple[Path, str]:
    voc(root)
    return root / "set" / "ImageSets" / "Main" / "train.txt", "train"


def voc_instances(root: Path) -> tuple[Path, str]:
    voc(root)
    return root / "set" / "SegmentationObject" / "1.png", "train_segmentation"


def voc_array(root: Path) -> tuple[Path, str]:
    file, split = voc_instances(root)
    np.save(file.with_suffix(".npy"), np.where(np.arange(SIZE[1]) < 20, 1, -1) * np.ones(SIZE, np.int32))
    file.unlink()
    return file.with_suffix(".npy"), split


def voc_names(root: Path) -> tuple[Path, str]:
    _, split = voc_instances(root)
    return root / "set" / "class_names.txt", split


def voc_labelmap(root: Path) -> tuple[Path, str]:
    _, split = voc_instances(root)
    (root / "set" / "class_names.txt").unlink()
    (root / "set" / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nkite:1,0,0::\n")
    return root / "set" / "labelmap.txt", split


def sbd(root: Path) -> tuple[Path, str]:
    from scipy.io import savemat

    ids = np.zeros(SIZE, np.uint8)
    ids[5:25, 10:30], ids[25:30, 5:35] = 1, 2
    write_images(root / "set" / "img", ["1.png", "2.png"])
    (root / "set" / "inst").mkdir()
    for one in "12":
        content = {"GTinst": {"Segmentation": ids, "Categories": np.array([[8], [12]])}}
        savemat(root / "set" / "inst" / f"{one}.mat", content, do_compression=False)
    (root / "set" / "train.txt").write_text("1\n2\n")
    return root / "set" / "inst" / "1.mat", "train"


def sbd_list(root: Path) -> tuple[Path, str]:
    sbd(root)
    return root / "set" / "train.txt", "train"


def refer(root: Path) -> tuple[Path, str]:
    write_images(root / "pictures", ["1.png", "2.png"])
    content = tables()
    refs = [reference(n, one, "train", ["left kite", "red"]) for n, one in enumerate(content["annotations"])]
    write_refer(content, root / "pictures", root / "set", refs)
    return root / "set" / "refcoco" / "refs(unc).p", "train"


def refer_instances(root: Path) -> tuple[Path, str]:
    refer(root)
    return root / "set" / "refcoco" / "instances.json", "train"


def masks(root: Path) -> tuple[Path, str]:
    write_images(root / "pictures", ["1.png", "2.png"])
    write_masks(tables(), root / "pictures", root / "set")
    return root / "set" / "masks" / "1" / "kite" / "0.png", "all"


def masks_of_ids(root: Path) -> tuple[Path, str]:
    write_images(root / "set" / "images", ["1.png", "2.png"])
    (root / "set" / "masks").mkdir()
    for name in ("1.png", "2.png"):
        (root / "set" / "masks" / name).write_bytes(base64.b64decode(png(drawn()[0])))
    return root / "set" / "masks" / "1.png", "all"


def of_json(content: bytes) -> tuple[Any, Callable[[Any], bytes]]:
    return json.loads(content), lambda value: json.dumps(value).encode("utf-8", "surrogatepass")


def of_yaml(content: bytes) -> tuple[Any, Callable[[Any], bytes]]:
    return yaml.safe_load(content), lambda value: yaml.safe_dump(value).encode("utf-8", "surrogatepass")


def of_pickle(content: bytes) -> tuple[Any, Callable[[Any], bytes]]:
    value = pickle.loads(content)  # noqa: S301  written by this test
    return value, lambda changed: pickle.dumps(changed, 2)


def of_lines(content: bytes) -> tuple[Any, Callable[[Any], bytes]]:
    """The words of each line, as numbers where they are: changed words are values that only their format excludes."""

    def write(value: Any) -> bytes:
        lines = value if isinstance(value, list) else [value]
        words = [line if isinstance(line, list) else [line] for line in lines]
        return "".join(" ".join(map(str, line)) + "\n" for line in words).encode("utf-8", "surrogatepass")

    return [line.split() for line in content.decode().splitlines()], write


def of_xml(content: bytes) -> tuple[Any, Callable[[Any], bytes]]:
    """Each element as [tag, text, elements in it]."""

    def values(element: Element) -> list[Any]:
        return [element.tag, element.text or "", [values(one) for one in element]]

    def written(value: Any) -> str:
        if not isinstance(value, list) or len(value) != 3 or not isinstance(value[2], list):
            return escape(str(value))
        tag = escape(str(value[0]))
        return f"<{tag}>{escape(str(value[1]))}{''.join(map(written, value[2]))}</{tag}>"

    return values(fromstring(content)), lambda value: written(value).encode("utf-8", "surrogatepass")


Parser = Callable[[bytes], tuple[Any, Callable[[Any], bytes]]]
KINDS: dict[str, tuple[Callable[[Path], tuple[Path, str]], Parser | None]] = {
    "labelme": (labelme, of_json),
    "labelme_names": (labelme_names, None),
    "labelme_nested": (labelme_nested, of_json),
    "labelme_xml": (labelme_xml, of_xml),
    "labelme_xml_bytes": (labelme_xml, None),
    "labelme_xml_mask": (labelme_xml_mask, None),
    "lvis": (lvis, of_json),
    "yolo": (yolo, None),
    "yolo_lines": (yolo, of_lines),
    "yolo_config": (yolo_config, of_yaml),
    "yolo_config_bytes": (yolo_config, None),
    "yolo_number": (yolo_number, of_yaml),
    "darknet": (darknet, None),
    "darknet_list": (darknet_list, of_lines),
    "darknet_names": (darknet_names, None),
    "voc": (voc, of_xml),
    "voc_bytes": (voc, None),
    "voc_list": (voc_list, of_lines),
    "voc_names": (voc_names, None),
    "voc_instances": (voc_instances, None),
    "voc_array": (voc_array, None),
    "voc_labelmap": (voc_labelmap, None),
    "sbd": (sbd, None),
    "sbd_list": (sbd_list, of_lines),
    "refer": (refer, of_pickle),
    "refer_bytes": (refer, None),
    "refer_instances": (refer_instances, of_json),
    "masks": (masks, None),
    "masks_of_ids": (masks_of_ids, None),
}


def changed(draw: st.DrawFn, content: bytes, parse: Parser | None) -> bytes:
    """The content of a file with one to three mutations of its values, or of its bytes."""
    if parse is None:
        return mutated_bytes(draw, content)
    value, write = parse(content)
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        if isinstance(value, (dict, list)):
            value = mutate(draw, value)
    try:
        return write(value)
    except (ValueError, RecursionError, yaml.YAMLError):  # a value that the format cannot hold
        return b""


def outcome(folder: Path, split: str) -> str:
    try:
        dataset = open_dataset(folder, split, allow_empty=True)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        assert str(folder) in message, message
        require_plain_lines(message.split("\n"))
        return "refused"
    check_records(dataset, folder)
    check_metrics(dataset)
    return "warned" if dataset.warnings else "read"


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    write, parse = KINDS[kind]
    file, split = write(tmp_path)
    folder = tmp_path / "set" if (tmp_path / "set").is_dir() else tmp_path
    assert outcome(folder, split) in ("read", "warned")
    original = file.read_bytes()
    seen: Counter[str] = Counter()

    @st.composite
    def mutants(draw: st.DrawFn) -> bytes:
        return changed(draw, original, parse)

    @settings(
        max_examples=MUTANTS // SHARE + 30,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutants())
    def check(content: bytes) -> None:
        file.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # numbers that numpy cannot hold are a fault found too late
            seen[outcome(folder, split)] += 1

    check()
    print(f"{sum(seen.values())} mutants: {dict(seen)}")
    assert seen["warned"] + seen["refused"] > 0
