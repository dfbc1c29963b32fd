"""`rcnn demo`: data, training, evaluation and a report in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.options import Device, settings_argument
from rcnn.commands import as_typed


def demo(
    output: Annotated[Path, typer.Option(help="Folder for all files; an earlier demo's files are replaced.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the images, the initial weights and the training.", min=0)] = 0,
    overrides: Annotated[
        list[str] | None,
        settings_argument("Settings, e.g. train.steps=100 fpn.channels=64."),
    ] = None,
    device: Device = "cpu",
    threads: Annotated[
        int,
        typer.Option(help="CPU threads. More threads are faster on an idle machine, and slower on a busy one.", min=1),
    ] = 1,
) -> None:
    """Draw a small data set, train a Mask R-CNN on it from scratch, evaluate it, and write pictures and a report.

    Example: rcnn demo --output demo
    """
    from rcnn.cli.progress import progress_bar
    from rcnn.demo.run import limited_threads, run_demo
    from rcnn.metrics.tables import metrics_table

    with limited_threads(threads):
        done = run_demo(
            output, seed=seed, overrides=overrides or [], device=device, log=typer.echo, progress=progress_bar
        )
    typer.echo(f"\n{metrics_table(done.metrics)}\n")
    kinds = {"box": done.metrics.kinds.get("bbox", {}), "mask": done.metrics.kinds.get("segm", {})}
    scores = [f"{name} AP50 {kind['AP50'] or 0:.3f}" for name, kind in kinds.items() if "AP50" in kind]
    typer.echo("; ".join([*scores, f"training took {done.seconds['training']:.0f} s"]))
    typer.echo(f"report:   {done.report}  (open it in a browser)")
    typer.echo(f"pictures: {done.overview}; each one in {done.pictures[0].parent}")
    typer.echo(f"results:  {done.results}")
    command = as_typed("rcnn", "predict", output / "run", "YOUR_IMAGES", "--output", "found")
    typer.echo(f"model:    {output / 'run'}  ({command})")
