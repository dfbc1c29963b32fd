"""The user's files of docs/models/own_modules.md, as tests write them into a folder of their own."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models" / "own_modules.md"
FIXED = """

class Fixed(MyBackbone):
    def __init__(self):
        super().__init__(width=16)
"""


def write_own_modules(folder: Path) -> Path:
    """Write my_backbone.py, with one more class `Fixed` that takes no arguments, and my_head.py into `folder`."""
    blocks = re.findall(r"```python\n# (my_\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    files = dict(blocks)
    assert set(files) == {"my_backbone.py", "my_head.py"}
    files["my_backbone.py"] += FIXED
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder
