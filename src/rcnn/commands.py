"""Commands in messages, in a form that a user can paste into a shell."""

from __future__ import annotations

import shlex

CONTINUE, AGAIN = "to continue", "to start again"
GOING_ON = (CONTINUE, AGAIN)  # beginnings of the notes of an error that say how to go on


def as_typed(*words: object) -> str:
    """The words of a command, or of a part of it, as they are typed in a shell.

    A word with spaces or other special characters, e.g. a path, is in quotes: `rcnn train 'my run/last'`.
    """
    return shlex.join(map(str, words))
