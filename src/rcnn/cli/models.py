"""`rcnn models`: which models there are, and all settings of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rcnn.models.overrides import Setting

models = typer.Typer(help="List the models, or show the settings of one.", invoke_without_command=True)


@models.callback()
def models_or_list(context: typer.Context) -> None:
    """List the models (`list`, also where nothing is said), or show the settings of one (`show`)."""
    if context.invoked_subcommand is None:
        list_models()


@models.command("list")
def list_models() -> None:
    """The names that `rcnn train` takes, with a line about each."""
    from rcnn.models.zoo import MODELS

    width = max(map(len, MODELS))
    for name, function in MODELS.items():
        text = (function.__doc__ or "").split("\n")[0].strip()
        if name.endswith("_caffe"):
            text = f"`{name.removesuffix('_caffe')}` with the stride in the 1x1, BGR (MSRA's ResNet)."
        typer.echo(f"{name:{width}}  {text}")


@models.command("show")
def show_model(
    model: Annotated[str, typer.Argument(help="A name from `rcnn models list`, or a checkpoint folder.")],
) -> None:
    """Every setting of a model, and of how one is trained, written as `rcnn train` takes it: KEY=VALUE."""
    from rcnn.models.overrides import describe
    from rcnn.training.run import starting_config, starting_recipe
    from rcnn.training.settings import PREFIX

    _print(describe(starting_config(model)))
    _print(setting._replace(path=PREFIX + setting.path) for setting in describe(starting_recipe(model)))


def _print(settings: Iterable[Setting]) -> None:
    for setting in settings:
        line = f"{setting.path}={_value(setting.default)}"
        typer.echo(f"{line:40}  # {setting.comment}" if setting.comment else line)


def _value(value: object) -> str:
    """A value as the command line takes it (YAML)."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"[{','.join(_value(part) for part in value)}]"
    return str(value)
