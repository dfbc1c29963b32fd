"""Where and how a run was started: command, host, versions, and the state of the git repository."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from rcnn import __version__
from rcnn.runtime.launch import typed_command

SECONDS = 5.0  # that git may take


def surroundings(device: torch.device) -> dict[str, str]:
    """Facts for RUN/report.html, by name. No environment variables, because they may contain secrets."""
    folder = "removed since the start"
    with suppress(FileNotFoundError):
        folder = os.getcwd()
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return {
        "command": typed_command(),
        "folder": folder,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "host": f"{platform.node()}, {platform.platform()}, {os.cpu_count()} CPU cores",
        "device": f"{device}{gpu}",
        "versions": ", ".join(f"{name} {version}" for name, version in _versions().items()),
        "git": git_state(Path(folder)),
    }


def _versions() -> dict[str, str]:
    found = {"rcnn": __version__, "Python": platform.python_version(), "torch": torch.__version__}
    for package in ("torchvision", "numpy", "timm"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_state(folder: Path) -> str:
    """The commit of the git repository around `folder`, and the number of files that differ from it."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return "no repository"
    changed = len(_git(folder, "status", "--porcelain").splitlines())
    return commit + (f", {changed} changed or new files" if changed else "")


def _git(folder: Path, *words: str) -> str:
    """What git prints; empty if there is no git, no repository, or no answer in time."""
    command = ["git", "-C", str(folder), *words]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=True)
        return done.stdout.strip()
    return ""
