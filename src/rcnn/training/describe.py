"""A plan in words: what `rcnn train` prints first, and `--dry-run` prints alone."""

from __future__ import annotations

from collections.abc import Iterator

from rcnn.data import Dataset
from rcnn.data.messages import counted
from rcnn.data.skeletons import describe_flip
from rcnn.models.describe import describe
from rcnn.models.overrides import config_to_dict
from rcnn.training.keypoints import describe_keypoints
from rcnn.training.plan import RunPlan
from rcnn.training.settings import PREFIX
from rcnn.training.starting import starts_fresh

SHOWN_WARNINGS = 10  # about the data, before the rest is only counted


def describe_start(plan: RunPlan) -> Iterator[str]:
    """The lines that a run prints first: warnings about the data, the data, all settings, the learning rate."""
    yield from (f"warning: {line}" for line in plan.warnings[:SHOWN_WARNINGS])
    more = len(plan.warnings) - SHOWN_WARNINGS
    if more > 0:
        yield f"warning: {counted(more, 'more warning')} about the data; --dry-run prints all of them"
    yield from plan.dataset.notes
    yield from () if plan.validation is None else plan.validation.notes
    classes = counted(plan.config.num_classes, "class")
    yield f"{plan.config.name}: {classes}, training on {_data(plan.dataset)}, {_validation(plan)}"
    if starts_fresh(plan.started_from):
        yield f"weights: {_weights(plan)}"
    yield f"train: {' '.join(f'{key}={value}' for key, value in config_to_dict(plan.settings).items())}"
    yield _learning_rate(plan)
    if plan.config.keypoint is not None:
        keypoint = plan.config.keypoint
        yield from describe_keypoints(plan.dataset, keypoint)
        yield describe_flip(keypoint.names, keypoint.flip_pairs, plan.settings.flip)
    if plan.changed:
        yield f"changed since the run was started: {'; '.join(plan.changed)}"


def describe_plan(plan: RunPlan) -> Iterator[str]:
    """The whole plan, one value per line with its reason in brackets."""
    yield from (f"warning: {line}" for line in plan.warnings)
    kind = "a model" if starts_fresh(plan.started_from) else "a checkpoint"
    validation = "none" if plan.validation is None else _data(plan.validation)
    rows = {
        "model": f"{plan.started_from} ({kind})",
        "weights": plan.weights or "none",
        "data": str(plan.data),
        "split": _data(plan.dataset),
        "val-split": validation,
        "classes": ", ".join(plan.dataset.classes),
        "output": str(plan.output or "a new folder runs/train-MODEL-N"),
        "device": str(plan.device),
    }
    if plan.resumes:
        rows["resume"] = f"from {plan.output}/last"
    rows |= {setting.path: str(setting.default) for setting in describe(plan.config)}
    rows |= {PREFIX + setting.path: str(setting.default) for setting in describe(plan.settings)}
    width = max(map(len, rows))
    for name, value in rows.items():
        reason = plan.reasons.get(name)
        yield f"{name:<{width}} {value or 'not set'}" + (f"   ({reason})" if reason else "")
    yield _learning_rate(plan)
    if plan.changed:
        yield f"changed since the run was started: {'; '.join(plan.changed)}"
    yield "nothing was written (--dry-run)"


def _weights(plan: RunPlan) -> str:
    """Where the first weights come from, and why."""
    reason = plan.reasons.get("weights")
    return (plan.weights or "none") + (f" ({reason})" if reason else "")


def _data(dataset: Dataset) -> str:
    objects = counted(len(dataset.objects.labels), "object")
    return f"{counted(len(dataset), 'image')} with {objects} ({dataset.split})"


def _validation(plan: RunPlan) -> str:
    if plan.validation is None:
        reason = plan.reasons.get("val-split")
        hint = f"{reason}; choose a split with --val-split" if reason else "--val-split none"
        return f"not evaluated, so without best/ ({hint})"
    return f"evaluated on {_data(plan.validation)}"


def _learning_rate(plan: RunPlan) -> str:
    settings, images = plan.settings, plan.settings.images_per_step()
    epochs = settings.steps * images / max(1, len(plan.dataset))
    return (
        f"learning rate {settings.scaled_lr():g} = {settings.lr:g} x {counted(images, 'image')} per step / "
        f"{settings.reference_batch}; {counted(settings.steps, 'step')} = {epochs:.1f} epochs"
    )
