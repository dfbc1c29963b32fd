"""Ids of images, annotations and categories, and the references between the tables.

Ids are integers or text. Exporters mix the two (an annotation of image "7" beside an image with id 7): such a
reference is matched where exactly one id has that value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rcnn.data.checks.tables import Id, RawEntry, RawTables
from rcnn.data.messages import DataError, Warnings, counted, excerpt, few

MAX_ID = 2**63  # category ids are smaller: COCO's metrics store them as 64-bit integers
MAX_DIGITS = 18  # of a number that is text: more may not fit into 64 bits


def as_id(value: object) -> Id | None:
    """A value as an id; None if it is not one. 3.0 is the id 3."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, str)):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def as_whole(value: Id) -> int | None:
    """An id as a number, e.g. 7 for "7"; None if it is not a number."""
    if isinstance(value, int):
        return value
    text = value.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None


def image_ids(raw: RawTables) -> list[Id]:
    """The ids of all images. Raises DataError for a value that is not an id, and for an id used twice."""
    found = [as_id(entry["id"]) for entry in raw.images]
    ids = [one for one in found if one is not None]
    if len(ids) < len(found):
        raise _wrong_ids(raw, "images", [place for place, one in enumerate(found) if one is None], "an integer or text")
    _require_unique(ids, "images", raw)
    return ids


def category_ids(raw: RawTables) -> list[int]:
    """The ids of all categories, 0 or more. Raises DataError for another value, and for an id used twice."""
    ids: list[int] = []
    wrong: list[int] = []
    for place, entry in enumerate(raw.categories):
        found = as_id(entry["id"])
        whole = None if found is None else as_whole(found)
        if whole is None or not 0 <= whole < MAX_ID:
            wrong.append(place)
        else:
            ids.append(whole)
    if wrong:
        raise _wrong_ids(raw, "categories", wrong, "an integer from 0")
    _require_unique(ids, "categories", raw)
    return ids


def annotation_ids(annotations: Sequence[RawEntry], warnings: Warnings) -> list[Id]:
    """The ids of all annotations; annotations without an id get a new one. Ids used twice are only reported."""
    found = [as_id(entry.get("id")) for entry in annotations]
    free = max((one for one in found if isinstance(one, int)), default=0) + 1
    ids: list[Id] = []
    missing: list[int] = []
    for one in found:
        if one is None:
            missing.append(free)
            free += 1
        ids.append(missing[-1] if one is None else one)
    warnings.add("no id (an integer or text)", "these ids were assigned", missing, kind="no-annotation-id")
    if len(set(ids)) < len(ids):
        twice = [one for one, uses in Counter(ids).items() if uses > 1]
        warnings.add("an id that another annotation has too", "all are used", twice, kind="repeated-annotation-id")
    return ids


def places_of(field: str, known: Sequence[Id], raw: RawTables, warnings: Warnings) -> np.ndarray:
    """For each annotation, the index into `known` of the id in its `field`: (A,) int64.

    Raises DataError, with the ids of the annotations, if an id is not known.
    """
    place = {one: i for i, one in enumerate(known)}
    values = [entry[field] for entry in raw.annotations]
    if set(map(type, values)) <= {int, str}:
        places = np.array([place.get(value, -1) for value in values], dtype=np.int64)
    else:
        ids = [as_id(value) for value in values]
        places = np.array([-1 if one is None else place.get(one, -1) for one in ids], dtype=np.int64)
    if (places < 0).any():
        _match_by_value(places, values, known)
        matched = np.flatnonzero(places >= 0).tolist()
        written = [raw.annotations[i].get("id") for i in matched if as_id(values[i]) != known[int(places[i])]]
        other = [excerpt(one) if (number := as_id(one)) is None else number for one in written]
        warnings.add(
            f"{_article(field)} {field} that is text where the file has numbers, or the reverse",
            "matched by value",
            other,
            kind="id-type",
        )
        _require_known(np.flatnonzero(places < 0).tolist(), field, known, raw)
    return places


def _match_by_value(places: np.ndarray, values: Sequence[object], known: Sequence[Id]) -> None:
    """Fill entries of -1 in `places` (A,) with the index of the only known id of the same numeric value."""
    by_value: dict[int, int] = {}
    uses = Counter(as_whole(one) for one in known)
    for i, one in enumerate(known):
        whole = as_whole(one)
        if whole is not None and uses[whole] == 1:
            by_value[whole] = i
    for i in np.flatnonzero(places < 0).tolist():
        one = as_id(values[i])
        whole = None if one is None else as_whole(one)
        if whole is not None:
            places[i] = by_value.get(whole, -1)


def _require_known(unknown: Sequence[int], field: str, known: Sequence[Id], raw: RawTables) -> None:
    if not unknown:
        return
    what = field.removesuffix("_id")
    first = raw.annotations[unknown[0]]
    ids = few([raw.annotations[i].get("id") for i in unknown])
    listed = few(sorted(known, key=lambda one: (isinstance(one, str), one)))
    raise DataError(
        "unknown-reference",
        f"{raw.file}: {counted(len(unknown), 'annotation')} (id {ids}) "
        f"{'has' if len(unknown) == 1 else 'have'} {_article(field)} {field} that the file does not "
        f"list, e.g. {excerpt(first[field])} of annotation {excerpt(first.get('id'))}; it lists {listed}: add the "
        f"{what}, or remove the annotations",
        "annotations",
        unknown,
    )


def _article(field: str) -> str:
    return "an" if field == "image_id" else "a"


def _require_unique(ids: Sequence[Id], table: str, raw: RawTables) -> None:
    if len(set(ids)) < len(ids):
        twice = [one for one, uses in Counter(ids).items() if uses > 1]
        first = {one: place for place, one in reversed(list(enumerate(ids)))}
        raise DataError(
            "repeated-id",
            f"{raw.file}: {counted(len(twice), 'id')} of {table} "
            f"{'is' if len(twice) == 1 else 'are'} used more than once ({few(twice)}): give each entry its own id; ids "
            "must be renumbered when files are joined",
            table,
            [place for place, one in enumerate(ids) if first[one] != place],
        )


def _wrong_ids(raw: RawTables, table: str, places: Sequence[int], expected: str) -> DataError:
    """The error for the entries at `places` of a table, which have ids that cannot be used."""
    entries: list[RawEntry] = getattr(raw, table)
    more = f" ({counted(len(places), 'entry')} in all)" if len(places) > 1 else ""
    message = (
        f"{raw.file}: entry {places[0]} (from 0) of {table} has the id {excerpt(entries[places[0]]['id'])}{more}; "
        f"expected {expected}"
    )
    return DataError("bad-id", message, table, places)
