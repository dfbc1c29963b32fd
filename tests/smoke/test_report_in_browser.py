"""The report of an evaluation in a real Chromium: sorting, filters, both widths, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from PIL import Image

from rcnn.drawing.report import Example, write_report
from rcnn.metrics.analysis import analyse
from rcnn.metrics.coco import evaluate
from tests.unit.random_truth import random_results, random_truth

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of random detections; three images have errors to filter by."""
    truth = random_truth(0)
    truth["categories"][0]["name"] = "cup $x_1$ <b> " + "long " * 12
    results = random_results(truth, 1)
    errors = ((("missed", "kite"),), (("missed", "boat"), ("duplicate", "kite")), (("background", "kite"),))
    picture = Image.new("RGB", (640, 480), (90, 120, 60))
    return write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        title="model on " + "a_long_name" * 12,
        lead="20 images",
        metrics=evaluate(truth, results).to_dict(),
        analysis=analyse("coco", truth, results, "segm").to_dict(),
        examples=[
            Example(name=f"{number}.jpg", detections=picture, ground_truth=picture, errors=found)
            for number, found in enumerate(errors)
        ],
        details={"Evaluated": "runs/model"},
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium: the system's, else Playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


def test_sorting_and_filters(browser: Browser, page_file: Path) -> None:
    page = browser.new_page()
    messages = list[str]()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: messages.append(request.url) if request.url.startswith("http") else None)
    page.goto(page_file.as_uri())
    table = page.locator("table.sortable").first
    for title, expected in (
        ("AP", "descending"),
        ("AP", "ascending"),
        ("Class", "ascending"),
        ("Objects", "descending"),
    ):
        head = table.locator("th").filter(has=page.get_by_role("button", name=title, exact=True))
        column = head.evaluate("cell => cell.cellIndex")
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == expected
        texts = [row.locator("th, td").nth(column).inner_text().strip() for row in table.locator("tbody tr").all()]
        assert len(texts) == 4
        if title == "Class":
            assert texts == sorted(texts, key=str.lower)
        else:
            values = [float(text) for text in texts if text != "–"]
            assert texts[len(values) :] == ["–"] * (4 - len(values)), "classes without a value come last"
            assert values == sorted(values, reverse=expected == "descending")

    def shown() -> list[str]:
        sections = page.locator("section[data-errors]").all()
        return [section.locator("p").inner_text().split()[0] for section in sections if section.is_visible()]

    assert shown() == ["0.jpg", "1.jpg", "2.jpg"]
    page.locator("select[name=class]").select_option("kite")
    assert shown() == ["0.jpg", "1.jpg", "2.jpg"]
    page.locator("select[name=error]").select_option("missed")
    assert shown() == ["0.jpg"], "a missed kite, not a missed boat"
    assert page.locator("#filters output").inner_text() == "1 of 3 images"
    page.locator("select[name=class]").select_option("")
    assert shown() == ["0.jpg", "1.jpg"]
    assert messages == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_fits_and_is_readable(
    browser: Browser, page_file: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colours = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    ground, ink = (sum(int(part) for part in colour.strip("rgb()").split(",")) for colour in colours)
    assert (ground > ink) == (scheme == "light")
    assert abs(ground - ink) > 400, "of 765"
    small = page.evaluate(
        "[...document.querySelectorAll('p, td, th, figcaption, label')]"
        ".filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).length"
    )
    assert small == 0
    page.close()
