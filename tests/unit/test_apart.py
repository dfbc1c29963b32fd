"""No files of rcnn among the images and annotations of the user: one rule for commands and Python functions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import rcnn
from rcnn.outputs import OutputFolder, inside_data, require_apart
from rcnn.weights.convert import checkpoint_place
from tests.command import rcnn as command
from tests.tiny_data import write_tiny_coco


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_tiny_coco(tmp_path / "photos", {"val": 2}, size=(16, 24))


def test_the_folder_of_the_data_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(data.rglob("*"))
    said = r"is the folder of the data set, and rcnn would put its files among .*--output\), e\.g\. runs/photos$"
    results = data.with_name("results.json")
    results.write_text("[]")
    monkeypatch.chdir(data.parent)
    for output in (data, "photos", data / "val" / ".."):
        with pytest.raises(ValueError, match=said):
            rcnn.evaluate(results, data, output=output)
        with pytest.raises(ValueError, match=said):
            rcnn.compare(results, results, data, output=output)
        with pytest.raises(ValueError, match=said):
            rcnn.browse_dataset(data, output)
    with pytest.raises(ValueError, match="folder of the data set"):
        rcnn.evaluate(results, rcnn.open_dataset(data, "val"), output=data)
    assert sorted(data.rglob("*")) == before


def test_an_earlier_output_of_the_same_command_is_replaced(data: Path, tmp_path: Path) -> None:
    with OutputFolder(data) as output:
        output.write_text("browse.html", "an earlier page")
    assert rcnn.browse_dataset(data, data).path.read_text() != "an earlier page"
    with pytest.raises(ValueError, match="folder of the data set"):
        require_apart(data, data, own="metrics.json")
    require_apart(tmp_path, data)


def test_an_output_inside_the_data_gets_a_warning(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"{data / 'a'} is inside the folder of the data set, {data}: rcnn does not read its own files as data"
    assert inside_data(data / "a", data).startswith(line)
    assert inside_data(data.with_name("a"), data) == ""
    assert inside_data(data / "a", data / "annotations" / "instances_val.json") == ""
    monkeypatch.chdir(data)
    assert command("data", "info", data, "--output", data / "a") == 0
    assert f"warning: {line}" in capsys.readouterr().err


def test_compare_and_browse_warn_too(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = data.with_name("results.json")
    dataset = rcnn.open_dataset(data, "val")
    box = {"image_id": dataset.image_ids[0], "category_id": dataset.category_ids[0], "bbox": [1, 1, 9, 9], "score": 0.5}
    results.write_text(json.dumps([box]))
    line = f"{data / 'a'} is inside the folder of the data set, {data}: rcnn does not read its own files as data"
    for given in (data, dataset):
        found = rcnn.compare(results, results, given, samples=0, output=data / "a")
        assert found.warnings[0].startswith(line)
    assert (data / "a" / "compare.json").is_file()
    assert "inside" not in str(rcnn.compare(results, results, data, samples=0, output=data.with_name("b")).warnings)
    in_images = rcnn.compare(results, results, data, samples=0, output=data / "val" / "c").warnings[0]
    assert in_images.startswith(f"{data / 'val' / 'c'} is inside the folder of the data set, {data}")
    assert rcnn.browse_dataset(data, data.with_name("d")).warnings == ()
    capsys.readouterr()
    for command_line in (("data", "browse", data), ("compare", results, results, "--data", data, "--samples", 0)):
        assert command(*command_line, "--output", data / "a") == 0
        assert capsys.readouterr().err.count(f"warning: {line}") == 1


def test_a_checkpoint_is_kept_apart_from_data_too(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`rcnn convert` reads no data, so the folder itself tells whether it is a data set."""
    file, before = data.with_name("model.pth"), sorted(data.rglob("*"))
    file.write_bytes(b"no weights")
    refused = "photos is the folder of the data set, and rcnn would put its files among the images and annotations"
    with pytest.raises(ValueError, match=refused):
        rcnn.convert(file, data)
    assert command("convert", file, "--output", data) == 2
    assert refused in capsys.readouterr().err
    assert sorted(data.rglob("*")) == before
    line = f"warning: {data / 'a'} is inside the folder of the data set, {data}"
    with (
        pytest.warns(UserWarning, match=re.escape(line.removeprefix("warning: "))),
        pytest.raises(ValueError, match=r"model\.pth"),
    ):
        rcnn.convert(file, data / "a")
    assert command("convert", file, "--output", data / "a") == 2
    assert line in capsys.readouterr().err
    with OutputFolder(data) as output:  # a checkpoint of an earlier version of rcnn, which is replaced
        output.write_text("config.json", "{}")
    assert checkpoint_place(data) == ""
    monkeypatch.chdir(data)  # outputs usually go below the current folder
    assert checkpoint_place(Path("runs/a")) == ""


def test_the_folders_of_the_images_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that the user names, and without a name those in which the images were found."""
    data = write_tiny_coco(tmp_path, {"val": 2}, size=(16, 24))
    file = (data / "annotations" / "instances_val.json").rename(data / "ann.json")
    (data / "val").rename(data / "images")
    results = data / "results.json"
    results.write_text("[]")
    monkeypatch.chdir(data)
    refused = r"^images is the folder of the images, and rcnn would put its files among them: choose another output"
    with pytest.raises(ValueError, match=refused):
        require_apart(Path("images"), file, "images")
    require_apart(Path("runs/a"), file, "images", folders=[data / "images"])
    with pytest.raises(ValueError, match=refused):
        rcnn.browse_dataset(file, "images", images="images")
    with pytest.raises(ValueError, match=refused):
        rcnn.compare(results, results, file, images="images", output="images")
    line = (
        f"images/run is inside the folder of the data set, {data / 'images'}: rcnn does not read its own files as data"
    )
    for images in ("", "images"):
        with pytest.raises(ValueError, match=refused):
            rcnn.evaluate(results, file, images=images, output="images", allow_empty=True)
        assert rcnn.evaluate(results, file, images=images, output="images/run", pictures=0).warnings[0].startswith(line)
        assert "inside the folder" not in str(rcnn.evaluate(results, file, images=images, output="runs/a").warnings)
    for options in ((), ("--images", "images")):
        assert command("eval", results, "--data", file, "--output", "images/a", *options) == 0
        assert capsys.readouterr().err.count("images/a is inside the folder of the ") == 1
        assert command("eval", results, "--data", file, "--output", "images", *options) != 0
        assert "images is the folder of the images" in capsys.readouterr().err
    assert rcnn.open_dataset(file, images="images").image_folders == {data / "images"}
