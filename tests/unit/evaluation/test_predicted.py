"""Results of `rcnn predict --format coco`: their ids mean what coco.json beside them names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rcnn.cli.formats import WITH_IMAGES
from rcnn.data.opening import open_dataset
from rcnn.evaluation.predicted import COPIES
from rcnn.evaluation.results import evaluate_results
from rcnn.outputs import OutputFolder
from tests.tiny_data import write_tiny_coco
from tests.unit.evaluation.test_saved_ids import NAMED, Entry, perfect, truth


def write_predicted(folder: Path, images: dict[int, str], classes: dict[int, str], results: list[Entry]) -> Path:
    """Results and coco.json as `rcnn predict --format coco` writes them."""
    with OutputFolder(folder) as output:
        tables = {"images": [{"id": one, "file_name": name} for one, name in images.items()]}
        categories = [{"id": one, "name": name} for one, name in classes.items()]
        output.write_json("coco.json", tables | {"categories": categories})
        output.write_json("coco_results.json", results)
    return folder / "coco_results.json"


@pytest.mark.parametrize(
    ("images", "written", "own"),
    [
        ({1: "1.jpg", 2: "a/1.jpg"}, {1: "1.jpg", 2: "a/1.jpg"}, {1: 1, 2: 2}),
        ({1: "1.jpg", 2: "a/1.jpg"}, {1: "coco_images/1.jpg", 2: "coco_images/a/1.jpg"}, {1: 1, 2: 2}),
        (
            {1: "masks/a.json", 2: "masks/b.png"},
            {1: "coco_images/masks-2/a.jpg", 2: "coco_images/masks-2/b.png"},
            {1: 1, 2: 2},
        ),
        ({1: "a/1.jpg", 2: "a/1.jpg"}, {1: "a/1.jpg", 2: "a/1.jpg"}, {1: 1, 2: 2}),
        ({1: "val/1.jpg", 2: "val/2.jpg"}, {2: "/d/val/1.jpg", 1: "/d/val/2.jpg"}, {1: 2, 2: 1}),
    ],
)
def test_predictions_are_of_the_images_that_coco_json_names(
    images: dict[int, str], written: dict[int, str], own: dict[int, int], tmp_path: Path
) -> None:
    dataset = truth(tmp_path / "data", images)
    results = perfect(dataset)
    found = [one | {"image_id": own[one["image_id"]]} for one in results]
    file = write_predicted(tmp_path / "found", written, {18: "dog", 3: "car"}, found)
    done = evaluate_results(file, dataset)
    assert (done.results, len(done.warnings)) == (results, int(own[1] != 1))


@pytest.mark.parametrize(
    ("images", "written", "message"),
    [
        (
            {1: "train/0001.jpg"},
            {1: "val/0001.jpg"},
            "image_id 1, which is the image 'val/0001.jpg' in coco.json beside",
        ),
        ({1: "cam1/0001.jpg"}, {1: "cam1/0001.jpg", 2: "cam2/0001.jpg"}, "image_id 2, which is the image 'cam2/0001"),
        ({1: "a/1.jpg", 2: "b/1.jpg"}, {1: "1.jpg"}, "image_id 1, which is the image '1.jpg' in coco.json"),
        (
            {1: "1.jpg", 2: "1.png", 3: "1-2.png"},
            {2: "coco_images/1-2.png"},
            "image_id 2, which is the image '1-2.png' in",
        ),
        ({1: "a/1.jpg"}, {1: "a/1.jpg", 2: "d/a/1.jpg"}, "image_id 1 and 2, the image 'a/1.jpg' and 'd/a/1.jpg' in"),
    ],
)
def test_predictions_of_other_images_are_refused(
    images: dict[int, str], written: dict[int, str], message: str, tmp_path: Path
) -> None:
    """Their ids are those of the data set by chance, or would be merged."""
    dataset = truth(tmp_path / "data", images)
    results = [perfect(dataset)[0] | {"image_id": one} for one in written]
    file = write_predicted(tmp_path / "found", written, {18: "dog", 3: "car"}, results)
    with pytest.raises(ValueError, match=rf"coco_results\.json: results have {message}.*to a file of another name"):
        evaluate_results(file, dataset)


def test_a_class_of_another_name_keeps_its_id_if_no_other_name_has_it(tmp_path: Path) -> None:
    images = {1: "1.jpg", 2: "2.jpg"}
    dataset = truth(tmp_path / "data", images, {4: "motorbike", 3: "car"})
    results = perfect(dataset)
    file = write_predicted(tmp_path / "same", images, {4: "motorcycle", 3: "car", 9: "boat"}, results)
    done = evaluate_results(file, dataset)
    assert done.results == results
    (line,) = done.warnings
    assert line.endswith("same category_id in the data set, taken as the same: motorcycle is motorbike")
    for names in ({4: "motorcycle", 3: "motorbike", 1: "car"}, {9: "motorcycle", 3: "car"}):
        found = [one | {"category_id": next(iter(names))} for one in results]
        file = write_predicted(tmp_path / "other", images, names, found)
        with pytest.raises(
            ValueError, match=r"category_id \d, which is the class 'motorcycle' in coco\.json beside them"
        ):
            evaluate_results(file, dataset)


def test_the_advice_for_ids_that_fit_works(tmp_path: Path) -> None:
    dataset = truth(tmp_path / "data", {1: "train/0001.jpg"})
    file = write_predicted(tmp_path / "found", {1: "val/0001.jpg"}, {18: "dog"}, perfect(dataset))
    with pytest.raises(
        ValueError, match=r"copy the results to a file of another name, which is read without coco\.json"
    ):
        evaluate_results(file, dataset)
    copy = shutil.copy(file, file.with_name("results.json"))
    assert evaluate_results(Path(copy), dataset).results == perfect(dataset)


def test_other_photos_with_the_same_names_are_reported(tmp_path: Path) -> None:
    """Two splits have photos of the same names; predictions on one are scored on the other."""
    data = write_tiny_coco(tmp_path / "data", {"train": 3, "val": 3}, size=(16, 24))
    for number in (1, 2, 3):
        for split in ("train", "val"):
            (data / split / f"{split}_{number}.png").rename(data / split / f"{number}.png")
    for split in ("train", "val"):
        file = data / "annotations" / f"instances_{split}.json"
        file.write_text(file.read_text().replace(f'"{split}_', '"'))
    shutil.copy(data / "train" / "3.png", data / "val" / "3.png")
    val = open_dataset(data, "val")
    copies = tmp_path / "found" / "coco_images"
    shutil.copytree(data / "train", copies)  # as `rcnn predict data/train` does
    names = {number: f"coco_images/{number}.png" for number in (1, 2, 3)}
    classes = dict(zip(val.category_ids, val.classes, strict=True))
    file = write_predicted(tmp_path / "found", names, classes, perfect(val))
    (line,) = evaluate_results(file, val).warnings
    said = "2 of 3 images with results are not the photos that the data set has under the same name"
    assert said in line
    assert "(1.png, 2.png)" in line
    assert evaluate_results(file, open_dataset(data, "train")).warnings == ()
    for number in (1, 2):
        shutil.copy(data / "val" / f"{number}.png", copies)
    assert evaluate_results(file, val).warnings == ()
    sizes = [{"id": one, "file_name": name, "height": 16, "width": 24 + (one == 1)} for one, name in names.items()]
    with OutputFolder(tmp_path / "found") as output:  # without copies, their sizes tell
        tables = {"images": [one | {"file_name": Path(str(one["file_name"])).name} for one in sizes]}
        output.write_json("coco.json", tables | {"categories": []})
    (line,) = evaluate_results(file, val).warnings
    assert "1 of 3 images with results is not the photo that the data set has" in line
    assert "(1.png)" in line


@pytest.mark.parametrize(
    ("images", "categories", "message"),
    [
        ([{"file_name": "a.jpg"}], [], r"coco\.json: entry 0 of images has the id None; expected an integer or text"),
        ([{"id": 1}, 5], [], r"coco\.json: entry 1 of images is 5; expected an object\. Repair it, or predict again"),
        ([{"id": 1}], [{"id": [2]}], r"coco\.json: entry 0 of categories has the id \[2\]; expected an integer"),
        ([{"id": 1}], {"id": 2}, r"coco\.json: categories is .*; expected a list"),
    ],
)
def test_a_coco_json_that_was_changed_is_refused(
    images: object, categories: object, message: str, tmp_path: Path
) -> None:
    dataset = truth(tmp_path / "data", {1: "0001.jpg"})
    file = write_predicted(tmp_path / "found", {1: "0001.jpg"}, {18: "dog"}, perfect(dataset))
    (tmp_path / "found" / "coco.json").write_text(json.dumps({"images": images, "categories": categories}))
    with pytest.raises(ValueError, match=message):
        evaluate_results(file, dataset)


def test_copies_are_in_the_folder_that_predict_writes() -> None:
    assert f"{WITH_IMAGES['coco']}/" == COPIES


def test_results_of_predict_are_matched_by_the_names_in_coco_json(tmp_path: Path) -> None:
    """`rcnn predict --format coco` numbers images and classes itself; here in another order than the data set."""
    dataset, found = truth(tmp_path / "data", NAMED), tmp_path / "found"
    results, numbers = perfect(dataset), {1: 2, 2: 3, 3: 1}
    with OutputFolder(found) as folder:
        folder.write_json(
            "coco.json",
            {
                "images": [{"id": numbers[one], "file_name": name} for one, name in NAMED.items()],
                "categories": [{"id": 3, "name": "dog"}, {"id": 4, "name": "car"}],
            },
        )
        own = {18: 3, 3: 4}
        changed = {"image_id": numbers, "category_id": own}
        folder.write_json(
            "coco_results.json", [one | {key: ids[one[key]] for key, ids in changed.items()} for one in results]
        )
    done = evaluate_results(found / "coco_results.json", dataset)
    assert done.results == results
    assert [line.partition(": ")[2] for line in done.warnings] == [
        "3 results have another image_id than the data set: matched by the name of the image in coco.json beside them",
        "3 results have another category_id than the data set: matched by the name of the class in coco.json beside "
        "them",
    ]
