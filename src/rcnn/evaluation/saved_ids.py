"""Match the ids of saved results with those of a data set: some programs write integers as text, or names of files.

E.g. Ultralytics writes the stem of the file name as image_id, as an integer if all its characters are digits.
"""

from __future__ import annotations

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


def with_ids_of(dataset: Dataset, results: Sequence[Any]) -> tuple[list[Result], tuple[str, ...]]:
    """The results with the ids of `dataset`, and a line about each of image_id and category_id that was matched.

    Ids are matched only where those of the results are not ids of the data set, but all of them (of image_id: nearly
    all) are integers or names that mean one. Other ids are returned as they are. Raises ValueError if they could mean
    two.
    """
    files = dict(zip(dataset.image_ids, dataset.file_names, strict=True))
    names = dict(zip(dataset.classes, dataset.category_ids, strict=True))

    def image_rules() -> dict[str, Rule]:
        return {"as integers": _by_number(files), "by the names of the image files": by_file(files)}

    def class_rules() -> dict[str, Rule]:
        return {"as integers": _by_number(names.values()), "by the names of the classes": names.get}

    kept, lines = list(results), list[str]()
    for field, known, rules, least in (
        ("image_id", set[Id](files), image_rules, NEARLY_ALL),
        ("category_id", set[Id](names.values()), class_rules, 1.0),
    ):
        found = _ids(kept, field)
        own = [type(one) in (int, str) and one in known for one in found]
        if not all(own) and (match := _match(field, found, rules(), 1.0 if any(own) else least)) is not None:
            kept, line = _with_match(kept, match)
            lines.append(line)
    return kept, tuple(lines)


@dataclass(frozen=True, kw_only=True)
class _Match:
    """What the ids of the results mean."""

    field: str
    how: str  # which rule
    table: dict[Any, Id]  # id of the results -> id of the data set
    missing: list[Any]  # ids of the results without a match


def _match(field: str, found: Collection[Any], rules: Mapping[str, Rule], least: float) -> _Match | None:
    """The match by the first of the rules that fits at least the fraction `least` of the ids `found`; None: none fits.

    Raises ValueError if another rule fits too, and gives an id another meaning.
    """
    fitting: dict[str, dict[Any, Id]] = {}
    for how, rule in rules.items():
        table = {one: target for one in found if (target := rule(one)) is not None}
        if table and len(table) >= least * len(found):
            fitting[how] = table
    if not fitting:
        return None
    (how, table), *others = fitting.items()
    for other_how, other in others:
        for one in table:
            if one in other and table[one] != other[one]:
                raise ValueError(
                    f"results have {field} {one!r}, which could mean two of the data set: {table[one]!r} {how}, and "
                    f"{other[one]!r} {other_how}; write the ids of the data set as {field}"
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
        line += f"; skipped {counted(skipped, 'result')} of images without a match ({few_ids(match.missing)})"
    return kept, line


def _ids(results: Iterable[Any], field: str) -> list[Any]:
    """The different ids of the results, in their order; values that cannot be ids are refused later."""
    values = (result.get(field) for result in results if isinstance(result, dict))
    return list(dict.fromkeys(value for value in values if type(value) in _TYPES))


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


def by_file(files: Mapping[Id, str]) -> Rule:
    """The rule that an id is the path or name of an image file, its stem, or the integer of that; `files`: id -> path.

    A name that several files have means none of them.
    """
    paths = {one: PurePosixPath(name.replace("\\", "/")) for one, name in files.items()}
    names = _unambiguous((text, one) for one, path in paths.items() for text in {str(path), path.name})
    stems = _unambiguous((path.stem, one) for one, path in paths.items())
    numbers = _unambiguous((number, one) for one, path in paths.items() if (number := _number(path.stem)) is not None)

    def find(value: object) -> Id | None:
        if isinstance(value, str):
            path = PurePosixPath(value.replace("\\", "/"))
            for table, key in ((names, str(path)), (names, path.name), (stems, path.name)):
                if key in table:
                    return table[key]
        return numbers.get(_number(value))

    return find


def _unambiguous(pairs: Iterable[tuple[Any, Id]]) -> dict[Any, Id]:
    """The ids by key, without keys that have several."""
    ids: dict[Any, Id] = {}
    several = set[Any]()
    for key, one in pairs:
        if ids.setdefault(key, one) != one:
            several.add(key)
    return {key: one for key, one in ids.items() if key not in several}
