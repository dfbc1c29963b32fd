"""torchvision's compiled operators, without its Python package: that imports torch's compiler, which takes 2 s."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import find_spec

import torch

LIBRARIES = ("_C_stable", "_C")  # names of the compiled library, of new and old versions


@cache
def load_operators() -> None:
    """Define `torch.ops.torchvision`. The package can also be imported, before or after."""
    library = None if "torchvision" in sys.modules or os.name == "nt" else _library()
    if library is None:
        import torchvision  # noqa: F401
    else:
        torch.ops.load_library(library)


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
