"""HTML pages: self-contained files with styles and pictures, light or dark as set in the reader's system.

The templates are files of this package (templates/). All text is escaped, except the SVG from charts.py.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("rcnn.drawing"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **values: Any) -> str:
    """The page of a template, a file of templates/, with `values`."""
    return _environment().get_template(template).render(**values)
