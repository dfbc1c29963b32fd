"""`rcnn data browse`: one page without links, with a picture per image, and text that is not markup."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typing_extensions import override

from rcnn.data.inspect.info import describe_dataset
from rcnn.data.transforms import Sample
from rcnn.drawing.augmented import draw_sample
from rcnn.drawing.browse import browse_dataset
from rcnn.preprocess import InputConfig
from rcnn.training.settings import TrainConfig
from tests.command import rcnn
from tests.tiny_data import write_tiny_coco


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.tags: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(str(dict(attrs)["src"]))


def test_the_page_holds_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tiny_coco(tmp_path / "data", {"train": 5, "val": 2})
    assert rcnn("data", "browse", root, "--output", tmp_path / "out", "--limit", 3) == 0
    assert str(tmp_path / "out" / "browse.html") in capsys.readouterr().out
    text = (tmp_path / "out" / "browse.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert len(page.images) == 3 + 2
    assert "http" not in text
    assert "script" not in page.tags
    assert "link" not in page.tags
    for name in ("train_1.png", "train_3.png", "train_5.png", "val_2.png", "3 of 5 images, with", ">2 images, with"):
        assert name in text
    data = base64.b64decode(page.images[0].removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(data)) as drawn, Image.open(root / "train" / "train_1.png") as plain:
        assert drawn.size == plain.size
        assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(plain, dtype=int)).max() > 100  # boxes and names


def test_classes_without_objects_are_named(tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path / "data", {"val": 2}, size=(48, 64))
    file = root / "annotations" / "instances_val.json"
    tables = json.loads(file.read_text())
    tables["categories"].append({"id": 99, "name": "kite"})
    tables["images"][0]["id"] = 17
    tables["annotations"] = [one for one in tables["annotations"] if one["image_id"] == 2]
    file.write_text(json.dumps(tables))
    text = browse_dataset(root, tmp_path / "out").path.read_text(encoding="utf-8")
    assert re.search(r"2 images, with 2 objects\. Classes without objects in this split: (\w+, )?kite<", text)
    assert "id 17, 64 pixels wide, 48 high: no objects" in text
    lines = describe_dataset(root).lines()
    assert "empty: images without objects" in lines
    assert any(re.fullmatch(r"no objects in val: (\w+, )?kite", line) for line in lines)


def test_test_images_have_no_ground_truth(tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path / "data", {"train": 1, "test": 2}, size=(48, 64))
    file = root / "annotations" / "instances_test.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    text = browse_dataset(root, tmp_path / "out", split="test").path.read_text(encoding="utf-8")
    assert ">2 images, no ground truth<" in text
    assert "id 1, 64 pixels wide, 48 high: no ground truth" in text
    assert "objects" not in text
    info = describe_dataset(root)
    assert {name: one["ground_truth"] for name, one in info.to_dict()["splits"].items()} == {
        "train": True, "test": False,
    }  # fmt: skip
    [row] = [line for line in info.lines() if line.startswith("test ")]
    assert row.split()[1:5] == ["2", "no", "ground", "truth"]
    assert "empty: images without objects" not in info.lines()


def test_names_are_text_and_broken_images_are_named(tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path / "data", {"val": 2})
    file = root / "annotations" / "instances_val.json"
    tables = json.loads(file.read_text())
    tables["categories"][0]["name"] = "<script>alert(1)</script>"
    file.write_text(json.dumps(tables))
    (root / "val" / "val_2.png").write_bytes(b"no image")
    text = browse_dataset(root, tmp_path / "out").path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert re.search(r'class="missing">\S+val_2\.png is not an image that can be read', text)


def test_a_page_of_the_user_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tiny_coco(tmp_path / "data", {"val": 2})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "browse.html").write_text("mine")
    with pytest.raises(FileExistsError, match=r"browse\.html exists and was not written by rcnn"):
        browse_dataset(root, tmp_path / "out")
    with pytest.raises(ValueError, match="limit=-1; expected 0 or more images"):
        browse_dataset(root, tmp_path / "new", limit=-1)
    monkeypatch.chdir(tmp_path)
    assert browse_dataset(root).path == Path("runs/browse-data-1/browse.html")


def test_referring_expressions_are_shown(tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path / "refcoco", {"val": 2})
    tables = json.loads((root / "annotations" / "instances_val.json").read_text())
    (root / "instances.json").write_text(json.dumps(tables))
    (root / "annotations" / "instances_val.json").unlink()
    (root / "val").rename(root / "train2014")
    sentences = [{"raw": "x", "sent": text, "sent_id": 1, "tokens": []} for text in ("the <left> one", "bright one")]
    reference = {"ref_id": 1, "ann_id": 1, "category_id": 10, "image_id": 1, "split": "val", "sentences": sentences}
    (root / "refs(unc).p").write_bytes(pickle.dumps([reference], protocol=0))
    text = browse_dataset(root, tmp_path / "out").path.read_text(encoding="utf-8")
    assert re.search(r"<li>(square|disc): the &lt;left&gt; one; bright one</li>", text)


def pictures(page: Path) -> list[np.ndarray]:
    """The pictures of a page, decoded, in order."""
    parsed = _Page()
    parsed.feed(page.read_text(encoding="utf-8"))
    files = [base64.b64decode(url.removeprefix("data:image/jpeg;base64,")) for url in parsed.images]
    return [np.asarray(Image.open(io.BytesIO(file)), dtype=int) for file in files]


def test_augmented_pictures_show_the_networks_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two versions of the training images, as the batches of a run have them; only the training split."""
    root = write_tiny_coco(tmp_path / "data", {"train": 2, "val": 2})
    words = ["input.min_size=64", "train.flip=0", "train.augment=[{kind: scale_jitter, size: 96, scale: [0.5, 1.5]}]"]
    command = ("data", "browse", root, *words, "--augmented", "--output", tmp_path / "out")
    assert rcnn(*command) == 0
    page = tmp_path / "out" / "browse.html"
    found = pictures(page)
    assert [picture.shape for picture in found] == [(96, 96, 3)] * 4
    assert np.abs(found[0] - found[1]).max() > 50  # two versions of one image
    assert "2 versions of each" in page.read_text()
    notes = re.findall(r"id 1, version (\d), 96 pixels wide, 96 high: (?:no objects|\d)", page.read_text())
    assert notes == ["1", "2"]
    assert "val_1.png" not in page.read_text()
    capsys.readouterr()
    assert rcnn("data", "browse", root, *words, "--output", tmp_path / "no") == 2
    assert "is used with --augmented only" in capsys.readouterr().err
    assert rcnn("data", "browse", root, "--augmented", "train.augment=[crp]", "--output", tmp_path / "no") == 2
    assert "did you mean crop?" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_an_augmented_picture_has_the_objects_of_the_sample() -> None:
    """A box, a mask and a keypoint of a sample by hand, a crowd as a dashed box."""
    sample = Sample(
        image=torch.zeros(3, 60, 80, dtype=torch.uint8),
        boxes=torch.tensor([[10.0, 10, 40, 50]]),
        labels=torch.tensor([0]),
        outlines=(np.array([[15.0, 20, 35, 20, 0], [35, 20, 35, 45, 0], [35, 45, 15, 45, 0], [15, 45, 15, 20, 0]]),),
        keypoints=torch.tensor([[[60.5, 30.5, 2.0]]]),
        crowds=torch.tensor([[50.0, 5, 75, 55]]),
    )
    drawn = np.asarray(draw_sample(sample, ["cat"])).max(axis=2) > 0
    assert drawn[25:44, 16:34].all()  # the mask
    assert drawn[10:50, 10].all()  # the box
    assert drawn[30, 60]  # the keypoint
    assert drawn[5, 50:75].any()
    assert not drawn[5, 50:75].all()  # dashes


def painted(sample: Sample, random: np.random.Generator) -> Sample:
    """A step as users write it."""
    return replace(sample, image=torch.full_like(sample.image, 200))


def pictures_of(page: Path) -> list[np.ndarray]:
    """The pictures of a page, (H, W, 3)."""
    parsed = _Page()
    parsed.feed(page.read_text(encoding="utf-8"))
    data = [base64.b64decode(source.partition(",")[2]) for source in parsed.images]
    return [np.asarray(Image.open(io.BytesIO(one)), dtype=int) for one in data]


def test_browse_takes_the_steps_that_training_takes(tmp_path: Path) -> None:
    """A name with settings, and a function; together with other settings."""
    root = write_tiny_coco(tmp_path / "data", {"train": 2}, size=(48, 64))
    size, steps = InputConfig(min_size=48, max_size=64), [{"kind": "crop", "size": [0.5, 0.5]}, painted]
    shown = pictures_of(browse_dataset(root, tmp_path / "a", augment=steps, input_config=size).path)
    assert [picture.shape for picture in shown] == [(48, 64, 3)] * 4
    assert all((abs(picture - 200) <= 4).all(-1).any() for picture in shown)  # what the function painted
    bare = pictures_of(browse_dataset(root, tmp_path / "bare", augment=steps[:1], input_config=size).path)
    assert not any((abs(picture - 200) <= 4).all(-1).any() for picture in bare)
    settings = TrainConfig(scales=(32,))
    page = browse_dataset(root, tmp_path / "b", augmented=settings, augment=[painted], input_config=size).path
    assert {picture.shape for picture in pictures_of(page)} == {(32, 43, 3)}
    with pytest.raises(ValueError, match=r"augment\[0\].kind: expected one of crop, .*, got 'cropp'"):
        browse_dataset(root, tmp_path / "c", augment=["cropp"])
    with pytest.raises(ValueError, match=r"scale_jitter replaces the resize, but train\.scales is"):
        browse_dataset(root, tmp_path / "c", augmented=settings, augment=["scale_jitter"])
    assert not (tmp_path / "c").exists()
