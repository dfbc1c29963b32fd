"""`rcnn data check --fix OUT`: a copy of a data set in COCO's layout without the errors that can be repaired.

Objects and fields are repaired in the same way as when the data set is opened. In addition, the copy leaves out images
that cannot be decoded or have another size than stated, training images that are copies of evaluation images, and
objects that training would skip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np

from rcnn.arguments import DATA, OUTPUT, SPLIT, as_path, as_text, require_switches, require_workers
from rcnn.commands import as_typed
from rcnn.data.assemble import NOT_TRAINED, object_rows
from rcnn.data.checks.boxes import CONTRADICTS, UNPROVEN, box_agreement
from rcnn.data.checks.kinds import REPAIRED
from rcnn.data.checks.outlines import clip_polygons, outline_areas, outline_boxes
from rcnn.data.checks.tables import Annotation, Category, Id, Image
from rcnn.data.formats.files import visible
from rcnn.data.formats.layouts import locate, splits_at
from rcnn.data.inspect.check import (
    CheckedSplit,
    CheckReport,
    check_dataset,
    copies_of,
    findings_between_splits,
    findings_within_splits,
    opening_findings,
    read_splits,
)
from rcnn.data.inspect.images import leak_roles, same_classes
from rcnn.data.inspect.outlines import outline_measures
from rcnn.data.merging import renumber_verified
from rcnn.data.messages import SKIPPED, Finding, counted, few
from rcnn.data.selection import LIST_SUFFIX, select
from rcnn.data.writing import CocoSplit, image_sources, require_free, require_no_other_splits, write_splits
from rcnn.outputs import MARKER, OutputFolder, files_of_rcnn, require_folder
from rcnn.progress import Progress, no_progress

ROUNDING = 1e-6  # pixels: a box that reaches this far beyond its image is not clipped, because x + width is rounded


@dataclass(frozen=True, kw_only=True)
class FixReport:
    """What `fix_dataset` did."""

    output: Path
    actions: tuple[str, ...]  # what was repaired or removed, a line each
    left_out: tuple[str, ...]  # entries that cannot be used, so the copy does not have them
    not_fixed: tuple[str, ...]  # faults that remain, and splits that were not written
    before: CheckReport
    after: CheckReport  # of the copy

    def __str__(self) -> str:
        """The lines that `rcnn data check --fix` prints."""
        return "\n".join([*self.lines(), *self.after.lines()])

    def lines(self) -> list[str]:
        """The lines that `rcnn data check --fix` prints before those of `after`."""
        shown = (("fix", self.actions), ("left out", self.left_out), ("not fixed", self.not_fixed))
        return [*(f"{start}: {line}" for start, lines in shown for line in lines), f"wrote {self.output}"]


def fix_dataset(
    path: Path | str,
    output: Path | str,
    *,
    split: str | Path = "",
    annotations: str = "",
    keypoints: bool = False,
    images: str | Path = "",
    relative_boxes: bool = False,
    crowds_as_objects: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
) -> FixReport:
    """Write a copy of a data set to `output` (COCO's layout, images copied) with its errors repaired.

    The arguments are those of `check_dataset`. `crowds_as_objects` makes crowds (iscrowd 1) ordinary objects: CVAT
    exports brush masks as crowds. Faults that cannot be repaired are in the report's `after`. Raises ValueError if no
    image would be left, FileExistsError if `output` has files that rcnn did not write.
    """
    path, split = as_path(path, "the data set", DATA), as_text(split, "split", SPLIT)
    if any(part.strip().endswith(LIST_SUFFIX) for part in split.split("+")):
        raise ValueError(f"split={split} (--split) is a list of images; expected splits, which are copied whole")
    require_folder(as_path(output, OUTPUT))
    _require_own(Path(output))
    workers = require_workers(workers)
    require_switches(crowds_as_objects=crowds_as_objects)
    location = locate(path, annotations, images=images, keypoints=keypoints, relative_boxes=relative_boxes)
    parts = select(location, split).parts if split else ()
    require_no_other_splits(Path(output), [part.name for part in parts] or splits_at(location))
    checked, refused = read_splits(location, split, decode=True, workers=workers, progress=progress or no_progress)
    before = CheckReport.of(
        path, checked, [*refused, *findings_within_splits(checked), *findings_between_splits(checked)]
    )
    opening = opening_findings(checked)
    actions, not_fixed = list[str](), [f"{one.what}: the split was not written" for one in refused]
    leaked = _leaked_places(checked, not_fixed)
    cleaned = [_clean(one, leaked.get(place, set()), actions) for place, one in enumerate(checked)]
    not_fixed += [f"split {one.name!r} has no images left and was not written" for one in cleaned if not one.images]
    cleaned = [one for one in cleaned if one.images]
    if not cleaned:
        reasons = [*not_fixed, *(one.line() for one in opening if one.ids and one.kind in REPAIRED), *actions]
        raise ValueError(f"{path}: no image is left after the repair: " + "; ".join(reasons[:3]))
    cleaned = _with_same_categories(cleaned, actions)
    if crowds_as_objects:
        cleaned = [_without_crowds(one, actions) for one in cleaned]
    with OutputFolder(output) as folder:
        require_free(folder, [one.name for one in cleaned])
        require_no_other_splits(folder.path, [one.name for one in cleaned])
        with (progress or no_progress)("copy images", sum(len(one.images) for one in cleaned)) as advance:
            write_splits(folder, cleaned, advance=advance)
    after = check_dataset(output, keypoints=keypoints, workers=workers, progress=progress)
    # clipped to their images, boxes of another form look right
    guessed = [one for one in opening if UNPROVEN in one.action]
    guessed = [one for one in guessed if one.kind not in {finding.kind for finding in after.findings}]
    after = replace(after, findings=(*refused, *guessed, *after.findings))
    remaining = {(one.kind, one.what) for one in after.findings}
    found = [_as_written(one) for one in opening if one.ids and one.kind in REPAIRED]
    repaired = [one for one in found if (one.kind, one.what) not in remaining]
    return FixReport(
        output=Path(output),
        actions=(*(one.line() for one in repaired if not _is_left_out(one)), *actions),
        left_out=tuple(one.line() for one in repaired if _is_left_out(one)),
        not_fixed=(*not_fixed, *(one.line() for one in found if (one.kind, one.what) in remaining)),
        before=before,
        after=after,
    )


def _as_written(finding: Finding) -> Finding:
    """A fault that was found when the data set was opened, with what was done about it in the copy."""
    if finding.action == NOT_TRAINED:
        return replace(finding, action=SKIPPED)
    if finding.kind == "box-contradicts-outline":
        return replace(finding, action="the box around the outline was written")
    return finding


def _is_left_out(finding: Finding) -> bool:
    """Whether the entries with a fault, or the files, are not in the copy."""
    return finding.kind == "all-skipped" or finding.action.startswith((SKIPPED, "not used"))


def _require_own(output: Path) -> None:
    """Raise FileExistsError if `output` has files that rcnn did not write, e.g. another data set."""
    own = {MARKER, *(PurePath(name).parts[0] for name in files_of_rcnn(output))}
    if others := [path.name for path in visible(output.glob("*")) if path.name not in own]:
        raise FileExistsError(
            f"{output} has files that rcnn did not write ({few(others)}): the repaired copy would be read together "
            "with them, or instead of them. Choose a new folder for --fix"
        )


def _without_crowds(one: CocoSplit, actions: list[str]) -> CocoSplit:
    """The split with its crowds as ordinary objects; difficult objects do not change."""
    annotations = [entry.copy() for entry in one.annotations]
    crowds = [entry for entry in annotations if entry["iscrowd"] and not entry.get("difficult", 0)]
    for entry in crowds:
        entry["iscrowd"] = 0
    actions.append(f"split {one.name!r}: {counted(len(crowds), 'crowd')} became ordinary objects")
    return replace(one, annotations=annotations)


def _leaked_places(checked: Sequence[CheckedSplit], not_fixed: list[str]) -> dict[int, set[int]]:
    """Index of a split -> indices of its training images that are copies of evaluation images.

    A training split without any other usable images is left out: it stays as it is.
    """
    leaked: dict[int, set[int]] = {}
    for one in copies_of(checked):
        first, second = (checked[place].dataset for place in one.splits)
        if one.splits[0] == one.splits[1] or not same_classes(first, second):
            continue
        if (roles := leak_roles(first.split, second.split)) is not None:
            leaked.setdefault(one.splits[roles[0]], set()).update((one.first, one.second)[roles[0]])
    for place, copied in [*leaked.items()]:
        one = checked[place]
        sizes = one.dataset.sizes.tolist()
        usable = {i for i, (file, size) in enumerate(zip(one.files, sizes, strict=True)) if file.size == tuple(size)}
        if usable <= copied:
            del leaked[place]
            command = as_typed("rcnn", "data", "split", one.dataset.root, "--split", one.dataset.split)
            not_fixed.append(
                f"split {one.dataset.split!r}: every image is a copy of one in an evaluation split. None was removed, "
                f"because no training image would be left. To divide it: {command} --fractions 0.8,0.2 --output OUT"
            )
    return leaked


def _clean(one: CheckedSplit, leaked: set[int], actions: list[str]) -> CocoSplit:
    """The images and annotations of a split that are kept."""
    dataset, tables = one.dataset, one.tables
    for error in tables.refusals:
        actions.append(f"{error}: these entries were removed")
    reasons = dict.fromkeys(leaked, "a copy in an evaluation split")
    moved: dict[Id, Id] = {}  # image -> the earlier image with the same file, which gets its annotations
    owner: dict[Path, Id] = {}
    sources = image_sources(dataset)
    for place, (source, file) in enumerate(zip(sources, one.files, strict=True)):
        if file.size is None:
            reasons[place] = "a file that cannot be decoded"
        elif file.size != tuple(dataset.sizes[place].tolist()):
            reasons[place] = "another size than stated"
        elif source in owner:
            reasons[place] = "the file of an earlier image, which got the annotations"
            moved[dataset.image_ids[place]] = owner[source]
        elif place not in leaked:
            owner[source] = dataset.image_ids[place]
    for reason, count in Counter(reasons.values()).items():
        actions.append(f"{tables.file}: removed {counted(count, 'image')} with {reason}")
    kept = [place for place in range(len(dataset)) if place not in reasons]
    images = [tables.images[place] for place in kept]
    annotations = _clean_annotations(one, {image["id"] for image in images}, moved, actions)
    return CocoSplit(
        name=dataset.split,
        images=images,
        annotations=annotations,
        categories=tables.categories,
        sources=[sources[place] for place in kept],
        metric=tables.metric,
    )


def _clean_annotations(
    one: CheckedSplit, images: set[Id], moved: Mapping[Id, Id], actions: list[str]
) -> list[Annotation]:
    """The annotations of `images` that training can use, and crowds, with boxes inside their images and unique ids.

    Annotations of an image in `moved` get the id of the other image.
    """
    file = one.tables.file
    rows = object_rows(one.tables).tolist()  # of the objects; ids may be used twice
    usable, corrected = set(rows), _boxes_of_outlines(one, rows)
    sizes = {image["id"]: image for image in one.tables.images}
    kept: list[Annotation] = []
    seen: set[tuple[object, ...]] = set()
    unused = repeated = 0
    for row, entry in enumerate(one.tables.annotations):
        image = moved.get(entry["image_id"], entry["image_id"])
        if image not in images:
            continue
        if row not in usable:
            unused += 1
            continue
        clean = _inside(entry, corrected.get(row, entry["bbox"]), sizes[image])
        if clean is None:
            unused += 1
            continue
        key = (image, entry["category_id"], entry["iscrowd"], *clean["bbox"])
        if key in seen:
            repeated += 1
            continue
        seen.add(key)
        kept.append(clean)
    if unused:
        actions.append(f"{file}: removed {counted(unused, 'object')} of zero size or outside the image")
    if repeated:
        actions.append(f"{file}: removed {counted(repeated, 'object')} annotated twice")
    if len({entry["id"] for entry in kept}) < len(kept):
        actions.append(f"{file}: the annotations got new ids from 1, because some were used twice")
        for number, entry in enumerate(kept, start=1):
            entry["id"] = number
    return kept


def _boxes_of_outlines(one: CheckedSplit, rows: Sequence[int]) -> dict[int, list[float]]:
    """Row of an annotation -> box x, y, width, height around its outline, if its own box contradicts the outline.

    `rows` (A,) are the rows of the annotations from which the objects come.
    """
    findings = [finding for finding in one.dataset.findings if finding.kind == "box-contradicts-outline"]
    wrong = {number for finding in findings for number in finding.ids}
    if not wrong:
        return {}
    _, around = outline_measures(one.dataset)
    boxes = np.concatenate([around[:, :2], around[:, 2:] - around[:, :2]], axis=1)
    given = np.array([one.tables.annotations[row]["bbox"] for row in rows], dtype=np.float64)
    contradicts = box_agreement(given, boxes) < CONTRADICTS
    ids = one.dataset.objects.ids.tolist()
    uses = Counter(ids)
    return {
        row: box
        for row, number, box, differs in zip(rows, ids, boxes.tolist(), contradicts.tolist(), strict=True)
        if number in wrong and (differs or uses[number] == 1)
    }


def _inside(entry: Annotation, box: Sequence[float], image: Image) -> Annotation | None:
    """An annotation of `image` with `box` x, y, width, height, clipped to the image.

    If the box reaches beyond the image, its polygons are clipped too, and the box becomes the box around the clipped
    polygons; None if no polygon remains.
    """
    x1, y1 = max(0.0, box[0]), max(0.0, box[1])
    x2, y2 = min(float(image["width"]), box[0] + box[2]), min(float(image["height"]), box[1] + box[3])
    cut = max(x1 - box[0], y1 - box[1], box[0] + box[2] - x2, box[1] + box[3] - y2) > ROUNDING
    clean = entry.copy()
    clean["bbox"], clean["image_id"] = [x1, y1, x2 - x1, y2 - y1] if cut else list(box), image["id"]
    outline = entry.get("segmentation")
    if cut and outline is None:
        clean["area"] = clean["bbox"][2] * clean["bbox"][3]
    elif cut and isinstance(outline, list):
        clipped = clip_polygons(outline, (image["height"], image["width"]))
        if not clipped:
            return None
        if clipped != outline:
            clean["bbox"], clean["area"] = outline_boxes([clipped])[0].tolist(), outline_areas([clipped]).item()
            clean["segmentation"] = clipped
    return clean


def _with_same_categories(splits: Sequence[CocoSplit], actions: list[str]) -> list[CocoSplit]:
    """The splits with one list of categories, by name: those of the first split, then the others.

    A category has the keypoints of its own split, if it has some there, else those of another split.
    """
    merged = {category["name"]: category for category in splits[0].categories}
    for category in (category for split in splits for category in split.categories):
        known = merged.get(category["name"])
        if known is None:
            added = _renumbered(category, max(one["id"] for one in merged.values()) + 1)
            merged[added["name"]] = added
            actions.append(f"category {added['name']!r} was added to all splits as category {added['id']}")
        elif "keypoints" in category and "keypoints" not in known:
            merged[known["name"]] = _renumbered(category, known["id"])
    unified: list[CocoSplit] = []
    for split in splits:
        numbers = {category["id"]: merged[category["name"]]["id"] for category in split.categories}
        own = {category["name"]: category for category in split.categories if "keypoints" in category}
        annotations = [entry.copy() for entry in split.annotations]
        for entry in annotations:
            entry["category_id"] = numbers[entry["category_id"]]
        images = [image.copy() for image in split.images]
        for image in images:
            renumber_verified(image, numbers)
        categories = [_renumbered(own.get(name, known), known["id"]) for name, known in merged.items()]
        unified.append(replace(split, images=images, annotations=annotations, categories=categories))
    return unified


def _renumbered(category: Category, number: int) -> Category:
    """The category with the id `number`."""
    renumbered = category.copy()
    renumbered["id"] = number
    return renumbered
