"""`rcnn doctor`: what this machine has, what is missing, and the command that installs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import queue
import re
import sys
import threading
import urllib.error
import urllib.request
from types import ModuleType

import typer

EXTRA = re.compile(r"([\w.-]+).*;\s*extra == ['\"](\w+)['\"]")  # a requirement of an extra: package and extra
HOST = "https://download.pytorch.org"  # the server of torchvision's weights
WAIT = 3.0  # timeout of its answer, seconds
CORE = ("torchvision", "numpy", "pillow", "safetensors", "typer", "rich", "hotcoco", "jinja2", "matplotlib")


def doctor() -> None:
    """Show what this machine has (Python, torch, GPU, image formats, extras), and how to install what is missing.

    Exits with status 1 if the cache of weights contains damaged files or cannot be used.
    """
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
    problem = _weights()
    lines = "\n  ".join(dict.fromkeys(missing))
    if missing:
        typer.echo(f"\nto install what is missing:\n  {lines}")
    elif not problem:
        typer.echo("\nnothing is missing")
    if problem:
        typer.echo(f"\n{problem}")
        raise typer.Exit(1)


def _weights() -> str:
    """Show the cache of published weights, its damaged files, and whether the network can be reached.

    Returns a line that says what is wrong with the cache; empty if it is in order.
    """
    try:
        from rcnn.weights.catalogue.cache import cache_folder, cache_problems, is_offline, local_names
    except (ImportError, OSError):
        return ""  # a package is missing; `doctor` has already reported it
    folder = cache_folder()
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    problems: list[str] = []
    if parent.is_dir():
        names, problems = local_names(), cache_problems()
        state = ", ".join(names) if names else "empty"
        _row("cache of weights", str(folder), state if os.access(parent, os.W_OK) else f"{state}; not writable")
    else:
        _row("cache of weights", str(folder), f"{parent} is a file; expected a folder: set RCNN_CACHE to another one")
    for problem in problems:
        _row("", f"damaged: {problem}")
    if is_offline():
        _row("network", "not used", "--offline or RCNN_OFFLINE")
    else:
        _row("network", _network(), f"{HOST}; without it: RCNN_CACHE, docs/weights.md")
    if not parent.is_dir():
        return "the cache of weights is not a folder, see above"
    files = "1 damaged file" if len(problems) == 1 else f"{len(problems)} damaged files"
    return f"{files} in the cache of weights, see above" if problems else ""


def _network() -> str:
    """Whether the server of the weights answers, through the proxy if one is set."""
    answers: queue.Queue[str] = queue.Queue()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(HOST, method="HEAD"), timeout=WAIT).close()
            answers.put("reachable")
        except urllib.error.HTTPError:  # also an answer
            answers.put("reachable")
        except (OSError, ValueError):
            answers.put("not reachable")

    threading.Thread(target=ask, daemon=True).start()  # in a thread, because a DNS lookup can take minutes
    try:
        return answers.get(timeout=WAIT)
    except queue.Empty:
        return f"no answer in {WAIT:.0f} seconds"


def _extras() -> list[tuple[str, str]]:
    """Each extra for users, and the package that it installs."""
    try:
        lines = importlib.metadata.requires("rcnn") or ()
    except importlib.metadata.PackageNotFoundError:  # run from its source, without an installation
        return []
    found = [EXTRA.match(line) for line in lines]
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
    elif torch.backends.mps.is_available():
        _row("gpu", "Apple", "use it with --device mps; auto is the CPU")
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
    readable = [name for key, name in formats.items() if key in known]
    readable += ["HEIC"] if importlib.util.find_spec("pillow_heif") else []
    _row("image formats", ", ".join(readable), "GIF and BMP too")
    if absent:
        _row("", f"not {', '.join(absent)}")
        missing.append("pip install --upgrade --force-reinstall pillow")
