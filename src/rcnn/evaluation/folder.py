"""The output folder of an evaluation: results.jsonl while it runs, then metrics.json, results files and report.html."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from rcnn.data.held_out import HELD_OUT_FILE, HeldOut
from rcnn.drawing.report import Example, write_report
from rcnn.evaluation.evaluate import Evaluation, ImageResults
from rcnn.metrics.analysis import Analysis
from rcnn.metrics.tables import per_class_csv
from rcnn.metrics.values import FIELDS
from rcnn.outputs import METRICS_FILE, OutputFolder

REPORT, PER_CLASS_FILE = "report.html", "per_class.csv"
ANALYSIS_FILE, THRESHOLDS_FILE = "analysis.json", "thresholds.json"
UNFINISHED = "results.jsonl"  # one image per line, while the evaluation runs
UNFINISHED_RECORD = "unfinished.json"  # beside it: {"held_out": the images, or null; "proposals": true or false}
RESULTS = {kind: f"results_{kind}.json" for kind in FIELDS}
FILES = (METRICS_FILE, PER_CLASS_FILE, ANALYSIS_FILE, THRESHOLDS_FILE, REPORT, HELD_OUT_FILE, *RESULTS.values())
_LISTED = 20  # failed images in the report


@contextmanager
def results_as_they_come(
    folder: OutputFolder, files: Sequence[str] = FILES, *, held_out: HeldOut | None = None, proposals: bool = False
) -> Iterator[Callable[[ImageResults], None]]:
    """A function that appends the results of an image to results.jsonl, which `rcnn eval` can score.

    `held_out`, the images if they were held out from training, and `proposals`, whether the results are proposals, are
    recorded beside it. Both files are written from the first image that can be read on; until then, those of an earlier
    evaluation that was stopped remain. FileExistsError before any work if one of them, or of the `files` written at the
    end, may not be written.
    """
    require_free(folder, files)
    images = None if held_out is None else held_out.to_dict()
    file: TextIO | None = None
    unreadable = 0  # images before the first that can be read
    with ExitStack() as opened:

        def write(image: ImageResults) -> None:
            nonlocal file, unreadable
            if file is None:
                if image.error:
                    unreadable += 1
                    return
                file = opened.enter_context(folder.claim(UNFINISHED).open("w", encoding="utf-8"))  # the earlier ends
                folder.write_json(UNFINISHED_RECORD, {"held_out": images, "proposals": proposals})
                file.write("[]\n" * unreadable)
            file.write(json.dumps(image.results) + "\n")
            file.flush()

        yield write


def require_free(folder: OutputFolder, files: Sequence[str] = FILES) -> None:
    """Raise FileExistsError if a file of an evaluation, or one of `files`, exists and was not written by rcnn."""
    folder.require_free(UNFINISHED, UNFINISHED_RECORD, *files)


def remove_unfinished(folder: OutputFolder) -> None:
    """Remove the results of an evaluation that was stopped, or that is now complete."""
    for name in (UNFINISHED, UNFINISHED_RECORD):
        folder.discard(name)


def write_evaluation(
    folder: OutputFolder,
    evaluation: Evaluation,
    *,
    title: str,
    lead: str,
    details: Mapping[str, str],
    analysis: Analysis | None = None,
    examples: Sequence[Example] = (),
    held_out: HeldOut | None = None,
    warnings: Sequence[str] = (),
) -> Path:
    """Write metrics, results and report; remove results.jsonl and the results of kinds that were not evaluated.

    Returns the path of the report. `analysis`: None for proposals. `held_out`: the evaluated images, if they were held
    out from training; they are recorded, so that the results can be scored again. thresholds.json is for predictions,
    so it is only written if its scores are from 0 to 1. `title`, `lead`, `details` and
    `examples` as in `write_report`. `warnings`: in addition to those of the evaluation.
    """
    content = evaluation.to_dict()
    folder.write_json(METRICS_FILE, content, indent=2)
    folder.write_text(PER_CLASS_FILE, per_class_csv(evaluation.metrics))
    if analysis is not None:
        folder.write_json(ANALYSIS_FILE, analysis.to_dict())
    else:
        folder.remove(ANALYSIS_FILE)  # of an earlier evaluation
    if analysis is not None and analysis.thresholds.within_0_to_1:
        folder.write_json(THRESHOLDS_FILE, {"kind": analysis.kind, **analysis.thresholds.to_dict()}, indent=2)
    else:
        folder.remove(THRESHOLDS_FILE)
    for kind, name in RESULTS.items():
        if kind in evaluation.metrics.kinds:
            fields = ("image_id", "category_id", "score", FIELDS[kind])
            folder.write_json(name, [{field: result[field] for field in fields} for result in evaluation.results])
        else:
            folder.remove(name)  # of an earlier evaluation
    failures = [image.error for image in evaluation.failed[:_LISTED]]
    if held_out is not None:
        folder.write_json(HELD_OUT_FILE, held_out.to_dict())
    else:
        folder.remove(HELD_OUT_FILE)  # of an earlier evaluation
    with folder.writing(REPORT) as path:
        write_report(
            path,
            title=title,
            lead=lead,
            metrics=content,
            analysis=None if analysis is None else analysis.to_dict(),
            warnings=[*warnings, *evaluation.warnings, *failures],
            examples=examples,
            details=details,
        )
    remove_unfinished(folder)
    return folder.path / REPORT
