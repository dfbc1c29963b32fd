"""Saved results of other programs: ids as text or names of files, boxes in other forms, JSON lines, fields of null."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rcnn.data.opening import DatasetOptions, open_with
from rcnn.data.records import Dataset
from rcnn.evaluation.api import evaluate
from rcnn.evaluation.compare import compare
from rcnn.evaluation.results import evaluate_results
from rcnn.evaluation.saved_ids import with_ids_of
from rcnn.metrics.inputs import read_json_or_lines

Entry = dict[str, Any]
SIZE = 64  # of the images, pixels


def truth(folder: Path, images: dict[int, str], categories: dict[int, str] | None = None) -> Dataset:
    """A data set of one object per image (id -> file name), as a file without image files."""
    categories = categories or {18: "dog", 3: "car"}
    classes = [*categories]
    tables = {
        "images": [{"id": one, "file_name": name, "height": SIZE, "width": SIZE} for one, name in images.items()],
        "annotations": [
            {"id": place + 1, "image_id": one, "category_id": classes[place % len(classes)], "iscrowd": 0, "area": 600}
            | {"bbox": [8 + place, 10, 30, 20]}
            for place, one in enumerate(images)
        ],
        "categories": [{"id": one, "name": name} for one, name in categories.items()],
    }
    folder.mkdir(exist_ok=True)
    (folder / "truth.json").write_text(json.dumps(tables))
    return open_with(DatasetOptions(optional_files=True), folder / "truth.json")


def perfect(dataset: Dataset) -> list[Entry]:
    """The ground truth as results."""
    keep = ("image_id", "category_id", "bbox")
    return [{name: entry[name] for name in keep} | {"score": 0.9} for entry in dataset.to_coco()["annotations"]]


FILES = {139: "val/000000000139.jpg", 285: "val/000000000285.jpg", 7: "val/000000000007.jpg"}
NAMED = {1: "street.jpg", 2: "my.photo.v2.png", 3: "sub/yard.jpg"}


def as_text(one: int, _: str) -> Any:
    return str(one)


def as_float(one: int, _: str) -> Any:
    return float(one)


def as_stem(_: int, name: str) -> Any:
    return Path(name).stem


def as_windows_path(_: int, name: str) -> Any:
    return f"C:\\data\\{name}"


def as_number_of_stem(_: int, name: str) -> Any:
    return int(Path(name).stem)


@pytest.mark.parametrize(
    ("files", "written", "how"),
    [
        (FILES, as_text, "as integers: '139' is 139"),
        (FILES, as_float, "as integers: 139.0 is 139"),
        (FILES, as_stem, "as integers: '000000000139' is 139"),
        (NAMED, as_stem, "by the names of the image files: 'street' is 1"),
        (NAMED, as_windows_path, "by the names of the image files: 'C:"),
        ({1: "005.jpg", 2: "017.jpg", 3: "100.jpg"}, as_number_of_stem, "files: 5 is 1"),
    ],
)
def test_ids_in_another_form_are_matched(
    files: dict[int, str], written: Callable[[int, str], Any], how: str, tmp_path: Path
) -> None:
    """The metrics and the results are those with the ids of the data set."""
    dataset, file = truth(tmp_path / "data", files), tmp_path / "found.json"
    results = perfect(dataset)
    file.write_text(
        json.dumps([one | {"image_id": written(one["image_id"], files[one["image_id"]])} for one in results])
    )
    done = evaluate_results(file, dataset)
    assert (done.results, done.metrics.kinds["bbox"]["AP"]) == (results, 1)
    (line,) = done.warnings
    assert line.startswith(f"{file}: 3 results have image_id in another form than the data set, matched ")
    assert how in line
    assert compare(file, file, dataset, samples=0).warnings == (line,)


def test_ids_that_could_mean_two_images_are_refused(tmp_path: Path) -> None:
    dataset, file = truth(tmp_path / "data", {1: "2.jpg", 2: "1.jpg"}), tmp_path / "found.json"
    results = perfect(dataset)
    file.write_text(json.dumps([one | {"image_id": str(one["image_id"])} for one in results]))
    message = (
        r"found\.json: results have image_id '1', which could mean two of the data set: 1 as integers, and 2 by the"
    )
    with pytest.raises(ValueError, match=message):
        evaluate_results(file, dataset)
    file.write_text(json.dumps(results))
    done = evaluate_results(file, dataset)
    assert done.results == results, "ids of the data set are kept"
    (line,) = done.warnings
    assert "but could also be the name of an image file: 1 that of '1.jpg', which is image 2. If" in line


def test_an_id_of_the_data_set_that_is_the_name_of_another_image_is_refused(tmp_path: Path) -> None:
    """Only 3 is not an id of the data set: then 1 and 2 may be names too."""
    dataset = truth(tmp_path / "data", {0: "1.jpg", 1: "2.jpg", 2: "3.jpg"})
    entries: list[Entry] = [{"image_id": one, "category_id": 3} for one in (1, 2, 3)]
    message = "image_id 1, which could mean two of the data set: 0 by the names of the image files, and 1 as it is; "
    with pytest.raises(ValueError, match=message):
        with_ids_of(dataset, entries)
    kept, (line,) = with_ids_of(dataset, entries[:2])
    assert kept == entries[:2]
    assert line.startswith("each image_id is taken as an id of the data set, but could also be the name of an image")
    assert with_ids_of(dataset, entries[:2], certain=True) == (entries[:2], ())


@pytest.mark.parametrize(
    ("file", "written", "expected"),
    [
        ("train/0001.jpg", "val/0001.jpg", None),
        ("train/0001.jpg", "val/0001", None),
        ("train/0001.jpg", "train/0001", 7),
        ("train/0001.jpg", "/data/train/0001.jpg", 7),
        ("train/0001.jpg", "../data/./train/0001.jpg", 7),
        ("data/train/0001.jpg", "train\\0001.jpg", 7),
        ("train/0001.jpg", "0001.jpg", 7),
        ("0001.jpg", "train/0001.jpg", 7),
    ],
)
def test_folders_never_contradict(file: str, written: str, expected: int | None, tmp_path: Path) -> None:
    entries: list[Entry] = [{"image_id": written, "category_id": 3}]
    kept, lines = with_ids_of(truth(tmp_path / "data", {7: file}), entries)
    assert [kept[0]["image_id"], len(lines)] == ([written, 0] if expected is None else [expected, 1])


def test_a_path_without_a_folder_is_the_file_without_one_if_the_results_have_paths(tmp_path: Path) -> None:
    dataset = truth(tmp_path / "data", {1: "1.jpg", 2: "a/1.jpg"})
    entries: list[Entry] = [{"image_id": one, "category_id": 3} for one in ("1.jpg", "a/1.jpg")]
    assert [one["image_id"] for one in with_ids_of(dataset, entries)[0]] == [1, 2]
    assert with_ids_of(dataset, entries[:1]) == (entries[:1], ()), "a program that leaves folders out: may be either"


@pytest.mark.parametrize("written", [("cam1/0001.jpg", "0001.jpg"), ("0001", "01")])
def test_two_ids_that_mean_one_image_are_refused(written: tuple[str, str], tmp_path: Path) -> None:
    dataset = truth(tmp_path / "data", {1: "cam1/0001.jpg"})
    with pytest.raises(ValueError, match=f"image_id '{written[0]}' and '{written[1]}', which both mean 1 of the data"):
        with_ids_of(dataset, [{"image_id": one, "category_id": 3} for one in written])
    same: list[Entry] = [{"image_id": one, "category_id": 3} for one in ("1", 1)]
    assert [one["image_id"] for one in with_ids_of(dataset, same)[0]] == [1, 1], "as text and as integer: one id"


def test_names_of_several_files_mean_none(tmp_path: Path) -> None:
    dataset = truth(tmp_path / "data", {1: "a/1.jpg", 2: "b/1.jpg"})
    entries: list[Entry] = [{"image_id": "1", "category_id": 3}]
    assert with_ids_of(dataset, entries)[0][0]["image_id"] == 1, "as an integer"
    entries[0]["image_id"] = "1.jpg"
    assert with_ids_of(dataset, entries) == (entries, ())
    entries[0]["image_id"] = "b/1.jpg"
    assert with_ids_of(dataset, entries)[0][0]["image_id"] == 2


def test_a_few_images_that_the_data_set_lacks_are_skipped(tmp_path: Path) -> None:
    dataset = truth(tmp_path / "data", {one: f"photo{one}.jpg" for one in range(1, 40)})
    results = [one | {"image_id": f"photo{one['image_id']}"} for one in perfect(dataset)]
    kept, (line,) = with_ids_of(dataset, [*results, results[0] | {"image_id": "other"}])
    assert kept == perfect(dataset)
    assert line.endswith("'photo1' is 1; skipped 1 result of images that match none, or several ('other')")
    many = [*results, *({**results[0], "image_id": f"other{one}"} for one in range(5))]
    assert with_ids_of(dataset, many) == (many, ())


def test_the_error_names_ids_of_both_sides_and_what_to_do(tmp_path: Path) -> None:
    dataset, file = truth(tmp_path / "data", NAMED, {0: "dog", 1: "car"}), tmp_path / "found.json"
    results = perfect(dataset)
    file.write_text(json.dumps([one | {"image_id": f"frame {one['image_id']}"} for one in results]))
    message = (
        r"found\.json: results have image_id 'frame 1', 'frame 2', 'frame 3', which .*truth\.json does not list under "
        r"'images'; it has 1, 2, 3\. Evaluate against .*, or give each result the id, or the file name, of its image"
    )
    with pytest.raises(ValueError, match=message):
        evaluate_results(file, dataset)
    file.write_text(json.dumps([one | {"category_id": one["category_id"] + 1} for one in results]))
    with pytest.raises(ValueError, match=r"category_id 2, .*; it has 0, 1\. .* subtract 1 from each category_id"):
        evaluate_results(file, dataset)


@pytest.mark.parametrize("written", [{18: "18", 3: "3"}, {18: "dog", 3: "car"}])
def test_categories_may_be_text_or_names(written: dict[int, str], tmp_path: Path) -> None:
    dataset = truth(tmp_path / "data", FILES)
    results = perfect(dataset)
    kept, (line,) = with_ids_of(dataset, [one | {"category_id": written[one["category_id"]]} for one in results])
    assert kept == results
    assert line.startswith("3 results have category_id in another form than the data set, matched ")
    wrong = [results[0] | {"category_id": "cat"}]
    assert with_ids_of(dataset, wrong) == (wrong, ())
    file = tmp_path / "found.json"  # a known text and an unknown integer: that is to blame
    file.write_text(json.dumps([results[0] | {"category_id": one} for one in (written[18], 99)]))
    with pytest.raises(ValueError, match=r"found\.json: results have category_id 99, which .* does not list under"):
        evaluate_results(file, dataset)


def as_fractions(x: float, y: float, width: float, height: float) -> list[float]:
    return [x / SIZE, y / SIZE, width / SIZE, height / SIZE]


def as_corners(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y + height]


def as_it_is(*box: float) -> list[float]:
    return [*box]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (as_fractions, "3 of 3 boxes have no number above 1, e.g. ["),
        (as_corners, "2 of 3 boxes reach beyond their image, e.g. ["),
        (as_it_is, ""),
    ],
)
def test_boxes_in_another_form_are_reported(form: Callable[..., list[float]], expected: str, tmp_path: Path) -> None:
    dataset, file = truth(tmp_path / "data", FILES), tmp_path / "found.json"
    boxes = ([10, 20, 12, 20], [30, 20, 30, 30], [20, 40, 30, 20])  # as corners, the last two are beyond 64 pixels
    results = [one | {"bbox": form(*box)} for one, box in zip(perfect(dataset), boxes, strict=True)]
    file.write_text(json.dumps(results))
    done = evaluate_results(file, dataset)
    assert done.results == results, "nothing is converted"
    if expected:
        (line,) = done.warnings
        assert line.startswith(f"{file}: {expected}")
        assert "expected COCO's [x, y, width, height] in pixels" in line
    else:
        assert done.warnings == ()


def test_a_field_of_null_is_absent(tmp_path: Path) -> None:
    dataset, file = truth(tmp_path / "data", FILES), tmp_path / "found.json"
    results = [one | {"segmentation": None, "keypoints": None} for one in perfect(dataset)]
    file.write_text(json.dumps(results))
    done = evaluate(file, dataset, output=tmp_path / "out", pictures=0)
    assert (list(done.metrics.kinds), done.metrics.kinds["bbox"]["AP"]) == (["bbox"], 1)
    file.write_text(json.dumps([one | {"bbox": None} for one in results]))
    with pytest.raises(ValueError, match=r"result 0 \(image 139\) has none"):
        evaluate(file, dataset)


@pytest.mark.parametrize("name", ["found.json", "found.ndjson"])
def test_json_lines_are_known_by_their_content(name: str, tmp_path: Path) -> None:
    dataset, file = truth(tmp_path / "data", FILES), tmp_path / name
    results = perfect(dataset)
    file.write_text("\n".join(map(json.dumps, results)) + "\n")
    assert evaluate_results(file, dataset).results == results
    file.write_text("\n".join([json.dumps(results[0]), json.dumps(results[1])[:-5], json.dumps(results[2])]))
    with pytest.raises(ValueError, match=rf"{name} is not JSON in line 2; expected a result, or a list, per line"):
        evaluate_results(file, dataset)
    file.write_text(json.dumps(results, indent=1)[:-9])
    with pytest.raises(ValueError, match=rf"{name} is not JSON \("):
        evaluate_results(file, dataset)


@pytest.mark.parametrize("name", ["found.json", "found.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_and_its_lines_may_begin_with_blank_lines_in_each_encoding_of_json(
    name: str, encoding: str, tmp_path: Path
) -> None:
    values, file = [{"id": 1}, {"id": "é"}], tmp_path / name
    lines = "\n".join(json.dumps(value, ensure_ascii=False) for value in values)
    for text in (lines, f"\n\n{lines}\n", "\n" + json.dumps(values, indent=1, ensure_ascii=False)):
        file.write_bytes(text.encode(encoding))
        assert read_json_or_lines(file) == values
    file.write_bytes(f"\n{lines}\n[1,".encode(encoding))
    with pytest.raises(ValueError, match=f"{name} is not JSON in line 4; expected a result, or a list, per line"):
        read_json_or_lines(file)
