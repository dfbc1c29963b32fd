"""Labels in any script: which font draws which character, and the warning if none does."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.cli import app, main
from rcnn.drawing import fonts
from rcnn.drawing.fonts import base_font, font_runs, missing_characters, one_line
from rcnn.drawing.labels import LabelWriter
from rcnn.drawing.pictures import draw_objects

GREY = np.full((120, 320, 3), 100, dtype=np.uint8)
BOX = [[10.0, 60.0, 300.0, 110.0]]


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only DejaVu Sans, as on a bare server."""
    cached = (fonts._fonts_of, fonts._missing)
    monkeypatch.setattr(fonts, "_candidates", lambda: (base_font(),))
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def drawn(text: str) -> np.ndarray:
    """The pixels of a name."""
    picture = Image.new("RGB", (400, 60))
    LabelWriter(picture).write(text, np.array([5.0, 30, 395, 55]), (0, 0, 0))
    return np.asarray(picture)


@pytest.mark.parametrize("text", ["é", "ß", "ñ", "Ω", "Ж", "Ł", "€", "→"])
@pytest.mark.usefixtures("no_system_fonts")
def test_the_alphabets_of_europe_need_no_font_of_the_system(text: str) -> None:
    assert missing_characters((text,)) == ""
    assert (drawn(text) != drawn("\uffff")).any()
    assert [run.text for run in font_runs(f"a {text}", 12)] == [f"a {text}"]


@pytest.mark.usefixtures("no_system_fonts")
def test_characters_that_no_font_has_are_named() -> None:
    assert missing_characters(("dog", "犬", "猫 cat")) == "犬猫"
    with pytest.warns(UserWarning, match=r"no font on this computer has the characters 犬 \(U\+72AC\).*Install a font"):
        draw_objects(GREY, BOX, [0], ("犬", "dog"))


@pytest.mark.usefixtures("no_system_fonts")
def test_captions_with_other_numbers_are_looked_up_once() -> None:
    for number in range(100, 120):
        assert missing_characters([f"犬 0.{number}", "0123456789"]) == "犬"
    assert fonts._missing.cache_info().currsize == 1


def test_the_last_resort_font_of_macos_draws_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a box for every character."""
    found = ["/System/LastResort.otf", "/System/PingFang.ttc"]
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: found)
    assert fonts._candidates.__wrapped__() == (base_font(), Path("/System/PingFang.ttc"))


def test_a_system_font_draws_what_ours_lacks() -> None:
    if "犬" in missing_characters(("犬",)):
        pytest.skip("no font with Chinese characters is installed here")
    runs = font_runs("dog 犬 é", 20)
    assert [run.text for run in runs] == ["dog ", "犬", " é"]
    assert Path(str(runs[1].font.path)) != base_font()
    assert (drawn("犬") != drawn("猫")).any()


def test_colour_emoji_are_drawn_in_colour() -> None:
    if missing_characters(("🦒",)):
        pytest.skip("no emoji font is installed here")
    picture = Image.new("RGB", (400, 60))
    LabelWriter(picture).write("🦒", np.array([5.0, 30, 395, 55]), (255, 255, 255))
    pixels = np.asarray(picture, dtype=int)
    assert (np.ptp(pixels, axis=2) > 60).any()


def test_marks_stay_with_their_letter() -> None:
    assert [run.text for run in font_runs("e\u0301\u200da", 12)] == ["e\u0301\u200da"]
    assert missing_characters(("a\u0301\ufe0f\u200d",)) == ""


def test_a_name_of_several_lines_is_written_on_one() -> None:
    assert one_line("traffic\n\tlight\x00 ") == "traffic light"
    draw_objects(GREY, BOX, [0], ("a\nb",))
    assert font_runs("", 12) == []


def test_plain_names_import_no_matplotlib() -> None:
    code = (
        "import sys; from rcnn.drawing.fonts import font_runs, missing_characters\n"
        "font_runs('dog é ß', 12); missing_characters(('dog', 'straße'))\n"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_command_prints_the_warning_as_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(words: list[str], prog_name: str) -> None:
        warnings.warn("no font has 犬", stacklevel=1)

    monkeypatch.setattr(app, "app", warn)
    main.main(["eval"])
    assert capsys.readouterr().err == "warning: no font has 犬\n"
