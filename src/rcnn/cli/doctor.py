"""`rcnn doctor`: what this machine has, what is missing, and the line that installs it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from types import ModuleType

import typer

EXTRA = re.compile(r"([\w.-]+).*;\s*extra == ['\"](\w+)['\"]")  # a requirement of an extra: package and extra
CORE = ("torchvision", "numpy", "pillow", "safetensors", "typer", "rich", "hotcoco", "jinja2", "matplotlib")


def doctor() -> None:
    """Show what this machine has (Python, torch, GPU, image formats, extras), and how to install what is missing."""
    missing: list[str] = []
    _row("python", platform.python_version(), sys.executable)
    _row("machine", platform.platform(), f"{platform.machine()}")
    try:
        import torch
    except (ImportError, OSError) as error:
        _row("torch", "does not load", str(error))
        missing.append("pip install --force-reinstall torch torchvision")
    else:
        _torch(torch)
    for name in CORE:
        try:
            _row(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            _row(name, "missing")
            missing.append(f"pip install {name}")
    _codecs(missing)
    for extra, package in _extras():
        try:
            _row(f"extra: {extra}", importlib.metadata.version(package), package)
        except importlib.metadata.PackageNotFoundError:
            _row(f"extra: {extra}", "not installed", package)
            missing.append(f"pip install 'rcnn[{extra}]'   # optional")
    typer.echo("\nto install what is missing:\n  " + "\n  ".join(missing) if missing else "\nnothing is missing")


def _extras() -> list[tuple[str, str]]:
    """Each extra for users, and the package that it installs."""
    found = [EXTRA.match(line) for line in importlib.metadata.requires("rcnn") or ()]
    pairs = [(match[2], match[1]) for match in found if match]
    return [(extra, package) for extra, package in pairs if extra != "dev" and package != "rcnn"]


def _row(what: str, value: str, note: str = "") -> None:
    typer.echo(f"{what:18} {value}" + (f"   ({note})" if note else ""))


def _torch(torch: ModuleType) -> None:
    _row("torch", torch.__version__, f"{torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            _row(f"gpu {index}", gpu.name, f"{gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    else:
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        _row("gpu", "none", f"{built}; everything runs on the CPU")
    from rcnn.runtime.devices import choose_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _row("bfloat16", "fast" if choose_precision("auto", device) == "bfloat16" else "slow here: use float32")


def _codecs(missing: list[str]) -> None:
    try:
        from PIL import features
    except ImportError:
        return  # pillow itself is missing
    formats = {"jpg": "JPEG", "zlib": "PNG", "webp": "WebP", "libtiff": "TIFF", "jpg_2000": "JPEG 2000", "avif": "AVIF"}
    known = set(features.get_supported_codecs()) | set(features.get_supported_modules())
    absent = [name for key, name in formats.items() if key not in known]
    _row("image formats", ", ".join(name for key, name in formats.items() if key in known), "GIF and BMP too")
    if absent:
        _row("", f"not {', '.join(absent)}")
        missing.append("pip install --upgrade --force-reinstall pillow")
