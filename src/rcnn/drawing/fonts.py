"""Fonts for labels in any script: DejaVu Sans (part of matplotlib; Latin, Greek, Cyrillic), then the system's fonts.

A text is split into runs of characters that the same font contains. The coverage of fonts is only looked up for text
outside Latin-1, because the look-up imports matplotlib.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import ImageFont

_BITMAP_SIZE = 109  # pixels: the only size of colour emoji fonts that consist of bitmaps (Noto Color Emoji)
_LESS_WANTED = ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "serif", "mono")  # in file names
# Categories of marks, joiners and skin tones, which are drawn with the font of the character before them.
_ATTACHED = ("Mn", "Mc", "Me", "Cf", "Sk")


@dataclass(frozen=True)
class Run:
    """A piece of text and the font that contains its characters."""

    text: str
    font: ImageFont.FreeTypeFont
    scale: float = 1.0  # of a bitmap font: the requested size divided by its only size

    @property
    def width(self) -> float:
        """Pixels from the start of the run to the start of the next one."""
        return self.font.getlength(self.text) * self.scale


def font_runs(text: str, size: int) -> list[Run]:
    """`text` (one line) as runs with a font size of `size` pixels.

    Characters that no font contains are drawn as boxes by DejaVu Sans.
    """
    fonts = _fonts_of(frozenset(text))
    runs: list[tuple[str, Path]] = []
    for character in text:
        attached = runs and unicodedata.category(character) in _ATTACHED
        path = runs[-1][1] if attached else fonts.get(character, base_font())
        if runs and runs[-1][1] == path:
            runs[-1] = (runs[-1][0] + character, path)
        else:
            runs.append((character, path))
    return [_run(piece, path, size) for piece, path in runs]


def missing_characters(texts: Iterable[str]) -> str:
    """The characters of `texts` that no font of this computer contains, each once."""
    return _missing(frozenset(one_line(" ".join(texts))))


@cache
def _missing(characters: frozenset[str]) -> str:
    fonts = _fonts_of(characters)
    return "".join(sorted(c for c in characters if c not in fonts and unicodedata.category(c) not in _ATTACHED))


def one_line(text: str) -> str:
    """`text` with every run of white space and control characters as one space."""
    return " ".join("".join(c if unicodedata.category(c) != "Cc" else " " for c in text).split())


@cache
def base_font() -> Path:
    """The path of matplotlib's copy of DejaVu Sans."""
    spec = importlib.util.find_spec("matplotlib")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if path.exists():
            return path
    from matplotlib import get_data_path  # some Linux distributions keep its data elsewhere

    return Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def _fonts_of(characters: frozenset[str]) -> dict[str, Path]:
    """Character -> a font that contains it; characters that no font contains are missing."""
    fonts = dict.fromkeys((c for c in characters if " " <= c <= "~" or "\xa0" <= c <= "\xff"), base_font())
    missing = set(characters) - fonts.keys()
    for path in _candidates() if missing else ():
        covered = {c for c in missing if ord(c) in _coverage(path)}
        fonts |= dict.fromkeys(covered, path)
        missing -= covered
        if not missing:
            break
    return fonts


@cache
def _candidates() -> tuple[Path, ...]:
    """DejaVu Sans, then the system's fonts, with regular sans-serif fonts first."""
    from matplotlib.font_manager import findSystemFonts

    def rank(path: str) -> tuple[int, str]:
        name = Path(path).name.lower()
        return sum(word in name for word in _LESS_WANTED), path

    found = [path for path in findSystemFonts() if "lastresort" not in Path(path).name.lower()]  # macOS: boxes only
    return (base_font(), *map(Path, sorted(found, key=rank)))


@cache
def _coverage(path: Path) -> frozenset[int]:
    """Code points that a font can draw; none if Pillow or FreeType cannot read it."""
    from matplotlib.ft2font import FT2Font

    try:
        _run(" ", path, 12)
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _run(text: str, path: Path, size: int) -> Run:
    try:
        return Run(text, _font(path, size))
    except OSError:  # a bitmap font, which has only one size
        return Run(text, _font(path, _BITMAP_SIZE), scale=size / _BITMAP_SIZE)


def describe_missing(characters: Iterable[str]) -> str:
    """The warning about characters that no font contains."""
    listed = " ".join(f"{c} (U+{ord(c):04X})" for c in list(characters)[:8])
    more = " ..." if len(list(characters)) > 8 else ""
    return (
        f"no font on this computer has the characters {listed}{more} of class names, so boxes are drawn instead. "
        "Install a font with these characters, e.g. on Debian or Ubuntu: apt install fonts-noto fonts-noto-cjk"
    )
