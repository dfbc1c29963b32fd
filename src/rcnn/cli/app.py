"""All commands as one Typer application."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typing_extensions import override

from rcnn.cli.benchmark import benchmark
from rcnn.cli.compare import compare
from rcnn.cli.convert import convert
from rcnn.cli.data import data
from rcnn.cli.demo import demo
from rcnn.cli.doctor import doctor
from rcnn.cli.download import download
from rcnn.cli.eval import evaluate
from rcnn.cli.export import export
from rcnn.cli.failures import COMMAND_LINE
from rcnn.cli.main import DESCRIPTION, version_line
from rcnn.cli.models import models
from rcnn.cli.other_names import NamedCommands
from rcnn.cli.predict import predict
from rcnn.cli.push import push
from rcnn.cli.runs import runs
from rcnn.cli.serve import serve
from rcnn.cli.train import train
from rcnn.cli.visualize import visualize


class Commands(NamedCommands):
    """The commands; an error about the value of an option says which value was given."""

    @override
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            message = error.message.removeprefix("Value error, ")
            value = given_value(COMMAND_LINE.get(()), error.param.opts) if error.param is not None else ""
            is_named = re.search(rf"(?<![\w.-]){re.escape(value)}(?![\w.])", message)  # 0 is not named by 0.1
            error.message = f"got {value!r}. {message}" if value and not is_named else message
            raise


def given_value(words: Sequence[str], names: Sequence[str]) -> str:
    """The value of the option `names` among the words of a command line; empty if it is not there."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else following
    return ""


app = typer.Typer(
    name="rcnn",
    cls=Commands,
    help=DESCRIPTION,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train)
app.command("runs")(runs)
app.command("eval")(evaluate)
app.command("compare")(compare)
app.command("predict")(predict)
app.command("visualize")(visualize)
app.command("convert")(convert)
app.command("export")(export)
app.command("serve")(serve)
app.add_typer(models, name="models")
app.command("download")(download)
app.command("push")(push)
app.add_typer(data, name="data")
app.command("benchmark")(benchmark)
app.command("doctor")(doctor)
app.command("demo")(demo)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(version_line())
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors (also: RCNN_DEBUG=1).")] = False,
) -> None:
    """R-CNN models for PyTorch."""
