"""The kinds of faults of a data set, each with a stable id. docs/data_tools.md lists them.

An error makes training or evaluation stop, skip an object or image, or use a value other than the one in the file. A
warning is a sign of poor annotations. It changes nothing by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Kind:
    """A kind of fault: how severe it is, and what it means."""

    severity: Severity
    meaning: str


def _errors(meanings: dict[str, str]) -> dict[str, Kind]:
    return {kind: Kind("error", meaning) for kind, meaning in meanings.items()}


def _warnings(meanings: dict[str, str]) -> dict[str, Kind]:
    return {kind: Kind("warning", meaning) for kind, meaning in meanings.items()}


# the file is refused
REFUSED = _errors(
    {
        "unreadable-annotations": "the annotations cannot be read: damaged, or in an unknown format",
        "no-images": "the file lists no images",
        "no-categories": "the file lists no categories",
        "no-objects": "there are no objects to train or evaluate on, or only crowds and difficult ones",
        "missing-field": "an image, annotation or category without a required id",
        "bad-id": "an id that is neither an integer nor text; for a category, not an integer of 0 or more",
        "repeated-id": "an image or category id that is used twice",
        "unknown-reference": "an annotation of an image or category that the file does not list",
    }
)
# an image, an object or a field is repaired or skipped when the file is opened
REPAIRED = _errors(
    {
        "bad-file-name": "an image with a file name that is missing or not text",
        "missing-image": "an image file that does not exist",
        "image-outside": "an image file outside the folder of the data set",
        "unreadable-image": "an image that cannot be read",
        "file-name": "a file name that is written differently from the file",
        "shared-image-file": "two images, or two lines of a list, with the same file",
        "bad-size": "a height or width that is not a number of pixels",
        "id-type": "an id that is text where the file has numbers, or the reverse",
        "no-annotation-id": "an annotation without an id",
        "repeated-annotation-id": "an annotation id that is used twice",
        "bad-iscrowd": "an iscrowd other than 0 and 1",
        "text-number": "a number that is written as text",
        "bad-box": "a box that is not 4 finite numbers, or has a negative size",
        "no-box": "an object with neither box nor outline",
        "relative-coordinates": "coordinates in fractions of the image",
        "box-form": "boxes in another form than [x, y, width, height]",
        "box-contradicts-outline": "a box that contradicts its outline (IoU below 0.5)",
        "empty-box": "a box of zero size",
        "box-outside": "a box outside its image",
        "box-beyond-edge": "a box that reaches beyond its image by more than a pixel",
        "bad-area": "an area that is not a number from 0 to 1e10, the largest that COCO counts",
        "bad-outline": "a segmentation that is neither polygons nor RLE",
        "outline-form": "polygons in another form than [[x, y, x, y, ...], ...]",
        "short-polygon": "a polygon of fewer than three points, or an odd number of coordinates",
        "polygon-not-finite": "a polygon with a coordinate that is not finite, or far outside its image",
        "bad-mask": "RLE that is damaged, or not of the size of the image",
        "empty-mask": "RLE without a pixel",
        "keypoint-form": "keypoints that are not a flat list of x, y, visibility",
        "keypoint-count": "a number of keypoints other than the category names",
        "bad-keypoint": "a keypoint that is not finite, or far outside its image",
        "bad-visibility": "a keypoint with a visibility other than 0, 1 and 2",
        "num-keypoints": "a num_keypoints that is not the number of labelled keypoints",
        "bad-category-name": (
            "a category name that is missing, empty, not text, too long, with control characters, or that of another "
            "category"
        ),
        "bad-keypoint-names": "keypoint names that are missing, repeated, too long, or with control characters",
        "bad-skeleton": "a skeleton with lines that do not join two of the keypoints",
        "bad-sigmas": "sigmas that are not one number above 0 per keypoint",
        "unreadable-file": "an annotation file of one image that is missing or cannot be read",
        "not-an-object": "a point, a line, or a label that is not a class",
        "no-class": "an object without a class, or with one that the data set does not list",
        "bad-shape": "a shape with the wrong kind or number of points or numbers",
        "bad-expression": "referring expressions that name no object",
        "region": "a region of a VIA file that is not an object, or has no class",
        "all-skipped": "an image with objects that were all skipped, so that it counts as background",
        "two-label-files": "an image with two label files: in two folders, or in two splits that disagree",
        "missing-split": "a path of data.yaml that does not exist",
        "format": "an entry of an annotation file that its format does not allow",
    }
)
# not found when the file is opened, but by `rcnn data check`
CHECKED = _errors(
    {
        "wrong-image-size": "an image of another size than the annotations say",
        "leak": "the same image in two splits, as a copy or changed a little",
        "different-classes": "a class that one split uses in shared images and another split does not list",
        "class-not-in-training": "a class with objects in another split that the training split does not list",
    }
) | _warnings(
    {
        "missing-outline": "an object without an outline where others have one",
        "self-crossing-outline": "a polygon that crosses itself",
        "tiny-outline": "an outline of fewer than 4 pixels",
        "box-differs": "a box that differs a little from its outline (IoU of 0.5 to 0.9)",
        "area-differs": "an area that differs from that of its outline, e.g. width x height of the box",
        "repeated-object": "an object that is in the file twice: same image, class, box and iscrowd",
        "many-crowds": "an object that is a crowd (iscrowd 1), where more than a third of the objects are",
        "no-labels": "an image of a split that has no label files at all, e.g. test images",
        "image-folder": "an image found by its name, in another folder than its file_name says",
        "untrained-class": "a class with objects in an evaluation split and none in the training split",
        "shared-images": "an image in two splits; no name says which one is for training, or only one of them is LVIS'",
        "changed-copy": "an image that is a mirrored copy of one in another split, or one with other borders",
        "near-duplicate": "two images of a split that are the same, or nearly",
        "empty-category": "a category without objects in any split",
        "similar-category-names": "a category name that differs from another only in upper and lower case or spaces",
        "rare-similar-class": (
            "a class with very few objects and a name that differs by a letter or two from one with many"
        ),
    }
)
KINDS = REFUSED | REPAIRED | CHECKED
