"""Pictures inside an HTML page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

SIDE = 960  # longest side of a picture in a page, pixels
QUALITY = 85  # of JPEG


@dataclass(frozen=True)
class Figure:
    """A picture of a page."""

    url: str  # data:image/jpeg;base64,...
    width: int
    height: int
    description: str  # for screen readers
    caption: str


def embedded(picture: Image.Image, description: str, caption: str) -> Figure:
    """A picture as JPEG data, reduced to a longest side of SIDE."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY, optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return Figure(f"data:image/jpeg;base64,{data}", small.width, small.height, description, caption)
