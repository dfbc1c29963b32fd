"""Labels: names of objects, written beside their boxes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from rcnn.drawing.fonts import Run, font_runs, one_line
from rcnn.drawing.palette import Colour, readable_on

NAMES_PER_SIDE = 42  # heights of a name in the square root of a picture's area
Edges = tuple[float, float, float, float]  # left, top, right, bottom


class LabelWriter:
    """Writes names beside boxes, inside the image, and without hiding earlier names if possible."""

    def __init__(self, picture: Image.Image, scale: float = 1.0) -> None:
        """`scale`: factor for the height of the names, which otherwise depends on the size of the picture."""
        self.picture = picture
        self.pen = ImageDraw.Draw(picture)
        self.width, self.height = picture.size
        self.size = max(10, round(scale * math.sqrt(self.width * self.height) / NAMES_PER_SIDE))
        self.padding = max(1, self.size // 6)
        self.taken: list[Edges] = []  # where names were written

    def write(self, text: str, box: npt.NDArray[np.float64], ink: Colour) -> None:
        """Write `text` beside `box` (xyxy pixels) on a background of `ink`; nothing if the image is too small."""
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
        x, y = self._place(box, wide, high)
        self.taken.append((x, y, x + wide, y + high))
        self.pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=ink)
        self._write_runs(runs, x + self.padding, y + self.padding / 2 + ascent, readable_on(ink))

    def _place(self, box: npt.NDArray[np.float64], wide: float, high: float) -> tuple[float, float]:
        """Left and top of a name: the position above, inside or below the box where it hides the least."""
        inset = min(max(0.0, box[1]), self.height - high)  # inside the image for every position of the box
        tops = [y for y in (box[1] - high, box[1], box[3], box[3] - high) if 0 <= y <= self.height - high]
        lefts = [min(max(0.0, edge), self.width - wide) for edge in (box[0], box[2] - wide)]
        positions = [(float(math.floor(x)), float(math.floor(y))) for x in lefts for y in [*tops, inset]]
        return min(positions, key=lambda position: self._hidden((*position, position[0] + wide, position[1] + high)))

    def _hidden(self, position: Edges) -> float:
        """Pixels of earlier names that a name at `position` would hide."""
        return sum(
            max(0.0, min(position[2], other[2]) - max(position[0], other[0]))
            * max(0.0, min(position[3], other[3]) - max(position[1], other[1]))
            for other in self.taken
        )

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
