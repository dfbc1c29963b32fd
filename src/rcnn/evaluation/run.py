"""What `rcnn eval` does: evaluate a checkpoint or saved results, with everything written to an output folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rcnn.data.held_out import HeldOut
from rcnn.data.messages import counted
from rcnn.data.records import Dataset
from rcnn.drawing.report import Example
from rcnn.evaluation.evaluate import Evaluation, ImageResults, evaluate_dataset, plan_for
from rcnn.evaluation.examples import chosen_records, draw_example
from rcnn.evaluation.folder import results_as_they_come, write_evaluation, write_held_out
from rcnn.evaluation.plan import EvaluationOptions
from rcnn.evaluation.results import evaluate_results
from rcnn.outputs import OutputFolder
from rcnn.predictor import Predictor
from rcnn.progress import Progress, no_progress
from rcnn.runtime.processes import ALONE, Processes

SCORE = 0.5  # detections with a lower score are not drawn

Log = Callable[[str], object]


def run_evaluation(
    source: Predictor | Path,
    dataset: Dataset,
    output: str | Path,
    *,
    options: EvaluationOptions,
    title: str,
    details: Mapping[str, str],
    log: Log,
    progress: Progress = no_progress,
    processes: Processes = ALONE,
) -> Evaluation:
    """Evaluate a predictor, or saved results (a file or a folder); write metrics, results and report to `output`.

    `details` are lines for the report. Warnings go to `log`, those known in advance before any prediction. The
    `processes` share the images of a predictor; the first one writes.
    """
    if isinstance(source, Predictor) and not processes.is_first:
        return _evaluate(source, dataset, options, processes)
    with OutputFolder(output) as folder, results_as_they_come(folder) as keep:
        write_held_out(folder, HeldOut.of(dataset))
        examples: list[Example] = []
        if isinstance(source, Predictor):
            evaluation, examples = _evaluate_predictor(source, dataset, options, processes, keep, log, progress)
        else:
            evaluation = evaluate_results(
                source,
                dataset,
                limit=options.limit,
                max_detections=options.max_detections,
                metric=options.metric,
            )
            _log_warnings(evaluation.warnings, log)
        write_evaluation(
            folder,
            evaluation,
            title=title,
            lead=f"Evaluated on {counted(evaluation.metrics.images, 'image')} of {dataset.annotation_file.name}."
            + (f" Pictures show detections with a score of at least {SCORE:g}." if examples else ""),
            details=details,
            examples=examples,
            warnings=dataset.warnings,
        )
    return evaluation


def _evaluate_predictor(
    predictor: Predictor,
    dataset: Dataset,
    options: EvaluationOptions,
    processes: Processes,
    keep: Callable[[ImageResults], None],
    log: Log,
    progress: Progress,
) -> tuple[Evaluation, list[Example]]:
    """The metrics, and pictures of images that are spread over the data set."""
    plan = plan_for(
        predictor, dataset, limit=options.limit, max_detections=options.max_detections, metric=options.metric
    )
    _log_warnings(plan.warnings, log)
    drawn = {record.image_id for record in chosen_records(dataset, options.pictures, options.limit)}
    examples: list[Example] = []
    with progress("eval", min(options.limit or len(dataset), len(dataset))) as advance:

        def on_image(image: ImageResults) -> None:
            keep(image)
            if image.error:
                log(f"warning: {image.error}")
            elif image.record.image_id in drawn:
                pixels = image.record.read()
                found = image.detections or predictor.predict(pixels)  # with several processes: predicted again
                examples.append(draw_example(predictor, image.record, pixels, found.above(SCORE)))
            advance()

        evaluation = _evaluate(predictor, dataset, options, processes, on_image)
    _log_warnings([line for line in evaluation.warnings if line not in plan.warnings], log)
    return evaluation, examples


def _evaluate(
    predictor: Predictor,
    dataset: Dataset,
    options: EvaluationOptions,
    processes: Processes,
    on_image: Callable[[ImageResults], object] | None = None,
) -> Evaluation:
    return evaluate_dataset(
        predictor,
        dataset,
        limit=options.limit,
        batch_size=options.batch_size,
        workers=options.workers,
        max_detections=options.max_detections,
        metric=options.metric,
        on_image=on_image,
        processes=processes,
    )


def _log_warnings(lines: Sequence[str], log: Log) -> None:
    for line in lines:
        log(f"warning: {line}")
