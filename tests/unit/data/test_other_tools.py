"""Exports of other tools in layouts of their own: what is read, and what the errors about the others advise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rcnn.data import open_dataset, splits
from tests.unit.data.coco_folders import annotation, coco_tables, write_images
from tests.unit.data.format_folders import voc_file, voc_object

TABLES = coco_tables([annotation(1)], images=1)  # 1.png


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        (
            "annotations/default.json",
            '{"dm_format_version": "1.0", "categories": {}, "items": []}',
            "in Datumaro's own",
        ),
        (
            "labels/det_train.json",
            '[{"name": "a.jpg", "labels": []}]',
            "in BDD100K or Scalabel's own JSON format: conv",
        ),
        ("gtFine/train/x/a_000000_000019_gtFine_polygons.json", "{}", "of Cityscapes: convert it to COCO's format."),
        (
            "via.json",
            '{"project": {}, "config": {}, "attribute": {}, "metadata": {}}',
            "in VIA 3's own JSON format: convert",
        ),
        ("via.csv", "# Exported using VGG Image Annotator (http", "the table of VIA 3: convert it to COCO's format"),
        ("annotations/panoptic_val2017.json", "{}", "COCO's panoptic segmentation: get, or export, instances_*"),
        ("annotations/captions_val2017.json", "{}", "a file of captions, not of objects: get COCO's inst"),
        ("validation-annotations-bbox.csv", "ImageID,Source\n", "of Open Images: convert it to COCO's format."),
        ("train.csv", "ImageId,EncodedPixels\na.png,1 5\n", "a table with run lengths, as in Kaggle's competitions"),
        ("rle.csv", "\ufeffid,annotation,width\n", "a table with run lengths, as in Kaggle's competitions"),
        ("boxes.csv", "image_id,annotation,x\n", "a table: convert it to COCO's format, or export the"),
        ("notes.csv", "image,text\na.jpg,EncodedPixels\n", "a table: convert it to COCO's format, or export the"),
        ("all.xml", '<?xml version="1.0"?>\n<annotations>\n', "CVAT's own XML: export the annotations again as COCO"),
        ("labels_x.csv", "cat,10,8,20,16,a.jpg,64,48\n", "the table of makesense.ai: export as a single file in COCO"),
        ("boxes.csv", "filename,width,height,class\n", "a table: convert it to COCO's format, or export the"),
        (
            "label_2/000000.txt",
            "Car 0.00 0 -1.57 10 8 30 24 1 1 3 1 1 10 -1\n",
            "of KITTI: convert it to COCO's format.",
        ),
        (
            "labelTxt/P1.txt",
            "imagesource:x\n10 8 30 8 30 24 10 24 plane 0\n",
            "in DOTA's format: export the annotations",
        ),
        ("wider_face_split/wider_face_train_bbx_gt.txt", "a.jpg\n1\n", "of WIDER FACE: convert it to COCO's format."),
        ("train/metadata.jsonl", "{}", "of an image folder of Hugging Face: use rcnn.Dataset.from_records in Python"),
        ("annotation_train.odgt", "{}", "of CrowdHuman: convert it to COCO's format."),
        (
            "annotations/training/ADE_train_00000001.png",
            "",
            "a semantic map of ADE20K, which has classes but no single",
        ),
        ("train/a_jpg.rf.0123ab_mask.png", "", "a semantic mask of Roboflow, which has classes but no single objects"),
        ("task-1-annotation-1-by-1-tag-cat-0.png", "", "a brush mask of Label Studio: move the masks of images/NAME"),
        ("ds/meta.json", '{"classes": [], "tags": [], "projectType": "images"}', "in Supervisely's own JSON format"),
    ],
)
def test_a_format_that_is_not_read_is_named(tmp_path: Path, name: str, content: str, advice: str) -> None:
    write(tmp_path, {name: content, "photos/a.jpg": ""})
    with pytest.raises(FileNotFoundError) as error:
        splits(tmp_path)
    assert f". {name} is {advice}" in str(error.value)


def test_the_annotations_of_coco_alone_name_the_file_with_objects(tmp_path: Path) -> None:
    write(tmp_path, {f"{kind}_val2017.json": "{}" for kind in ("captions", "instances", "panoptic")})
    with pytest.raises(
        FileNotFoundError, match=r"instances_val2017\.json is a COCO file: give that file, or the folder"
    ):
        splits(tmp_path)


def test_layouts_of_fiftyone(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", {"labels.json": json.dumps(TABLES)})
    write_images(whole / "data", ["1.png"])
    assert open_dataset(whole)[0].path == whole / "data" / "1.png"
    divided = write(tmp_path / "divided", {f"{split}/labels.json": json.dumps(TABLES) for split in ("train", "test")})
    for split in ("train", "test"):
        write_images(divided / split / "data", ["1.png"])
    assert splits(divided) == ["test", "train"]
    assert open_dataset(divided, "test")[0].path == divided / "test" / "data" / "1.png"
    other = write(tmp_path / "other", {"annotations/labels.json": json.dumps(TABLES)})
    write_images(other / "images", ["1.png"])
    assert splits(other) == ["labels"]
    assert len(open_dataset(other)) == 1
    copy = {"data.yaml": "train: images\nnames: [cup]\n", "labels/1.txt": "0 .5 .5 .5 .5\n"}
    yolo = write(tmp_path / "yolo", copy | {"train/labels.json": json.dumps(TABLES)})
    write_images(yolo / "images", ["1.png", "2.png"])
    assert len(open_dataset(yolo, "train")) == 2
    xml = voc_file("1.png", (40, 60), [voc_object("cup", (1, 2, 30, 24))])
    voc = write(tmp_path / "voc", {"labels/1.xml": xml})
    write_images(voc / "data", ["1.png"])
    assert splits(voc) == ["all"]
    [record] = open_dataset(voc)
    assert (record.path, record.boxes.tolist()) == (voc / "data" / "1.png", [[1, 2, 30, 24]])


def test_names_of_classes_in_the_splits_of_roboflow(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_images(tmp_path / split, ["1.png"])
        write(tmp_path, {f"{split}/1.txt": "1 .5 .5 .5 .5", f"{split}/_darknet.labels": "cup\nkite\n"})
    assert splits(tmp_path) == ["train", "valid"]
    dataset = open_dataset(tmp_path, "valid")
    assert (dataset.classes, dataset[0].labels.tolist()) == (("cup", "kite"), [1])
    assert open_dataset(tmp_path / "train").classes == ("cup", "kite")
    write(tmp_path, {"valid/_darknet.labels": "kite\ncup\n"})
    with pytest.raises(ValueError, match=r"valid/_darknet\.labels differ: the class numbers of all splits must have"):
        open_dataset(tmp_path, "train")


def test_files_that_are_not_yolos_are_not_to_be_moved_into_labels(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "images", ["1.png"])
    files = {"data.yaml": "train: ../train/images\nnames: [cup]\n"}
    write(tmp_path, files | {"train/labelTxt/1.txt": "10.0 8.0 30.0 8.0 30.0 24.0 10.0 24.0 cup 0\n"})
    expected = (
        "but the text files in .*labelTxt do not have YOLO's lines: export the annotations again in YOLO's format"
    )
    with pytest.raises(ValueError, match=expected):
        open_dataset(tmp_path, "train")
    names = {"train/labelTxt/0.txt": "cup\n", "train/labelTxt/classes.txt": "cup\n"}  # not label files of the images
    write(tmp_path, names | {"train/labelTxt/1.txt": "0 .5 .5 .5 .5\n"})
    move = r"label files of these names are in .*labelTxt: move them there"
    with pytest.raises(ValueError, match=move):
        open_dataset(tmp_path, "train")
    (tmp_path / "train" / "labelTxt" / "1.txt").unlink()
    (tmp_path / "train" / "labelTxt" / "1.txt").mkdir()  # cannot be read
    with pytest.raises(ValueError, match=move):
        open_dataset(tmp_path, "train")


def test_yolos_folders_in_upper_case(tmp_path: Path) -> None:
    advice = r"there is a folder Labels: name the folders images and labels, in lower case, also in data\.yaml"
    root = tmp_path / "Labels" / "set"
    write_images(root / "Images", ["1.png"])
    write(root, {"data.yaml": "train: Images\nnames: [cup]\n", "Labels/1.txt": "0 .5 .5 .5 .5\n"})
    with pytest.raises(ValueError, match=advice):
        open_dataset(root, "train")
    (root / "Labels").rename(root / "annotations")
    with pytest.raises(ValueError, match=r"are in \S*/annotations: move them there"):  # Labels is above the data set
        open_dataset(root, "train")


def test_names_of_label_studio_without_its_prefix(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1)], images=1)
    tables["images"][0]["file_name"] = "images\\1a2b3c4d-photo.png"
    write(tmp_path, {"result.json": json.dumps(tables)})
    write_images(tmp_path / "images", ["photo.png"])
    with pytest.raises(
        FileNotFoundError, match=r"the files have these names without the 8 characters and - that Label"
    ):
        open_dataset(tmp_path)


def test_exports_without_images_name_the_option_of_cvat(tmp_path: Path) -> None:
    option = "CVAT exports them too with the option 'Save images'"
    write(tmp_path, {"coco/annotations/instances_default.json": json.dumps(TABLES)})
    xml = voc_file("1.png", (40, 60), [voc_object("cup", (1, 2, 30, 24))])
    write(
        tmp_path / "voc", {"Annotations/1.xml": xml, "ImageSets/Main/train.txt": "1\n", "labelmap.txt": "cup:1,1,1::"}
    )
    labels = {"labels/train/1.txt": "0 .5 .5 .5 .5", "train.txt": "data/images/train/1.png\n"}
    write(tmp_path / "yolo", labels | {"data.yaml": "names: [cup]\npath: .\ntrain: train.txt\n"})
    for folder in ("coco", "voc", "yolo"):
        with pytest.raises(FileNotFoundError, match=option):
            open_dataset(tmp_path / folder)
    write(tmp_path, {"other/annotations/instances_val.json": json.dumps(TABLES)})
    with pytest.raises(FileNotFoundError) as error:
        open_dataset(tmp_path / "other")
    assert option not in str(error.value)
