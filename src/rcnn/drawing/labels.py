"""Labels: names of objects, written beside their boxes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from rcnn.drawing.fonts import Run, font_runs, one_line
from rcnn.drawing.palette import Colour, readable_on

NAMES_PER_SIDE = 42  # heights of a name in the square root of a picture's area
HIDDEN = 0.2  # an object counts as hidden if names cover more than this fraction of its box
STEPS = 6  # positions of a name along an edge of its box
Edges = tuple[float, float, float, float]  # left, top, right, bottom


class LabelWriter:
    """Writes names at boxes, inside the image. They never cover names, and small objects only if there is no room."""

    def __init__(
        self, picture: Image.Image, scale: float = 1.0, objects: npt.NDArray[np.float64] | None = None
    ) -> None:
        """`scale`: factor for the height of the names, which otherwise depends on the size of the picture.

        `objects` (N, 4) xyxy pixels: the boxes of all objects, which names avoid to hide.
        """
        self.picture = picture
        self.pen = ImageDraw.Draw(picture)
        self.width, self.height = picture.size
        self.size = max(10, round(scale * math.sqrt(self.width * self.height) / NAMES_PER_SIDE))
        self.padding = max(1, self.size // 6)
        self.objects = np.zeros((0, 4)) if objects is None else objects
        self.taken: list[Edges] = []  # where names were written

    def write(self, text: str, box: npt.NDArray[np.float64], ink: Colour) -> None:
        """Write `text` at `box` (xyxy pixels) on a background of `ink`; nothing if there is no room for it."""
        runs = font_runs(one_line(text), self.size)
        if not runs:
            return
        # All names in a font have the same height, with or without ascenders and descenders.
        metrics = [(run.scale * up, run.scale * down) for run in runs for up, down in [run.font.getmetrics()]]
        ascent, descent = (math.ceil(max(values)) for values in zip(*metrics, strict=True))
        wide = math.ceil(sum(run.width for run in runs)) + 2 * self.padding
        high = ascent + descent + self.padding
        if wide > self.width or high > self.height:
            return
        place = self._place(box, wide, high)
        if place is None:
            return
        x, y = place
        self.taken.append((x, y, x + wide, y + high))
        self.pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=ink)
        self._write_runs(runs, x + self.padding, y + self.padding / 2 + ascent, readable_on(ink))

    def _place(self, box: npt.NDArray[np.float64], wide: float, high: float) -> tuple[float, float] | None:
        """Left and top of a name of this size at a box; None if every position hides a part of an earlier name.

        Of the positions that hide no name, the first one that hides the least of the objects.
        """
        corners = self._positions(box, wide, high)
        names = np.concatenate([corners, corners + np.array([wide, high])], axis=1)  # (P, 4)
        free = names[~(_shared(names, np.array(self.taken).reshape(-1, 4)) > 0).any(axis=1)]
        if not len(free):
            return None
        hidden = _shared(free, self.objects)  # (P, N)
        sides = np.maximum(self.objects[:, 2:] - self.objects[:, :2], 1)
        hidden[hidden <= HIDDEN * sides.prod(axis=1)] = 0
        x, y = free[hidden.sum(axis=1).argmin(), :2].tolist()
        return x, y

    def _positions(self, box: npt.NDArray[np.float64], wide: float, high: float) -> npt.NDArray[np.float64]:
        """Positions (P, 2), left and top, of a name of this size at a box, the usual ones first.

        They are above, inside and below the box at its left and right end; then along these edges, and beside the box.
        All are inside the image.
        """
        x0, y0, x1, y1 = box.tolist()
        room = (self.width - wide, self.height - high)
        inset = min(max(0.0, y0), room[1])  # inside the image for every position of the box
        tops = [y for y in (y0 - high, y0, y1, y1 - high) if 0 <= y <= room[1]]
        lefts = [min(max(0.0, x), room[0]) for x in (x0, x1 - wide)]
        positions = [(x, y) for x in lefts for y in [*tops, inset]]
        along = [min(max(0.0, x), room[0]) for x in np.linspace(x0, x1 - wide, STEPS)[1:-1].tolist()]
        positions += [(x, y) for y in tops for x in along]
        beside = [x for x in (x1, x0 - wide) if 0 <= x <= room[0]]
        levels = [y for y in np.linspace(y0 - high, y1, STEPS).tolist() if 0 <= y <= room[1]]
        positions += [(x, y) for x in beside for y in levels]
        return np.floor(np.array(positions, dtype=np.float64))

    def _write_runs(self, runs: list[Run], x: float, baseline: float, ink: Colour) -> None:
        for run in runs:
            if run.scale == 1:
                self.pen.text((x, baseline), run.text, fill=ink, font=run.font, anchor="ls")
            else:
                self._paste_bitmaps(run, x, baseline)
            x += run.width

    def _paste_bitmaps(self, run: Run, x: float, baseline: float) -> None:
        """Draw a run of colour emoji at the font's only size, reduce it and paste it."""
        ascent, descent = run.font.getmetrics()
        drawn = Image.new("RGBA", (max(1, math.ceil(run.font.getlength(run.text))), ascent + descent))
        ImageDraw.Draw(drawn).text((0, ascent), run.text, font=run.font, anchor="ls", embedded_color=True)
        size = (max(1, round(drawn.width * run.scale)), max(1, round(drawn.height * run.scale)))
        small = drawn.resize(size, Image.Resampling.LANCZOS)
        self.picture.paste(small, (round(x), round(baseline - ascent * run.scale)), small)


def _shared(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The area (N, M) that rectangles `a` (N, 4) and `b` (M, 4), xyxy pixels, have in common."""
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])  # (N, M, 2)
    return np.maximum(sides, 0).prod(axis=2)
