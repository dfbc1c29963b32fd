"""The detections of one image, as arrays on the CPU, and what they convert to: JSON, COCO, labelme, masks, pictures.

Letters: N detections, H x W the image, m the side of a mask in its box, J keypoints, K classes.
Boxes are float32 xyxy in absolute pixels of the original image, width = x2 - x1.
"""

from __future__ import annotations

import base64
import difflib
import html
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from rcnn.arguments import as_texts, is_whole_number, plain, require_switches, wrong_type
from rcnn.data.image_inputs import ImageInput, ImageSource, as_image
from rcnn.data.messages import counted, few
from rcnn.data.writers.coco import coco_result
from rcnn.data.writers.labelme import labelme_file
from rcnn.data.writers.yolo import yolo_lines
from rcnn.drawing.pictures import ColourBy, checked_drawing, draw_objects
from rcnn.ops.boxes import move_ends
from rcnn.ops.coco_backend import encode_pasted
from rcnn.ops.contours import TOLERANCE
from rcnn.ops.masks import PastedMask
from rcnn.ops.pasting import Pasting, paste_as
from rcnn.prediction_arguments import Score, checked_tolerance, require_score
from rcnn.weights.systems.classes import category_ids as default_ids

if TYPE_CHECKING:
    import supervision

T = TypeVar("T")
# an index that selects several detections
Rows: TypeAlias = slice | Sequence[int] | npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]
SHOWN_SIDE = 1024  # longer side of the picture in a notebook, pixels
SHOWN_ROWS = 20  # detections listed in a notebook


def require_classes(names: Iterable[str], classes: Sequence[str]) -> None:
    """Raise ValueError, with similar names, unless all `names` are class names of the model."""
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(str(name), classes, 1)
            hint = f" (similar: {near[0]!r})" if near else ""
            raise ValueError(f"the model has no class {name!r}{hint}; it has {few(classes)}")


@dataclass(frozen=True, kw_only=True)
class DetectedObject:
    """One of the detections of an image."""

    detections: ImageDetections  # of its image
    row: int  # its index there, 0..N-1

    def __repr__(self) -> str:
        x1, y1, x2, y2 = self.box.tolist()
        return f"DetectedObject({self.name} {self.score:.2f}, box {x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f})"

    @property
    def label(self) -> int:
        """The class, 0..K-1."""
        return int(self.detections.labels[self.row])

    @property
    def name(self) -> str:
        """The name of the class; the label as text if the classes are not known."""
        return self.detections[self.row : self.row + 1].names[0]

    @property
    def score(self) -> float:
        """The score, 0..1."""
        return float(self.detections.scores[self.row])

    @property
    def box(self) -> npt.NDArray[np.float32]:
        """The box (4,) xyxy in pixels of the image."""
        return self.detections.boxes[self.row]

    @property
    def mask(self) -> npt.NDArray[np.bool_] | None:
        """The mask (H, W) at image size; None for models without masks."""
        masks = self.detections[self.row : self.row + 1].masks
        return None if masks is None else masks[0]

    @property
    def keypoints(self) -> npt.NDArray[np.float32] | None:
        """The keypoints (J, 3): x, y, score; None for models without keypoints."""
        return None if self.detections.keypoints is None else self.detections.keypoints[self.row]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDetections:
    """The detections of one image, best first. Compared by identity, because its fields are arrays."""

    height: int  # of the original image, pixels
    width: int
    boxes: npt.NDArray[np.float32]  # (N, 4) xyxy, inside the image
    scores: npt.NDArray[np.float32]  # (N,) in 0..1
    labels: npt.NDArray[np.int64]  # (N,) in 0..K-1
    box_masks: npt.NDArray[np.float32] | None = None  # (N, m, m) probabilities, in the frame of their boxes
    pasted: tuple[PastedMask, ...] | None = None  # N masks at image size, in place of `box_masks` (merged tiles)
    keypoints: npt.NDArray[np.float32] | None = None  # (N, J, 3): x, y, score
    classes: tuple[str, ...] = ()  # the K class names
    skeleton: tuple[tuple[int, int], ...] = ()  # pairs of keypoints that are joined by a line in pictures
    pasting: Pasting = field(default_factory=Pasting)
    source: ImageSource | None = None  # None: `draw` needs the image as an argument

    def __len__(self) -> int:
        return len(self.boxes)

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> DetectedObject: ...

    @overload
    def __getitem__(self, index: Rows) -> ImageDetections: ...

    def __getitem__(self, index: int | np.integer[Any] | Rows) -> DetectedObject | ImageDetections:
        """One detection for an integer; several for a slice, N bools, or a list or array of indices."""
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"there is no detection {index}: the image has {counted(len(self), 'detection')}")
            return DetectedObject(detections=self, row=range(len(self))[index])
        rows = index if isinstance(index, slice) else self._rows(index)
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            box_masks=None if self.box_masks is None else self.box_masks[rows],
            pasted=None if self.pasted is None else tuple(self.pasted[row] for row in np.arange(len(self))[rows]),
            keypoints=None if self.keypoints is None else self.keypoints[rows],
        )

    def _rows(self, index: object) -> npt.NDArray[Any]:
        """The detections that `index` selects: bools (N,) or indices."""
        rows = np.asarray(index)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "biu"):
            hint = f"; for one class: result[[name == {index!r} for name in result.names]]"
            raise TypeError(
                f"a result cannot be indexed by {str(index)[:80]!r}; expected an index, a slice, {len(self)} bools, or "
                f"a list or array of indices{hint if isinstance(index, str) else ''}"
            )
        if rows.dtype.kind == "b" and len(rows) != len(self):
            raise IndexError(f"got {counted(len(rows), 'bool')}; expected {len(self)}, one for each detection")
        return rows if rows.size else rows.astype(bool if rows.dtype.kind == "b" else int)

    def __iter__(self) -> Iterator[DetectedObject]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        found = ", ".join(
            f"{name} {score:.2f}" for name, score in zip(self.names[:5], self.scores[:5].tolist(), strict=True)
        )
        more = f", and {len(self) - 5} more" if len(self) > 5 else ""
        return f"ImageDetections({self.width} x {self.height}, {counted(len(self), 'object')}: {found or 'none'}{more})"

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each detection; its label as text if the classes are not known."""
        return tuple(self.classes[label] if self.classes else str(label) for label in self.labels.tolist())

    @cached_property
    def masks(self) -> npt.NDArray[np.bool_] | None:
        """Masks (N, H, W) bool at image size, computed when first used; None for models without masks.

        They take N x H x W bytes. `rles` and `pasted_masks` need little memory.
        """
        pasted = self.pasted_masks()
        if pasted is None:
            return None
        masks = np.zeros((len(self), self.height, self.width), dtype=np.bool_)
        for mask, (left, top, part) in zip(masks, pasted, strict=True):
            mask[top : top + part.shape[0], left : left + part.shape[1]] = part
        return masks

    def above(self, score: Score) -> ImageDetections:
        """The detections with a score of at least `score`: one number, or one per class name (other classes: 0)."""
        if not isinstance(score, Mapping):
            return self[self.scores >= require_score(score)]
        require_classes(score, self.classes)
        lowest = [require_score(score[name]) if name in score else 0.0 for name in self.names]
        return self[self.scores >= np.array(lowest, dtype=np.float32)]

    def of_classes(self, names: str | Sequence[str]) -> ImageDetections:
        """The detections of one or several classes, by name. ValueError for a class that the model does not have."""
        names = as_texts(names, "the classes")
        require_classes(names, self.classes)
        return self[np.array([name in names for name in self.names], dtype=bool)]

    def pasted_masks(self) -> Iterator[PastedMask] | None:
        """Each mask as the rectangle of the image that contains it; None for models without masks."""
        if self.pasted is not None:
            return iter(self.pasted)
        if self.box_masks is None:
            return None
        masks, boxes = torch.from_numpy(self.box_masks), torch.from_numpy(self.boxes)
        if self.pasting.last_pixel_inside:
            boxes = move_ends(boxes, -1.0)
        return paste_as(self.pasting.kind, masks, boxes, (self.height, self.width), self.pasting.threshold)

    def rles(self) -> list[dict[str, Any]] | None:
        """Each mask at image size in COCO's run lengths {"size": [H, W], "counts": str}; None without masks."""
        pasted = self.pasted_masks()
        return None if pasted is None else [encode_pasted(*mask, (self.height, self.width)) for mask in pasted]

    def to_json(self, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The `detections` of one image in predictions.json; `names` are the K class names (default: `classes`)."""
        class_names = self.names if names is None else self._of_classes(names, "names")
        rles = self.rles()
        entries: list[dict[str, Any]] = []
        for i, (label, score) in enumerate(zip(self.labels.tolist(), self.scores.tolist(), strict=True)):
            entry = {"label": label, "name": class_names[i], "score": score, "box": self.boxes[i].tolist()}
            if rles is not None:
                entry["mask"] = rles[i]
            if self.keypoints is not None:
                entry["keypoints"] = self.keypoints[i].tolist()
            entries.append(entry)
        return entries

    def to_coco(self, image_id: int | str, category_ids: Sequence[int | str] | None = None) -> list[dict[str, Any]]:
        """The detections in COCO's results format, as pycocotools reads them.

        `category_ids` (K,) are the data set's ids of the classes, e.g. `dataset.category_ids`. The default is COCO's
        ids (1 to 90) for COCO's 80 classes in COCO's order, and label + 1 for all other classes. Raises
        ArgumentTypeError for an `image_id` that is neither an integer nor text.
        """
        image_id = plain(image_id)  # JSON does not know numpy's types
        if not (is_whole_number(image_id) or isinstance(image_id, str)):
            raise wrong_type(image_id, "image_id", "the id of the image in the data set, an integer or text")
        if category_ids is None and self.classes:
            category_ids = default_ids(self.classes)
        categories = (
            (self.labels + 1).tolist() if category_ids is None else self._of_classes(category_ids, "category_ids")
        )
        return [
            coco_result(found, image_id, plain(category))
            for found, category in zip(self.to_json(), categories, strict=True)
        ]

    def to_labelme(self, image_path: str | Path, *, tolerance: float = TOLERANCE) -> dict[str, Any]:
        """The content of labelme's JSON file of the image, e.g. `json.dumps(result.to_labelme("photo.jpg"))`.

        `image_path` is the image, relative to the JSON file. Masks become polygons, simplified to within `tolerance`
        pixels (0: they follow the pixels); detections without masks are rectangles. Keypoints are not written.
        """
        return labelme_file(
            (self.height, self.width), Path(image_path).as_posix(), self.names, self.boxes,
            scores=self.scores, masks=self.pasted_masks(), tolerance=checked_tolerance(tolerance),
        )  # fmt: skip

    def to_yolo(self, *, polygons: bool = True, tolerance: float = TOLERANCE) -> list[str]:
        """The lines of YOLO's label file of the image: class and polygon, or class and box, in fractions of the image.

        For models with keypoints and without masks, the keypoints follow the box, as for pose models. `polygons=False`
        writes boxes only. `tolerance` as in `to_labelme`.
        """
        require_switches(polygons=polygons)
        masks, points = (self.pasted_masks(), self.keypoints) if polygons else (None, None)
        return yolo_lines(
            (self.height, self.width), self.labels.tolist(), self.boxes,
            masks=masks, keypoints=points if masks is None else None, tolerance=checked_tolerance(tolerance),
        )  # fmt: skip

    def to_rows(self) -> list[dict[str, Any]]:
        """A dict per detection (for `csv.DictWriter` or `pandas.DataFrame`): label, name, score, x1, y1, x2, y2."""
        return [
            {"label": label, "name": name, "score": score, **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))}
            for label, name, score, box in zip(
                self.labels.tolist(), self.names, self.scores.tolist(), self.boxes.tolist(), strict=True
            )
        ]

    def to_id_mask(self) -> npt.NDArray[np.uint16 | np.uint32]:
        """The masks in one array (H, W): 0 is background, i + 1 is detection i; where masks overlap, the best is used.

        The type is uint16, or uint32 if there are more than 65,535 detections. Raises ValueError for models without
        masks.
        """
        pasted = self.pasted_masks()
        if pasted is None:
            raise ValueError("these detections have no masks; use a model with masks, e.g. Mask R-CNN or FCIS")
        ids = np.zeros((self.height, self.width), dtype=np.uint16 if len(self) < 1 << 16 else np.uint32)
        scores = np.append(np.float32(-1), self.scores)  # by id; rows for given boxes are not sorted by score
        for number, (left, top, mask) in enumerate(pasted, start=1):
            part = ids[top : top + mask.shape[0], left : left + mask.shape[1]]
            part[mask & (scores[part] < scores[number])] = number
        return ids

    def _of_classes(self, values: Sequence[T], name: str) -> list[T]:
        """The value of each detection's class; `values` has one per class."""
        count = len(self.classes) or int(self.labels.max(initial=-1)) + 1
        if len(values) < count:
            raise ValueError(f"{name} has length {len(values)}; expected {count}, one value for each class in order")
        return [values[label] for label in self.labels.tolist()]

    def to_supervision(self) -> supervision.Detections:
        """The same as `supervision.Detections`. Needs the extra: pip install 'rcnn[supervision]'."""
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision needs an extra: pip install 'rcnn[supervision]'") from error
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names)},
        )

    def draw(
        self,
        image: ImageInput | None = None,
        *,
        contour: bool = False,
        keypoint_score: float = 0.0,
        labels: bool = True,
        line_width: int | None = None,
        colour_by: ColourBy = "instance",
    ) -> Image.Image:
        """The image with boxes, masks, keypoints and names drawn on it.

        `image` defaults to the image of the prediction (a file is read again). `contour` draws the outlines of masks
        instead of filled masks; keypoints with a score below `keypoint_score` are not drawn. With `labels=False`, no
        names are drawn. `line_width` (pixels) defaults to a width that fits the image. Colours differ between objects,
        or with `colour_by="class"` between classes, e.g. for the frames of a video. Raises ValueError if there is no
        image, or one of another size.
        """
        keypoint_score, line_width = checked_drawing(contour, labels, colour_by, keypoint_score, line_width)
        if image is None and self.source is None:
            raise ValueError("these detections have no image file to draw on: pass the image, result.draw(image)")
        pixels = self.source.read() if image is None and self.source is not None else as_image(image)
        if tuple(pixels.shape[1:]) != (self.height, self.width):
            raise ValueError(
                f"the image has size {tuple(pixels.shape[1:])} (height, width), "
                f"but the detections are of an image of size {(self.height, self.width)}"
            )
        return draw_objects(
            pixels,
            self.boxes,
            self.labels,
            self.classes or tuple(str(label) for label in range(int(self.labels.max(initial=0)) + 1)),
            scores=self.scores,
            masks=self.pasted_masks(),
            keypoints=self.keypoints,
            skeleton=self.skeleton,
            keypoint_score=keypoint_score,
            contour=contour,
            colour_by=colour_by,
            with_names=labels,
            width=line_width,
        )

    def _repr_png_(self) -> bytes | None:
        """The picture, for notebooks; None if the image is not known."""
        if self.source is None:
            return None
        picture = self.draw()
        picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        data = io.BytesIO()
        picture.save(data, "PNG")
        return data.getvalue()

    def _repr_html_(self) -> str | None:
        """The picture and a table of the detections, for notebooks; None if the image is not known."""
        png = self._repr_png_()
        if png is None:
            return None
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{score:.2f}</td></tr>"
            for name, score in zip(self.names[:SHOWN_ROWS], self.scores[:SHOWN_ROWS].tolist(), strict=True)
        )
        rest = f"<p>and {len(self) - SHOWN_ROWS} more</p>" if len(self) > SHOWN_ROWS else ""
        encoded = base64.b64encode(png).decode()
        return f'<img src="data:image/png;base64,{encoded}"><table>{rows}</table>{rest}'
