"""Colours of objects on photos and of curves in charts. They are the same in every run.

Both lists are the result of a search that maximises the smallest difference between two colours (CIE 1976 Lab) for
normal vision and for each of the three kinds of colour blindness (simulated as in Machado et al. 2009). A test checks
these differences.
"""

from __future__ import annotations

import colorsys

Colour = tuple[int, int, int]  # red, green, blue, 0..255

OBJECT_COLOURS: tuple[Colour, ...] = (
    (30, 90, 255),
    (210, 45, 15),
    (240, 150, 210),
    (210, 225, 0),
    (135, 75, 165),
    (180, 75, 120),
    (75, 240, 180),
    (150, 225, 105),
    (180, 135, 255),
    (45, 165, 90),
)

# Colours of charts on a white page; on a dark page, CSS replaces them by the colours of templates/style.css.
CHART_COLOURS = ("#1e00f0", "#ff5a78", "#69a500", "#691e87", "#b469ff", "#870053", "#3c4b00", "#d269b4")
INK, SOFT, GRID = "#1b2230", "#5a6475", "#dfe3ea"  # titles; labels; lines behind the curves


def css_colours() -> dict[str, str]:
    """Colour of a chart -> the CSS variable that replaces it in a page."""
    curves = {colour: f"--c{index}" for index, colour in enumerate(CHART_COLOURS)}
    return {**curves, INK: "--ink", SOFT: "--soft", GRID: "--line"}


def object_colour(index: int) -> Colour:
    """The colour of instance or class `index` >= 0: OBJECT_COLOURS, then hues in steps of the golden angle."""
    if index < len(OBJECT_COLOURS):
        return OBJECT_COLOURS[index]
    step = index - len(OBJECT_COLOURS)
    hue = (0.13 + step * 0.6180339887) % 1.0
    value = (0.95, 0.7)[step % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.7, 0.95)[step % 3], value)
    return round(red * 255), round(green * 255), round(blue * 255)


def readable_on(background: Colour) -> Colour:
    """Black or white, whichever has more contrast on `background` (WCAG 2, relative luminance)."""
    channels = [value / 255 for value in background]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (255, 255, 255) if 1.05 / (luminance + 0.05) >= (luminance + 0.05) / 0.05 else (0, 0, 0)
