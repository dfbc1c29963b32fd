"""`rcnn convert`: a checkpoint of another system becomes one of ours, or one of ours a file of another system."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def convert(
    file: Annotated[
        Path | None,
        typer.Argument(help="Weights of another system (.pkl, .pth, .npz, .params, .h5); with --to, a folder of ours."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY.SUB=VALUE", help="Settings of ours that correct those inferred."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write the checkpoint to; with --to, a file.")] = None,
    config: Annotated[
        str,
        typer.Option(help="Their configuration, or the name that their model zoo has for it; its settings are kept."),
    ] = "",
    classes: Annotated[str, typer.Option(help="Class names: a,b,c or a file with one a line.")] = "",
    allow_missing: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Our tensors that may be missing (mask_head.*): they get initial values."),
    ] = None,
    allow_unused: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Their tensors to leave behind (ema_*).")
    ] = None,
    allow_nonfinite: Annotated[bool, typer.Option("--allow-nonfinite", help="Take NaN and infinity.")] = False,
    to: Annotated[
        str, typer.Option(metavar="SYSTEM", help="The way back: detectron2, torchvision or mmdetection.")
    ] = "",
    listed: Annotated[bool, typer.Option("--list", help="List the systems that are known, and stop.")] = False,
) -> None:
    """Convert FILE, a checkpoint of another system, to a folder that rcnn takes. Code in the file is never run.

    What the file is, is read from its contents. It ends with a run of what was written.

    Example: rcnn convert model_final.pkl --config mask_rcnn_R_50_FPN_3x.yaml --output converted
    """
    from rcnn.weights.convert import Wishes, convert_to_folder, list_systems
    from rcnn.weights.export import write_foreign

    if listed:
        for line in list_systems():
            typer.echo(line)
        return
    if file is None or output is None:
        raise ValueError("expected a FILE and --output, e.g. rcnn convert model_final.pkl --output converted")
    if to:
        given = {"--config": config, "--classes": classes, "--allow-missing": allow_missing, "KEY=VALUE": overrides}
        if extra := [name for name, value in given.items() if value]:
            raise ValueError(f"{', '.join(extra)} has no effect with --to: leave it out")
        write_foreign(file, output, to, typer.echo)
        return
    words = ["rcnn", "convert", str(file), *(overrides or []), "--output", str(output)]
    for option, value in (("--config", config), ("--classes", classes)):
        words += [option, value] if value else []
    for option, values in (("--allow-missing", allow_missing), ("--allow-unused", allow_unused)):
        words += [word for value in values or [] for word in (option, value)]
    words += ["--allow-nonfinite"] if allow_nonfinite else []
    wishes = Wishes(
        settings=(Path(config) if Path(config).is_file() else config) if config else None,
        classes=classes,
        allow_missing=allow_missing or (),
        allow_unused=allow_unused or (),
        allow_nonfinite=allow_nonfinite,
        overrides=overrides or (),
        command=shlex.join(words),
    )
    convert_to_folder(file, output, wishes, typer.echo)
