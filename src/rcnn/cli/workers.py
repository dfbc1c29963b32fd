"""`--devices N`: a command starts itself again in several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from rcnn import threads
from rcnn.cli.failures import COMMAND_LINE
from rcnn.commands import AGAIN, as_typed

STOPPED = 128  # the exit status after a signal is this number and that of the signal
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
        help="If a process of the training fails, start all of them again, up to N times; training resumes.", min=0
    ),
]


def launch(
    devices: int,
    device: str,
    *,
    max_restarts: int = 0,
    more: Sequence[str] = (),
    going_on: Callable[[], str] | None = None,
    same_results: bool = False,
) -> None:
    """Run this command, with the words `more`, in `devices` processes, and exit with their status.

    After a failure they are started again up to `max_restarts` times, with --resume. `going_on`: the line on how to go
    on, printed after the message of the processes; by default, after a stop, the command that starts them again.
    `same_results`: as those of one process, for which each process on a CPU has as many threads as one alone.
    """
    from rcnn.runtime.launch import launch_command

    require_devices(devices, device)
    options, arguments = _own_words()
    options = [*options, *more]
    same_threads = same_results and _on_cpu(device)
    if same_threads:
        _note_threads(devices)
    for restarts in range(max_restarts + 1):
        ended = launch_command(
            [*options, *arguments], devices=devices, typed=COMMAND_LINE.get(), same_threads=same_threads
        )
        if ended.message:
            typer.echo(f"rcnn: {ended.message}", err=True)
        if not ended.failed or restarts == max_restarts:
            if ended.message and going_on is not None:
                typer.echo(going_on(), err=True)
            elif ended.message and ended.status > STOPPED:
                typer.echo(f"{AGAIN}: {as_typed('rcnn', *COMMAND_LINE.get())}", err=True)
            break
        typer.echo(f"rcnn: starting all processes again ({restarts + 1} of {max_restarts})", err=True)
        options = [*options, *(["--resume"] if "--resume" not in options else [])]
    if ended.status:
        raise typer.Exit(ended.status)


def _note_threads(devices: int) -> None:
    """Print the number of threads of each process if all of them together have more than the machine has cores.

    With another number of threads, torch adds up the terms of a large convolution in another order.
    """
    import torch

    share, number = threads.per_process(devices), torch.get_num_threads()
    if not threads.set_by_user() and number > share:
        typer.echo(
            f"{devices} processes with {number} threads each, as many as one process has, because the last digits of "
            f"scores depend on it; {threads.NUMBER}={share} may be faster",
            err=True,
        )


def _on_cpu(device: str) -> bool:
    from rcnn.runtime.devices import choose_device

    return choose_device(device).type == "cpu"


def require_devices(devices: int, device: str) -> None:
    """ValueError unless `devices` processes can be started on this machine."""
    from rcnn.runtime import launch

    launch.require_devices(devices, device)


def _own_words() -> tuple[list[str], list[str]]:
    """The words of the command line without those of OPTIONS, and those from `--` on, which are no options."""
    line = list(COMMAND_LINE.get())
    end = line.index("--") if "--" in line else len(line)
    words, kept = line[:end], list[str]()
    while words:
        word = words.pop(0)
        if word in OPTIONS:
            words.pop(0)
        elif word.partition("=")[0] not in OPTIONS:
            kept.append(word)
    return kept, line[end:]
