"""What the user specifies about a data set besides its folder and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rcnn.data.checks.check import KnownImages
from rcnn.data.checks.tables import Image


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """The options of a format's `read`. A format ignores those that have no meaning for it."""

    annotations: str = ""  # path or pattern of the annotation file within the folder; empty: the usual ones
    keypoints: bool = False  # prefers annotations with keypoints if there are several files
    images: Path | None = None  # folder of the images, which may be elsewhere; None: the usual places
    optional_files: bool = False  # image files may all be absent, in formats with the sizes of the images
    relative_boxes: bool = False  # boxes are fractions of the image
    known: KnownImages | None = None  # images that an earlier check found; they are not searched for again

    @property
    def known_images(self) -> Sequence[Image]:
        """The images of `known`; none if there are none."""
        return () if self.known is None else self.known[1]
