"""The frame of every page that we write: one file, style inside, nothing fetched; light or dark as the reader is."""

from __future__ import annotations

import os
import tempfile
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #ffffff; --ink: #1b2230; --soft: #5a6475; --line: #dfe3ea;
  --accent: #1d78d8; --track: #e3e8ef; --c0: #1d78d8; --c1: #d9364f; --c2: #1b8a4e; --c3: #c9680a; --c4: #8e44ad;
  --c5: #087f8c; --c6: #996018; --c7: #d11d84; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161d; --card: #1a202a; --ink: #e7ebf2; --soft: #a0abbc;
  --line: #2d3542; --accent: #62a8f5; --track: #2c3543; --c0: #62a8f5; --c1: #ff7388; --c2: #4fca8a; --c3: #ffa94d;
  --c4: #c792ea; --c5: #4dd0e1; --c6: #d9a760; --c7: #ff77bd; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 36px 24px 64px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 12px; }
p.lead, p.note { color: var(--soft); margin: 0 0 12px; overflow-wrap: anywhere; }
p.note { font-size: 13px; }
.card + p.note { margin-top: 8px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px;
  overflow-x: auto; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
svg text.name { fill: var(--ink); font-weight: 600; font-size: 13px; }
"""


def page(title: str, body: str, style: str = "") -> str:
    """A whole HTML page around `body` (HTML); `title` is plain text, `style` is CSS that this page has beside ours."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def write_page(path: Path, html: str) -> Path:
    """Writes a page in one step, so that a reader, or a crash, never finds half of it; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(html)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
