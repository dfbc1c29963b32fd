"""Pictures of the training data after augmentation: the network's input with its ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from PIL import Image

from rcnn.data.loading import Batches, LoaderSettings, Padding, numbered_batches
from rcnn.data.records import Dataset
from rcnn.data.skeletons import skeleton_of
from rcnn.data.targets import TargetOptions
from rcnn.data.transforms import Sample, Step
from rcnn.data.transforms.copy_paste import object_masks
from rcnn.data.transforms.steps import require_steps
from rcnn.drawing.pictures import draw_dashed_boxes, draw_objects, pasted_mask_of
from rcnn.given_steps import Given, as_steps
from rcnn.preprocess import InputConfig


@dataclass(frozen=True, kw_only=True)
class ShownSettings:
    """The training settings that change what a page shows, with the defaults of training.

    Except for `batch_size` and `workers`: each image is alone, and is read in this process.
    """

    augment: tuple[Step, ...]
    flip: float = 0.5
    drawn_scales: tuple[int, ...] = ()
    jitter: float = 0.0
    seed: int = 0
    batch_size: int = 1
    accumulate: int = 1
    padding: Padding = "exact"
    workers: int = 0
    repeat_threshold: float = 0.0

    def __post_init__(self) -> None:
        require_steps(self.augment, self.drawn_scales)


def with_steps(settings: LoaderSettings | None, given: Given) -> LoaderSettings:
    """`settings` (None: those of `ShownSettings`) with other steps of augmentation. ValueError for invalid steps."""
    steps = as_steps(given)
    if settings is None:
        return ShownSettings(augment=steps)
    values = {field.name: getattr(settings, field.name) for field in fields(ShownSettings)}
    return ShownSettings(**values | {"augment": steps})


def augmented_batches(dataset: Dataset, input_config: InputConfig, settings: LoaderSettings) -> Batches:
    """The training images of a data set, with its outlines, keypoints and crowds.

    Raises ValueError as `training_batches` does.
    """
    keypoints = dataset.objects.keypoints is not None and not dataset.keypoints_differ
    masks = "polygon" if dataset.has_outlines else None
    return numbered_batches(
        dataset, input_config, settings, targets=TargetOptions(masks=masks, keypoints=keypoints, crowds=True)
    )


def augmented_sample(batches: Batches, index: int, version: int) -> Sample:
    """Image `index` with its objects, as the network gets it in one epoch.

    `version` counts the epochs from 0. The random numbers differ from those of a run, because the order of the images
    differs.
    """
    return batches.augmented(index, version * len(batches.dataset) + index)[0]


def draw_augmented(sample: Sample, dataset: Dataset) -> Image.Image:
    """A sample with its boxes, masks and keypoints. Crowds are drawn as dashed boxes."""
    skeleton = skeleton_of(dataset).lines if sample.keypoints is not None else ()
    return draw_sample(sample, dataset.classes, skeleton)


def draw_sample(sample: Sample, classes: Sequence[str], skeleton: Sequence[tuple[int, int]] = ()) -> Image.Image:
    """The image of a sample with its objects drawn on it."""
    picture = draw_objects(
        sample.image.clamp(0, 255).byte(),
        sample.boxes.numpy(),
        sample.labels.numpy(),
        classes,
        masks=(pasted_mask_of(mask) for mask in object_masks(sample)),
        keypoints=None if sample.keypoints is None else sample.keypoints.numpy(),
        skeleton=skeleton,
        colour_by="instance" if len(classes) == 1 else "class",
    )
    if sample.crowds is not None:
        draw_dashed_boxes(picture, sample.crowds.numpy())
    return picture
