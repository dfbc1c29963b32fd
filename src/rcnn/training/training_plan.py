"""A plan as `rcnn.plan` returns it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typing_extensions import override

from rcnn.models import DetectorConfig
from rcnn.models.setting_tables import settings_table
from rcnn.training.describe import describe_plan
from rcnn.training.measure import Measurement, measure
from rcnn.training.plan import RunPlan
from rcnn.training.settings import AUTO, BATCH_SIZE, PREFIX, TrainConfig


class TrainingPlan:
    """A training run that is planned and not started. `print(plan)` shows what `rcnn train --dry-run` shows.

    A notebook shows the same text. Returned by `rcnn.plan`.
    """

    def __init__(self, plan: RunPlan, complete: Callable[[], RunPlan]) -> None:
        """`complete` returns the plan with the weights that a run downloads first."""
        self._plan, self._complete = plan, complete

    @property
    def config(self) -> DetectorConfig:
        """The config of the model."""
        return self._plan.config

    @property
    def settings(self) -> TrainConfig:
        """The settings of training."""
        return self._plan.settings

    @property
    def values(self) -> dict[str, Any]:
        """Every setting of the model and of training, by the key that `overrides` takes: {"train.steps": 1667, ...}.

        A batch size that is found when the run starts is "auto".
        """
        model = {setting.path: setting.default for setting in settings_table(self.config)}
        training = {PREFIX + setting.path: setting.default for setting in settings_table(self.settings)}
        return model | training | ({BATCH_SIZE: AUTO} if self._plan.auto_batch_size else {})

    @property
    def reasons(self) -> dict[str, str]:
        """Why a value was chosen, by the same keys, and of `data`, `split`, `val-split`, `device` and `weights`.

        "given": by the caller. "default": the default of training.
        """
        return dict(self._plan.reasons)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is probably a mistake, in the settings or in the data."""
        return self._plan.warnings

    def measure(self, steps: int = 5) -> Measurement:
        """Run `steps` steps for their time and memory (`seconds` per step, `waiting`, `memory`), and write nothing.

        Downloads the weights if they are not on this machine. Raises ValueError for a plan with several processes, and
        if a loss is not finite.
        """
        return measure(self._plan if self._plan.download is None else self._complete(), steps)

    @override
    def __str__(self) -> str:
        """One value per line with its reason, then the settings that have their defaults."""
        return "\n".join(describe_plan(self._plan))

    @override
    def __repr__(self) -> str:
        return str(self)
