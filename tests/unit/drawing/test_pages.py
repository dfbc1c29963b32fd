"""The pages: what they say, that they need nothing but themselves, and that their pictures are those given."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from rcnn.drawing.curves import training_curve, write_curve
from rcnn.drawing.page import write_page
from rcnn.drawing.plots import write_plot
from rcnn.drawing.report import Example, write_report

SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "img"}
LOG = [
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
METRICS = {
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

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text[self.open[-1]][-1] += data


def assert_self_contained(html: str) -> None:
    """No script, and no address of anything outside the file."""
    assert "<script" not in html
    assert "@import" not in html
    assert set(re.findall(r"https?://[^\s\"<]*", html)) <= {"http://www.w3.org/2000/svg"}
    assert all(address.startswith("data:image/jpeg;base64,") for address in re.findall(r'(?:src|href)="([^"]*)', html))


def points(svg: str) -> list[list[tuple[float, float]]]:
    """The lines drawn, in order."""
    found = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    return [[tuple(float(v) for v in pair.split(",")) for pair in line.attrib["points"].split()] for line in found]  # type: ignore[misc]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_curve_is_where_its_values_are() -> None:
    logged, smoothed, rpn_box, mask, bbox_ap, *_ = points(training_curve(LOG))
    # Axes of 58..544 across for steps 0..20, 252..34 down; of the loss from 2 to 4, of its parts from 0 to 3.
    assert logged == [(58, 34), (301, 252)], "the NaN of step 20 is left out"
    assert smoothed[0] == (58, 34)
    assert smoothed[1][1] == pytest.approx(252 - 218 * (4 * 0.25 + 2 * 0.5 - 2 * 0.75) / 0.75 / 2, abs=0.06)
    assert mask[0] == (58, 34)
    assert rpn_box[0] == (58, pytest.approx(252 - 218 / 3, abs=0.06))
    assert bbox_ap == [(301, pytest.approx(252 - 218 * 0.25 / 0.5, abs=0.06))]


def test_the_curve_names_what_it_draws() -> None:
    svg = training_curve(LOG)
    written = texts(svg)
    for title in ("Loss", "Parts of the loss, smoothed", "Average precision", "Learning rate"):
        assert written.count(title) == 1
    assert {"rpn_box", "mask", "box AP", "box AP50", "mask AP"} <= set(written)
    assert not {"bbox_APs", "seconds", "mask AP50", "lr"} & set(written)
    label = ElementTree.fromstring(svg).attrib["aria-label"]
    assert label == "Training curves: loss from 4 to 2.67 at step 10, box AP 0.250, box AP50 0.500, mask AP 0.125"


@pytest.mark.parametrize("lines", [[{"step": 7, "loss": 2.0, "lr": 0.0}], [{"step": 7, "bbox_AP": 0.0}]])
def test_one_line_is_enough_for_a_curve(lines: list[dict[str, float]]) -> None:
    svg = training_curve(lines)
    assert "nan" not in svg
    assert len(list(ElementTree.fromstring(svg).iter(f"{SVG}circle"))) >= 1


@pytest.mark.parametrize("lines", [[], [{"step": 0, "loss": float("inf")}], [{"step": 3}]])
def test_a_log_with_nothing_to_draw_says_so(lines: list[dict[str, float]], tmp_path: Path) -> None:
    assert "no steps yet" in write_curve(tmp_path / "curve.html", lines).read_text()


def test_a_long_log_is_thinned_but_keeps_its_ends() -> None:
    lines = [{"step": step, "lr": 1 / (1 + step)} for step in range(100_000)]
    [line] = points(training_curve(lines))
    assert len(line) <= 1501
    assert line[0] == (58, 34)
    assert line[-1][0] == 544


def test_the_plot_holds_the_same_lines_where_matplotlib_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = pytest.importorskip("matplotlib.figure", reason="needs the plot extra").Figure
    drawn = {}

    def save(self: figure, path: Path, dpi: int) -> None:
        assert dpi >= 100
        drawn.update({line.get_label(): line.get_xydata().tolist() for axes in self.axes for line in axes.lines})

    monkeypatch.setattr(figure, "savefig", save)
    write_plot(tmp_path / "curve.png", LOG)
    assert list(drawn) == ["loss", "rpn_box", "mask", "box AP", "box AP50", "mask AP"]
    assert drawn["loss"] == [[0, 4], [10, 2]]
    assert drawn["mask"] == [[0, 3], [10, 1.5], [20, 1.5]]
    assert drawn["mask AP"] == [[10, 0.125]]
    monkeypatch.undo()
    assert Image.open(write_plot(tmp_path / "curve.png", [])).size == (1200, 480)


def test_the_page_of_a_curve_needs_nothing_else(tmp_path: Path) -> None:
    html = write_curve(tmp_path / "new" / "curve.html", LOG, "a < b").read_text()
    assert_self_contained(html)
    assert Reader(html).text["h1"] == ["a < b"]
    assert "prefers-color-scheme: dark" in html
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["curve.html"]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = write_page(tmp_path / "page.html", "old")
    with pytest.raises(UnicodeEncodeError):
        write_page(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def report(path: Path) -> str:
    red, blue = (Image.new("RGB", (1200, 600), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    examples = [
        Example(name="a&b.jpg", found=red, truth=blue, note="2 true, 1 found"),
        Example(name="c.jpg", found=Image.new("L", (40, 30), 90)),
    ]
    made = {"Command": "rcnn demo --output <here>", "Seconds": "212"}
    return write_report(
        path, title="Demo <1>", summary="what & why", metrics=METRICS, examples=examples, log=LOG, made=made
    ).read_text()


def test_the_report_says_what_it_was_given(tmp_path: Path) -> None:
    html = report(tmp_path / "report.html")
    assert_self_contained(html)
    text = Reader(html).text
    assert text["h1"] == ["Demo <1>"]
    assert text["b"] == ["0.512", "0.750", "0.250", "0.500", "12", "1,234", "3,456"]
    assert text["h2"] == ["Average precision and recall", "Pictures", "By class", "Training", "How it was made"]
    assert text["td"][:6] == ["0.512", "0.750", "–", "0.250", "0.500", "–"]
    assert text["td"][6:16] == ["1,234", "0.512", "0.750", "0.250", "0.500", "0", "–", "–", "–", "–"]
    assert text["td"][16:] == ["rcnn demo --output <here>", "212"]
    assert {"cup & saucer", "<b>boat", "Box", "Mask", "Command"} <= set(text["th"])
    assert re.findall(r"width:([\d.]+)%", html) == ["51.2", "25.0"]
    assert len(points(re.findall(r"<svg.*?</svg>", html)[0])) == len(points(training_curve(LOG)))


def test_the_pictures_of_a_report_are_inside_it(tmp_path: Path) -> None:
    images = Reader(report(tmp_path / "report.html")).images
    assert [image["alt"] for image in images] == [
        "What is truly in a&b.jpg",
        "What was found in a&b.jpg",
        "What was found in c.jpg",
    ]
    opened = [Image.open(io.BytesIO(base64.b64decode((image["src"] or "").split(",")[1]))) for image in images]
    assert [picture.size for picture in opened] == [(960, 480), (960, 480), (40, 30)]
    assert [(image["width"], image["height"]) for image in images] == [("960", "480"), ("960", "480"), ("40", "30")]
    for picture, colour in zip(opened, [(0, 0, 200), (200, 0, 0), (90, 90, 90)], strict=True):
        assert np.abs(np.asarray(picture, dtype=int) - colour).max() <= 3


def test_a_report_of_boxes_alone_without_training(tmp_path: Path) -> None:
    per_class = {name: {"bbox": found["bbox"]} for name, found in METRICS["per_class"].items()}
    metrics = {"bbox": METRICS["bbox"], "per_class": per_class, "counts": METRICS["counts"]}
    path = write_report(tmp_path / "report.html", title="t", summary="s", metrics=metrics, made={})
    text = Reader(path.read_text()).text
    assert text["h2"] == ["Average precision and recall", "By class", "How it was made"]
    assert "Mask" not in text["th"]
