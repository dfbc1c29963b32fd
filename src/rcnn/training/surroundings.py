"""Where and how a run was started: commands, settings, host, versions, and the state of the git repository."""

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
from rcnn.models.setting_tables import settings_table
from rcnn.training.plan import RunPlan
from rcnn.training.settings import PREFIX
from rcnn.training.starting import first_weights

SECONDS = 5.0  # that git may take


def run_tables(plan: RunPlan) -> dict[str, dict[str, str]]:
    """The tables of RUN/report.html: how the run was started, its data and its settings."""
    weights = first_weights(plan.request.model, plan.request.weights)
    run = {"model": plan.config.name, "started from": plan.request.model, "weights": weights}
    run |= {"recipe": plan.request.recipe} if plan.request.recipe else {}
    run |= {"processes": str(plan.processes.count)}
    several = len(plan.commands) > 1
    run |= {f"command {n}" if several else "command": command for n, command in enumerate(plan.commands, start=1)}
    data = {
        f"{split}: {key}": str(value) for split, identity in plan.identity.items() for key, value in identity.items()
    }
    settings = {PREFIX + setting.path: str(setting.default) for setting in settings_table(plan.settings)}
    model = {setting.path: str(setting.default) for setting in settings_table(plan.config)}
    data = {"data": str(plan.request.data_name), **data}
    return {
        "Run": run | surroundings(plan.device),
        "Data": data,
        "Training settings": settings,
        "Model settings": model,
    }


def surroundings(device: torch.device) -> dict[str, str]:
    """Facts for RUN/report.html, by name. No environment variables, because they may contain secrets."""
    folder = "removed since the start"
    with suppress(FileNotFoundError):
        folder = os.getcwd()
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return {
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
