"""The report of an evaluation: one HTML file with its figures, curve and pictures inside, to keep or to send.

write_report(
    Path("out/report.html"),
    title="Mask R-CNN on balloons",
    summary="60 training photos, 13 for validation.",
    metrics=evaluation.metrics.to_dict(),
    examples=[Example(name="a.jpg", found=draw_objects(...), truth=draw_objects(...))],
    log=read_log(run / "log.jsonl"),
    made={"Command": "rcnn demo", "Seconds": "212", "Versions": "rcnn 0.1.0, torch 2.11.0"},
)
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from rcnn.drawing.curves import training_curve
from rcnn.drawing.page import page, write_page

_SIDE = 960  # pixels of the longer side of a picture in the page, at most
_QUALITY = 85  # JPEG's
_TITLES = {"bbox": "Box", "segm": "Mask", "keypoints": "Keypoints"}
_RECALLS = {"proposals"}  # kinds without a precision
_MEANINGS = (
    "AP is COCO's average precision, the mean over IoU thresholds .50 to .95; AP50 and AP75 are at one. "
    "s, m and l are objects under 32 x 32 pixels, up to 96 x 96, and larger. "
    "AR1, AR10 and AR100 are the recall of so many detections an image. A dash: the truth has none to measure on."
)
_STYLE = """
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; margin: 22px 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 16px; }
.tile b { display: block; font-size: 25px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 0 6px 14px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 400; }
table.made td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.made th { width: 1%; vertical-align: top; color: var(--soft); }
.bar { display: inline-block; width: 90px; height: 7px; border-radius: 4px; background: var(--track);
  margin-right: 10px; vertical-align: middle; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; margin: 0 0 26px; }
.pair.one { grid-template-columns: minmax(0, 720px); }
.pair p { grid-column: 1 / -1; margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.pair p span { color: var(--soft); font-weight: 400; }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 8px; background: var(--track); }
figcaption { color: var(--soft); font-size: 13px; margin-top: 4px; }
@media (max-width: 640px) { .pair { grid-template-columns: 1fr; } }
"""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image of the report: what was found in it, and what is truly there where that is known."""

    name: str  # of the image, as its file is called
    found: Image.Image
    truth: Image.Image | None = None
    note: str = ""  # said beside the name


def write_report(
    path: Path,
    *,
    title: str,
    summary: str,
    metrics: Mapping[str, Any],
    examples: Sequence[Example] = (),
    log: Sequence[dict[str, Any]] = (),
    made: Mapping[str, str],
) -> Path:
    """Writes the report at `path`, and gives that back.

    `metrics` is what metrics.json holds (evaluation.coco.Metrics.to_dict()), `log` the lines of log.jsonl, none where
    nothing was trained; `made` says how it came about (command, versions, seconds), in the words given. All text is
    plain. Pictures larger than the page shows are reduced.
    """
    kinds = [kind for kind in _TITLES if kind in metrics]
    parts = [f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(summary)}</p>', _tiles(metrics, kinds)]
    parts.append(f"<h2>Average precision and recall</h2>\n{_overall(metrics, [*kinds, *_RECALLS & metrics.keys()])}")
    if examples:
        parts.append("<h2>Pictures</h2>")
        parts += [_pair(example) for example in examples]
    parts.append(f"<h2>By class</h2>\n{_by_class(metrics, kinds)}")
    if log:
        parts.append(f'<h2>Training</h2>\n<div class="card">{training_curve(log)}</div>')
    rows = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in made.items())
    parts.append(f'<h2>How it was made</h2>\n<div class="card"><table class="made"><tbody>{rows}</tbody></table></div>')
    return write_page(path, page(title, "\n".join(parts), _STYLE))


def _tiles(metrics: Mapping[str, Any], kinds: Sequence[str]) -> str:
    """The figures that one looks for first."""
    told = [(f"{_TITLES[kind]} {name}", _number(metrics[kind][name])) for kind in kinds for name in ("AP", "AP50")]
    counts = metrics["counts"]
    told += [("images", f"{counts['images']:,}"), ("true objects", f"{sum(counts['objects'].values()):,}")]
    told.append(("detections", f"{counts['detections']:,}"))
    tiles = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for name, value in told)
    return f'<div class="tiles">{tiles}</div>'


def _overall(metrics: Mapping[str, Any], kinds: Sequence[str]) -> str:
    """One row a kind; kinds of other metrics (keypoints) have a table of their own."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for kind in kinds:
        groups.setdefault(tuple(metrics[kind]), []).append(kind)
    tables = [
        _table(
            ["", *names],
            [[_TITLES.get(kind, kind), *(_number(metrics[kind][name]) for name in names)] for kind in group],
        )
        for names, group in groups.items()
    ]
    return "\n".join(tables) + f'\n<p class="note">{_MEANINGS}</p>'


def _by_class(metrics: Mapping[str, Any], kinds: Sequence[str]) -> str:
    """One row a class, its AP of each kind as a bar too."""
    head = ["Class", "Objects", *(f"{_TITLES[kind]} {name}" for kind in kinds for name in ("AP", "AP50"))]
    rows = []
    for name, found in metrics["per_class"].items():
        row = [escape(name), f"{metrics['counts']['objects'][name]:,}"]
        for kind in kinds:
            row += [_bar(found[kind]["AP"]) + _number(found[kind]["AP"]), _number(found[kind]["AP50"])]
        rows.append(row)
    return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are HTML, the first of each row its heading."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = [
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for name, *cells in rows
    ]
    return f'<div class="card"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _bar(value: float | None) -> str:
    if value is None:
        return ""
    return f'<span class="bar" aria-hidden="true"><i style="width:{100 * value:.1f}%"></i></span>'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _pair(example: Example) -> str:
    """The truth beside what was found, or that alone."""
    note = f" <span>{escape(example.note)}</span>" if example.note else ""
    figures = _figure(example.found, f"What was found in {example.name}", "found")
    if example.truth is not None:
        figures = _figure(example.truth, f"What is truly in {example.name}", "truth") + figures
    kind = "pair" if example.truth is not None else "pair one"
    return f'<section class="{kind}"><p>{escape(example.name)}{note}</p>{figures}</section>'


def _figure(picture: Image.Image, description: str, caption: str) -> str:
    small = picture.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_QUALITY, optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    size = f'width="{small.width}" height="{small.height}"'
    image = f'<img src="data:image/jpeg;base64,{data}" {size} alt="{escape(description, quote=True)}" loading="lazy">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
