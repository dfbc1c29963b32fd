"""Messages name an argument for users of Python and of the command line: `split=val (--split)`, `split (--split)`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.policy.test_source import FILES, SOURCE

OPTIONS = ("split", "val-split", "val-fraction", "annotations", "images", "relative-boxes")
ALONE = re.compile(rf"(?<!\()--(?:{'|'.join(OPTIONS)})\b")  # not in brackets after the name of the argument
COMMANDS = ("cli", "demo")  # packages with texts for the command line only


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each string in a file that is not a docstring; of an f-string, its parts."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_messages_name_the_argument_and_the_option() -> None:
    found = {
        f"{path.relative_to(SOURCE)}:{line}": text
        for path in FILES
        if path.relative_to(SOURCE).parts[0] not in COMMANDS
        for line, text in texts(ast.parse(path.read_text(encoding="utf-8")))
        if any(f"--{option}" in text for option in OPTIONS)
    }
    assert len(found) > 20
    wrong = {
        where: text
        for where, text in found.items()
        if ALONE.search(text) and not (text.startswith("--") and text[2:] in OPTIONS) and "rcnn " not in text
    }
    assert not wrong, "write e.g. split (--split):\n" + "\n".join(f"{where}: {text!r}" for where, text in wrong.items())
