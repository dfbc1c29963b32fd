"""A recipe for another model than its own: settings that the model does not have are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from rcnn.models import DetectorConfig
from rcnn.models.overrides import as_overrides, override
from rcnn.training.length import changed_by
from rcnn.training.recipes.recipe import Recipe
from rcnn.training.settings import PREFIX, TrainConfig
from rcnn.training.starting import IMAGENET, NO_WEIGHTS, starts_fresh
from rcnn.weights.catalogue.names import find_entry, imagenet_entry, network_name
from rcnn.weights.checkpoint import empty_detector

PATTERNS = ("lr_factors", "weight_decays")  # training settings by a pattern of parameter names


def fitted(
    recipe: Recipe, model: str, config: DetectorConfig, typed: Sequence[str], weights: str = ""
) -> tuple[Recipe, str]:
    """`recipe` with the settings that `config`, of `model`, has; and a warning that lists the skipped ones.

    `typed`: the user's KEY=VALUE settings of the model, which come after those of the recipe. `weights`: the user's
    choice. The weights of the recipe are kept if they are for the backbone of the model; otherwise they become an empty
    string.
    """
    settings = _kept(recipe.model_settings, config)
    built = override(config, [*settings, *typed])
    parameters = [name for name, _ in empty_detector(built).named_parameters()]
    settings += _training_settings(recipe, parameters)
    skipped = [word for word in recipe.settings if word not in settings]
    own = recipe.weights if _are_for(recipe.weights, model, built) else ""
    skipped += [] if own or weights else [f"--weights {recipe.weights}"]
    warning = f"recipe {recipe.name}: these settings do not fit {model} and are skipped: {', '.join(skipped)}"
    return replace(recipe, settings=tuple(settings), weights=own), warning if skipped else ""


def _kept(words: Sequence[str], config: DetectorConfig) -> list[str]:
    """The settings of `words` that `config` has and that give a model that can be built, in an order that works."""
    kept = _accepted(words, config, _applies)
    return kept if _can_be_built(config, kept) else _accepted(kept, config, _can_be_built)


def _accepted(
    words: Sequence[str], config: DetectorConfig, accepts: Callable[[DetectorConfig, Sequence[str]], bool]
) -> list[str]:
    """The words that are accepted, one by one. A word that needs a later one, e.g. max_size, is moved behind it."""
    kept, waiting = list[str](), list(words)
    while waiting:
        found = list[str]()
        for word in waiting:
            found += [word] if accepts(config, [*kept, *found, word]) else []
        if not found:
            break
        kept, waiting = [*kept, *found], [word for word in waiting if word not in found]
    return kept


def _applies(config: DetectorConfig, words: Sequence[str]) -> bool:
    try:
        override(config, words)
    except ValueError:
        return False
    return True


def _can_be_built(config: DetectorConfig, words: Sequence[str]) -> bool:
    try:
        empty_detector(override(config, words))
    except (ValueError, RuntimeError):
        return False
    return True


def _training_settings(recipe: Recipe, parameters: Sequence[str]) -> Iterator[str]:
    """The training settings of a recipe; patterns that match none of `parameters` are skipped."""
    settings = changed_by(TrainConfig(), recipe.training_settings)
    for word in recipe.training_settings:
        name = word.partition("=")[0].removeprefix(PREFIX)
        patterns: Mapping[str, float] = getattr(settings, name) if name in PATTERNS else {}
        matching = {key: value for key, value in patterns.items() if any(fnmatchcase(one, key) for one in parameters)}
        yield word if matching == patterns else as_overrides({PREFIX + name: matching})[0]


def _are_for(weights: str, model: str, config: DetectorConfig) -> bool:
    """Whether the weights named by a recipe are for the backbone of `config`."""
    if not starts_fresh(model):
        return False
    if weights == NO_WEIGHTS:
        return True
    if weights == IMAGENET:
        return imagenet_entry(config) is not None
    return find_entry(weights).model == network_name(config)
