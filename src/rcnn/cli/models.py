"""`rcnn models`: which models there are, and all settings of one."""

from __future__ import annotations

from typing import Annotated

import typer

models = typer.Typer(help="List the models, or show the settings of one.", no_args_is_help=True)


@models.command("list")
def list_models() -> None:
    """The names that `rcnn train` takes, with a line about each."""
    from rcnn.models.zoo import MODELS

    width = max(map(len, MODELS))
    for name, function in MODELS.items():
        plain = MODELS.get(name.removesuffix("_caffe"), function)
        text = (plain.__doc__ or "").split("\n")[0].strip()
        if name.endswith("_caffe"):
            text = f"`{name.removesuffix('_caffe')}` with the stride in the 1x1, BGR (MSRA's ResNet)."
        typer.echo(f"{name:{width}}  {text}")


@models.command("show")
def show_model(
    model: Annotated[str, typer.Argument(help="A name from `rcnn models list`, or a checkpoint folder.")],
) -> None:
    """Every setting of a model, written as `rcnn train` takes it: KEY=VALUE."""
    from rcnn.training.run import starting_config

    for key, value in _flatten(starting_config(model)):
        typer.echo(f"{key}={value}")


def _flatten(config: object, prefix: str = "") -> list[tuple[str, object]]:
    from dataclasses import fields, is_dataclass

    rows: list[tuple[str, object]] = []
    for field in fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        key = f"{prefix}{field.name}"
        rows += _flatten(value, f"{key}.") if is_dataclass(value) else [(key, value)]
    return rows
