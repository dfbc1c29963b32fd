"""`rcnn data`: check, repair, describe, divide and download data sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.early import require_places
from rcnn.cli.options import Allow, Images, RelativeBoxes, settings_argument
from rcnn.cli.other_names import NamedCommands
from rcnn.commands import as_typed
from rcnn.download.catalogue import DOWNLOADS

data = typer.Typer(
    cls=NamedCommands,
    help="Check, describe, divide and download data sets.\n\n"
    "To convert a data set from any format to COCO's, use split or check --fix.",
    no_args_is_help=True,
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the data set.")]
Annotations = Annotated[
    str, typer.Option(help="Annotation file within DIR, e.g. labels/{split}.json. Defaults to the usual names.")
]
Split = Annotated[str, typer.Option(help="A split; train+val: both; ids.txt: a list of images. Defaults to all.")]
Keypoints = Annotated[bool, typer.Option("--keypoints", help="Read person_keypoints_SPLIT.json, if there is one.")]
Workers = Annotated[int, typer.Option(help="Threads that read images.", min=1)]
DEFAULT_MODEL = "mask_rcnn_r50_fpn"  # of `browse --augmented`: the input size of most models
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@data.command("check")
def check(
    directory: Directory,
    split: Split = "",
    annotations: Annotations = "",
    images: Images = "",
    relative_boxes: RelativeBoxes = False,
    keypoints: Keypoints = False,
    as_json: AsJson = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Report only findings with this id; may be repeated.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Do not report findings with this id; may be repeated.")
    ] = None,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Do not decode the images: faster, but finds fewer errors.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 1 for warnings too.")] = False,
    fix: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a copy in COCO's layout with the errors repaired to OUT.")
    ] = None,
    crowds_as_objects: Annotated[
        bool, typer.Option("--crowds-as-objects", help="With --fix: crowds (iscrowd 1) become ordinary objects.")
    ] = False,
    workers: Workers = 2,
) -> None:
    """Find problems of a data set: errors, which stop training or change the data that it uses, and warnings.

    Exits with status 1 if there are errors (with --fix: in the copy). Each finding has an id for --only and --skip.

    Example: rcnn data check photos/ --skip self-crossing-outline
    """
    from rcnn.cli.progress import progress_bar
    from rcnn.data.inspect.check import check_dataset
    from rcnn.data.inspect.fix import fix_dataset

    if fix is not None and (only or skip or no_images):
        raise ValueError("--fix repairs all errors: leave out --only, --skip and --no-images")
    if crowds_as_objects and fix is None:
        raise ValueError("--crowds-as-objects changes the copy that --fix writes: give --fix OUT too")
    lines: list[str] = []
    if fix is not None:
        done = fix_dataset(
            directory, fix, split=split, annotations=annotations, images=images, keypoints=keypoints,
            relative_boxes=relative_boxes, crowds_as_objects=crowds_as_objects, workers=workers, progress=progress_bar,
        )  # fmt: skip
        report, lines = done.after, done.lines()
        content = report.to_dict() | {
            "repaired": list(done.actions), "left_out": list(done.left_out), "not_fixed": list(done.not_fixed)
        }  # fmt: skip
    else:
        report = check_dataset(
            directory, split=split, annotations=annotations, images=images, relative_boxes=relative_boxes,
            keypoints=keypoints, no_images=no_images, only=only or (), skip=skip or (), workers=workers,
            progress=progress_bar,
        )  # fmt: skip
        content = report.to_dict()
    typer.echo(json.dumps(content, indent=2) if as_json else "\n".join([*lines, *report.lines()]))
    if report.errors or (strict and report.warnings):
        raise typer.Exit(1)


@data.command("split")
def split_command(
    directory: Directory,
    fractions: Annotated[
        str, typer.Option(metavar="LIST", help="Fraction of the images per part, e.g. 0.8,0.2 or 0.7,0.2,0.1.")
    ],
    output: Annotated[
        Path, typer.Option(help="Folder for the parts. With DIR itself, only annotation files are added.")
    ],
    split: Annotated[str, typer.Option(help="Split to divide. Defaults to the only one.")] = "",
    names: Annotated[str, typer.Option(metavar="LIST", help="Names of the parts. Defaults to train,val(,test).")] = "",
    annotations: Annotations = "",
    images: Images = "",
    relative_boxes: RelativeBoxes = False,
    keypoints: Keypoints = False,
    workers: Workers = 2,
) -> None:
    """Divide a data set into parts with nearly the same share of every class, and write them in COCO's layout.

    The choice depends on the content of the images alone, so it is the same on every machine. Copies of an image, also
    resized or compressed again, stay in one part.

    Example: rcnn data split photos/ --fractions 0.8,0.2 --output split
    """
    from rcnn.cli.progress import progress_bar
    from rcnn.data.inspect.divide import split_dataset

    try:
        parts = [float(word) for word in fractions.split(",")]
    except ValueError as error:
        raise ValueError(f"--fractions {fractions}: expected numbers that add up to 1, e.g. 0.8,0.2") from error
    done = split_dataset(
        directory,
        parts,
        output,
        split=split,
        names=names.split(",") if names else (),
        annotations=annotations,
        images=images,
        relative_boxes=relative_boxes,
        keypoints=keypoints,
        workers=workers,
        progress=progress_bar,
    )
    for line in done.lines():
        typer.echo(line)
    typer.echo(f"wrote {output}: use it with {as_typed('--data', output)}")
    _report_failed(done.failed)


@data.command("download")
def download(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help=f"One of {', '.join(DOWNLOADS)}."),
    ],
    split: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Splits to download, e.g. train2017,val2017. Defaults to all with annotations."
        ),
    ] = "",
    output: Annotated[Path | None, typer.Option(help="Folder for the data set. Defaults to NAME.")] = None,
) -> None:
    """Download a public data set and unpack it. Run it again to continue after an interruption.

    Sizes and hashes are checked where they are published. Proxies come from HTTPS_PROXY and HTTP_PROXY.

    Example: rcnn data download coco2017 --split val2017 --output coco
    """
    from rcnn.cli.progress import byte_bar
    from rcnn.download.datasets import download_dataset

    folder = download_dataset(
        name, output or "", split=split.split(",") if split else (), progress=byte_bar, log=typer.echo
    )
    typer.echo(f"{name} is complete: use it with {as_typed('--data', folder)}")


@data.command("info")
def info(
    directory: Directory,
    split: Split = "",
    annotations: Annotations = "",
    images: Images = "",
    relative_boxes: RelativeBoxes = False,
    keypoints: Keypoints = False,
    as_json: AsJson = False,
    output: Annotated[Path | None, typer.Option(help="Folder for info.svg, a picture, and info.json.")] = None,
) -> None:
    """Count the images and objects per class, split and size, and suggest an image size and anchors.

    Example: rcnn data info photos/ --output info
    """
    require_places(directory, output, images=images, own="info.json")
    from rcnn.data.inspect.info import describe_dataset

    found = describe_dataset(
        directory, split=split, annotations=annotations, images=images, relative_boxes=relative_boxes,
        keypoints=keypoints,
    )  # fmt: skip
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if output is not None:
        from rcnn.drawing.dataset_chart import dataset_svg
        from rcnn.outputs import OutputFolder

        with OutputFolder(output) as folder:
            folder.require_free("info.svg", "info.json")
            folder.write_text("info.svg", dataset_svg(found))
            folder.write_json("info.json", found.to_dict(), indent=2)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    for line in found.lines():
        typer.echo(line)
    if output is not None:
        typer.echo(f"wrote {output / 'info.svg'}, {output / 'info.json'}")


@data.command("browse")
def browse(
    directory: Directory,
    split: Split = "",
    output: Annotated[
        Path | None, typer.Option(help="Folder for browse.html. Defaults to a new runs/browse-NAME-N.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Images per split, evenly spread (0 = all).", min=0)] = 50,
    annotations: Annotations = "",
    images: Images = "",
    relative_boxes: RelativeBoxes = False,
    keypoints: Keypoints = False,
    augmented: Annotated[
        bool,
        typer.Option(
            "--augmented",
            help="Show the training images as a model gets them: resized and augmented, with the transformed objects.",
        ),
    ] = False,
    model: Annotated[
        str, typer.Option(help="With --augmented: the model, a name or a checkpoint, for its input size and defaults.")
    ] = DEFAULT_MODEL,
    overrides: Annotated[
        list[str] | None,
        settings_argument("With --augmented: settings, e.g. train.augment=\\[crop,copy_paste].", "KEY=VALUE"),
    ] = None,
    allow: Allow = None,
) -> None:
    """Write a page with the annotated images of a data set: one self-contained HTML file.

    Example: rcnn data browse photos/ --split val --output browse

    With augmentation: rcnn data browse photos/ --augmented train.augment=\\[affine,copy_paste]
    """
    from rcnn.cli.progress import progress_bar
    from rcnn.drawing.browse import browse_dataset

    settings, input_config = None, None
    if augmented:
        from rcnn.training.plan import settings_of

        settings, input_config = settings_of(model, overrides or (), allow or ())
    elif overrides or allow or model != DEFAULT_MODEL:
        given = " ".join(overrides or [f"--allow {allow[0]}" if allow else f"--model {model}"])
        raise ValueError(f"{given} is used with --augmented only: add --augmented, or leave it out")
    page = browse_dataset(
        directory,
        output,
        split=split,
        limit=limit,
        annotations=annotations,
        images=images,
        relative_boxes=relative_boxes,
        keypoints=keypoints,
        augmented=settings,
        input_config=input_config,
        progress=progress_bar,
    )
    for warning in page.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"wrote {page.path}")
    _report_failed(page.failed)


@data.command("minus-refer")
def minus_refer_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of COCO 2014 (annotations/, train2014/).")],
    refer: Annotated[Path | None, typer.Option(help="Folder with refcoco/ and refcocog/. Defaults to DIR.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for annotations/. Defaults to DIR.")] = None,
) -> None:
    """Write COCO's training annotations without the images of RefCOCO's and RefCOCOg's val and test splits.

    The file is instances_train_minus_refer_valtest2014.json, the training set of mask-faster-rcnn's coco_minus_refer.

    Example: rcnn data minus-refer coco/ --refer refer/
    """
    from rcnn.data.inspect.minus_refer import minus_refer

    typer.echo(minus_refer(directory, output or "", refer=refer or "").line())


def _report_failed(failed: Sequence[str]) -> None:
    """Print the images that cannot be read, and exit with status 1 if there are any."""
    from rcnn.data.messages import counted

    if failed:
        for line in failed:
            typer.echo(line, err=True)
        typer.echo(f"{counted(len(failed), 'image')} cannot be read", err=True)
        raise typer.Exit(1)
