"""The metrics of an evaluation: by kind and by class, with counts. COCO's, LVIS' and VOC's metrics share this type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Number = float | None  # a fraction 0..1; None where the ground truth has no object to measure on
PerClass = dict[str, dict[str, dict[str, Number]]]

SIZES = {"s": "small", "m": "medium", "l": "large"}  # suffix of a metric's name -> COCO's range of areas
# kind -> the field of a result that it measures
FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints", "proposals": "bbox"}
# metrics of each class, in this order; VOC's metrics and keypoints have only some of them
CLASS_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The metrics of one set of results. `AP` is the main number of each metric."""

    kinds: dict[str, dict[str, Number]]  # {"bbox": {"AP": .., "AP50": .., ...}, "segm": {...}}
    per_class: PerClass  # {"person": {"bbox": {"AP": .., "AP50": .., ...}, ...}}: CLASS_METRICS
    images: int  # evaluated, including those without detections or objects
    objects: dict[str, int]  # ground-truth objects of each class, without crowds; VOC: without difficult objects, too
    detections: int  # results of these images, including those beyond the limit of detections
    max_detections: dict[str, int]  # limit by kind: per image and class (COCO) or per image (LVIS); VOC: empty
    metric: str = "coco"  # one of metrics.choice.METRICS

    def to_dict(self) -> dict[str, Any]:
        """The content of metrics.json: one entry per kind, then `per_class`, `counts` and the name of the metric."""
        counts = {"images": self.images, "detections": self.detections, "objects": self.objects}
        return {
            **self.kinds,
            "per_class": self.per_class,
            "counts": counts,
            "max_detections": self.max_detections,
            "metric": self.metric,
        }
