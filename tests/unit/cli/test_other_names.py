"""Names that users try as commands: the error says what to type, and that is a command."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command

from rcnn.cli.app import app
from rcnn.cli.other_names import OTHER_NAMES
from tests import command


def test_the_hints_are_commands_and_the_names_are_not() -> None:
    top = get_command(app)
    for group, names in OTHER_NAMES.items():
        own = top if group == "rcnn" else top.commands[group.removeprefix("rcnn ")]  # type: ignore[attr-defined]
        for name, hint in names.items():
            assert name not in own.commands  # type: ignore[attr-defined]
            for typed in re.split(r" \(.*?\)(?: or )?", hint):
                words = typed.split()[1:]
                if words:
                    found = top.commands[words[0]]  # type: ignore[attr-defined]
                    options = {option for one in found.params for option in one.opts}
                    if len(words) > 1 and words[1].islower() and not words[1].startswith("-"):
                        found = found.commands[words[1]]
                        options = {option for one in found.params for option in one.opts} | {"--help"}
                    assert {word for word in words if word.startswith("--")} <= options, typed


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("data", "fix", "photos"), "rcnn data has no command 'fix'; use: rcnn data check DIR --fix OUT"),
        (("data", "describe"), "rcnn data has no command 'describe'; use: rcnn data info DIR"),
        (("evaluate", "runs/a"), "rcnn has no command 'evaluate'; use: rcnn eval MODEL --data DIR"),
        (("models", "describe"), "rcnn models has no command 'describe'; use: rcnn models show MODEL"),
    ],
)
def test_the_error_says_what_to_type(words: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.rcnn(*words) == 2
    assert hint in " ".join(capsys.readouterr().err.replace("│", " ").split())
