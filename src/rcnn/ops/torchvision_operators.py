"""torchvision's compiled operators, without its Python package: that imports torch's compiler, which takes 2 s."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import find_spec

import torch
from torch import Tensor

LIBRARIES = ("_C_stable", "_C")  # names of the compiled library, of new and old versions


@cache
def load_operators() -> None:
    """Define `torch.ops.torchvision`. The package can also be imported, before or after."""
    library = None if "torchvision" in sys.modules or os.name == "nt" else _library()
    if library is None:
        import torchvision  # noqa: F401
    else:
        torch.ops.load_library(library)


def rois_of(boxes: Tensor) -> Tensor:
    """Boxes (B, R, 4), xyxy pixels, as torchvision's regions (B * R, 5) float32, the image's index first."""
    image = torch.arange(len(boxes), device=boxes.device, dtype=torch.float32)
    return torch.cat([image[:, None, None].expand(-1, boxes.shape[1], 1), boxes.float()], -1).flatten(0, 1)


def _library() -> str | None:
    """Path of the compiled library; None if it is not in the package's folder."""
    package = find_spec("torchvision")
    folders = None if package is None else package.submodule_search_locations
    for folder in folders or ():
        finder = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES))
        for name in LIBRARIES:
            if (spec := finder.find_spec(name)) is not None:
                return spec.origin
    return None
