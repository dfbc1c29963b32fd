"""`rcnn models`: the models, the settings of one, and its cost."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated

import typer

from rcnn.cli.options import Allow

if TYPE_CHECKING:
    from rcnn.models.describe import Setting
    from rcnn.models.zoo.facts import Published

models = typer.Typer(help="List the models, or show the settings of one.", invoke_without_command=True)


@models.callback()
def models_or_list(context: typer.Context) -> None:
    """List the models (`list`, the default), or show the settings of one (`show`)."""
    if context.invoked_subcommand is None:
        list_models(as_json=False)


@models.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """List the models that `rcnn train` accepts: size, GFLOPs at 800 x 1333, paper, and published AP."""
    from rcnn.models.zoo import MODELS
    from rcnn.models.zoo.facts import facts

    known = facts()
    if as_json:
        table = {name: known[name]._asdict() for name in MODELS}
        for row in table.values():
            row["published"] = [result._asdict() for result in row["published"]]
        typer.echo(json.dumps(table, indent=2))
        return
    width = max(map(len, MODELS))
    typer.echo(f"{'name':{width}}  parameters   GFLOPs  paper; box (/ mask) AP as published")
    for name in MODELS:
        row = known[name]
        line = f"{name:{width}}  {row.parameters / 1e6:8.1f} M  {row.gflops:7.1f}  {row.paper or 'ours'}"
        line = "; ".join([line, *_by_system(row.published)])
        if sys.stdout.isatty():  # one line per model for grep
            line = textwrap.fill(line, get_terminal_size().columns, subsequent_indent=" " * (width + 2))
        typer.echo(line)
    typer.echo(
        "GFLOPs: one image of 800 x 1333 with the maximum number of proposals and detections; a multiplication "
        "and an addition count as two.\nAP: percent on COCO val2017 (minival), as reported by each framework."
    )


def _by_system(published: Iterable[Published]) -> list[str]:
    """ "Detectron2 38.6 / 35.2 (1x), 41.0 / 37.2 (3x)" for each system."""
    systems: dict[str, list[str]] = {}
    for result in published:
        systems.setdefault(result.system, []).append(f"{result.ap} ({result.schedule})")
    return [f"{system} {', '.join(values)}" for system, values in systems.items()]


@models.command("cost")
def show_cost(
    model: Annotated[str, typer.Argument(help="A name from `rcnn models list`, or a checkpoint folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY.SUB=VALUE", help="Settings.")] = None,
    height: Annotated[int, typer.Option(help="Size of the network's input, pixels.", min=1)] = 800,
    width: Annotated[int, typer.Option(help="Size of the network's input, pixels.", min=1)] = 1333,
    allow: Allow = None,
) -> None:
    """Count the parameters and GFLOPs of a model with the given settings.

    Example: rcnn models cost mask_rcnn_r50_fpn num_classes=3 box.convs=4 box.fcs=1
    """
    from rcnn.models.cost import cost
    from rcnn.models.overrides import override
    from rcnn.training.starting import starting_config

    counted = cost(override(starting_config(model, allow or ()), overrides or []), height, width)
    typer.echo(f"{counted.parameters:,} parameters, {counted.flops / 1e9:.1f} GFLOPs at {height} x {width}")


@models.command("show")
def show_model(
    model: Annotated[str, typer.Argument(help="A name from `rcnn models list`, or a checkpoint folder.")],
    allow: Allow = None,
) -> None:
    """Print every setting of a model and of its training as KEY=VALUE, the form that `rcnn train` accepts."""
    from rcnn.models.describe import describe
    from rcnn.training.settings import PREFIX
    from rcnn.training.starting import starting_config, starting_recipe

    _print(describe(starting_config(model, allow or ())))
    _print(setting._replace(path=PREFIX + setting.path) for setting in describe(starting_recipe(model)))


def _print(settings: Iterable[Setting]) -> None:
    for setting in settings:
        line = f"{setting.path}={_value(setting.default)}"
        typer.echo(f"{line:40}  # {setting.comment}" if setting.comment else line)


def _value(value: object) -> str:
    """A value in the form of the command line (YAML)."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (tuple, list)):
        return f"[{','.join(_value(part) for part in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}: {_value(part)}' for key, part in value.items())}}}"
    return str(value)
