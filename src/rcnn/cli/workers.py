"""`--devices N`: a command starts itself again in several processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from rcnn.cli.failures import COMMAND_LINE

OPTIONS = ("--devices", "--max-restarts")  # only for the process that starts the others

Devices = Annotated[
    int,
    typer.Option(
        help="Number of processes on this machine: one per GPU, or on the CPU (gloo) if there is no GPU. "
        "For several machines, see docs/distributed.md.",
        min=1,
    ),
]
MaxRestarts = Annotated[
    int,
    typer.Option(
        help="With --devices: if a process fails, start all of them again, up to N times; training resumes.", min=0
    ),
]


def launch(devices: int, device: str, *, max_restarts: int = 0, more: Sequence[str] = ()) -> None:
    """Run this command, with the words `more`, in `devices` processes, and exit with their status.

    After a failure they are started again up to `max_restarts` times, with --resume.
    """
    from rcnn.runtime.launch import launch_command

    require_devices(devices, device)
    words = [*_own_words(), *more]
    for restarts in range(max_restarts + 1):
        ended = launch_command(words, devices=devices, typed=COMMAND_LINE.get())
        if ended.message:
            typer.echo(f"rcnn: {ended.message}", err=True)
        if not ended.failed or restarts == max_restarts:
            break
        typer.echo(f"rcnn: starting all processes again ({restarts + 1} of {max_restarts})", err=True)
        words = [*words, *(["--resume"] if "--resume" not in words else [])]
    if ended.status:
        raise typer.Exit(ended.status)


def require_devices(devices: int, device: str) -> None:
    """ValueError unless `devices` processes can be started on this machine."""
    from rcnn.runtime import launch

    launch.require_devices(devices, device)


def is_restarted() -> bool:
    """Whether torchrun started this process again after a failure."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")


def _own_words() -> list[str]:
    """The words of the command line without those of OPTIONS."""
    words, kept = list(COMMAND_LINE.get()), list[str]()
    while words:
        word = words.pop(0)
        if word in OPTIONS:
            words.pop(0)
        elif word.partition("=")[0] not in OPTIONS:
            kept.append(word)
    return kept
