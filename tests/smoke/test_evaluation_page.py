"""Examples of docs/evaluation.md run on saved results: the report, tables and thresholds that the page promises."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import rcnn as library
from tests.command import rcnn
from tests.tiny_data import CLASSES, write_tiny_coco

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
SECTIONS = [
    "Average precision and recall",
    "By class",
    "Worst images",
    "Precision-recall",
    "Confusion matrix",
    "TIDE",
    "Calibration",
    "Thresholds",
    "Sizes and counts",
    "Details",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a data set, and results in run/ in which an object of the second image is missing."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "DIR"):
        write_tiny_coco(Path(name), {"val": 2}, size=(64, 96))
    tables = json.loads(Path("DIR/annotations/instances_val.json").read_text())
    for name in ("run", "RUN"):
        Path(name).mkdir()
        for kind, key in (("bbox", "bbox"), ("segm", "segmentation")):
            keys = ("image_id", "category_id", key)
            results = [{k: entry[k] for k in keys} | {"score": 0.9} for entry in tables["annotations"][:-1]]
            Path(name, f"results_{kind}.json").write_text(json.dumps(results))
    return tmp_path


def test_the_example_in_python_writes_the_report(folder: Path) -> None:
    [example] = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"rcnn": library}
    exec(compile(example, "docs/evaluation.md", "exec"), names)  # noqa: S102  the page is ours
    result = names["result"]
    assert result.report == Path("evaluated/report.html")
    html = result.report.read_text(encoding="utf-8")
    assert "http" not in html
    assert all(one.startswith("data:image/jpeg;base64,") for one in re.findall(r'(?:src|href)="([^"]*)', html))
    assert re.findall(r"<h2>(.*?)</h2>", html) == SECTIONS
    titles = re.findall(r"^\| ([A-Z][^|]*?) \|", PAGE.split("## The report")[1].split("## ")[0], flags=re.MULTILINE)
    assert [one for title in titles for one in title.split(", ")] == SECTIONS[:-1], "the page lists the sections"
    pictures = re.findall(r'alt="(.*?)"', html)[:2]
    assert pictures == ["Ground truth of val_2.png", "Detections in val_2.png"], "the image with an error comes first"
    assert result.thresholds.overall.score == pytest.approx(0.9)
    assert (result.thresholds.overall.precision, result.thresholds.overall.recall) == (1, pytest.approx(0.75))
    assert library.best_scores("evaluated") == result.thresholds.scores()
    assert set(library.best_scores("evaluated/thresholds.json")) == set(CLASSES)


def test_the_commands_print_and_write_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("rcnn ")]
    [per_class] = [line for line in lines if line.endswith("--per-class")]
    assert rcnn(*shlex.split(per_class)[1:], "--pictures", 0, "--output", "out") == 0
    printed = re.findall(r"^(square|disc) +((?:(?:\d\.\d{3}|-) *){7})$", capsys.readouterr().out, flags=re.MULTILINE)
    with Path("out/per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("AP", "AP50", "AP75", "small", "medium", "large", "AR")
    expected = [(row["class"], [f"{float(row[c]):.3f}" if row[c] else "-" for c in columns]) for row in rows]
    assert [(name, values.split()) for name, values in printed] == expected
    assert len(printed) == 4, "boxes and masks of two classes"
    [compared] = [line for line in lines if "compare" in line and "--output" in line]
    for name in ("RUN", "OTHER"):
        shutil.copytree("out", f"{name}/eval")
    assert rcnn(*shlex.split(compared)[1:], "--samples", 5) == 0
    assert "2 images of val" in capsys.readouterr().out
    found = json.loads(Path("compared/compare.json").read_text())
    assert found["kinds"]["bbox"]["AP"]["difference"] == 0
    assert found["split"] == "val"
