"""A plan as text: `rcnn train` prints it first, `--dry-run` prints it in full."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from rcnn.commands import as_typed
from rcnn.data import Dataset
from rcnn.data.held_out import HELD_OUT
from rcnn.data.messages import counted, cut, few
from rcnn.data.skeletons import describe_flip
from rcnn.models import model_config
from rcnn.models.overrides import config_to_dict
from rcnn.models.setting_tables import settings_table
from rcnn.models.zoo import MODELS
from rcnn.training.keypoints import describe_keypoints
from rcnn.training.parameter_groups import describe_groups, parameter_groups
from rcnn.training.plan import DEFAULT, RunPlan
from rcnn.training.recipes import find_recipe
from rcnn.training.settings import AUTO, BATCH_SIZE, PREFIX, TrainConfig
from rcnn.training.starting import first_weights, frozen_and_random, size_text, starts_fresh
from rcnn.weights.checkpoint import empty_detector

MAIN_SETTINGS = ("steps", "batch_size", "optimizer", "lr", "seed")  # of training; printed with any value
SHOWN_CLASSES = 100  # listed with their number of objects; for the others, only the number of classes is printed
LONGEST_NAME = 80  # characters of a class name in this list
WIDTH = 120  # of the lines that list settings with their defaults
SHOWN_WARNINGS = 10  # printed in full; of the others, only the number is printed


def describe_start(plan: RunPlan) -> Iterator[str]:
    """The lines that a run prints first: warnings about the data, the data, settings, the learning rate."""
    yield from (f"warning: {line}" for line in plan.warnings[:SHOWN_WARNINGS])
    more = len(plan.warnings) - SHOWN_WARNINGS
    if more > 0:
        yield f"warning: {counted(more, 'more warning')}; --dry-run prints all of them"
    yield from _notes(plan)
    classes = counted(plan.config.num_classes, "class")
    yield f"{plan.config.name}: {classes}, training on {_data(plan.dataset)}, {_validation(plan)}"
    yield from class_lines(plan.dataset.class_counts)
    if starts_fresh(plan.request.model):
        yield f"weights: {_weights(plan)}"
    if plan.request.recipe:
        yield from _recipe(plan)
    yield _changed_settings(plan.settings)
    yield from _advised(plan)
    yield _learning_rate(plan)
    if plan.config.keypoint is not None:
        keypoint = plan.config.keypoint
        yield from describe_keypoints(plan.dataset, keypoint)
        yield describe_flip(keypoint.names, keypoint.flip_pairs, plan.settings.flip)
    if plan.changed:
        yield f"changed since the run was started: {'; '.join(plan.changed)}"


def _changed_settings(settings: TrainConfig) -> str:
    """The main settings of training, and those that differ from their defaults."""
    values, usual = config_to_dict(settings), config_to_dict(TrainConfig())
    shown = {name: value for name, value in values.items() if name in MAIN_SETTINGS or value != usual[name]}
    listed = " ".join(f"{name}={value}" for name, value in shown.items())
    return f"train: {listed}; the other {len(values) - len(shown)} settings have their defaults (config.json has all)"


def _notes(plan: RunPlan) -> Iterator[str]:
    """Notes on how the data was read, apart from warnings; each is printed once."""
    yield from dict.fromkeys(note for dataset in plan.data.every.values() for note in dataset.notes)


def describe_plan(plan: RunPlan) -> Iterator[str]:
    """The whole plan: one value per line with its reason in brackets, then the settings that have their defaults."""
    yield from (f"warning: {line}" for line in plan.warnings)
    yield from _notes(plan)
    request = plan.request
    fresh = starts_fresh(request.model)
    if fresh and not request.weights and not plan.resumes and (line := frozen_and_random(plan.config)):
        yield line
    kind = "a model" if fresh else "a checkpoint"
    if request.recipe:
        yield from _recipe(plan)
    rows = {
        "model": f"{request.model} ({kind})",
        "weights": first_weights(request.model, request.weights),
        "data": str(request.data_name),
        "split": _data(plan.dataset),
        "val-split": ", ".join(map(_data, plan.validations)) or "none",
        "classes": ", ".join(plan.dataset.classes),
        "output": str(plan.output or "a new folder runs/train-MODEL-N"),
        "disk": plan.space.describe(),
        "device": str(plan.device),
    }
    if plan.resumes:
        rows["resume"] = f"from {plan.output}/last"
    values = _values(plan)
    usual = _usual(plan)
    rows |= {name: value for name, value in values.items() if name not in usual}
    if plan.auto_batch_size:
        rows[BATCH_SIZE] = f"{AUTO}: the largest that fits in the memory, chosen when the run starts"
    width = max(map(len, rows))
    for name, value in rows.items():
        reason = plan.reasons.get(name)
        yield f"{name:<{width}} {value or 'not set'}" + (f"   ({reason})" if reason else "")
    model = "defaults of the model" if plan.config.name in MODELS else "settings of the config"
    for title, is_training in ((model, False), ("defaults of training", True)):
        listed = " ".join(
            f"{name}={values[name].replace(', ', ',')}" for name in usual if name.startswith(PREFIX) == is_training
        )
        yield from textwrap.wrap(f"{title}: {listed}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    if not plan.auto_batch_size:
        yield _learning_rate(plan)
    groups = parameter_groups(empty_detector(plan.config), plan.settings)
    yield from (f"parameters: {line}" for line in describe_groups(groups))
    if plan.changed:
        yield f"changed since the run was started: {'; '.join(plan.changed)}"
    if plan.download is not None:
        yield (
            f"weights: a run downloads {size_text(plan.download)} first, and uses the input and backbone settings of "
            "these weights. The settings above are the model's own. To see those of the weights, run "
            f"{as_typed('rcnn', 'download', plan.download.name)}, then make this plan again"
        )


def _advised(plan: RunPlan) -> Iterator[str]:
    """The settings that were chosen from the data, with their reasons."""
    values = _values(plan)
    yield from (f"chosen from the data: {name}={values[name]} ({plan.reasons[name]})" for name in plan.advised)


def _values(plan: RunPlan) -> dict[str, str]:
    """Every setting of the model and of training."""
    model = {setting.path: str(setting.default) for setting in settings_table(plan.config)}
    return model | {PREFIX + setting.path: str(setting.default) for setting in settings_table(plan.settings)}


def _usual(plan: RunPlan) -> list[str]:
    """The settings that have the values of the model that is named, or the defaults of training.

    For a config of another name, these are all settings of the model.
    """
    named = model_config(plan.config.name) if plan.config.name in MODELS else plan.config
    own = {setting.path: setting.default for setting in settings_table(named)}
    model = [one.path for one in settings_table(plan.config) if one.path in own and own[one.path] == one.default]
    training = [PREFIX + one.path for one in settings_table(plan.settings)]
    return [path for path in (*model, *training) if plan.reasons.get(path, DEFAULT) == DEFAULT]


def _recipe(plan: RunPlan) -> Iterator[str]:
    """What was published with the recipe, and where this run differs from it."""
    recipe = find_recipe(plan.request.recipe)
    yield f"recipe {recipe.name}: {recipe.describe()}"
    yield f"recipe from {recipe.source}"
    if recipe.differs:
        yield f"recipe differs: {recipe.differs}"


def _weights(plan: RunPlan) -> str:
    """Where the first weights come from, and why."""
    reason = plan.reasons.get("weights")
    return first_weights(plan.request.model, plan.request.weights) + (f" ({reason})" if reason else "")


def _data(dataset: Dataset) -> str:
    objects, ignored = dataset.num_training_objects, int(dataset.objects.ignored.sum())
    others = f" and {counted(ignored, 'ignored object')}" if ignored else ""  # crowds, difficult objects
    split = dataset.split.removesuffix(HELD_OUT)
    source = split if split == dataset.split else f"held out of {split}"
    return f"{counted(len(dataset), 'image')} with {counted(objects, 'object')}{others} ({source})"


def _validation(plan: RunPlan) -> str:
    reason = plan.reasons.get("val-split")
    if not plan.validations:
        from_python = isinstance(plan.request.data, Dataset)
        choice = "pass a data set as validation=" if from_python else "choose a split with val_split (--val-split)"
        hint = f"{reason}; {choice}" if reason else "val_split=none (--val-split)"
        return f"no evaluation, so no best/ ({hint})"
    why = f": {reason}" if reason and plan.held_out is not None else ""
    return f"evaluated on {' and '.join(map(_data, plan.validations))}{why}"


def class_lines(counts: Mapping[str, int]) -> Iterator[str]:
    """The number of objects of each class, most first, and the classes without objects."""
    present = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
    shown = ", ".join(f"{cut(name, LONGEST_NAME)} {counts[name]}" for name in present[:SHOWN_CLASSES])
    more = f" and {len(present) - SHOWN_CLASSES} others" if len(present) > SHOWN_CLASSES else ""
    yield f"objects per class: {shown or 'none'}{more}"
    if absent := [name for name in counts if not counts[name]]:
        yield f"warning: no objects of {few(absent)} to train on"


def _learning_rate(plan: RunPlan) -> str:
    settings, count = plan.settings, plan.processes.count
    images = settings.images_per_step(count)
    epochs = (settings.steps * images + plan.extra_images) / max(1, len(plan.dataset))
    return (
        f"learning rate {settings.scaled_lr(count):g} = {settings.lr:g} x {counted(images, 'image')} per step"
        f"{f' ({count} processes)' if count > 1 else ''} / {settings.reference_batch}; "
        f"{counted(settings.steps, 'step')} = {epochs:.1f} epochs"
    )
