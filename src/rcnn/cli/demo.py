"""`rcnn demo`: the whole of it, from nothing to a report, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[Path, typer.Option(help="Folder for everything; an earlier demo in it is replaced.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(help="Draws the images, the first weights and the training.", min=0)] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY.SUB=VALUE", help="Settings, as train.steps=100 or fpn.channels=64."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto: a GPU if there is one.")] = "cpu",
    threads: Annotated[
        int, typer.Option(help="That compute; with more, an idle machine is faster, a busy one slower.", min=1)
    ] = 1,
) -> None:
    """Draw a small data set, train a Mask R-CNN on it from scratch, measure it, and write pictures and a report."""
    from rcnn.cli.progress import progress_bar
    from rcnn.demo.run import computing_threads, run_demo
    from rcnn.metrics.tables import metrics_table

    words = overrides or []
    with computing_threads(threads):
        done = run_demo(output, seed=seed, overrides=words, device=device, say=typer.echo, progress=progress_bar)
    typer.echo("")
    typer.echo(metrics_table(done.metrics))
    typer.echo("")
    box, mask = (done.metrics.kinds[kind]["AP50"] for kind in ("bbox", "segm"))
    typer.echo(f"box AP50 {box or 0:.3f}, mask AP50 {mask or 0:.3f}; training took {done.seconds['training']:.0f} s")
    typer.echo(f"report:   {done.report}  (open it in a browser)")
    typer.echo(f"pictures: {done.overview}, and one by one in {done.pictures[0].parent}")
    typer.echo(f"results:  {done.results}")
    typer.echo(f"model:    {output / 'run'}  (rcnn predict {output / 'run'} YOUR_IMAGES --output found)")
