"""R-CNN models for PyTorch: Faster, Mask, Cascade and Keypoint R-CNN, FPN and FCIS.

    import rcnn

    predictor = rcnn.Predictor("runs/balloons")
    result = predictor.predict("photo.jpg")

The names in `__all__` are the public API, described in docs/api.md. Each is imported when it is first used, so that
`import rcnn` itself takes milliseconds.

It asks torch for huge pages (on Linux), unless THP_MEM_ALLOC_ENABLE is set: feature maps of many MB then cause a
fraction of the page faults. It also limits how long threads spin while they wait for each other, see threads.py.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from rcnn import threads

if TYPE_CHECKING:
    from rcnn.bench.benchmark import benchmark
    from rcnn.bench.report import Benchmark
    from rcnn.data import Dataset, ImageRecord, open_dataset
    from rcnn.data.images import read_image
    from rcnn.data.inspect.check import check_dataset
    from rcnn.data.inspect.divide import split_dataset
    from rcnn.data.inspect.fix import fix_dataset
    from rcnn.data.inspect.info import describe_dataset
    from rcnn.data.loading import TrainingBatch, training_batches
    from rcnn.data.targets import TargetOptions
    from rcnn.data.video import read_video, write_video
    from rcnn.download.datasets import download_dataset
    from rcnn.drawing.browse import browse_dataset
    from rcnn.evaluation.api import evaluate
    from rcnn.evaluation.compare import compare
    from rcnn.evaluation.evaluate import Evaluation
    from rcnn.evaluation.stages import draw_stages
    from rcnn.evaluation.thresholds import best_scores
    from rcnn.export.write import export_model
    from rcnn.models import Detector, DetectorConfig, build_detector, list_models, model_config
    from rcnn.models.overrides import override
    from rcnn.predictor import Predictor
    from rcnn.results import DetectedObject, ImageDetections
    from rcnn.serving.client import Client
    from rcnn.structures import Detections, ImageBatch, Proposals, Targets
    from rcnn.tiles import predict_tiled
    from rcnn.training.api import TrainingRun, plan, train
    from rcnn.training.publish import push_to_hub
    from rcnn.training.recipes import list_recipes
    from rcnn.training.run_table import list_runs
    from rcnn.training.settings import TrainConfig
    from rcnn.training.training_plan import TrainingPlan
    from rcnn.tta import AugmentedPredictor
    from rcnn.weights.api import convert, load
    from rcnn.weights.catalogue.api import download_weights, list_weights
    from rcnn.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch when it first allocates
threads.prepare()
__version__ = "0.2.0.dev0"

__all__ = [
    "AugmentedPredictor",
    "Benchmark",
    "Checkpoint",
    "Client",
    "Dataset",
    "DetectedObject",
    "Detections",
    "Detector",
    "DetectorConfig",
    "Evaluation",
    "ImageBatch",
    "ImageDetections",
    "ImageRecord",
    "Predictor",
    "Proposals",
    "TargetOptions",
    "Targets",
    "TrainConfig",
    "TrainingBatch",
    "TrainingPlan",
    "TrainingRun",
    "__version__",
    "benchmark",
    "best_scores",
    "browse_dataset",
    "build_detector",
    "check_dataset",
    "compare",
    "convert",
    "describe_dataset",
    "download_dataset",
    "download_weights",
    "draw_stages",
    "evaluate",
    "export_model",
    "fix_dataset",
    "list_models",
    "list_recipes",
    "list_runs",
    "list_weights",
    "load",
    "load_checkpoint",
    "model_config",
    "open_dataset",
    "override",
    "plan",
    "predict_tiled",
    "push_to_hub",
    "read_image",
    "read_video",
    "save_checkpoint",
    "split_dataset",
    "train",
    "training_batches",
    "write_video",
]

_MODULES = {  # public name -> the module that defines it
    "AugmentedPredictor": "rcnn.tta",
    "Benchmark": "rcnn.bench.report",
    "Checkpoint": "rcnn.weights.checkpoint",
    "Client": "rcnn.serving.client",
    "Dataset": "rcnn.data",
    "DetectedObject": "rcnn.results",
    "Detections": "rcnn.structures",
    "Detector": "rcnn.models",
    "DetectorConfig": "rcnn.models",
    "Evaluation": "rcnn.evaluation.evaluate",
    "ImageBatch": "rcnn.structures",
    "ImageDetections": "rcnn.results",
    "ImageRecord": "rcnn.data",
    "Predictor": "rcnn.predictor",
    "Proposals": "rcnn.structures",
    "TargetOptions": "rcnn.data.targets",
    "Targets": "rcnn.structures",
    "TrainConfig": "rcnn.training.settings",
    "TrainingBatch": "rcnn.data.loading",
    "TrainingPlan": "rcnn.training.training_plan",
    "TrainingRun": "rcnn.training.api",
    "benchmark": "rcnn.bench.benchmark",
    "best_scores": "rcnn.evaluation.thresholds",
    "browse_dataset": "rcnn.drawing.browse",
    "build_detector": "rcnn.models",
    "check_dataset": "rcnn.data.inspect.check",
    "compare": "rcnn.evaluation.compare",
    "convert": "rcnn.weights.api",
    "describe_dataset": "rcnn.data.inspect.info",
    "download_dataset": "rcnn.download.datasets",
    "download_weights": "rcnn.weights.catalogue.api",
    "draw_stages": "rcnn.evaluation.stages",
    "evaluate": "rcnn.evaluation.api",
    "export_model": "rcnn.export.write",
    "fix_dataset": "rcnn.data.inspect.fix",
    "list_models": "rcnn.models",
    "list_recipes": "rcnn.training.recipes",
    "list_runs": "rcnn.training.run_table",
    "list_weights": "rcnn.weights.catalogue.api",
    "load": "rcnn.weights.api",
    "load_checkpoint": "rcnn.weights.checkpoint",
    "model_config": "rcnn.models",
    "open_dataset": "rcnn.data",
    "override": "rcnn.models.overrides",
    "plan": "rcnn.training.api",
    "predict_tiled": "rcnn.tiles",
    "push_to_hub": "rcnn.training.publish",
    "read_image": "rcnn.data.images",
    "read_video": "rcnn.data.video",
    "save_checkpoint": "rcnn.weights.checkpoint",
    "split_dataset": "rcnn.data.inspect.divide",
    "train": "rcnn.training.api",
    "training_batches": "rcnn.data.loading",
    "write_video": "rcnn.data.video",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'rcnn' has no attribute {name!r}; see rcnn.__all__")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
