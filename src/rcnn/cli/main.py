"""The `rcnn` command. Its own help and version need nothing but Python, so that they are instant."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from rcnn import __version__

DESCRIPTION = "R-CNN models for PyTorch: train, evaluate, predict, and convert checkpoints of other frameworks."
COMMANDS = {
    "train": "Train a model from scratch, or fine-tune a checkpoint.",
    "eval": "Measure average precision (COCO's metrics) on a data set.",
    "predict": "Find objects in images; write pictures and predictions.json.",
    "convert": "Convert a checkpoint of another framework, or export to one.",
    "models": "List the models, or show the settings of one.",
    "doctor": "Show what this machine has, and how to install what is missing.",
    "demo": "Train and evaluate a small Mask R-CNN on synthetic images, in minutes.",
}
OPTIONS = {
    "--version": "Print the version and exit.",
    "--debug": "Show tracebacks of errors (also: RCNN_DEBUG=1).",
    "-h, --help": "Show this message and exit.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `arguments` (default: the command line). An error that the user can fix is one line and exit status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or os.environ.get("RCNN_DEBUG", "") not in ("", "0")
    words = [word for word in words if word != "--debug"]  # accepted anywhere, also after the command
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        sys.exit(0 if words else 2)
    if words == ["--version"]:
        print(version_line())
        sys.exit(0)
    from rcnn.cli.app import app

    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app(words, prog_name="rcnn")
    except (ValueError, OSError, ImportError) as error:
        if debug:
            raise
        print(f"rcnn: {str(error) or type(error).__name__}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if debug:
            raise
        print("rcnn: stopped", file=sys.stderr)
        sys.exit(130)


def help_text() -> str:
    """The text of `rcnn --help`."""
    commands = [f"  {name:12}{text}" for name, text in COMMANDS.items()]
    options = [f"  {name:12}{text}" for name, text in OPTIONS.items()]
    head, end = ["Usage: rcnn COMMAND [ARGUMENTS]...", "", DESCRIPTION, ""], "rcnn COMMAND --help describes a command."
    return "\n".join([*head, "Commands:", *commands, "", "Options:", *options, "", end])


def version_line() -> str:
    """The text of `rcnn --version`."""
    return f"rcnn {__version__}"


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """A warning of a library as one line, without the place in its source."""
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
