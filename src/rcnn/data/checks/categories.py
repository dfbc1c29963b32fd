"""Categories: names that are text and unique, and the keypoints that they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rcnn.data.checks.numbers import as_number
from rcnn.data.checks.tables import Category, RawEntry, RawTables
from rcnn.data.messages import Warnings, cut, few, printable

NO_NAME = "a name that is missing, empty or not text"
CONTROL = "a name with control characters (line breaks, tabs, ...) or characters that are not valid"
MAX_NAME = 200  # characters of the name of a category or keypoint: tables, pictures and messages contain it


def check_categories(raw: RawTables, ids: Sequence[int], warnings: Warnings) -> list[Category]:
    """The checked categories by ascending id; `ids` are the category ids in the order of the file."""
    checked: list[Category] = []
    changed: dict[str, dict[int, str]] = {NO_NAME: {}, CONTROL: {}}  # what is wrong -> number -> the name instead
    for number, entry in sorted(zip(ids, raw.categories, strict=True), key=lambda pair: pair[0]):
        category: Category = {"id": number, "name": _name(number, entry, warnings, changed)}
        supercategory = entry.get("supercategory")
        if isinstance(supercategory, (str, int, float)):  # COCO's metrics read text only
            category["supercategory"] = printable(str(supercategory))
        elif supercategory is not None:
            warnings.add("a supercategory that is not text", "not used", [number], "category")
        _check_keypoints(category, entry, warnings)
        checked.append(category)
    for what, names in changed.items():
        called = f"called {few([repr(name) for name in names.values()])}"
        warnings.add(what, called, list(names), "category", kind="bad-category-name")
    return checked


def without_placeholder(categories: Sequence[Category], used: set[int], warnings: Warnings) -> list[Category]:
    """The categories without the one that Roboflow puts first: id 0, no objects, the supercategory of all others."""
    first, others = categories[0], list(categories[1:])
    if first["id"] != 0 or 0 in used or not others:
        return list(categories)
    if any(other.get("supercategory") != first["name"] for other in others):
        return list(categories)
    warnings.note(f"category 0 ({first['name']!r}) has no objects and is the supercategory of all others: not a class")
    return others


def with_unique_names(categories: Sequence[Category], warnings: Warnings) -> list[Category]:
    """The categories; the id is added to names that are used twice. Names that differ little are reported."""
    uses = Counter(category["name"] for category in categories)
    warnings.add(
        "the name of another category",
        "their ids were added to the names",
        [category["id"] for category in categories if uses[category["name"]] > 1],
        "category",
        kind="bad-category-name",
    )
    alike: dict[str, set[str]] = {}
    for name in uses:
        alike.setdefault(" ".join(name.casefold().split()), set()).add(name)
    warnings.add(
        "a name that differs from another only in upper and lower case or spaces",
        "they are different classes; rename one if they are the same",
        [
            f"{one['id']} ({one['name']!r})"
            for one in categories
            if len(alike[" ".join(one["name"].casefold().split())]) > 1
        ],
        "category",
        kind="similar-category-names",
    )
    unique: list[Category] = []
    for category in categories:
        renamed = category.copy()
        if uses[category["name"]] > 1:
            renamed["name"] = f"{category['name']} (category {category['id']})"
        unique.append(renamed)
    return unique


def _name(number: int, entry: RawEntry, warnings: Warnings, changed: Mapping[str, dict[int, str]]) -> str:
    """The name of the category `number`, which every format has as it is written.

    Names are in terminals, tables, pages and files with a name per line: control characters are removed. Names that
    are changed for this, or because they are not text, are added to `changed`, by what is wrong with them.
    """
    name = entry.get("name")
    if isinstance(name, str) and len(name) > MAX_NAME:
        what = f"a name of more than {MAX_NAME} characters"
        warnings.add(what, "cut", [number], "category", kind="bad-category-name")
        return cut(printable(name), MAX_NAME)
    if isinstance(name, str) and name.strip() and printable(name) == name:
        return name
    if isinstance(name, str):
        named = printable(name).strip()
    elif isinstance(name, (int, float)) and not isinstance(name, bool):
        named = cut(str(name), MAX_NAME)
    else:
        named = ""
    what = CONTROL if isinstance(name, str) and name.strip() else NO_NAME
    return changed[what].setdefault(number, named or f"category {number}")


def _check_keypoints(category: Category, entry: RawEntry, warnings: Warnings) -> None:
    """Add the names, skeleton and sigmas of the keypoints, where the category has them."""
    names = entry.get("keypoints")
    if names is None or names == []:
        return
    ids = [category["id"]]
    if not isinstance(names, list) or not all(isinstance(name, (str, int)) for name in names):
        warnings.add(
            "keypoints that are not a list of names",
            "the names are not used",
            ids,
            "category",
            kind="bad-keypoint-names",
        )
        return
    texts = [cut(printable(str(name)), MAX_NAME) for name in names]
    if texts != [str(name) for name in names]:
        what = f"keypoint names with control characters, or of more than {MAX_NAME} characters"
        action = "these characters were replaced, and long names cut"
        warnings.add(what, action, ids, "category", kind="bad-keypoint-names")
    uses = Counter(texts)
    if len(uses) < len(texts):
        texts = [name if uses[name] == 1 else f"{name} ({place})" for place, name in enumerate(texts, start=1)]
        warnings.add(
            "two keypoints with the same name",
            "their numbers were added to the names",
            ids,
            "category",
            kind="bad-keypoint-names",
        )
    category["keypoints"] = texts
    if entry.get("skeleton") not in (None, []):
        category["skeleton"] = _skeleton(entry["skeleton"], texts, ids, warnings)
    sigmas = entry.get("sigmas")
    if sigmas is not None:
        values = [as_number(one) for one in sigmas] if isinstance(sigmas, list) else []
        if len(values) == len(texts) and all(0 < value < float("inf") for value in values):
            category["sigmas"] = values
        else:
            warnings.add(
                f"sigmas that are not {len(texts)} numbers above 0, one per keypoint",
                "not used",
                ids,
                "category",
                kind="bad-sigmas",
            )


def _skeleton(lines: object, names: Sequence[str], ids: Sequence[int], warnings: Warnings) -> list[list[int]]:
    """The pairs of a skeleton, counted from 1; those that cannot be drawn are skipped."""
    if not isinstance(lines, list):
        warnings.add("a skeleton that is not a list of pairs", "not drawn", ids, "category", kind="bad-skeleton")
        return []
    pairs = [_pair(line, names) for line in lines]
    ends = [end for pair in pairs if pair for end in pair]
    if 0 in ends and max(ends) < len(names):
        warnings.add(
            "a skeleton that counts keypoints from 0",
            "1 was added (COCO counts from 1)",
            ids,
            "category",
            kind="bad-skeleton",
        )
        pairs = [pair and [pair[0] + 1, pair[1] + 1] for pair in pairs]
    drawn = [pair for pair in pairs if pair and pair[0] != pair[1] and all(1 <= end <= len(names) for end in pair)]
    if len(drawn) < len(lines):
        warnings.add(
            f"a skeleton with {len(lines) - len(drawn)} of {len(lines)} lines that do not join two of the keypoints, "
            f"counted from 1 to {len(names)}",
            "these lines are not drawn",
            ids,
            "category",
            kind="bad-skeleton",
        )
    return drawn


def _pair(line: object, names: Sequence[str]) -> list[int] | None:
    """Two keypoints by number, or by name; None for anything else."""
    if not isinstance(line, list) or len(line) != 2:
        return None
    ends = [names.index(end) + 1 if isinstance(end, str) and end in names else as_number(end) for end in line]
    return [int(end) for end in ends] if all(float(end).is_integer() for end in ends) else None
