"""Folders of images and masks: ids in a mask, a file per object, classes and splits by folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.data import open_dataset, splits
from rcnn.data.images import ImageError, read_ids
from rcnn.data.inspect.check import check_dataset
from tests.unit.data.coco_folders import write_images

SIZE = (40, 60)
BOXES = [[10, 5, 30, 25], [30, 5, 50, 35]]


def masks(values: tuple[int, ...] = (1, 2), dtype: type = np.uint8) -> np.ndarray:
    ids = np.zeros(SIZE, dtype)
    for (x1, y1, x2, y2), value in zip(BOXES, values, strict=False):
        ids[y1:y2, x1:x2] = value
    return ids


def save(values: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


@pytest.mark.parametrize(
    ("image", "mask", "split"),
    [
        ("images/a.jpg", "masks/a.png", "all"),
        ("PNGImages/a.png", "PedMasks/a_mask.png", "all"),  # PennFudan
        ("train/images/a.png", "train/masks/a.tif", "train"),
        ("images/val/a.png", "masks/val/a.png", "val"),
        ("a.png", "masks/a_mask.png", "all"),
        ("val/a.jpg", "val/masks/a.png", "val"),
    ],
)
def test_ids_in_a_mask(tmp_path: Path, image: str, mask: str, split: str) -> None:
    write_images((tmp_path / image).parent, [Path(image).name])
    save(masks((3, 700), np.uint16), tmp_path / mask)
    assert splits(tmp_path) == [split]
    dataset = open_dataset(tmp_path, split)
    record = dataset[0]
    assert (dataset.classes, record.image_id) == (("object",), image)
    assert record.annotation_ids == (f"{mask}:3", f"{mask}:700")
    assert record.boxes.tolist() == BOXES
    assert record.areas.tolist() == [400, 600]


def test_images_beside_masks_are_not_used_where_a_folder_of_images_is(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    write_images(tmp_path, ["overview.png"])
    save(masks(), tmp_path / "masks" / "a.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.image_ids, dataset.notes) == (("images/a.png",), ())


def test_a_picture_beside_folders_of_splits_is_no_split(tmp_path: Path) -> None:
    write_images(tmp_path / "images" / "train", ["a.png"])
    write_images(tmp_path, ["overview.png"])
    save(masks(), tmp_path / "masks" / "train" / "a.png")
    assert splits(tmp_path) == ["train"]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.jpg", "a_mask.png"),
        ("benign/a (1).png", "benign/a (1)_mask.png"),
        ("train/a.jpg", "train_masks/a_mask.png"),
        ("image/a.jpg", "label/a.png"),
    ],
)
def test_masks_in_another_layout_are_named_with_what_to_do(tmp_path: Path, image: str, mask: str) -> None:
    write_images((tmp_path / image).parent, [Path(image).name])
    save(masks(), tmp_path / mask)
    with pytest.raises(FileNotFoundError) as caught:
        open_dataset(tmp_path)
    assert f"{mask} looks like the mask of {image}. Put the images into images/ and their masks" in str(caught.value)


def test_a_file_per_object_as_in_the_data_science_bowl(tmp_path: Path) -> None:
    for name in ("0a1b", "2c3d"):
        write_images(tmp_path / "stage1_train" / name / "images", [f"{name}.png"])
        save(masks((255,)), tmp_path / "stage1_train" / name / "masks" / "1.png")
        save(masks((0, 255)), tmp_path / "stage1_train" / name / "masks" / "2.png")
    assert splits(tmp_path) == ["stage1_train"]
    assert splits(tmp_path / "stage1_train") == ["all"]
    for folder, split in ((tmp_path, "stage1_train"), (tmp_path / "stage1_train", "all")):
        dataset = open_dataset(folder, split)
        assert [record.boxes.tolist() for record in dataset] == [BOXES, BOXES]
        assert (dataset.warnings, dataset.notes) == ((), ())


@pytest.mark.parametrize(
    "files",
    [
        ("masks/leaf/a.png", "masks/stem/a.png"),
        ("masks/leaf/a/1.png", "masks/stem/a/1.png"),
        ("masks/a/leaf/1.png", "masks/a/stem/1.png"),
    ],
)
def test_classes_are_folders_of_masks(tmp_path: Path, files: tuple[str, str]) -> None:
    write_images(tmp_path / "images", ["a.png"])
    for number, file in enumerate(files):
        save(masks((0,) * number + (255,)), tmp_path / file)
    dataset = open_dataset(tmp_path, "all")
    assert dataset.classes == ("leaf", "stem")
    assert dataset[0].labels.tolist() == [0, 1]
    assert dataset[0].boxes.tolist() == BOXES


def test_a_file_per_object_by_its_name(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["0.jpg", "1.jpg", "0_date.jpg"])
    save(masks((255,)), tmp_path / "masks" / "0_leaf_1.png")
    save(masks((0, 255)), tmp_path / "masks" / "0_mask_2.png")
    save(masks((255,)), tmp_path / "masks" / "1_3.png")
    save(masks((255,)), tmp_path / "masks" / "0_date_1.png")  # of 0.jpg or of 0_date.jpg
    dataset = open_dataset(tmp_path, "all")
    assert dataset.classes == ("leaf", "object")
    assert [record.boxes.tolist() for record in dataset] == [BOXES, BOXES[:1]]
    assert [record.labels.tolist() for record in dataset] == [[0, 1], [1]]
    assert [(one.kind, one.ids) for one in dataset.findings] == [("missing-image", ("masks/0_date_1.png",))]


def test_masks_without_an_image_are_faults_and_images_of_one_name_are_noted(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.jpg", "a.png", "b.jpg"])
    save(masks(), tmp_path / "masks" / "a.png")
    save(masks(), tmp_path / "masks" / "B.png")
    save(masks(), tmp_path / "masks" / "b.jpg")
    (tmp_path / "masks" / "._a.png").write_bytes(b"macOS")  # not a mask
    dataset = open_dataset(tmp_path, "all")
    text = "\n".join(dataset.notes)
    assert len(dataset) == 1
    (finding,) = dataset.findings
    assert (finding.kind, finding.ids) == ("missing-image", ("masks/B.png", "masks/b.jpg"))
    assert "2 mask files have no image of that name, or not in a format for masks" in finding.line()
    assert [one.kind for one in check_dataset(tmp_path).errors] == ["missing-image"]
    assert "1 image with the name of another image apart from the suffix: a.png: not used" in text


def test_masks_that_cannot_be_used_are_skipped_and_images_without_masks_noted(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png", "b.png", "c.png", "d.png", "e.png"])
    save(masks((255,)), tmp_path / "masks" / "a.png")
    save(masks()[:20], tmp_path / "masks" / "b.png")
    (tmp_path / "masks" / "c.png").write_bytes(b"no image")
    save(masks(()), tmp_path / "masks" / "d.png")
    dataset = open_dataset(tmp_path, "all")
    assert [len(record.boxes) for record in dataset] == [1, 0, 0, 0]
    text = "\n".join((*dataset.warnings, *dataset.notes))
    assert "1 annotation has a mask of another size than its image (id masks/b.png): skipped" in text
    assert "a mask that cannot be read as ids (grey, palette or RGB PNG) (id masks/c.png): skipped" in text
    assert "1 image without a mask (images/e.png): not used" in text
    [lost] = [one for one in dataset.findings if one.kind == "all-skipped"]
    assert lost.ids == ("images/b.png", "images/c.png")  # not d, of which the mask says that it has no objects
    assert "1 mask with one value only (masks/a.png): each is read as one object" in text


@pytest.mark.parametrize("values", ["binary", "flag", "RGB"])
def test_masks_that_may_not_tell_objects_apart_are_noted(tmp_path: Path, values: str) -> None:
    write_images(tmp_path / "images", ["a.png", "b.png"])
    white = masks((1, 1)).astype(bool)
    forms = {"binary": white, "flag": white.astype(np.uint8), "RGB": np.repeat(white[..., None], 3, 2) * np.uint8(255)}
    save(forms[values], tmp_path / "masks" / "a.png")
    save(masks(()), tmp_path / "masks" / "b.png")
    (note,) = open_dataset(tmp_path, "all").notes
    assert "1 mask with one value only (masks/a.png): each is read as one object" in note
    save(masks((3, 4)), tmp_path / "masks" / "b.png")  # some masks have ids
    assert len(open_dataset(tmp_path, "all").notes) == (values == "RGB")


def test_no_mask_at_all_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    (tmp_path / "masks").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has 1 image and no mask \(images/a\.png\)"):
        open_dataset(tmp_path, "all")


def test_ids_of_every_mode(tmp_path: Path) -> None:
    expected = masks((1, 200)).astype(np.int64)
    palette = Image.fromarray(expected.astype(np.uint8))
    palette.putpalette([7] * 768)
    deep = np.zeros((*SIZE, 3), np.uint8)
    deep[..., 1] = expected
    for number, (picture, factor) in enumerate(
        [
            (palette, 1),
            (Image.fromarray(expected.astype(np.uint16) * 300), 300),
            (Image.fromarray(expected.astype(np.int32) * 1000), 1000),
            (Image.fromarray(deep), 256),
            (Image.fromarray(expected.astype(np.uint8)).convert("LA"), 1),
        ]
    ):
        picture.save(tmp_path / f"{number}.tif")
        assert np.array_equal(read_ids(tmp_path / f"{number}.tif"), expected * factor)
    palette.convert("L").save(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match=r"a\.jpg is a JPEG with colour mode L, which cannot hold ids"):
        read_ids(tmp_path / "a.jpg")


def test_an_image_that_cannot_be_read_is_skipped(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png", "b.png", "c.png"])
    for name in "abc":
        save(masks(), tmp_path / "masks" / f"{name}.png")
    (tmp_path / "images" / "b.png").write_bytes(b"no image")
    dataset = open_dataset(tmp_path, "all")
    assert dataset.image_ids == ("images/a.png", "images/c.png")
    assert [(one.kind, one.ids) for one in dataset.findings] == [("unreadable-image", ("images/b.png",))]
    assert len(dataset.to_coco()["annotations"]) == 4
