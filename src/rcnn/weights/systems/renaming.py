"""Translates tensor names of other systems to ours, by ordered rules that match a whole name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from rcnn.data.messages import few

MAX_LISTED = 1000  # tensors that a message lists by name
FIELD = re.compile(r"\{(\d+)([+-]\d+)?(?::(\w+))?\}")
GROUP = re.compile(
    r"(\((?!\?)(?:[^()]|\([^()]*\))*\))"
)  # a group of a pattern; it may contain groups, but those may not


def unexpected(names: Iterable[str]) -> str:
    """The part of a message that lists tensors without a counterpart, and how to skip them."""
    listed = few(list(names), MAX_LISTED)
    return f"tensors without a counterpart here: {listed} (skip them by a pattern in allow_unused (--allow-unused))"


def count(names: Iterable[str], pattern: str) -> int:
    """How many of `names` match `pattern` as a whole."""
    return sum(re.fullmatch(pattern, name) is not None for name in names)


@dataclass(frozen=True)
class Placed:
    """The tensor names of a file: those that have a name in rcnn, and those that are skipped."""

    ours: dict[str, str]  # name in the file -> our name
    skipped: tuple[str, ...] = ()  # names that are skipped on purpose

    def with_res5_in_the_head(self) -> Placed:
        """The names of a C4 network, where res5 belongs to the box head."""
        ours = {name: our.replace("backbone.res5.", "box_head.trunk.res5.") for name, our in self.ours.items()}
        return replace(self, ours=ours)


@dataclass(frozen=True)
class Rules:
    """Ordered pairs (pattern, template); the first pattern that matches the whole name decides.

    In a template `{1}` is group 1 of the pattern, `{1+2}` its number plus 2, `{1:block}` the block number that a letter
    or `b7` stands for (a: 0, b: 1, b7: 7), and `{1:WORD}` its value in `words["WORD"]`.
    """

    pairs: tuple[tuple[str, str], ...]
    skip: str = ""  # pattern of names that are skipped: optimizer state, counters, classifiers
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    others: tuple[tuple[str, str], ...] = ()  # (start of a name, the unsupported part that it belongs to)

    @cached_property
    def _compiled(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        return tuple((re.compile(pattern), template) for pattern, template in self.pairs)

    def rename(self, name: str) -> str | None:
        """Our name for `name`; None if no rule matches."""
        for pattern, template in self._compiled:
            if found := pattern.fullmatch(name):
                return FIELD.sub(lambda part: self._filled(part, found), template)
        return None

    def required(self, name: str, system: str) -> str:
        """Like `rename`, for our name `name`. Raises ValueError if `system` has no such tensor."""
        if (new := self.rename(name)) is None:
            raise ValueError(f"{name} (rcnn's name) cannot be exported: {system} has no such tensor")
        return new

    def place(self, names: Iterable[str], source: str, system: str) -> Placed:
        """Our name for each of `names`.

        Raises ValueError that lists names without a rule, or two names of the same tensor.
        """
        names = list(names)
        for pattern, what in self.others:
            if found := [name for name in names if re.match(pattern, name)]:
                raise ValueError(f"{source} has {what} ({found[0]}), which rcnn does not support")
        ours: dict[str, str] = {}
        skipped: list[str] = []
        unknown: list[str] = []
        for name in names:
            if (new := self.rename(name)) is not None:
                ours[name] = new
            elif self.skip and re.fullmatch(self.skip, name):
                skipped.append(name)
            else:
                unknown.append(name)
        if unknown:
            raise ValueError(f"{source} looks like a file of {system}, but has {unexpected(unknown)}")
        if len(set(ours.values())) != len(ours):
            first = {new: name for name, new in reversed(ours.items())}
            twice = [f"{first[new]} and {name}" for name, new in ours.items() if first[new] != name]
            raise ValueError(f"{source} has the same tensor under two names: {few(twice)}")
        return Placed(ours, tuple(skipped))

    def inverted(self) -> Rules:
        """The rules from our names to theirs; only for patterns of literal text and groups, without {1:block}."""
        words = {word: {new: old for old, new in table.items()} for word, table in self.words.items()}
        return Rules(tuple(self._inverted(pattern, template) for pattern, template in self.pairs), words=words)

    def _filled(self, part: re.Match[str], found: re.Match[str]) -> str:
        """The text for field `part` of a template, e.g. `{1+2}`; `found` is the match of the pattern."""
        value, shift, word = found[int(part[1])], part[2], part[3]
        if shift:
            return str(int(value) + int(shift))
        if word == "block":
            digits = value.lstrip("abcdefghijklmnopqrstuvwxyz")
            return digits or str(ord(value) - ord("a"))
        return self.words[word][value] if word else value

    def _inverted(self, pattern: str, template: str) -> tuple[str, str]:
        """The rule for the other direction; its groups are numbered in the order of the template."""
        pieces = GROUP.split(pattern)  # literal, group, literal, group, ...
        literals, groups = [re.sub(r"\\(.)", r"\1", piece) for piece in pieces[::2]], pieces[1::2]
        back, position = "", 0
        fields: dict[int, str] = {}  # group of `pattern` -> the field that stands for it
        for part in FIELD.finditer(template):
            number, shift, word = int(part[1]), part[2], part[3]
            group = r"(\d+)" if shift else groups[number - 1]
            if word:
                group = f"({'|'.join(map(re.escape, self.words[word].values()))})"
            back += re.escape(template[position : part.start()]) + group
            shift = {"+": "-", "-": "+"}[shift[0]] + shift[1:] if shift else ""
            fields[number] = f"{{{len(fields) + 1}{shift}{f':{word}' if word else ''}}}"
            position = part.end()
        back += re.escape(template[position:])
        new = literals[0] + "".join(fields[number + 1] + literals[number + 1] for number in range(len(groups)))
        return back, new
