"""`rcnn data check`: each of 300 generated faults is found under its id, clean sets have no errors."""

from __future__ import annotations

import ast
import copy
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from rcnn.data import open_dataset
from rcnn.data.checks.kinds import KINDS
from rcnn.data.inspect.check import check_dataset
from rcnn.data.inspect.fix import fix_dataset
from rcnn.data.inspect.images import leak_roles
from tests.command import rcnn
from tests.conftest import ROOT
from tests.tiny_data import write_tiny_coco
from tests.unit.data.coco_folders import annotation, coco_tables, write_coco, write_images
from tests.unit.data.inspect_faults import FAULTS, Data, Fault, changed, write_clean, write_tables

PLACES = 5  # where each fault is put
# Findings that are the consequence of a fault of each kind.
OF_IDS = ("unknown-reference", "class-not-in-training")
CONSEQUENCES: dict[str, tuple[str, ...]] = {
    "missing-field": OF_IDS,
    "bad-id": OF_IDS,
    "repeated-id": OF_IDS,
    "bad-category-name": ("class-not-in-training",),
    "box-form": ("box-beyond-edge",),
    **dict.fromkeys(("empty-box", "box-outside", "box-beyond-edge", "tiny-outline"), ("box-contradicts-outline",)),
    **dict.fromkeys(
        ("bad-outline", "short-polygon", "polygon-not-finite", "bad-mask", "empty-mask"), ("missing-outline",)
    ),
    **dict.fromkeys(("keypoint-count", "bad-keypoint"), ("num-keypoints",)),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data]:
    root = tmp_path_factory.mktemp("clean")
    return root, write_clean(root)


def test_there_are_300_faults_and_one_of_each_kind() -> None:
    assert len(FAULTS) * PLACES >= 300
    outside_coco = {"region", "format", "unreadable-annotations", "unreadable-file", "not-an-object", "no-class"}
    outside_coco |= {"two-label-files", "shared-images", "different-classes"}  # test_two_label_files.py
    outside_coco |= {"bad-shape", "bad-expression", "no-labels"}
    outside_coco |= {"missing-split", "all-skipped", "rare-similar-class"}  # the latter two: of many objects
    assert {fault.kind for fault in FAULTS} == set(KINDS) - outside_coco


def test_a_rare_class_with_the_name_of_another_one_is_warned_of(tmp_path: Path) -> None:
    tables = coco_tables([annotation(n, category_id=7 if n == 1 else 3) for n in range(1, 9)])
    tables["categories"] = [{"id": 3, "name": "person"}, {"id": 7, "name": "preson"}]
    found = check_dataset(write_coco(tmp_path, tables), only=["rare-similar-class"]).warnings
    assert [one.ids for one in found] == [("'preson' (1, like 'person' with 7)",)]
    write_images(tmp_path / "two", ["1.png", "2.png"])
    for name in ("first", "second"):
        (tmp_path / "two" / f"{name}.json").write_text(json.dumps(tables))
    found = check_dataset(tmp_path / "two", only=["rare-similar-class"]).warnings
    assert [one.ids for one in found] == [("'preson' (1, like 'person' with 7)",)], "images of both splits count once"
    assert "very few objects in all splits together" in found[0].line()
    tables["categories"][1]["name"] = "parrot"
    assert not check_dataset(write_coco(tmp_path, tables), only=["rare-similar-class"]).findings


def test_a_report_is_printed_as_the_command_prints_it(
    clean: tuple[Path, Data], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(clean[0], tmp_path / "data")
    write_tables(root, clean[1])
    assert rcnn("data", "check", root, "--no-images") == 0
    assert capsys.readouterr().out == f"{check_dataset(root, no_images=True)}\n"
    assert rcnn("data", "check", root, "--fix", tmp_path / "a") == 0
    said = capsys.readouterr().out.replace(str(tmp_path / "a"), "OUT")
    assert said == f"{fix_dataset(root, tmp_path / 'b')}\n".replace(str(tmp_path / "b"), "OUT")


@pytest.mark.parametrize("seed", range(PLACES))
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
def test_a_fault_is_found(clean: tuple[Path, Data], tmp_path: Path, fault: Fault, seed: int) -> None:
    root, data = clean
    if fault.images:
        shutil.copytree(root, tmp_path / "data")
        root = tmp_path / "data"
    try:
        write_tables(root, changed(data, fault, root, seed))
        report = check_dataset(root, no_images=not fault.images)
    finally:
        write_tables(root, data)
    found = {one.kind for one in report.findings}
    assert fault.kind in found, report.lines()
    assert found <= {fault.kind, *CONSEQUENCES.get(fault.kind, ())}, report.lines()


@pytest.mark.parametrize("seed", range(6))
def test_a_clean_set_has_no_findings(tmp_path: Path, seed: int) -> None:
    write_clean(tmp_path, seed)
    report = check_dataset(tmp_path)
    assert report.findings == (), report.lines()
    assert report.lines() == ["no faults in 8 images and 24 objects of 2 splits (train, val)"]


@pytest.mark.parametrize("name", ["coco449", "balloon", "fruits_nuts"])
def test_real_sets_have_no_errors(shared: Path, name: str) -> None:
    report = check_dataset(shared / "data" / name, no_images=name == "coco449")
    assert report.errors == (), report.lines()
    assert sum(report.objects.values()) > 100


def test_the_command_prints_findings_and_its_status_is_that_of_the_errors(
    clean: tuple[Path, Data], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, data = tmp_path / "data", copy.deepcopy(clean[1])
    shutil.copytree(clean[0], root)
    assert rcnn("data", "check", root) == 0
    assert "no faults in 8 images and 24 objects" in capsys.readouterr().out
    data["val"]["annotations"][4]["segmentation"] = [[1, 1, 9, 9, 9, 1, 1, 9]]
    write_tables(root, data)
    assert rcnn("data", "check", root, "--only", "self-crossing-outline") == 0
    assert "warning [self-crossing-outline]: " in capsys.readouterr().out
    assert rcnn("data", "check", root, "--only", "self-crossing-outline", "--strict") == 1
    data["train"]["annotations"][2]["area"] = -1
    write_tables(root, data)
    capsys.readouterr()
    assert rcnn("data", "check", root, "--json", "--no-images", "--skip", "box-contradicts-outline") == 1
    report = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in report["findings"]] == ["bad-area", "self-crossing-outline"]
    assert report["findings"][0]["ids"] == [3]
    assert (report["errors"], report["warnings"]) == (1, 1)
    assert rcnn("data", "check", root, "--fix", tmp_path / "out") == 0
    assert "fix: " in capsys.readouterr().out


def test_what_cannot_be_checked_has_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        ((tmp_path / "nothing",), "does not exist; expected the folder of a data set"),
        ((tmp_path,), "has no annotations in a known format"),
        ((tmp_path, "--only", "box-outsid"), "no fault has the id 'box-outsid' (did you mean 'box-outside'?)"),
        ((tmp_path, "--fix", tmp_path, "--no-images"), "--fix repairs all errors: leave out"),
    ):
        assert rcnn("data", "check", *words) == 2
        assert message in capsys.readouterr().err


def test_a_file_that_is_no_json_is_an_error_of_the_data(clean: tuple[Path, Data], tmp_path: Path) -> None:
    shutil.copytree(clean[0], tmp_path / "data")
    (tmp_path / "data" / "annotations" / "instances_val.json").write_text("{")
    report = check_dataset(tmp_path / "data")
    assert [one.kind for one in report.errors] == ["unreadable-annotations"]
    assert list(report.images) == ["train"]


def test_every_fault_that_opening_reports_has_a_known_id() -> None:
    """Each call of `Warnings.add` and `DataError` names a kind of checks/kinds.py."""
    named: list[str] = []
    for path in sorted((ROOT / "src" / "rcnn" / "data").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name == "DataError":
                named.append(ast.literal_eval(node.args[0]))
            elif name.endswith("warnings.add"):
                given = next((keyword.value for keyword in node.keywords if keyword.arg == "kind"), None)
                named += [str(given.value)] if isinstance(given, ast.Constant) else []
    assert len(named) > 40
    assert set(named) <= set(KINDS)


def test_the_page_lists_every_kind_and_its_example_runs(
    clean: tuple[Path, Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "data_tools.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (error|warning) \| (.+) \|$", text, flags=re.MULTILINE)
    assert rows == [(name, kind.severity, kind.meaning) for name, kind in KINDS.items()]
    shutil.copytree(clean[0], tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(example, {})  # noqa: S102


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("train", "val", (0, 1)),
        ("test", "train2017", (1, 0)),
        ("Train", "minival2014", (0, 1)),
        ("train2014", "superminival2014", (0, 1)),
        ("train", "dev", (0, 1)),
        ("eval", "train", (1, 0)),
        ("trainval", "test", (0, 1)),
        ("trainval", "val", None),
        ("train", "trainval", None),
        ("val2014", "minival2014", None),
        ("train2017", "unlabeled2017", None),
        ("part1", "part2", None),
        ("part1", "val", None),
    ],
)
def test_which_splits_may_share_images(first: str, second: str, expected: tuple[int, int] | None) -> None:
    assert leak_roles(first, second) == expected


@pytest.mark.parametrize(
    "pattern", ["annotations/instances_{}.json", "annotations/{}.json", "{}/annotations.json", "{}.json"]
)
def test_a_file_that_is_cut_short_beside_a_good_one_is_found(pattern: str, tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path / "data", {"train": 2, "val": 2})
    for split in ("train", "val"):
        text = (root / "annotations" / f"instances_{split}.json").read_text()
        (root / "annotations" / f"instances_{split}.json").unlink()
        (root / pattern.format(split)).write_text(text if split == "val" else text[:200])
    report = check_dataset(root, no_images=True)
    assert list(report.images) == ["val"]
    assert [one.kind for one in report.errors] == ["unreadable-annotations"]
    assert f"{root / pattern.format('train')} is not JSON" in report.errors[0].what


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_an_annotation_file_that_is_no_regular_file_is_found(
    clean: tuple[Path, Data], tmp_path: Path, kind: str
) -> None:
    root = tmp_path / "data"
    shutil.copytree(clean[0], root)
    file = root / "annotations" / "instances_train.json"
    file.unlink()
    if kind == "link":
        file.symlink_to(tmp_path / "gone.json")
    elif hasattr(os, "mkfifo"):
        os.mkfifo(file)
    else:
        pytest.skip("needs named pipes")
    report = check_dataset(root)
    expected = "is a broken symbolic link" if kind == "link" else "is not a regular file"
    assert [expected in one.what for one in report.errors] == [True]
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        open_dataset(root, "train")


def test_a_link_that_leads_to_itself_is_one_unreadable_image(clean: tuple[Path, Data], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(clean[0], root)
    image = sorted((root / "train").iterdir())[0]
    image.unlink()
    image.symlink_to(image.name)
    assert [(one.kind, len(one.ids)) for one in check_dataset(root).errors] == [("unreadable-image", 1)]


def test_an_annotation_id_that_is_a_list_is_named_in_the_report(tmp_path: Path) -> None:
    tables = coco_tables([annotation([1], image_id="1"), annotation(2)])
    report = check_dataset(write_coco(tmp_path, tables), no_images=True)
    [finding] = [one for one in report.findings if one.kind == "id-type"]
    assert finding.ids == ("[1]",)
    json.dumps(report.to_dict())


def test_empty_categories_of_every_split_are_reported_once(tmp_path: Path) -> None:
    for split, extra in (("train", "cup"), ("val", "pan")):
        tables = coco_tables([annotation(1), annotation(2, category_id=4)])
        names = ("kite", "boat", extra, "pot")
        tables["categories"] = [{"id": number, "name": name} for number, name in zip((3, 4, 5, 6), names, strict=True)]
        write_coco(tmp_path, tables, split)
    found = check_dataset(tmp_path, no_images=True, only=["empty-category"]).findings
    assert not found  # 2 of 5 classes have objects: a fixed list
    for split, extra in (("train", "cup"), ("val", "pan")):
        tables = coco_tables([annotation(1), annotation(2, category_id=4)])
        names = ("kite", "boat", extra) if split == "val" else ("kite", "boat")
        tables["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=3)]
        write_coco(tmp_path, tables, split)
    found = check_dataset(tmp_path, no_images=True, only=["empty-category"]).findings
    assert [(one.file.name, one.ids) for one in found] == [("instances_val.json", (5,))]
