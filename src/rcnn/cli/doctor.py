"""`rcnn doctor`: what this machine has, what is missing, and the line that installs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from types import ModuleType

import typer

EXTRAS = {
    "timm": "pip install 'rcnn[timm]'",
    "h5py": "pip install 'rcnn[hdf5]'",
}  # module of an extra -> the line that installs it
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
    for module, line in EXTRAS.items():
        found = importlib.util.find_spec(module) is not None
        _row(f"extra: {module}", importlib.metadata.version(module) if found else "not installed")
        if not found:
            missing.append(f"{line}   # optional")
    typer.echo("\nto install what is missing:\n  " + "\n  ".join(missing) if missing else "\nnothing is missing")


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
