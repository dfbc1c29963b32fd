"""`rcnn benchmark`: the speed of a model on this machine, compared with torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.options import Allow, Device, Offline, Precision, settings_argument


def benchmark(
    model: Annotated[
        str, typer.Argument(help="Name of a model (with random weights), or folder of a checkpoint or a run.")
    ] = "mask_rcnn_r50_fpn",
    overrides: Annotated[
        list[str] | None,
        settings_argument("Settings of the model, e.g. input.min_size=640."),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="A photo. Defaults to a generated one of 480 x 640 pixels.")
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Measure this precision only. Defaults to float32, and bfloat16 if the hardware has it."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes for the throughput.")] = "1,8",
    repeats: Annotated[
        int, typer.Option(help="Number of measured calls with one image, after 2 warm-up calls.", min=2)
    ] = 5,
    peer: Annotated[bool, typer.Option("--peer/--no-peer", help="Also measure torchvision's model.")] = True,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory, in new processes.")] = True,
    to_stdout: Annotated[bool, typer.Option("--json", help="Print JSON with all samples, and no table.")] = False,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    compare: Annotated[
        Path | None,
        typer.Option(help="JSON file of an earlier benchmark. Print what became slower; the exit status is then 1."),
    ] = None,
    allow: Allow = None,
    device: Device = "auto",
    offline: Offline = False,
) -> None:
    """Measure a model on this machine: decode, transform, backbone, rpn, heads, post-process and paste.

    If torchvision has the same architecture, both are measured alternately, with random weights. The score threshold
    is 0, so that all heads process the maximum number of regions.

    Example: rcnn benchmark mask_rcnn_r50_fpn --json > today.json
    """
    import json

    from rcnn.bench.benchmark import benchmark as measure
    from rcnn.bench.report import Benchmark, output_of_benchmark
    from rcnn.cli.progress import progress_bar

    sizes = batch.split(",")
    if not all(size.strip().isdecimal() for size in sizes):
        raise ValueError(f"--batch {batch}: expected batch sizes, e.g. 1,8")
    earlier = None if compare is None else Benchmark.read(compare)
    if output is not None:
        with output_of_benchmark(output):
            pass  # an error before the measurement, which takes minutes
    found = measure(
        model, overrides=overrides or (), image=image, precisions=() if precision is None else (precision.value,),
        batch_sizes=[int(size) for size in sizes], repeats=repeats, peer=peer, memory=memory, device=device,
        allow=allow or (), earlier=earlier, progress=progress_bar,
    )  # fmt: skip
    typer.echo(json.dumps(found.to_dict(), indent=2) if to_stdout else str(found))
    if output is not None:
        found.write(output)
        typer.echo(f"wrote {output}", err=True)
    if earlier is None:
        return
    slower = found.regressions(earlier)
    typer.echo("\n".join(f"slower: {line}" for line in slower) or f"nothing is slower than in {compare}", err=True)
    if slower:
        raise typer.Exit(1)
