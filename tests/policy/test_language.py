"""Plain English in code, docs and messages: wordings of earlier versions that the standard terms replace."""

from __future__ import annotations

import re

from tests.policy.test_source import ROOT, tracked

# Wordings of the old texts. Docs and messages use the terms of torchvision's documentation instead.
DIALECT = re.compile(
    r"\b("
    r"learnt|oftener|be they|begins? anew|anew|thereof|wherein|whereof|whoever|whatsoever|"
    r"(?<!=)true (?:box(?:es)?|masks?|objects?)|of (?:ours|theirs)|"
    r"(?:so|as) many (?:images|steps|pictures)|wanted [a-z0-9]|leaves? behind|left behind|"
    r"(?:are|is|be) told|mirror images?|looks? at each photo|looking several times|"
    r"a report\b(?= a line)|one line a (?:model|report|report line)|"
    r"as (?:the )?[A-Za-z]+ ha(?:s|ve) it|(?:pixels|tokens|cells) a side|in whose|"
    r"has no place|exists nowhere|cannot be told"
    r")",
    re.IGNORECASE,
)
EXEMPT = ("tests/policy/", "CHANGELOG.md")


def test_plain_english() -> None:
    files = [p for p in tracked("*.py", "*.md") if not p.relative_to(ROOT).as_posix().startswith(EXEMPT)]
    assert len(files) > 200
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:110]}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if DIALECT.search(line)
    ]
    assert not wrong, f"{len(wrong)} lines need the standard terms of STYLE:\n" + "\n".join(wrong)


def test_the_expression_finds_what_it_is_for() -> None:
    for text in ("wanted 3, is 4", "the true boxes", "classes that begin anew", "rows learnt before"):
        assert DIALECT.search(text), text
    for text in ("ground-truth boxes", "expected 3, got 4", "wanted: nothing", "unlearned"):
        assert not DIALECT.search(text), text
