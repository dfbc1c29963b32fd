"""The `rcnn` command: one file a subcommand; nothing heavy is imported before a subcommand needs it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from rcnn import __version__
from rcnn.cli.convert import convert
from rcnn.cli.demo import demo
from rcnn.cli.doctor import doctor
from rcnn.cli.eval import evaluate
from rcnn.cli.models import models
from rcnn.cli.predict import predict
from rcnn.cli.train import train

app = typer.Typer(
    name="rcnn",
    help="The R-CNN family for PyTorch: train, evaluate, predict, and convert old checkpoints.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("predict")(predict)
app.command("convert")(convert)
app.add_typer(models, name="models")
app.command("doctor")(doctor)
app.command("demo")(demo)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rcnn {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from, not its message alone (also: RCNN_DEBUG=1).")
    ] = False,
) -> None:
    """The R-CNN family for PyTorch: train, evaluate, predict, and convert old checkpoints."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `arguments` (the command line, where None). What a user can mend is one line on stderr and exit status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or os.environ.get("RCNN_DEBUG", "") not in ("", "0")
    words = [word for word in words if word != "--debug"]  # it may stand anywhere, after the subcommand too
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app(words, prog_name="rcnn")
    except (ValueError, OSError, ImportError) as error:
        if debug:
            raise
        typer.echo(f"rcnn: {type(error).__name__ if not str(error) else error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        if debug:
            raise
        typer.echo("rcnn: stopped", err=True)
        sys.exit(130)


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """A warning of a library as one line, without the place in its source."""
    typer.echo(f"warning: {message}", err=True)


if __name__ == "__main__":
    main()
