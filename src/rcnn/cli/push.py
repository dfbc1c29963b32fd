"""`rcnn push`: upload a checkpoint with a model card to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    run: Annotated[Path, typer.Argument(help="Folder of a checkpoint, or of a run (its best/ is used).")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
) -> None:
    """Upload a checkpoint with a model card to the Hugging Face Hub. Commands then accept it as hf:OWNER/NAME.

    Needs `pip install 'rcnn\\[hub]'` and a login: `hf auth login`, or HF_TOKEN.

    Example: rcnn push runs/balloons me/balloons
    """
    from rcnn.training.publish import push_to_hub

    typer.echo(f"{push_to_hub(run, repository, private=private)}: use it as hf:{repository}")
