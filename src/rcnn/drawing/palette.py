"""Colours that tell objects apart, on photographs and on a page, and stay the same from run to run."""

from __future__ import annotations

import colorsys

Colour = tuple[int, int, int]  # red, green, blue, 0..255

# By eye: far apart in hue, bright enough to be seen on a dark photo, dark enough to carry a white label.
_FIRST = (
    (230, 57, 70),
    (29, 120, 216),
    (33, 150, 83),
    (244, 130, 20),
    (142, 68, 173),
    (0, 150, 167),
    (216, 27, 130),
    (141, 110, 30),
    (85, 90, 220),
    (110, 160, 20),
    (190, 74, 40),
    (0, 128, 120),
)


def colour(index: int) -> Colour:
    """The colour of instance or class `index` >= 0: twelve chosen by hand, then hues a golden angle apart."""
    if index < len(_FIRST):
        return _FIRST[index]
    step = index - len(_FIRST)
    hue = (0.13 + step * 0.6180339887) % 1.0
    value = (0.85, 0.68)[step % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.7, 0.95)[step % 3], value)
    return round(red * 255), round(green * 255), round(blue * 255)


def readable_on(background: Colour) -> Colour:
    """Black or white, whichever stands out more on `background` (WCAG 2 contrast of relative luminance)."""
    channels = [value / 255 for value in background]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (255, 255, 255) if 1.05 / (luminance + 0.05) >= (luminance + 0.05) / 0.05 else (0, 0, 0)
