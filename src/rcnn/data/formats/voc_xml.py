"""Annotation files of Pascal VOC: the XML of one image, parsed without entities, within a size limit.

VOC's own files count pixels from 1, and both corners belong to the box. Other tools write the corners of a box in
coordinates from 0, e.g. LabelImg (libs/labelFile.py: integers, 0 replaced by 1), CVAT and Roboflow.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from rcnn.data.checks.numbers import MAX_COORDINATE, as_flag, as_number
from rcnn.data.messages import Warnings, excerpt

MAX_BYTES = 16 << 20  # an image of ten thousand objects has 3 MB
PROBED_BYTES = 4096  # at the start of a file, which tell its format
ROOT_TAG = "annotation"  # the root element, also of LabelMe's XML
LABELME = re.compile(rb"<(imagesize|sourceImage|pt|segm)[\s/>]")  # elements of LabelMe's XML that VOC does not have
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, kw_only=True)
class VocObject:
    """An object of an annotation file."""

    name: str  # of its class; empty if there is none
    box: tuple[float, float, float, float] | None  # x, y, width, height in pixels; None if it cannot be read
    difficult: bool | None  # None if the text is neither yes nor no


@dataclass(frozen=True, kw_only=True)
class VocImage:
    """The content of an annotation file."""

    file_name: str  # empty if there is none
    size: tuple[int, int] | None  # height, width; None if they are not numbers of pixels
    objects: list[VocObject]


def read_voc_image(file: Path, *, from_one: bool) -> VocImage:
    """The content of an annotation file; `from_one`: corners count pixels from 1, and both belong to the box.

    Raises ValueError for a file that is not VOC's XML, or too large.
    """
    root = parsed(file)
    if root.tag != ROOT_TAG:
        raise ValueError(f"{file} has the root element {excerpt(root.tag)}; expected {ROOT_TAG!r}")
    height, width = (as_number(text_of(root, f"size/{field}")) for field in ("height", "width"))
    known = all(side.is_integer() and 0 < side <= MAX_COORDINATE for side in (height, width))
    return VocImage(
        file_name=text_of(root, "filename"),
        size=(int(height), int(width)) if known else None,  # some tools write 0
        objects=[_object(one, from_one) for one in root.findall("object")],
    )


def difficult(described: VocObject, name: str, warnings: Warnings) -> int:
    """1 for an object that is marked difficult, else 0; with a warning if the mark is not clear."""
    if described.difficult is None:
        warnings.add("a value of difficult that is neither 0 nor 1", "counts as 0", [name])
    return int(bool(described.difficult))


def _object(element: Element, from_one: bool) -> VocObject:
    """An object. If corners count pixels from 1, the box of pixel 1 alone becomes 0 to 1."""
    x1, y1, x2, y2 = (as_number(text_of(element, f"bndbox/{corner}")) for corner in CORNERS)
    plausible = all(abs(value) <= MAX_COORDINATE for value in (x1, y1, x2, y2)) and x2 >= x1 and y2 >= y1
    first = 1 if from_one else 0
    return VocObject(
        name=text_of(element, "name"),
        box=(x1 - first, y1 - first, x2 - x1 + first, y2 - y1 + first) if plausible else None,
        difficult=as_flag(text_of(element, "difficult")),
    )


def text_of(element: Element, path: str) -> str:
    """The text of the element at `path` in `element`, stripped; empty if there is none."""
    return (element.findtext(path) or "").strip()


def parsed(file: Path) -> Element:
    """The root element of an XML file of one image. A document type, which could define entities, is refused.

    Raises ValueError, with the file, for other files, and for those that are too large.
    """
    if not os.path.getsize(file):
        raise ValueError(f"{file} is empty (0 bytes): export or copy it again")
    if os.path.getsize(file) > MAX_BYTES:
        raise ValueError(f"{file} has more than {MAX_BYTES >> 20} MiB; expected the annotations of one image")
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(file.read_bytes(), True)
        return builder.close()
    except (expat.ExpatError, ValueError, AssertionError, LookupError) as error:
        raise ValueError(f"{file} is not XML that can be read ({error}): export or copy it again") from error


def _refuse_doctype(*declared: object) -> None:
    raise ValueError("it has a document type, which annotation files do not need")
