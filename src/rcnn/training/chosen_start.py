"""What a run starts from: request, resumed run, recipe, weights, and the settings before the data is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rcnn.commands import as_typed
from rcnn.models import DetectorConfig
from rcnn.models.overrides import override, parse_value
from rcnn.models.own import allow_factories, own_factories
from rcnn.models.unused_settings import require_used
from rcnn.own_code import require_file
from rcnn.training.length import changed_by, keys_of, milestones_of
from rcnn.training.own_steps import with_steps
from rcnn.training.recipes import Recipe, find_recipe
from rcnn.training.recipes.fitting import fitted
from rcnn.training.request import RunRequest
from rcnn.training.resume_checks import as_recorded, recorded_settings
from rcnn.training.schedule import require_one_schedule
from rcnn.training.settings import TrainConfig, split_overrides, without_auto
from rcnn.training.sharding import require_divisible
from rcnn.training.starting import (
    NO_WEIGHTS,
    choose_weights,
    size_text,
    starting_config,
    starting_settings,
    starts_fresh,
    to_download,
)
from rcnn.training.trackers import chosen_trackers


@dataclass(frozen=True, kw_only=True)
class Start:
    """What is known of a run before its data is read."""

    request: RunRequest  # with the model and weights that the recipe, or the run that is resumed, names
    record: dict[str, Any] | None  # of the run that is resumed; None: a new run
    before: TrainConfig | None  # the settings of the run that is resumed
    recipe: Recipe | None
    config: DetectorConfig  # of the model, without the settings of the recipe and of the user
    typed: list[str]  # the settings of the model that the user gave, as KEY=VALUE
    model_overrides: list[str]  # those of the recipe, then `typed`
    given: set[str]  # keys of the training settings that the user gave
    defaults: TrainConfig  # what the model, the weights or the recipe imply
    first: TrainConfig  # the settings without those of the user
    settings: TrainConfig
    automatic: bool  # train.batch_size=auto
    weights_of_recipe: bool  # the weights are those that the recipe names
    recipe_warning: str  # a warning about settings of the recipe that another model does not have; empty: none
    reason: str  # for the weights

    @property
    def is_new(self) -> bool:
        """Whether no run is resumed."""
        return self.record is None

    @property
    def is_advised(self) -> bool:
        """Whether settings that nobody gave are chosen from the data."""
        return self.is_new and self.recipe is None and self.request.settings is None


def choose_start(
    request: RunRequest, record: dict[str, Any] | None, log: Callable[[str], object], *, download: bool
) -> Start:
    """Decide what a run starts from, and check it; `record` is that of the run that is resumed.

    `log` and `download` as in `plan_training`. ValueError or OSError for a request that cannot be fulfilled.
    """
    if record is not None:
        request = as_recorded(request, record)
    overrides, automatic = without_auto(request.overrides)
    request = replace(request, overrides=tuple(overrides))
    recipe = find_recipe(request.recipe) if request.recipe and record is None else None
    typed, train_overrides = split_overrides(request.overrides)
    other_model = recipe is not None and request.model not in ("", recipe.model)
    if recipe is not None and not request.model:
        request = replace(request, model=recipe.model)
    if not download and record is None:
        _announce_download(request, log)
    config, before = _config_of(request, record)
    recipe_warning = ""
    if recipe is not None and other_model:
        recipe, recipe_warning = fitted(recipe, request.model, config, typed, request.weights)
    weights_of_recipe = recipe is not None and bool(recipe.weights) and not request.weights
    if recipe is not None:
        request = replace(request, weights=request.weights or recipe.weights)
    model_overrides = typed if recipe is None else [*recipe.model_settings, *typed]
    reason = ""
    if record is None:
        weights, reason = choose_weights(request.model, request.weights, config, model_overrides)
        request = replace(request, weights=weights)
    defaults = TrainConfig() if recipe else request.settings
    defaults = defaults or starting_settings(request.model, request.weights or NO_WEIGHTS, train_overrides)
    first = changed_by(before or defaults, () if recipe is None else recipe.training_settings)
    if recipe is not None and first.schedule:  # a run of another length decays at the same fractions
        first = replace(first, milestones=milestones_of(first.schedule))
    settings = with_steps(changed_by(first, train_overrides), request, before)
    given = keys_of(train_overrides)
    changed = override(config, model_overrides)  # checked before the data is read: an error comes at once
    require_used(changed, typed)
    require_divisible(changed, settings)
    require_one_schedule(settings, given)
    chosen_trackers(settings.trackers)  # an error if one is not installed
    return Start(
        request=request, record=record, before=before, recipe=recipe, config=config, typed=typed,
        model_overrides=model_overrides, given=given, defaults=defaults, first=first, settings=settings,
        automatic=automatic, weights_of_recipe=weights_of_recipe, recipe_warning=recipe_warning, reason=reason,
    )  # fmt: skip


def _announce_download(request: RunRequest, log: Callable[[str], object]) -> None:
    """Log that a plan which is only shown downloads weights, because the file contains the config."""
    if not starts_fresh(request.model) and (needed := to_download(request.model)):
        without = as_typed("rcnn", "train", needed.model, "--weights", needed.name)
        log(f"the plan needs the config in {size_text(needed)}, so it is downloaded now; without it: {without}")


def _config_of(request: RunRequest, record: dict[str, Any] | None) -> tuple[DetectorConfig, TrainConfig | None]:
    """The config without the settings in the request, and the training settings of the run that is resumed.

    The user's own code is allowed if a setting or the passed config names it.
    """
    pairs = (one.partition("=") for one in request.overrides)
    written = [str(parse_value(key, value)) for key, _, value in pairs if key.strip().endswith(".factory")]
    for path in written:
        require_file(path)
    own = () if request.config is None else own_factories(request.config).values()
    allow = [*request.allow, *written, *own]
    if record is None:
        return request.config or starting_config(request.model, allow), None
    config, before = recorded_settings(record, request.output)
    return allow_factories(config, allow, request.record_file), before


def setting_keys(words: Sequence[str]) -> set[str]:
    """The keys of KEY=VALUE settings."""
    return {word.partition("=")[0].strip() for word in words}
