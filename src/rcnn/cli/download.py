"""`rcnn download`: published weights, converted, into the cache or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.options import Offline


def download(
    names: Annotated[
        list[str], typer.Argument(help="Names from `rcnn models weights`, e.g. mask_rcnn_r50_fpn, or hf:owner/name.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the checkpoints, each in OUTPUT/NAME, e.g. to copy them to a machine without network. "
            "Defaults to the cache.",
            show_default=False,
        ),
    ] = None,
    offline: Offline = False,
) -> None:
    """Download published weights, verify and convert them. Other commands then find them by the same names.

    The cache is RCNN_CACHE, or ~/.cache/rcnn. Files that rcnn did not write are never overwritten. If one of several
    downloads fails, the others go on, and the exit status is 1.

    Example: rcnn download mask_rcnn_r50_fpn keypoint_rcnn_r50_fpn
    """
    from rcnn.weights.catalogue.api import download_weights
    from rcnn.weights.catalogue.names import find_entry
    from rcnn.weights.hub import is_hub_name, require_hub_name

    for name in names:  # an error for an unknown name comes before any download
        if is_hub_name(name):
            require_hub_name(name)
        else:
            find_entry(name)
    failed: list[str] = []
    for name in names:
        try:
            typer.echo(f"{name}: {download_weights(name, output)}")
        except (ValueError, ImportError, OSError) as error:
            if len(names) == 1 or getattr(error, "errno", None) is not None:  # e.g. a full disk: the others fail too
                raise
            failed.append(name)
            typer.echo(f"{name}: {error}", err=True)
    if failed:
        typer.echo(f"{len(failed)} of {len(names)} not downloaded: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
