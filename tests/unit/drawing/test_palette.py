"""Colours: far enough apart for every kind of colour vision, simulated as in Machado et al. 2009."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import rcnn.drawing
from rcnn.drawing.palette import CHART_COLOURS, GRID, INK, OBJECT_COLOURS, SOFT, css_colours

Colours = npt.NDArray[np.float64]  # (N, 3)
# Machado, Oliveira and Fernandes 2009, table of severity 1.0; on linear RGB
VISIONS = {
    "normal": np.eye(3),
    "no red cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no blue cones": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.119192, 0.9503041]]
)
STYLE = (Path(rcnn.drawing.__file__).parent / "templates" / "style.css").read_text()


def linear(colours: Colours) -> Colours:
    parts = colours / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(colours: Colours) -> Colours:
    """Linear RGB to CIE Lab, white D65."""
    xyz = colours @ TO_XYZ.T / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(np.maximum(xyz, 1e-9)), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def smallest_difference(colours: Colours, vision: str) -> float:
    seen = lab(np.clip(linear(colours) @ VISIONS[vision].T, 0, 1))
    return min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2))


def rgb(text: str) -> list[int]:
    return [int(text[i : i + 2], 16) for i in (1, 3, 5)]


def css(theme: int) -> dict[str, str]:
    """The variables of the light (0) or dark (1) theme."""
    return dict(re.findall(r"(--[\w]+): (#\w{6})", STYLE.split("prefers-color-scheme")[theme]))


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_differ_for_everyone(vision: str) -> None:
    # 16: the smallest difference within the palette of Okabe and Ito, made for colour-blind readers
    assert smallest_difference(np.array(OBJECT_COLOURS, dtype=float), vision) > 16
    for theme in (0, 1):
        curves = [rgb(css(theme)[f"--c{place}"]) for place in range(len(CHART_COLOURS))]
        assert smallest_difference(np.array(curves, dtype=float), vision) > 16


@pytest.mark.parametrize("theme", [0, 1])
def test_text_and_curves_have_enough_contrast(theme: int) -> None:
    variables = css(theme)

    def contrast(name: str) -> float:
        light = [float(linear(np.array([rgb(variables[n])], dtype=float))[0] @ TO_XYZ[1]) for n in (name, "--card")]
        return (max(light) + 0.05) / (min(light) + 0.05)

    assert min(contrast(name) for name in ("--ink", "--soft", "--warn")) >= 4.5  # WCAG 2.1 AA, text
    assert min(contrast(f"--c{place}") for place in range(len(CHART_COLOURS))) >= 2.7  # 3 is WCAG's for graphics


def test_the_style_has_the_colours_of_the_charts() -> None:
    light = css(0)
    assert {colour: light[variable] for colour, variable in css_colours().items()} == {
        colour: colour for colour in (*CHART_COLOURS, INK, SOFT, GRID)
    }
