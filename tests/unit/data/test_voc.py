"""Pascal VOC: boxes and difficult objects, instances, the lists of images, and XML that must not be read."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.data import open_dataset, splits
from rcnn.data.formats.voc import CLASSES, _holds_voc
from rcnn.data.formats.voc_xml import read_voc_image
from rcnn.data.inspect.check import check_dataset
from tests.unit.data.coco_folders import write_images
from tests.unit.data.format_folders import drawn, voc_file, voc_object
from tests.unit.weights.hostile_files import npy_header

SIZE = (40, 60)
CAT, DOG = CLASSES.index("cat"), CLASSES.index("dog")


def write_voc_folder(root: Path, ids: list[str], lists: dict[str, str]) -> Path:
    """One VOC folder: a cat, and a dog that is difficult, in each image."""
    (root / "Annotations").mkdir(parents=True)
    objects = [voc_object("cat", (11, 6, 30, 25)), voc_object("dog", (31, 6, 50, 35), 1)]
    for one in ids:
        (root / "Annotations" / f"{one}.xml").write_text(voc_file(f"{one}.jpg", SIZE, objects))
    write_images(root / "JPEGImages", [f"{one}.jpg" for one in ids])
    for name, text in lists.items():
        (root / "ImageSets" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / name).write_text(text)
    return root


LISTS = {"Main/train.txt": "000005\n000007\n", "Main/cat_train.txt": "000005  1\n000007 -1\n", "Main/val.txt": "000007"}


@pytest.mark.parametrize(
    ("inner", "metric"),
    [("VOCdevkit/VOC2007", "voc2007"), ("VOC2007", "voc2007"), ("VOC2009", "voc2007"), ("VOC2010", "voc2012")],
)
def test_boxes_of_any_folder_of_the_devkit(tmp_path: Path, inner: str, metric: str) -> None:
    write_voc_folder(tmp_path / inner, ["000005", "000007"], LISTS)
    assert splits(tmp_path) == ["train", "val"]
    dataset = open_dataset(tmp_path, "train")
    assert (dataset.classes, dataset.metric) == (CLASSES, metric)
    assert dataset.image_ids == ("000005", "000007")
    record = dataset[0]
    assert record.boxes.tolist() == [[10, 5, 30, 25], [30, 5, 50, 35]]  # pixels 11 to 30, counted from 1
    assert record.areas.tolist() == [400, 600]
    assert [dataset.classes[label] for label in record.labels] == ["cat", "dog"]
    assert record.ignored.tolist() == [False, True]
    assert dataset.num_training_objects == 2
    assert [one["difficult"] for one in dataset.to_coco()["annotations"]] == [0, 1, 0, 1]
    assert [one["iscrowd"] for one in dataset.to_coco()["annotations"]] == [0, 0, 0, 0]


def test_a_folder_of_another_tool_with_lists(tmp_path: Path) -> None:
    """CVAT's export: corners in pixels from 0, classes by name, COCO's metric."""
    write_voc_folder(tmp_path, ["000005"], {"Main/default.txt": "000005\n"})
    dataset = open_dataset(tmp_path, "default")
    assert (dataset.classes, dataset.metric) == (("cat", "dog"), "coco")
    assert dataset[0].boxes.tolist() == [[11, 6, 30, 25], [31, 6, 50, 35]]
    assert dataset[0].areas.tolist() == [19 * 19, 19 * 29]


def test_marks_of_difficult_objects(tmp_path: Path) -> None:
    root = write_voc_folder(tmp_path, ["a"], {"Main/train.txt": "a\n"})
    marks = ("", "0", "False", "no", "0.0", "Unspecified", "1", "true", "1.0")
    objects = [
        voc_object("cat", (i + 1, 1, i + 9, 9)).replace("<difficult>0", f"<difficult>{mark}")
        for i, mark in enumerate(marks)
    ]
    (root / "Annotations" / "a.xml").write_text(voc_file("a.jpg", SIZE, objects))
    dataset = open_dataset(tmp_path, "train")
    assert dataset[0].ignored.tolist() == [False] * 6 + [True] * 3
    (warning,) = dataset.warnings
    assert "1 annotation has a value of difficult that is neither 0 nor 1 (id a:6): counts as 0" in warning


def test_years_are_part_of_the_names_of_splits_if_there_are_several(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        write_voc_folder(tmp_path / "VOCdevkit" / year, ["000005"], {"Main/trainval.txt": "000005"})
    assert splits(tmp_path) == ["trainval_2007", "trainval_2012"]
    both = open_dataset(tmp_path, "trainval_2007+trainval_2012")
    assert (both.metric, len(both)) == ("coco", 2)
    assert "different metrics, voc2007 (trainval_2007), voc2012 (trainval_2012); coco is used" in both.notes[-1]
    assert open_dataset(tmp_path, "trainval_2012")[0].path.parts[-3:-1] == ("VOC2012", "JPEGImages")


def test_instances_have_the_class_of_most_of_their_pixels_and_no_border(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    write_voc_folder(root, ["000005"], LISTS | {"Segmentation/train.txt": "000005\n"})
    ids, classes = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    ids[5:25, 10:30], classes[5:25, 10:30] = 1, CAT + 1
    ids[5:35, 30:50], classes[5:35, 30:50] = 2, DOG + 1
    ids[5, 10:50] = classes[5, 10:50] = 255
    for folder, values in (("SegmentationObject", ids), ("SegmentationClass", classes)):
        (root / folder).mkdir()
        picture = Image.fromarray(values)
        picture.putpalette(list(range(256)) * 3)
        picture.save(root / folder / "000005.png")
    assert splits(tmp_path) == ["train", "train_segmentation", "val"]
    for _ in range(2):  # with SegmentationClass, then by the boxes of the XML
        record = open_dataset(tmp_path, "train_segmentation")[0]
        assert record.boxes.tolist() == [[10, 6, 30, 25], [30, 6, 50, 35]]
        assert record.labels.tolist() == [CAT, DOG]
        assert record.areas.tolist() == [19 * 20, 29 * 20]
        assert record.ignored.tolist() == [False, True]
        (root / "SegmentationClass" / "000005.png").unlink(missing_ok=True)


def test_an_instance_is_difficult_as_the_box_of_its_class_is(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    write_voc_folder(root, ["a"], {"Main/train.txt": "a", "Segmentation/train.txt": "a"})
    objects = [voc_object("cat", (11, 6, 30, 25), 1), voc_object("dog", (11, 6, 30, 24))]
    (root / "Annotations" / "a.xml").write_text(voc_file("a.jpg", SIZE, objects))
    for folder, value in (("SegmentationObject", 1), ("SegmentationClass", DOG + 1)):
        values = np.zeros(SIZE, np.uint8)
        values[5:25, 10:30] = value  # fits the box of the cat best
        (root / folder).mkdir()
        Image.fromarray(values).save(root / folder / "a.png")
    record = open_dataset(tmp_path, "train_segmentation")[0]
    assert (record.labels.tolist(), record.ignored.tolist()) == ([DOG], [False])
    (root / "SegmentationClass" / "a.png").unlink()  # class and mark are those of the box that fits best
    record = open_dataset(tmp_path, "train_segmentation", allow_empty=True)[0]
    assert (record.labels.tolist(), record.ignored.tolist()) == ([CAT], [True])


def test_xml_of_other_tools_beside_the_images(tmp_path: Path) -> None:
    for folder in (tmp_path / "train", tmp_path / "valid"):  # Roboflow
        write_images(folder, ["a.png"])
        (folder / "a.xml").write_text(voc_file("a.png", (0, 0), [voc_object("kite", (1, 1, 10, 10))]))
    assert splits(tmp_path) == ["train", "valid"]
    dataset = open_dataset(tmp_path, "valid")
    assert (dataset.classes, dataset.metric) == (("kite",), "coco")
    assert (dataset[0].height, dataset[0].width) == SIZE  # read from the image
    assert splits(tmp_path / "train") == ["all"]


def test_a_folder_without_lists_is_one_split(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, ["a", "b"], {})
    assert splits(tmp_path) == ["all"]
    assert open_dataset(tmp_path, "all").image_ids == ("a", "b")
    assert open_dataset(write_voc_folder(tmp_path / "VOC2007", ["a"], {}))[0].boxes[0].tolist() == [10, 5, 30, 25]


def test_instances_without_a_class_are_skipped_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    write_voc_folder(root, ["a", "b"], {"Segmentation/train.txt": "a\nb\n", "Main/train.txt": "a"})
    ids = np.zeros(SIZE, np.uint8)
    ids[5:25, 10:30], ids[36:40, 0:9] = 1, 2
    for folder, names in (("SegmentationObject", ("a", "b")), ("SegmentationClass", ("a",))):
        (root / folder).mkdir()
        for name in names:
            Image.fromarray(np.where(ids == 1, CAT + 1, 0).astype(np.uint8) if folder.endswith("s") else ids).save(
                root / folder / f"{name}.png"
            )
    dataset = open_dataset(root, "train_segmentation")
    assert [record.labels.tolist() for record in dataset] == [[CAT], [CAT]]
    text = "\n".join(dataset.warnings)
    assert "an instance without a class in SegmentationClass (id a:2): skipped" in text
    assert "no named class in SegmentationClass, and no box in its XML with an IoU of at least 0.5 (id b:2)" in text


def test_objects_and_files_that_cannot_be_used_are_skipped_and_counted(tmp_path: Path) -> None:
    root = write_voc_folder(tmp_path, ["a", "b", "c"], {"Main/train.txt": "a\nb\nc\nd\na\n"})
    objects = [voc_object("cat", (1, 1, 9, 9)), voc_object("", (1, 1, 9, 9)), voc_object("cat", (9, 9, 1, 1))]
    (root / "Annotations" / "a.xml").write_text(voc_file("a.jpg", SIZE, objects))
    (root / "Annotations" / "b.xml").write_text("<annotation><object>")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.image_ids == ("a", "c")
    text = "\n".join(dataset.warnings)
    for expected in (
        "1 annotation has no name (id a:2): skipped",
        "no bndbox of finite numbers xmin <= xmax, ymin <= ymax (id a:3): skipped",
        "an XML file that is damaged, too large, not VOC's, or with a document type (id b): skipped",
        "1 image has no readable XML file in Annotations (id d): skipped",
        "1 image has more than one line (id a): used once",
    ):
        assert expected in text, text


def test_a_split_without_annotations_is_refused(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, ["a"], {"Main/test.txt": "x\ny\n"})
    with pytest.raises(FileNotFoundError, match=r"test\.txt lists 2 images \(x, y\), none of them with a readable XML"):
        open_dataset(tmp_path, "test")


BOMB = "<!DOCTYPE a [<!ENTITY x0 'ha'>" + "".join(f"<!ENTITY x{i} '&x{i - 1};&x{i - 1};'>" for i in range(1, 40)) + "]>"


@pytest.mark.parametrize(
    "text",
    [
        BOMB + "<annotation><filename>&x39;</filename></annotation>",
        "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation><filename>&x;</filename></annotation>",
        "<annotation><filename>&undefined;</filename></annotation>",
        "<html></html>",
        "",
    ],
)
def test_xml_with_entities_or_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    start = time.process_time()
    with pytest.raises(ValueError, match=r"a\.xml"):
        read_voc_image(tmp_path / "a.xml", from_one=True)
    assert time.process_time() - start < 1


def test_xml_is_limited_in_size(tmp_path: Path) -> None:
    with (tmp_path / "a.xml").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match="more than 16 MiB"):
        read_voc_image(tmp_path / "a.xml", from_one=True)


def test_the_folders_annotations_and_images_of_other_tools(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png", "b.png"])
    (tmp_path / "annotations").mkdir()
    for one in "ab":
        content = voc_file(f"{one}.png", SIZE, [voc_object("kite", (10, 5, 30, 25))])
        (tmp_path / "annotations" / f"{one}.xml").write_text(content)
    assert splits(tmp_path) == ["all"]
    dataset = open_dataset(tmp_path)
    assert [record.path.relative_to(tmp_path).as_posix() for record in dataset] == ["images/a.png", "images/b.png"]
    assert dataset[0].boxes.tolist() == [[10, 5, 30, 25]]


def test_a_list_of_damaged_files_names_one_with_the_reason(tmp_path: Path) -> None:
    root = write_voc_folder(tmp_path, ["a", "b"], {"Main/train.txt": "a\nc\n", "Main/val.txt": "b\n"})
    (root / "Annotations" / "a.xml").write_text("<annotation><object>")
    with pytest.raises(ValueError, match=r"readable XML file: 1 missing, 1 damaged; .*a\.xml is not XML .*no element"):
        open_dataset(tmp_path, "train")
    report = check_dataset(tmp_path, no_images=True)
    assert list(report.images) == ["val"]
    assert [one.kind for one in report.errors if "1 damaged" in one.what] == ["unreadable-annotations"]
    (root / "Annotations" / "a.xml").write_text("")
    with pytest.raises(ValueError, match=r"a\.xml is empty \(0 bytes\)"):
        open_dataset(tmp_path, "train")


def test_class_names_beside_the_annotations_list_all_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "JPEGImages", ["a.png"])
    (tmp_path / "Annotations").mkdir()
    content = voc_file("a.png", SIZE, [voc_object("kite", (10, 5, 30, 25)), voc_object("ant", (10, 5, 30, 25))])
    (tmp_path / "Annotations" / "a.xml").write_text(content)
    (tmp_path / "class_names.txt").write_text("_background_\nkite\ncup\nkite\n")
    dataset = open_dataset(tmp_path)
    assert (dataset.classes, dataset[0].annotation_ids) == (("kite", "cup"), ("a:1",))
    assert [(one.kind, one.ids) for one in dataset.findings] == [("no-class", ("a:2",))]
    assert "class_names.txt names kite more than once: these numbers are one class" in dataset.notes[0]


I4 = "{'descr': '<i4', 'fortran_order': False, 'shape': "
WRONG = [npy_header(f"{I4}({shape}, 3), }}", bytes(12)) for shape in (10**30, True)]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"no array", *WRONG])
def test_damaged_arrays_are_counted(tmp_path: Path, content: bytes) -> None:
    write_images(tmp_path / "JPEGImages", ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    (tmp_path / "SegmentationObject").mkdir()
    (tmp_path / "SegmentationObject" / "a.npy").write_bytes(content)
    np.save(tmp_path / "SegmentationObject" / "b.npy", drawn()[0].astype(float))
    np.save(tmp_path / "SegmentationObject" / "c.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "SegmentationObject" / "d.npy", drawn()[0])
    (tmp_path / "SegmentationClass").mkdir()
    np.save(tmp_path / "SegmentationClass" / "d.npy", drawn()[1])
    (tmp_path / "class_names.txt").write_text("_background_\nleaf\nstem")
    dataset = open_dataset(tmp_path)
    assert dataset.image_ids == ("d",)
    assert "3 images have no readable PNG or NPY file in SegmentationObject (id a, b, c)" in dataset.warnings[0]
    assert len(dataset[0].labels) == 3


def write_instances(root: Path) -> Path:
    """The drawn instances, of the classes 1 and 2, and nothing that names these."""
    write_images(root / "JPEGImages", ["a.jpg"])
    for folder, values in zip(("SegmentationObject", "SegmentationClass"), drawn(), strict=True):
        (root / folder).mkdir()
        Image.fromarray(values).save(root / folder / "a.png")
    return root


def test_instances_that_nothing_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing names their classes; expected .*class_names\.txt .*labelmap\.txt"):
        open_dataset(write_instances(tmp_path / "set"))
    record = open_dataset(write_instances(tmp_path / "VOC2012"))[0]  # the name says that the numbers are VOC's
    assert record.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("folder", ["set", "VOC2012"])
@pytest.mark.parametrize("names", [("tie", "person"), ("cat", "tie")])
def test_names_in_xml_files_are_not_replaced_by_those_of_voc(
    tmp_path: Path, folder: str, names: tuple[str, str]
) -> None:
    root = write_instances(tmp_path / folder)
    (root / "Annotations").mkdir()
    first = int(folder == "VOC2012")  # VOC's own folders count pixels from 1
    boxes = [(10 + first, 5 + first, 30, 25), (30 + first, 5 + first, 50, 35), (first, 36 + first, 9, 40)]
    objects = [voc_object(name, box) for name, box in zip((*names, names[0]), boxes, strict=True)]
    (root / "Annotations" / "a.xml").write_text(voc_file("a.jpg", SIZE, objects))
    for kind in ("Main", "Segmentation"):
        (root / "ImageSets" / kind).mkdir(parents=True)
        (root / "ImageSets" / kind / "default.txt").write_text("a\n")
    for split in ("default", "default_segmentation"):
        dataset = open_dataset(root, split)
        assert dataset.classes == tuple(sorted(names))
        assert [dataset.classes[label] for label in dataset[0].labels] == [*names, names[0]]
    assert "SegmentationClass is not used, because there is no class_names.txt or labelmap.txt" in dataset.notes[0]
    assert check_dataset(root, no_images=True).errors == ()
    (root / "labelmap.txt").write_text(f"{names[0]}:1,1,1::\nother:2,2,2::\n")
    dataset = open_dataset(root, "default")
    assert (dataset.classes, len(dataset[0].labels)) == ((names[0], "other"), 2)
    assert [(one.kind, one.ids) for one in dataset.findings] == [("no-class", ("a:2",))]


def test_names_with_spaces_in_lists(tmp_path: Path) -> None:
    lists = {"Main/default.txt": '"my photo"\nphoto 1\nphoto 2\nlast 1\n'}
    write_voc_folder(tmp_path, ["my photo", "photo 1", "photo 2", "last"], lists)
    assert open_dataset(tmp_path, "default").image_ids == ("my photo", "photo 1", "photo 2", "last")


def test_an_image_with_the_name_of_another_one_is_named(tmp_path: Path) -> None:
    root = write_voc_folder(tmp_path, ["a"], {"Main/train.txt": "a\n"})
    Image.new("L", SIZE[::-1]).save(root / "JPEGImages" / "a.png")
    notes = open_dataset(tmp_path, "train").notes
    assert any("1 image with the name of another image apart from the suffix: a.png: not used" in one for one in notes)


@pytest.mark.parametrize("names", [["a", "b"], ["b", "a"]])
def test_the_first_xml_file_is_the_same_on_every_disk(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.xml").write_text(voc_file("a.jpg", SIZE, []))
    (tmp_path / "b.xml").write_text("<other/>")

    def listed(folder: Path, pattern: str) -> list[Path]:
        return [folder / f"{name}.xml" for name in names]

    monkeypatch.setattr(Path, "glob", listed)
    assert _holds_voc(tmp_path)
