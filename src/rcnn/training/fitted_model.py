"""The model of a run, fitted to its data: classes, keypoints, the config of its weights, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rcnn.data import Dataset
from rcnn.data.loading import require_masks_to_copy
from rcnn.data.messages import counted
from rcnn.data.skeletons import require_names
from rcnn.evaluation.plan import Plan, limit_warnings, measured_kinds, plan_evaluation
from rcnn.metrics.choice import require_truth
from rcnn.models import Detector, DetectorConfig
from rcnn.models.overrides import override
from rcnn.models.zoo import without_masks
from rcnn.training.advice import Advice, advise_model
from rcnn.training.chosen_start import Start, setting_keys
from rcnn.training.keypoints import keypoints_of
from rcnn.training.run_data import RunData, open_run_data
from rcnn.training.settings import TrainConfig
from rcnn.training.starting import (
    buildable,
    is_whole,
    read_weights,
    starting_config,
    starts_fresh,
    to_download,
    with_backbone,
)
from rcnn.training.validation import require_measured
from rcnn.weights.catalogue.entry import Entry


@dataclass(frozen=True, kw_only=True)
class FittedModel:
    """The data of a run, and its model."""

    data: RunData
    base: DetectorConfig  # before the settings of the recipe and of the user, and before the data
    config: DetectorConfig
    detector: Detector  # without weights
    absent: Entry | None  # weights that are not downloaded yet; `config` has the model's settings, not the file's
    advice: Advice  # on the settings of the model
    evaluations: list[Plan]


def fit_model(start: Start, log: Callable[[str], object], *, download: bool) -> FittedModel:
    """Open the data of a run, and fit the model to it. ValueError or OSError if they do not go together."""
    request, recipe = start.request, start.recipe
    config = override(start.config, start.model_overrides)
    data = open_run_data(request, config, start.record, filter_empty=start.settings.filter_empty, log=log)
    absent = None if download or not start.is_new else to_download(request.weights)
    base = start.config
    if start.is_new and is_whole(request.model, request.weights):  # after the data: it may be a download
        base = read_weights(request.weights).config if absent is None else starting_config(absent.model)
    config = fit_to_data(base, start.model_overrides, data.training, fresh=start.is_new)
    _require_outlines(config, data.training)
    if start.settings.validation_loss and data.validations:
        _require_outlines_for_loss(config, data.validations[0])
    require_masks_to_copy(data.training, start.settings.augment)
    if start.is_new and absent is None:
        config = with_backbone(config, request.model, request.weights, start.typed)
        if recipe is not None and start.weights_of_recipe:  # its input settings, e.g. means, replace those of the file
            config = override(config, [*recipe.input_settings, *start.typed])
    detector = buildable(config, "" if start.is_new else request.record_file)
    advice = Advice()
    if start.is_advised and request.config is None:
        whole = not starts_fresh(request.model) or is_whole(request.model, request.weights)
        advice = advise_model(config, data.training, setting_keys(start.typed), pretrained=whole)
        config = override(config, advice.model)
    return FittedModel(
        data=data, base=base, config=config, detector=detector, absent=absent, advice=advice,
        evaluations=_evaluation_plans(config, data, start.settings),
    )  # fmt: skip


def fit_to_data(start: DetectorConfig, overrides: Sequence[str], dataset: Dataset, *, fresh: bool) -> DetectorConfig:
    """`start` changed by `overrides`, with the classes and (in a new run) the keypoints of `dataset`."""
    keypoint = override(start, overrides).keypoint  # they may turn keypoints on: keypoint={}
    overrides = [one for one in overrides if one.partition("=")[0].strip() != "keypoint"]
    if fresh and keypoint is not None:
        start = replace(start, keypoint=keypoints_of(dataset, keypoint))
    elif keypoint is None or start.keypoint is None:
        start = replace(start, keypoint=keypoint)
    config = override(replace(start, num_classes=len(dataset.classes)), overrides)
    if config.num_classes != len(dataset.classes):
        raise ValueError(
            f"num_classes={config.num_classes}, but {dataset.annotation_file} has "
            f"{counted(len(dataset.classes), 'class')}: leave num_classes out (it is set from the data)"
        )
    return config


def _require_outlines(config: DetectorConfig, dataset: Dataset) -> None:
    """Raise ValueError for a model with masks and a data set with boxes only."""
    if config.has_masks and dataset.num_training_objects and not dataset.has_outlines:
        other = without_masks(config.name)
        raise ValueError(
            f"{dataset.annotation_file} has boxes without outlines, but {config.name} is trained on masks: "
            + (f"train {other}, or " if other else "train a model without masks (`rcnn models list`), or ")
            + "annotate outlines"
        )


def _require_outlines_for_loss(config: DetectorConfig, validation: Dataset) -> None:
    """Raise ValueError if `train.validation_loss` needs masks, and the validation set has boxes only."""
    if config.has_masks and validation.num_training_objects and not validation.has_outlines:
        raise ValueError(
            f"train.validation_loss=true: {validation.annotation_file} has boxes without outlines, so {config.name} "
            "has no loss of its masks there: leave train.validation_loss out, or annotate outlines"
        )


def _evaluation_plans(config: DetectorConfig, data: RunData, settings: TrainConfig) -> list[Plan]:
    """What the evaluations of a run measure, one plan per validation set.

    ValueError if the names of keypoints differ from the model's, if train.best cannot be measured, or if a validation
    set lacks the fields that LVIS' metric needs.
    """
    names = () if config.keypoint is None else config.keypoint.names
    for dataset in data.every.values():
        if config.keypoint is not None:
            require_names(dataset, names)
    plans = [
        plan_evaluation(measured_kinds(config), validation, keypoint_names=names, metric=settings.chosen_metric)
        for validation in data.validations
    ]
    require_measured(settings.best, config, plans[0] if plans else None)
    for plan, validation in zip(plans, data.validations, strict=True):
        if plan.metric == "lvis":
            require_truth(plan.metric, validation.to_coco(), plan.kinds, validation.image_ids)
    return [
        replace(plan, warnings=plan.warnings + limit_warnings(config, validation, metric=settings.chosen_metric))
        for plan, validation in zip(plans, data.validations, strict=True)
    ]
