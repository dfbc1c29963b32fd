"""The command line, run in this process."""

from __future__ import annotations

from rcnn.cli.main import main


def rcnn(*words: object) -> int:
    """Run `rcnn WORDS`; its exit status."""
    try:
        main([str(word) for word in words])
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
    return 0
