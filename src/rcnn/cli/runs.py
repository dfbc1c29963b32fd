"""`rcnn runs`: a table of training runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from rcnn.arguments import shown

REASON = 200  # characters of the error of a run that are shown; --json has its whole first line


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that contains runs, at any depth.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print all facts as JSON.")] = False,
) -> None:
    """List the training runs in a folder: model, progress, time, and the best average precision of each.

    Example: rcnn runs runs
    """
    from rcnn.training.run_table import list_runs

    found = list_runs(folder)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(row) | {"state": row.state} for row in found], indent=2))
        return
    if not found:
        typer.echo(f"no runs in {folder}; give the folder that contains them: rcnn runs FOLDER", err=True)
        return
    names, models = max(len(row.folder) for row in found), max(len(row.model) for row in found)
    names, models = max(names, len("run")), max(models, len("model"))
    typer.echo(
        f"{'run':{names}}  {'model':{models}}  {'step':>9}  {'state':>13}  {'hours':>6}  {'loss':>6}  {'box':>5}  "
        f"{'mask':>5}  {'kpts':>5}  data"
    )
    for row in found:
        loss = "-" if row.loss is None else f"{row.loss:.3f}"
        scores = "  ".join("    -" if ap is None else f"{ap:.3f}" for ap in (row.box, row.mask, row.keypoints))
        typer.echo(
            f"{row.folder:{names}}  {row.model:{models}}  {row.step:>9}  {row.state:>13}  {row.hours:6.2f}  {loss:>6}  "
            f"{scores}  {row.data}"
        )
        if row.failure:
            typer.echo(f"{'':{names}}  failed: {shown(row.failure, REASON, form=str)}")
    typer.echo("box, mask, kpts: the best AP of each run on its validation set.")
