"""Pages and charts: what they contain, and that they need no other file."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from typing_extensions import override

import rcnn.drawing
from rcnn.drawing.charts import Chart, Curve, chart_svg, curve_page, training_charts, training_svgs, write_plot
from rcnn.drawing.report import Example, write_report
from rcnn.metrics import coco
from rcnn.metrics.analysis import analyse

SVG = ""  # elements in an HTML page need no name space
VOID = {"meta", "img"}
LOG: list[dict[str, Any]] = [
    {"step": 0, "seconds": 1.0, "loss": 4.0, "rpn_box": 1.0, "mask": 3.0, "lr": 0.01},
    {"step": 10, "seconds": 2.0, "loss": 2.0, "rpn_box": 0.5, "mask": 1.5, "lr": 0.02},
    {
        "step": 10,
        "seconds": 2.5,
        "bbox_AP": 0.25,
        "bbox_AP50": 0.5,
        "bbox_APs": None,
        "segm_AP": 0.125,
        "segm_AP50": None,
    },
    {"step": 20, "seconds": 3.0, "loss": float("nan"), "rpn_box": 0.5, "mask": 1.5, "lr": 0.02},
]
METRICS: dict[str, Any] = {
    "bbox": {"AP": 0.51234, "AP50": 0.75, "APl": None},
    "segm": {"AP": 0.25, "AP50": 0.5, "APl": None},
    "per_class": {
        "cup & saucer": {"bbox": {"AP": 0.51234, "AP50": 0.75}, "segm": {"AP": 0.25, "AP50": 0.5}},
        "<b>boat": {"bbox": {"AP": None, "AP50": None}, "segm": {"AP": None, "AP50": None}},
    },
    "counts": {"images": 12, "detections": 3456, "objects": {"cup & saucer": 1234, "<b>boat": 0}},
}


class Reader(HTMLParser):
    """A page's text by element, its pictures, and whether every element is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(html)
        assert self.open == []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)
            self.text.setdefault(tag, []).append("")

    @override
    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        if self.open:
            self.text[self.open[-1]][-1] += data


def assert_self_contained(html: str) -> None:
    """No address of anything outside the file."""
    assert "@import" not in html
    assert "http" not in html
    assert "src=" not in "".join(re.findall(r"<script[^>]*>", html))
    assert all(address.startswith("data:image/jpeg;base64,") for address in re.findall(r'(?:src|href)="([^"]*)', html))


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def curves(lines: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Points by chart and name."""
    return {f"{chart.title}/{c.name}": c.points for chart in training_charts(lines) for c in chart.curves}


def test_the_charts_hold_the_values_of_the_log() -> None:
    found = curves(LOG)
    assert found["Loss/as logged"] == [(0, 4), (10, 2)], "the NaN of step 20 is not drawn"
    assert found["Loss/smoothed"][0] == (0, 4)
    assert found["Loss/smoothed"][1] == (10, pytest.approx((4 * 0.25 + 2 * 0.5) / 0.75))
    assert found["Parts of the loss, smoothed/mask"][0] == (0, 3)
    assert found["Average precision/box AP"] == [(10, 0.25)]
    assert found["Average precision/mask AP"] == [(10, 0.125)]
    assert found["Learning rate/learning rate"] == [(0, 0.01), (10, 0.02), (20, 0.02)]
    assert "Average precision/mask AP50" not in found


def test_the_learning_rate_is_that_of_every_step_between_logged_ones() -> None:
    def schedule(step: int) -> float:
        return 0.02 if step >= 7 else 0.01

    def rates(lines: list[dict[str, Any]]) -> list[tuple[float, float]]:
        return training_charts(lines, schedule)[-1].curves[0].points

    assert rates(LOG) == [(float(step), schedule(step)) for step in range(21)]
    earlier = [{"step": 0, "lr": 0.5}, {"step": 4, "lr": 0.4}, {"step": 8, "lr": 0.02}, {"step": 9, "lr": 0.02}]
    assert rates(earlier) == [(0, 0.5), (4, 0.4), (8, 0.02), (9, 0.02)], "the schedule changed after step 4"
    assert rates(earlier[:2]) == [(0, 0.5), (4, 0.4)]


def test_a_chart_draws_its_curves_where_the_values_are() -> None:
    line = [(0.0, 0.0), (10.0, 1.0), (20.0, 0.5)]
    svg = chart_svg(Chart("t", (Curve("a", line, 0),), (0, 20)))
    [path] = [p for p in ElementTree.fromstring(svg).iter(f"{SVG}path") if "var(--c0)" in p.attrib.get("style", "")][:1]
    (x0, y0), (x1, y1), (x2, y2) = [
        tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", path.attrib["d"])
    ]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.01)
    assert y0 - y1 == pytest.approx(2 * (y2 - y1), abs=0.01)


def test_a_chart_names_what_it_draws() -> None:
    written = [text for chart in training_charts(LOG) for text in texts(chart_svg(chart))]
    for title in ("Loss", "Parts of the loss, smoothed", "Average precision", "Learning rate"):
        assert written.count(title) == 1
    assert {"as logged", "smoothed  2.67", "rpn_box  0.571", "box AP  0.25", "mask AP  0.125"} <= set(written)
    label = ElementTree.fromstring(chart_svg(training_charts(LOG)[2])).attrib["aria-label"]
    assert label == "Average precision over training steps; at the end: box AP 0.25, box AP50 0.5, mask AP 0.125"


def test_the_same_log_gives_the_same_page() -> None:
    assert [chart_svg(chart) for chart in training_charts(LOG)] == [chart_svg(chart) for chart in training_charts(LOG)]


@pytest.mark.parametrize("lines", [[{"step": 7, "loss": 2.0, "lr": 0.0}], [{"step": 7, "bbox_AP": 0.0}]])
def test_one_line_is_enough_for_a_chart(lines: list[dict[str, float]]) -> None:
    for chart in training_charts(lines):
        svg = chart_svg(chart)
        assert "nan" not in svg
        assert "translate(" in svg, "the one point has a dot"


@pytest.mark.parametrize("lines", [[], [{"step": 0, "loss": float("inf")}], [{"step": 3}]])
def test_a_log_without_curves_is_reported(lines: list[dict[str, float]], tmp_path: Path) -> None:
    assert "no training steps yet" in curve_page(lines, training_svgs(lines))


def test_a_long_log_is_thinned_but_keeps_its_ends() -> None:
    lines = [{"step": step, "lr": 1 / (1 + step)} for step in range(100_000)]
    svg = chart_svg(training_charts(lines)[0])
    assert len(svg) < 60_000
    assert curves(lines)["Learning rate/learning rate"][-1][0] == 99_999


def test_the_plot_holds_the_same_charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: dict[str, list[list[float]]] = {}

    def save(self: Figure, path: Path, dpi: int) -> None:
        assert dpi >= 100
        drawn.update(
            {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for axes in self.axes for line in axes.lines}
        )

    monkeypatch.setattr(Figure, "savefig", save)
    write_plot(tmp_path / "curve.png", LOG)
    assert drawn["as logged"] == [[0, 4], [10, 2]]
    assert drawn["mask AP  0.125"] == [[10, 0.125]]
    monkeypatch.undo()
    nothing: list[dict[str, Any]] = []
    for lines in (LOG, nothing):
        with Image.open(write_plot(tmp_path / "curve.png", lines)) as picture:
            assert min(picture.size) > 300


def test_the_page_of_a_curve_needs_nothing_else() -> None:
    html = curve_page(LOG, training_svgs(LOG), "a < b")
    assert_self_contained(html)
    assert Reader(html).text["h1"] == ["a < b"]
    assert "prefers-color-scheme: dark" in html


def test_a_report_may_name_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", title="f\udcfcr.jpg", lead="s", metrics=METRICS, details={})
    assert "f\\udcfcr.jpg" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_a_column_is_sorted_by_numbers_then_texts_then_missing_values() -> None:
    """A class name that starts with a digit is a text."""
    if not (node := shutil.which("node")):
        pytest.skip("needs node")
    cells = ["3 wheeler", "1,200", "–", ".5", "cup", "40"]
    script = Path(rcnn.drawing.__file__).with_name("templates") / "report.js"
    start = "const document = {querySelectorAll: () => [], getElementById: () => null};"
    end = (
        f"const values = {json.dumps(cells)}.map(textContent => valueOf({{cells: [null, {{textContent}}]}}, 1));"
        "console.log(JSON.stringify(values.sort(compare)))"
    )
    text = script.read_text(encoding="utf-8").replace('"use strict";', "")
    found = subprocess.run([node, "-e", start + text + end], capture_output=True, check=True, text=True).stdout
    assert json.loads(found) == [0.5, 40, 1200, "3 wheeler", "cup", None]


def report(path: Path) -> str:
    red, blue = (Image.new("RGB", (1200, 600), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    examples = [
        Example(name="a&b.jpg", detections=red, ground_truth=blue, note="2 objects, 1 detection"),
        Example(name="c.jpg", detections=Image.new("L", (40, 30), 90)),
    ]
    details = {"Command": "rcnn demo --output <here>", "Seconds": "212"}
    return write_report(
        path,
        title="Demo <1>",
        lead="what & why",
        metrics=METRICS,
        warnings=["1 image < 2"],
        examples=examples,
        log=LOG,
        details=details,
    ).read_text()


def test_the_report_contains_its_inputs(tmp_path: Path) -> None:
    html = report(tmp_path / "report.html")
    assert_self_contained(html)
    text = Reader(html).text
    assert text["h1"] == ["Demo <1>"]
    assert text["b"] == ["0.512", "0.750", "0.250", "0.500", "12", "1,234", "3,456"]
    assert text["h2"] == ["Average precision and recall", "By class", "Pictures", "Training", "Details"]
    assert text["td"][:6] == ["0.512", "0.750", "–", "0.250", "0.500", "–"]
    assert text["td"][6:14] == ["1,234", "0.512", "0.750", "–", "–", "–", "–", "–"]
    assert text["td"][14:22] == ["0", *["–"] * 7]
    assert text["td"][22:30] == ["1,234", "0.250", "0.500", "–", "–", "–", "–", "–"]
    assert text["td"][38:] == ["rcnn demo --output <here>", "212"]
    assert text["button"] == ["Class", "Objects", "AP", "AP50", "AP75", "small", "medium", "large", "AR"] * 2
    assert text["caption"] == ["Box", "Mask"]
    assert {"cup & saucer", "<b>boat", "Box", "Mask", "Command"} <= set(text["th"])
    assert re.findall(r"width:([\d.]+)%", html) == ["51.2", "25.0"]
    assert html.count("<svg") == len(training_charts(LOG))
    assert text["li"] == ["1 image < 2"]


def test_a_filter_has_the_whole_name_of_its_class(tmp_path: Path) -> None:
    """Without `value`, a browser takes the text without its outer and double spaces."""
    picture = Image.new("L", (40, 30), 90)
    example = Example(name="a.jpg", detections=picture, errors=(("missed", 'red  "cup" '),))
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cup"}], "annotations": [{"id": 1, **box}]}
    found = analyse("coco", truth, [{**box, "score": 0.9}], "bbox").to_dict()
    path = write_report(
        tmp_path / "r.html", title="t", lead="s", metrics=METRICS, analysis=found, examples=[example], details={}
    )
    [name] = re.findall(r'<option value="(red[^"]*)"', path.read_text())
    assert unescape(name) == 'red  "cup" '


@pytest.mark.parametrize("metric", ["coco", "lvis"])
def test_the_note_on_recall_holds_for_every_limit(tmp_path: Path, metric: str) -> None:
    metrics = METRICS | {"metric": metric, "bbox": {"AP": 0.5, "AP50": 0.75, "AR150": 0.6}}
    path = write_report(tmp_path / "report.html", title="t", lead="s", metrics=metrics, details={})
    [note] = [text for text in Reader(path.read_text()).text["p"] if text.startswith("AP is")]
    assert "AR is average recall; a number N after it: of the best N detections per image" in note
    assert not re.search(r"AR\d", note)
    assert ("keypoints: OKS" in note) == (metric == "coco")


def test_the_pictures_of_a_report_are_inside_it(tmp_path: Path) -> None:
    images = Reader(report(tmp_path / "report.html")).images
    assert [image["alt"] for image in images] == [
        "Ground truth of a&b.jpg",
        "Detections in a&b.jpg",
        "Detections in c.jpg",
    ]
    opened = [Image.open(io.BytesIO(base64.b64decode((image["src"] or "").split(",")[1]))) for image in images]
    assert [picture.size for picture in opened] == [(960, 480), (960, 480), (40, 30)]
    assert [(image["width"], image["height"]) for image in images] == [("960", "480"), ("960", "480"), ("40", "30")]
    for picture, colour in zip(opened, [(0, 0, 200), (200, 0, 0), (90, 90, 90)], strict=True):
        assert np.abs(np.asarray(picture, dtype=int) - colour).max() <= 3


def test_a_report_of_boxes_alone_without_training(tmp_path: Path) -> None:
    per_class = {name: {"bbox": found["bbox"]} for name, found in METRICS["per_class"].items()}
    metrics = {"bbox": METRICS["bbox"], "per_class": per_class, "counts": METRICS["counts"]}
    path = write_report(tmp_path / "report.html", title="t", lead="s", metrics=metrics, details={})
    text = Reader(path.read_text()).text
    assert text["h2"] == ["Average precision and recall", "By class", "Details"]
    assert "Mask" not in text["th"]


def test_classes_without_objects_come_last(tmp_path: Path) -> None:
    names = ("ant", "bee", "cat", "dog")
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": number, "bbox": [9 * number, 0, 9, 9]} for number in (1, 3)
        ],
    }
    found = [{"image_id": 1, "category_id": number, "bbox": [0, 0, 9, 9], "score": 0.5} for number in (0, 1)]
    metrics = coco.evaluate(truth, found, ["bbox"]).to_dict()
    analysed = analyse("coco", truth, found, "bbox").to_dict()
    path = write_report(tmp_path / "r.html", title="t", lead="s", metrics=metrics, analysis=analysed, details={})
    tables = re.findall(r'<table class="sortable">.*?</table>', path.read_text(), flags=re.S)
    listed = [re.findall(r'scope="row">(ant|bee|cat|dog)<', table) for table in tables]
    assert [rows for rows in listed if len(rows) == 4] == [["bee", "dog", "ant", "cat"]] * 3
