"""`rcnn models`: the models, their published weights, the settings of one, and its cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from rcnn.cli.options import Allow, settings_argument
from rcnn.cli.other_names import NamedCommands
from rcnn.commands import as_typed

if TYPE_CHECKING:
    from rcnn.models.setting_tables import Setting
    from rcnn.weights.catalogue.entry import Entry

models = typer.Typer(
    cls=NamedCommands, help="List the models, or show the settings of one.", invoke_without_command=True
)


@models.callback()
def models_or_list(context: typer.Context) -> None:
    """List the models (`list`, the default) or their weights, or show the settings of one (`show`)."""
    if context.invoked_subcommand is None:
        list_models(as_json=False)


@models.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON, with papers.")] = False,
) -> None:
    """List the models that `rcnn train` accepts: parameters, GFLOPs at 800 x 1333, AP and names of their weights."""
    from rcnn.models.zoo import MODELS
    from rcnn.models.zoo.facts import facts
    from rcnn.weights.catalogue.names import detectors_of

    known = facts()
    if as_json:
        table = {name: known[name]._asdict() for name in MODELS}
        for name, row in table.items():
            row["published"] = [result._asdict() for result in row["published"]]
            row["weights"] = [entry.name for entry in detectors_of(name)]
        typer.echo(json.dumps(table, indent=2))
        return
    width = max(map(len, MODELS))
    typer.echo(f"{'name':{width}}    params   GFLOPs   box  mask  kpts  weights")
    for name in MODELS:
        row, files = known[name], detectors_of(name)
        scores = _scores(files[0]) if files else _columns(None, None, None)
        typer.echo(f"{name:{width}}  {row.parameters / 1e6:6.1f} M  {row.gflops:7.1f} {scores}  {_weights_of(name)}")
    typer.echo(
        "box, mask, kpts: AP in percent of these weights on COCO val2017 (minival), as published.\n"
        "weights: the default weights (ImageNet: only the backbone has some), and the number of others:\n"
        "rcnn models weights NAME lists all.\n"
        "GFLOPs: one image of 800 x 1333 with all proposals and detections; a multiply-add counts as two."
    )


@models.command("weights")
def list_weights(
    name: Annotated[
        str,
        typer.Argument(help="A model, a part of names, or one MODEL@TAG. Defaults to all.", show_default=False),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print all facts as JSON.")] = False,
) -> None:
    """List published weights by the names that commands accept: AP, size, and with one MODEL@TAG all facts.

    Example: rcnn models weights mask_rcnn_r50_fpn
    """
    from rcnn.weights.catalogue.cache import downloads_folder, local_state
    from rcnn.weights.catalogue.names import matching_entries

    found = matching_entries(name)
    if as_json:
        typer.echo(json.dumps({entry.name: dataclasses.asdict(entry) for entry in found}, indent=2))
        return
    width = max(len(entry.name) for entry in found)
    typer.echo(f"{'name':{width}}    box  mask  kpts    MiB  local")
    for entry in found:
        size = f"{entry.mib:.0f}" if entry.mib else "-"
        typer.echo(f"{entry.name:{width}}  {_scores(entry)}  {size:>5}  {local_state(entry)}")
    if not all(entry.mib for entry in found):
        typer.echo("MiB: - where the publisher's documents give no size.")
    if len(found) == 1:
        [entry] = found
        rows = {"framework": entry.system, "trained on": entry.data, "licence": entry.licence, "address": entry.source}
        rows |= {"digest": entry.digest or "not published", "facts from": entry.seen}
        rows |= {"by hand": f"put {entry.file} into {downloads_folder(entry)}"} if not entry.package else {}
        for key, value in rows.items():
            typer.echo(f"{key:12}{value}")


def _weights_of(model: str) -> str:
    """The tag of the weights that `rcnn train` and `rcnn predict` take for a model, and the number of others."""
    from rcnn.models import model_config
    from rcnn.weights.catalogue.names import default_entry, files_of, imagenet_entry

    default, files = default_entry(model), files_of(model)
    backbone = "ImageNet" if imagenet_entry(model_config(model)) else "-"
    others = len(files) - 1 if default else len(files)
    return (default.tag if default else backbone) + (f" +{others}" if others else "")


def _scores(entry: Entry) -> str:
    """Published AP of boxes, masks and keypoints, in three columns."""
    return _columns(entry.box, entry.mask, entry.keypoints)


def _columns(*scores: float | None) -> str:
    return " ".join("    -" if score is None else f"{score:5.1f}" for score in scores)


@models.command("recipes")
def list_recipes(
    name: Annotated[
        str, typer.Argument(help="A recipe, or a part of a name. Defaults to all.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print all facts and settings as JSON.")] = False,
) -> None:
    """List the published recipes that `rcnn train --recipe` accepts; with one name, its facts and settings.

    Example: rcnn models recipes tensorpack/R50-FPN-1x
    """
    from rcnn.training.recipes import list_recipes as recipes_called

    found = recipes_called(name)
    if as_json:
        typer.echo(json.dumps({one.name: dataclasses.asdict(one) for one in found}, indent=2))
        return
    width = max(len(one.name) for one in found)
    typer.echo(f"{'name':{width}}    box  mask  kpts    AR  hours  hardware")
    for one in found:
        hours = "    -" if one.hours is None else f"{one.hours:5.1f}"
        scores = _columns(one.box, one.mask, one.keypoints, one.recall)
        typer.echo(f"{one.name:{width}}  {scores}  {hours}  {one.hardware or '-'}")
    if len(found) == 1:
        [one] = found
        typer.echo(f"model       {' '.join(one.network)}, weights {one.weights}\nresults     {one.describe()}")
        typer.echo(f"from        {one.source}" + (f"\ndiffers     {one.differs}" if one.differs else ""))
        typer.echo("settings    " + as_typed(*one.settings))
    else:
        typer.echo(
            "box, mask, kpts: published AP in percent (VOC and SBD: AP50). AR: average recall of 1000 proposals. "
            "With one name: all facts and settings."
        )


@models.command("cost")
def show_cost(
    model: Annotated[str, typer.Argument(help="A name from `rcnn models list`, or a checkpoint folder.")],
    overrides: Annotated[list[str] | None, settings_argument("Settings.")] = None,
    height: Annotated[int, typer.Option(help="Size of the network's input, pixels.", min=1)] = 800,
    width: Annotated[int, typer.Option(help="Size of the network's input, pixels.", min=1)] = 1333,
    allow: Allow = None,
) -> None:
    """Count the parameters and GFLOPs of a model with the given settings.

    Example: rcnn models cost mask_rcnn_r50_fpn num_classes=3 box.convs=4 box.fcs=1
    """
    from rcnn.models.cost import cost
    from rcnn.models.unused_settings import override_used
    from rcnn.training.starting import starting_config

    counted = cost(override_used(starting_config(model, allow or ()), overrides or []), height, width)
    typer.echo(f"{counted.parameters:,} parameters, {counted.flops / 1e9:.1f} GFLOPs at {height} x {width}")


@models.command("show")
def show_model(
    model: Annotated[
        str, typer.Argument(help="A name from `rcnn models list`, a checkpoint folder, or an exported file.")
    ],
    allow: Allow = None,
) -> None:
    """Print every setting of a model and of its training as KEY=VALUE, the form that `rcnn train` accepts.

    For an exported file: its inputs, its classes, how it was quantized (int8), and the settings of its model.
    """
    from rcnn.models.setting_tables import settings_table
    from rcnn.runtime.exported import exported_record, is_exported
    from rcnn.training.settings import PREFIX
    from rcnn.training.starting import starting_config, starting_settings

    if is_exported(model):
        record = exported_record(model)
        typer.echo("\n".join(f"# {line}" for line in record.lines()))
        _print(settings_table(record.config))
        return
    _print(settings_table(starting_config(model, allow or ())))
    _print(setting._replace(path=PREFIX + setting.path) for setting in settings_table(starting_settings(model)))


def _print(settings: Iterable[Setting]) -> None:
    for setting in settings:
        line = f"{setting.path}={_value(setting.default)}"
        typer.echo(f"{line:40}  # {setting.comment}" if setting.comment else line)


def _value(value: object) -> str:
    """A value in the form of the command line (YAML)."""
    from rcnn.models.overrides import quoted

    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (tuple, list)):
        return f"[{','.join(_value(part) for part in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{quoted(key)}: {_value(part)}' for key, part in value.items())}}}"
    return quoted(value) if isinstance(value, str) else str(value)
