"""The `rcnn` command. `--help` and `--version` import no other module of rcnn, so they are fast."""

from __future__ import annotations

import atexit
import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from rcnn import __version__
from rcnn.cli.failures import (
    COMMAND_LINE,
    DEBUG,
    TYPED,
    discard_output,
    has_launcher,
    is_launched,
    note_process,
    note_stop,
    quiet_unless_first,
    report_failure,
    with_going_on,
)
from rcnn.cli.loading_line import end_loading_line, start_loading_line
from rcnn.stopping import Stopped, has_lost_launcher, stop_with_launcher, stopping_on_signals

DESCRIPTION = "R-CNN models for PyTorch: train, evaluate, predict, and convert checkpoints of other frameworks."
COMMANDS = {
    "train": "Train a model from scratch, or fine-tune a checkpoint.",
    "runs": "List training runs: progress, time and average precision.",
    "eval": "Measure average precision (COCO's metrics) on a data set.",
    "compare": "Compare two models or results, with bootstrap intervals.",
    "predict": "Find objects in images; write pictures and predictions.json.",
    "visualize": "Draw ground truth, proposals, their scores and detections in one picture per image.",
    "convert": "Convert a checkpoint of another framework, or export to one.",
    "export": "Write a checkpoint as an ONNX, OpenVINO or torch.export file.",
    "serve": "Serve a model over HTTP.",
    "models": "List the models and their published weights, or show the settings of one.",
    "download": "Download published weights by name, verify and convert them.",
    "push": "Upload a checkpoint with a model card to the Hugging Face Hub.",
    "data": "Check, describe, divide and download data sets.",
    "benchmark": "Measure the speed of a model on this machine, compared with torchvision.",
    "doctor": "Show what this machine has, and how to install what is missing.",
    "demo": "Train and evaluate a small Mask R-CNN on synthetic images, in minutes.",
}
OPTIONS = {
    "--version": "Print the version and exit.",
    "--debug": "Show tracebacks of errors (also: RCNN_DEBUG=1).",
    "-h, --help": "Show this message and exit.",
}

# options that may be given several times
REPEATABLE = ("--allow", "--allow-missing", "--allow-origin", "--allow-unused", "--only", "--skip", "--val-split")

UTF8_LOCALE = "choose a UTF-8 locale (export LC_ALL=C.UTF-8), or set PYTHONUTF8=1"
CLOSED_PIPE = 128 + 13  # the status of programs that SIGPIPE ends: the reader of stdout has stopped


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `arguments` (default: the command line). An error that the user can fix is one line and exit status 2."""
    _open_standard_streams()
    _escape_unknown_characters()
    ended = list[int]()
    if arguments is None:
        atexit.register(_end_at_once, ended)  # registered first, so it runs last
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not _has_current_folder():
        print("rcnn: the current folder no longer exists: change to another one (cd)", file=sys.stderr)
        sys.exit(2)
    debug = "--debug" in words or os.environ.get("RCNN_DEBUG", "") not in ("", "0")
    words = [word for word in words if word != "--debug"]  # accepted anywhere, also after the command
    if problem := _problem(words):
        print(f"rcnn: {problem}", file=sys.stderr)
        sys.exit(2)
    try:
        if not words or words[0] in ("-h", "--help"):
            print(help_text(), flush=True)
            sys.exit(0 if words else 2)
        if words == ["--version"]:
            print(version_line(), flush=True)
            sys.exit(0)
        quiet_unless_first()
        if arguments is None and words[0] == "train" and not {"-h", "--help"} & set(words) and not is_launched():
            start_loading_line()
        from rcnn.cli.app import app

        note_process()
        stop_with_launcher()
        COMMAND_LINE.set(tuple(words))
        DEBUG.set(debug)
        with warnings.catch_warnings(), stopping_on_signals():
            warnings.showwarning = _show_warning
            _warn_of_locale()
            try:
                app(words, prog_name="rcnn")
            except SystemExit as end:
                if isinstance(end.__context__, BrokenPipeError):  # click exits with status 1 at any closed pipe
                    raise end.__context__ from None
                interrupt = _interrupt_before(end)
                if interrupt is not None:
                    _exit_stopped(interrupt, words, ended, debug=debug)
                ended += [end.code or 0] if end.code is None or isinstance(end.code, int) else []
                sys.stdout.flush()  # here, because an error in Python's own flush at exit would have no message
                raise
            except (Stopped, KeyboardInterrupt) as stop:  # here, because a second Ctrl-C may follow at once
                _exit_stopped(stop, words, ended, debug=debug)
            finally:
                end_loading_line()
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and _has_lost_reader():  # rcnn --help | head -1
            discard_output()
            ended.append(CLOSED_PIPE)
            sys.exit(CLOSED_PIPE)
        text = _lost_output(error) or _message(error)
        if (debug or text is None) and not has_launcher():
            _exit_with_traceback(error, ended, 2)
        with suppress(OSError):  # stderr is full or closed, too
            report_failure(error, text or f"{type(error).__name__}: {error}", expected=not debug and text is not None)
            sys.stderr.flush()
        ended.append(2)
        sys.exit(2)
    except Exception as error:  # a bug in rcnn
        if not has_launcher():
            _exit_with_traceback(error, ended, 2)
        report_failure(error, f"{type(error).__name__}: {error}", expected=False)
        sys.exit(2)
    except (Stopped, KeyboardInterrupt) as stop:  # while the command was imported
        _exit_stopped(stop, words, ended, debug=debug)


def _interrupt_before(end: BaseException) -> KeyboardInterrupt | None:
    """The Ctrl-C that led to the exit `end`: typer turns it into an exit with status 130, without a word."""
    before = end.__context__
    while before is not None and not isinstance(before, KeyboardInterrupt):
        before = before.__context__
    return before


def _exit_stopped(
    stop: Stopped | KeyboardInterrupt, words: Sequence[str], ended: list[int], *, debug: bool
) -> NoReturn:
    """Say that a signal or the end of its launcher has stopped the command, and how to go on, and exit."""
    from rcnn.commands import AGAIN, as_typed  # imported here, because `rcnn --help` does not need it

    number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
    if debug:
        _exit_with_traceback(stop, ended, 128 + number)
    if words[0] == "train" or is_launched():
        stop.add_note(f"{AGAIN}: {os.environ.get(TYPED) or as_typed('rcnn', *words)}")  # after what the run has noted
    try:
        if has_lost_launcher():
            launcher = "the process that started this one (--devices, --max-restarts or torchrun)"
            text = f"rcnn: stopped, because {launcher} has ended"
            print(with_going_on(text, stop), file=sys.stderr, flush=True)
        elif not note_stop(number, told=False):  # else the launcher says it
            print(with_going_on(f"rcnn: stopped by {signal.Signals(number).name}", stop), file=sys.stderr, flush=True)
        sys.stdout.flush()
    except OSError:  # the terminal is gone (SIGHUP)
        discard_output()
    ended.append(128 + number)
    sys.exit(128 + number)


def _exit_with_traceback(error: BaseException, ended: list[int], status: int) -> NoReturn:
    """Exit with `status` after the traceback: Python's own status 1 means "finished, but some inputs failed"."""
    import traceback  # imported here, because `rcnn --help` does not need it

    with suppress(OSError):  # stderr is full or closed, too
        traceback.print_exception(error)
        sys.stderr.flush()
    ended.append(status)
    sys.exit(status)


def _end_at_once(ended: Sequence[int]) -> None:
    """End the process at once with the last status of `ended`, after a command of rcnn.

    Daemon threads may still run. Python's normal exit would end them inside C++ code, which aborts the process with
    another status. It would also delete all objects and modules of torch, which takes a second of CPU time.
    """
    if ended:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(ended[-1])


def _lost_output(error: Exception) -> str:
    """The line for an error of printing to stdout, e.g. to a file on a full disk; empty for other errors."""
    if not isinstance(error, OSError) or not _is_full(error.errno) or error.filename:
        return ""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except ValueError:  # stdout has no file descriptor
        return ""
    except OSError:
        discard_output(sys.stdout)
        return f"standard output cannot be written: {error.strerror}. {_remedy(error.errno)}, or print to another place"
    return ""


def _has_lost_reader() -> bool:
    """Whether stdout or stderr is a pipe that nothing reads any more."""
    import select  # imported here, because `rcnn --help` does not need it

    if not hasattr(select, "poll"):  # Windows
        return True
    for stream in (sys.stdout, sys.stderr):
        watched = select.poll()
        with suppress(OSError, ValueError):  # without a file descriptor
            watched.register(stream.fileno(), 0)
            if any(events & (select.POLLERR | select.POLLHUP) for _, events in watched.poll(0)):
                return True
    return False


def _is_full(number: int | None) -> bool:
    """Whether the error `number` means that a file cannot grow."""
    from rcnn.outputs import DISK_FULL  # imported here, because `rcnn --help` does not need it

    return number in DISK_FULL


def _remedy(number: int | None) -> str:
    """What to do if a file cannot grow for the reason `number`, one of DISK_FULL."""
    return "Raise the limit on the size of files (ulimit -f unlimited)" if number == errno.EFBIG else "Free some space"


def _warn_of_locale() -> None:
    """Warn of a locale in which names of files cannot have all characters: LC_ALL=C with PYTHONUTF8=0, ISO-8859-1."""
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        print(
            f"warning: the locale of this shell ({encoding}) cannot encode all characters, so files whose names "
            f"have others cannot be read or written: {UTF8_LOCALE}",
            file=sys.stderr,
        )


def _open_standard_streams() -> None:
    """Open the streams that the caller closed (`rcnn ... >&-`): else another file gets the number, and the output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if getattr(sys, name) is None:
                setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _escape_unknown_characters() -> None:
    """Print what the encoding lacks as escape sequences: class names in ASCII, bytes of file names in UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            utf = stream.encoding.lower().startswith("utf")
            if stream.errors == "strict" or not utf:
                stream.reconfigure(errors="backslashreplace")


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def help_text() -> str:
    """The text of `rcnn --help`."""
    commands = [f"  {name:12}{text}" for name, text in COMMANDS.items()]
    options = [f"  {name:12}{text}" for name, text in OPTIONS.items()]
    head, end = ["Usage: rcnn COMMAND [ARGUMENTS]...", "", DESCRIPTION, ""], "rcnn COMMAND --help describes a command."
    return "\n".join([*head, "Commands:", *commands, "", "Options:", *options, "", end])


def version_line() -> str:
    """The text of `rcnn --version`."""
    return f"rcnn {__version__}"


def _problem(words: Sequence[str]) -> str:
    """The problem of the command line that applies to every command; empty if there is none."""
    command = next((word for word in words if word in COMMANDS), "")
    if command and words[0].startswith("--") and words[0] not in ("--", "--help", "--version"):
        option = words[0].partition("=")[0]
        return f"{option} stands before the command; options follow it: rcnn {command} ... {option}"
    given = dict[str, list[str]]()
    for index, word in enumerate(words):
        if word == "--":
            break
        option, has_value, value = word.partition("=")
        if not word or (option.startswith("--") and has_value and not value):
            before = words[index - 1] if index and not word else option
            where = f"argument {index + 1}" + (f" ({before})" if before.startswith("--") else "")
            return f"{where} is empty (an unset shell variable?); give a value, or leave it out"
        if option.startswith("--") and option not in REPEATABLE:
            following = words[index + 1] if index + 1 < len(words) else ""
            given.setdefault(option, []).append(value if has_value else following)
    for option, values in given.items():
        if len(values) > 1:
            return f"{option} is given {len(values)} times ({', '.join(values)}); expected once"
    return ""


def _message(error: Exception) -> str | None:
    """The line for an error that the user can fix; None for a bug in rcnn, which needs a traceback."""
    text = str(error).splitlines()[0] if str(error) and isinstance(error, RuntimeError) else str(error)
    if reason := _lack_of_memory(error, text):
        return reason
    if isinstance(error, OSError) and _is_full(error.errno):
        name = error.filename2 or error.filename  # filename2: the new file of a copy
        where = f"{name} cannot be written" if name else "the output cannot be written"
        return f"{where}: {error.strerror}{_free(name, error.errno)}. {_remedy(error.errno)}, or write to another place"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
        place = "its owner and permissions" if error.errno != errno.EROFS else "how its disk is mounted"
        return f"{error.filename} cannot be read or written: {error.strerror}. Check {place}, or choose another place"
    is_utf8 = isinstance(error, UnicodeEncodeError) and error.encoding.lower().replace("-", "") == "utf8"
    if isinstance(error, UnicodeEncodeError) and is_utf8 and sys.getfilesystemencoding() == "utf-8":
        return f"{ascii(error.object)[:200]} has bytes that are not UTF-8, so it cannot be written: rename the file"
    if isinstance(error, UnicodeEncodeError):
        encoding = sys.getfilesystemencoding() if is_utf8 else error.encoding
        return (
            f"{ascii(error.object)[:200]} has characters that the locale of this shell ({encoding}) does not have: "
            f"{UTF8_LOCALE}"
        )
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        name = f"{str(error.filename)[:60]}..." if error.filename else "the name of a file"
        return f"{name} is too long for a path: names have up to 255 bytes. Check the path"
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    if isinstance(error, RuntimeError) and text.startswith("Symlink loop"):  # of Path.resolve, before Python 3.13
        return f"{text}: a link leads back to itself; remove it"
    return None if isinstance(error, RuntimeError) else text or type(error).__name__


def _lack_of_memory(error: Exception, text: str) -> str:
    """The line for an error by a lack of memory, with the limit of the shell that causes it; empty for other errors."""
    is_thread = isinstance(error, RuntimeError) and "can't start new thread" in text
    is_mapping = isinstance(error, ImportError) and (
        "failed to map" in text or "cannot allocate memory" in text.lower()
    )
    lacks = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if not (is_thread or is_mapping or lacks or (isinstance(error, RuntimeError) and _is_out_of_memory(error))):
        return ""
    reason = f"not enough memory ({text or type(error).__name__})"
    if "CUDA" not in text and (limit := _address_space()):
        return f"{reason}: this shell limits the address space to {limit / 1e9:.1f} GB; raise it: ulimit -v unlimited"
    if is_thread:
        return f"{reason}: the limit on processes and threads is reached; raise it (ulimit -u), or use fewer workers"
    return f"{reason}: reduce the size or the number of images per batch, or use a smaller model"


def _address_space() -> int:
    """The limit on the address space of this process in bytes; 0: none."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return 0 if limit == resource.RLIM_INFINITY else limit


def _is_out_of_memory(error: RuntimeError) -> bool:
    if "torch" not in sys.modules:  # it may be what there is no memory for
        return False
    from rcnn.runtime.memory import is_out_of_memory  # imported here, because `rcnn --help` does not need torch

    return is_out_of_memory(error)


def _free(name: object, number: int | None) -> str:
    """The free space on the disk of the file `name`, if the error `number` means a full disk; empty otherwise."""
    if name is None or number != errno.ENOSPC:
        return ""
    import shutil  # imported here, because `rcnn --help` does not need them
    from pathlib import Path

    place = next((one for one in (Path(str(name)), *Path(str(name)).parents) if one.exists()), Path())
    return f" ({shutil.disk_usage(place).free / 1e6:.1f} MB free)"


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """Print a warning of a library as one line, without its place in the source code."""
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
