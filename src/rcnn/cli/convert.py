"""`rcnn convert`: a checkpoint of another system becomes one of ours."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer


def convert(
    file: Annotated[Path, typer.Argument(help="Weights of Detectron2 (.pkl, .pth), torchvision or D2Go (.pth, .pt).")],
    output: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
    config: Annotated[
        Path | None, typer.Option(help="Their configuration (a Detectron2 YAML), whose settings are kept.")
    ] = None,
) -> None:
    """Convert FILE, a checkpoint of another system, to a folder that rcnn takes. Code in the file is never run.

    Example: rcnn convert model_final.pkl --config mask_rcnn_R_50_FPN_3x.yaml --output converted
    """
    from rcnn.models import build_detector
    from rcnn.weights.checkpoint import save_checkpoint
    from rcnn.weights.convert import convert as convert_file

    converted = convert_file(file, config)
    detector = build_detector(converted.config)
    detector.load_state_dict(converted.state)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    origin = {"converted_from": file.name, "sha256": digest, "report": converted.report}
    save_checkpoint(output, detector, converted.config, converted.classes, origin)
    typer.echo(converted.report)
    typer.echo(f"wrote {output}")
