"""Match the ids of saved results with those of a data set: some programs write integers as text, or names of files.

E.g. Ultralytics writes the stem of the file name as image_id, as an integer if all its characters are digits.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from rcnn.data.messages import counted
from rcnn.data.records import Dataset
from rcnn.evaluation.evaluate import Result
from rcnn.metrics.checks import Id, few_ids

NEARLY_ALL = 0.95  # of the ids of the images; results of the others, which have no match, are skipped
_TYPES = (int, str, float)  # of ids that can be matched; True and False cannot
Rule: TypeAlias = Callable[[Any], Id | None]  # the id of the data set that an id of the results means; None: none


def with_ids_of(
    dataset: Dataset, results: Sequence[Any], *, certain: bool = False
) -> tuple[list[Result], tuple[str, ...]]:
    """The results with the ids of `dataset`, and a line about each of image_id and category_id that was matched.

    If all ids are ids of the data set, they are kept; a line says if they could be names of other images, unless the
    ids are `certain`, because rcnn wrote them. Ids are matched only if some are not ids of the data set, but all of
    them (of image_id: nearly all) are integers or names that mean one. Other ids are returned as they are, for
    `check_results` to refuse. Raises ValueError if an id could mean two of the data set, or two ids mean one.
    """
    files = dict(zip(dataset.image_ids, dataset.file_names, strict=True))
    names = dict(zip(dataset.classes, dataset.category_ids, strict=True))

    def image_rules(found: Collection[Any]) -> dict[str, Rule]:
        return {"as integers": _by_number(files), "by the names of the image files": by_file(files, found)}

    def class_rules(_: Collection[Any]) -> dict[str, Rule]:
        return {"as integers": _by_number(names.values()), "by the names of the classes": names.get}

    kept, lines = list(results), list[str]()
    for field, known, rules, least in (
        ("image_id", set[Id](files), image_rules, NEARLY_ALL),
        ("category_id", set[Id](names.values()), class_rules, 1.0),
    ):
        found = _ids(kept, field)
        own = {one for one in found if type(one) in (int, str) and one in known}
        if len(own) == len(found):
            if field == "image_id" and not certain:
                lines += _other_meaning(found, files)
        elif (match := _match(field, found, own, rules(found), 1.0 if own else least)) is not None:
            kept, line = _with_match(kept, match)
            lines.append(line)
        elif field == "category_id":
            kept = _with_known_text(kept, [one for one in found if one not in own], rules(found))
    return kept, tuple(lines)


def _other_meaning(found: Sequence[Any], files: Mapping[Id, str]) -> list[str]:
    """A line if all of the ids `found`, which are ids of images, are names of image files too, not all of the same."""
    find = by_file(files, found)
    others = {one: target for one in found if (target := find(one)) is not None}
    different = [one for one in others if others[one] != one]
    if len(others) < len(found) or not different:
        return []
    target = others[different[0]]
    return [
        "each image_id is taken as an id of the data set, but could also be the name of an image file: "
        f"{different[0]!r} that of {files[target]!r}, which is image {target!r}. If names are meant, write the ids of "
        "the data set as image_id"
    ]


def _with_known_text(results: Sequence[Any], other: Collection[Any], rules: Mapping[str, Rule]) -> list[Result]:
    """The results with the category_id that text means, if one of the `other` ids, not of the data set, means none.

    `check_results` refuses that one. Without this, it would blame the first text instead.
    """
    for rule in rules.values():
        table = {one: target for one in other if (target := rule(one)) is not None}
        if 0 < len(table) < len(other):
            values = (one.get("category_id") if isinstance(one, dict) else None for one in results)
            return [
                one | {"category_id": table[value]} if type(value) in _TYPES and value in table else one
                for one, value in zip(results, values, strict=True)
            ]
    return list(results)


@dataclass(frozen=True, kw_only=True)
class _Match:
    """What the ids of the results mean."""

    field: str
    how: str  # which rule
    table: dict[Any, Id]  # id of the results -> id of the data set
    missing: list[Any]  # ids of the results that match none, or several


def _match(
    field: str, found: Collection[Any], own: Collection[Any], rules: Mapping[str, Rule], least: float
) -> _Match | None:
    """The match by the first of the rules that fits at least the fraction `least` of the ids `found`; None: none fits.

    Raises ValueError if another rule fits too and gives an id another meaning, if one of `own`, which are ids of the
    data set, has another meaning, or if two ids have the same.
    """
    fitting: dict[str, dict[Any, Id]] = {}
    for how, rule in rules.items():
        table = {one: target for one in found if (target := rule(one)) is not None}
        if table and len(table) >= least * len(found):
            fitting[how] = table
    if not fitting:
        return None
    (how, table), *others = fitting.items()
    for other_how, other in (*others, ("as it is", {one: one for one in own})):
        for one in table:
            if one in other and table[one] != other[one]:
                raise ValueError(
                    f"results have {field} {one!r}, which could mean two of the data set: {table[one]!r} {how}, and "
                    f"{other[one]!r} {other_how}; write the ids of the data set as {field}"
                )
    spellings: dict[Id, Any] = {}
    for one, target in table.items():
        if _spelling(first := spellings.setdefault(target, one)) != _spelling(one):
            raise ValueError(
                f"results have {field} {first!r} and {one!r}, which both mean {target!r} of the data set {how}; write "
                f"the ids of the data set as {field}"
            )
    return _Match(field=field, how=how, table=table, missing=[one for one in found if one not in table])


def _with_match(results: Sequence[Any], match: _Match) -> tuple[list[Result], str]:
    """The results with the ids of the data set, without those that have no match, and a line that says so."""
    field, table, missing = match.field, match.table, set(match.missing)
    kept: list[Result] = []
    changed, example = 0, ""
    for result in results:
        value = result.get(field) if isinstance(result, dict) else None
        if type(value) not in _TYPES:
            kept.append(result)  # is refused later, with what is expected
        elif value not in missing:
            target = table[value]
            if target != value or type(target) is not type(value):
                changed, example = changed + 1, example or f"{value!r} is {target!r}"
            kept.append(result | {field: target})
    line = (
        f"{counted(changed, 'result')} {'has' if changed == 1 else 'have'} {field} in another form than the data set, "
        f"matched {match.how}: {example}"
    )
    if skipped := len(results) - len(kept):
        line += (
            f"; skipped {counted(skipped, 'result')} of images that match none, or several ({few_ids(match.missing)})"
        )
    return kept, line


def _ids(results: Iterable[Any], field: str) -> list[Any]:
    """The different ids of the results, in their order; values that cannot be ids are refused later."""
    values = (result.get(field) for result in results if isinstance(result, dict))
    return list(dict.fromkeys(value for value in values if type(value) in _TYPES))


def _spelling(value: Any) -> str:
    """An id as text: 139, 139.0 and "139" are one id, "0139" may be another file."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _number(value: object) -> int | None:
    """The integer that an id is or means: 139, 139.0 (as pandas writes it) and "000139" are 139; None for others."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) < 20 else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _by_number(ids: Iterable[Id]) -> Rule:
    """The rule that two ids are the same if both are the same integer."""
    numbers = _unambiguous((number, one) for one in ids if (number := _number(one)) is not None)
    return lambda value: numbers.get(_number(value))


def by_file(files: Mapping[Id, str], values: Iterable[object]) -> Rule:
    """The rule that an id is the path or name of an image file, its stem, or the integer of that; `files`: id -> path.

    Folders never contradict: of two paths with folders, one must be the end of the other. A name that several files
    have means none of them, unless `values`, all ids that are looked up, include paths with folders: then `1.jpg`
    means the file without a folder, not a/1.jpg.
    """
    paths = {one: path_of(name) for one, name in files.items()}
    names, stems = defaultdict[str, list[Id]](list), defaultdict[str, list[Id]](list)
    for one, path in paths.items():
        names[path.name].append(one)
        stems[path.stem].append(one)
    numbers = _unambiguous((number, one) for one, path in paths.items() if (number := _number(path.stem)) is not None)
    are_paths = any(isinstance(value, str) and len(path_of(value).parts) > 1 for value in values)

    def find(value: object) -> Id | None:
        if isinstance(value, str):
            path = path_of(value)
            for table in (names, stems):
                if path.name in table:
                    same = [one for one in table[path.name] if paths[one].parent == path.parent]
                    fitting = [one for one in table[path.name] if _agree(paths[one].parent, path.parent)]
                    chosen = same if are_paths and len(same) == 1 else fitting
                    return chosen[0] if len(chosen) == 1 else None
        return numbers.get(_number(value))

    return find


def path_of(name: str) -> PurePosixPath:
    """The path of an image file as a program wrote it, without the root and `..` at its beginning."""
    path = PurePosixPath(posixpath.normpath(name.replace("\\", "/")))
    return PurePosixPath(*(part for part in path.parts if part not in ("..", path.root)))


def _agree(folder: PurePosixPath, other: PurePosixPath) -> bool:
    """Whether one of two folders is the end of the other; that of a name without a folder is the end of all."""
    return all(one == two for one, two in zip(reversed(folder.parts), reversed(other.parts), strict=False))


def _unambiguous(pairs: Iterable[tuple[Any, Id]]) -> dict[Any, Id]:
    """The ids by key, without keys that have several."""
    ids: dict[Any, Id] = {}
    several = set[Any]()
    for key, one in pairs:
        if ids.setdefault(key, one) != one:
            several.add(key)
    return {key: one for key, one in ids.items() if key not in several}
