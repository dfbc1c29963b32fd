"""`rcnn convert`: imports a checkpoint of another framework, or exports one of this library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.options import settings_argument
from rcnn.commands import as_typed


def convert(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Weights of another framework (.pkl, .pth, .npz, .params, .h5); with --to, an rcnn checkpoint folder."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        settings_argument("Settings of rcnn; they override those of FILE and --config."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint folder to write; with --to, a file. Defaults to a new runs/convert-NAME-N.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        str,
        typer.Option(help="Settings of the other framework: its file, a name of its model zoo, or KEY=VALUE ..."),
    ] = "",
    classes: Annotated[str, typer.Option(help="Class names: a,b,c or a file with one name per line.")] = "",
    allow_missing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="rcnn tensors that may be missing, e.g. mask_head.*; they get initial values."
        ),
    ] = None,
    allow_unused: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Tensors of the file to skip, e.g. ema_*.")
    ] = None,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Accept weights that are NaN or infinite.")
    ] = False,
    to: Annotated[
        str,
        typer.Option(metavar="SYSTEM", help="Export to detectron2, torchvision, mmdetection or tensorpack."),
    ] = "",
    list_: Annotated[bool, typer.Option("--list", help="List the supported frameworks and exit.")] = False,
) -> None:
    """Convert FILE, a checkpoint of another framework, to an rcnn checkpoint folder. Code in the file is never run.

    The format is detected from the content of the file. The result is run once on a generated image. Files that rcnn
    did not write are never overwritten.

    Example: rcnn convert model_final.pkl --config mask_rcnn_R_50_FPN_3x.yaml --output converted
    """
    from rcnn.new_outputs import output_or_new
    from rcnn.weights.convert import ConvertOptions, checkpoint_place, convert_to_folder, list_systems
    from rcnn.weights.export import default_file, export_checkpoint

    if list_:
        for line in list_systems():
            typer.echo(line)
        return
    if file is None:
        raise ValueError("expected a FILE, e.g. rcnn convert model_final.pkl")
    if to:
        given = {
            "--config": config, "--classes": classes, "--allow-missing": allow_missing, "--allow-unused": allow_unused,
            "--allow-nonfinite": allow_nonfinite, "KEY=VALUE": overrides,
        }  # fmt: skip
        if extra := [name for name, value in given.items() if value]:
            raise ValueError(
                f"{', '.join(extra)} cannot be used with --to; leave {'it' if len(extra) == 1 else 'them'} out"
            )
        name = default_file(to)
        with output_or_new(output, "convert", file) as path:
            export_checkpoint(file, path / name if output is None else path, to, typer.echo)
        return
    words = ["rcnn", "convert", str(file), *(overrides or [])]
    for option, value in (("--output", output), ("--config", config), ("--classes", classes)):
        words += [option, str(value)] if value else []
    for option, values in (("--allow-missing", allow_missing), ("--allow-unused", allow_unused)):
        words += [word for value in values or [] for word in (option, value)]
    words += ["--allow-nonfinite"] if allow_nonfinite else []
    options = ConvertOptions(
        settings=config or None,
        classes=classes,
        allow_missing=allow_missing or (),
        allow_unused=allow_unused or (),
        allow_nonfinite=allow_nonfinite,
        overrides=overrides or (),
        command=as_typed(*words),
    )
    if output is not None and (warning := checkpoint_place(output)):
        typer.echo(f"warning: {warning}", err=True)
    with output_or_new(output, "convert", file) as path:
        convert_to_folder(file, path, options, typer.echo)
