"""The work of `rcnn eval`: evaluate a checkpoint or saved results, and write everything to an output folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rcnn.background import in_background
from rcnn.data.held_out import HeldOut
from rcnn.data.messages import counted
from rcnn.data.records import Dataset
from rcnn.data.skeletons import skeleton_of
from rcnn.drawing.charts import load_matplotlib
from rcnn.drawing.report import Example
from rcnn.evaluation.boundary import add_boundary, require_boundary
from rcnn.evaluation.evaluate import Evaluation, ImageResults, evaluate_dataset, plan_for
from rcnn.evaluation.examples import draw_spread, draw_worst
from rcnn.evaluation.folder import THRESHOLDS_FILE, require_free, results_as_they_come, write_evaluation
from rcnn.evaluation.plan import EvaluationOptions
from rcnn.evaluation.results import evaluate_results, keypoints_of
from rcnn.metrics.analysis import Analysis, analyse, analysed_kind, keypoint_curves, outside_0_to_1
from rcnn.metrics.choice import metric_for
from rcnn.outputs import RUN_LOG, OutputFolder
from rcnn.predictor import Predictor
from rcnn.progress import Progress, no_progress
from rcnn.runtime.processes import ALONE, Processes

SCORE = 0.5  # without an analysis, results with a lower score are not drawn

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

    `details` are lines for the report. `log` receives the warnings, if possible before the first prediction. The
    `processes` share the images of a predictor; the first one writes. ValueError or OSError if the data or the results
    cannot be evaluated, FileExistsError for a file in `output` that rcnn did not write, or for the folder of a run.
    """
    if options.boundary:
        require_boundary(source, dataset, options)
    if isinstance(source, Predictor) and not processes.is_first:
        return evaluate_predictor(source, dataset, options, processes)
    held_out = HeldOut.of(dataset)
    with OutputFolder(output) as folder:
        if RUN_LOG in folder.names():
            raise FileExistsError(
                f"{output} is the folder of a training run, and report.html would replace its report; choose another "
                f"folder, e.g. {Path(output) / 'eval'}"
            )
        if isinstance(source, Predictor):
            proposals = source.config.proposals_only
            with results_as_they_come(folder, held_out=held_out, proposals=proposals) as keep:
                evaluation = _evaluate_predictor(source, dataset, options, processes, keep, log, progress)
        else:
            require_free(folder)
            evaluation = evaluate_results(
                source,
                dataset,
                limit=options.limit,
                max_detections=options.max_detections,
                metric=options.metric,
            )
            evaluation = replace(evaluation, warnings=evaluation.warnings + _uncalibrated(source, evaluation, dataset))
            _log_warnings(evaluation.warnings, log)
        if options.boundary:
            evaluation = add_boundary(evaluation, dataset, options.max_detections)
        analysis = _analysis(evaluation, dataset, options, _sigmas(source, dataset))
        if analysis is not None and not analysis.thresholds.within_0_to_1:
            line = f"the score thresholds with the best F1 are not all in 0..1: no {THRESHOLDS_FILE} for predictions"
            evaluation = replace(evaluation, warnings=(*evaluation.warnings, line))
            _log_warnings([line], log)
        report = write_evaluation(
            folder,
            evaluation,
            title=title,
            lead=f"Evaluated on {counted(evaluation.metrics.images, 'image')} of {dataset.annotation_file.name}.",
            details=details,
            analysis=analysis,
            examples=_examples(evaluation, analysis, dataset, options, _skeleton(source, dataset), log),
            held_out=held_out,
            warnings=dataset.warnings,
        )
    return replace(evaluation, report=report, thresholds=None if analysis is None else analysis.thresholds)


def _uncalibrated(source: Path, evaluation: Evaluation, dataset: Dataset) -> tuple[str, ...]:
    """A warning if the scores of saved results do not allow the calibration of the analysis."""
    chosen = set(dataset.image_ids[: evaluation.metrics.images])
    count = outside_0_to_1(result for result in evaluation.results if result["image_id"] in chosen)
    if not count or not analysed_kind(evaluation.metrics.kinds):
        return ()
    have = "has a score" if count == 1 else "have scores"
    return (f"{counted(count, 'result')} of {source} {have} outside 0..1: no calibration",)


def _analysis(
    evaluation: Evaluation, dataset: Dataset, options: EvaluationOptions, sigmas: Sequence[float] | None
) -> Analysis | None:
    """The analysis of masks, or of boxes; None for proposals."""
    metrics = evaluation.metrics
    kind = analysed_kind(metrics.kinds)
    if not kind:
        return None
    ids = dataset.image_ids[: metrics.images]
    analysis = analyse(
        metric_for(dataset, tuple(metrics.kinds), metrics.metric),
        evaluation.ground_truth,
        evaluation.results,
        kind,
        image_ids=ids,
        max_detections=options.max_detections,
        checked=True,
    )
    if "keypoints" not in metrics.kinds:
        return analysis
    curves = keypoint_curves(
        evaluation.ground_truth, evaluation.results, ids, sigmas, options.max_detections, checked=True
    )
    return replace(analysis, keypoint_curves=curves)


def _examples(
    evaluation: Evaluation,
    analysis: Analysis | None,
    dataset: Dataset,
    options: EvaluationOptions,
    skeleton: Sequence[tuple[int, int]],
    log: Log,
) -> list[Example]:
    """The pictures of the report; `log` receives a warning for each image of saved results that cannot be read."""
    if dataset.without_files:
        return []
    failed = {image.record.image_id for image in evaluation.failed}
    if analysis is not None:
        return draw_worst(dataset, analysis, options.pictures, skeleton=skeleton, failed=failed, log=log)
    return draw_spread(
        dataset, evaluation.results, options.pictures, evaluation.metrics.images, SCORE, skeleton=skeleton,
        proposals="proposals" in evaluation.metrics.kinds, failed=failed, log=log,
    )  # fmt: skip


def _sigmas(source: Predictor | Path, dataset: Dataset) -> Sequence[float] | None:
    """The sigma of each keypoint, for OKS; None without keypoints."""
    if isinstance(source, Predictor):
        return None if source.config.keypoint is None else source.config.keypoint.sigmas
    return keypoints_of(dataset)[1]


def _skeleton(source: Predictor | Path, dataset: Dataset) -> Sequence[tuple[int, int]]:
    """Pairs of keypoints that are joined in pictures."""
    if isinstance(source, Predictor):
        return source.skeleton
    try:
        return skeleton_of(dataset).lines
    except ValueError:  # no keypoints, or different ones
        return ()


def _evaluate_predictor(
    predictor: Predictor,
    dataset: Dataset,
    options: EvaluationOptions,
    processes: Processes,
    keep: Callable[[ImageResults], None],
    log: Log,
    progress: Progress,
) -> Evaluation:
    """Evaluate a predictor; `keep` receives the results of each image at once."""
    plan = plan_for(
        predictor, dataset, limit=options.limit, max_detections=options.max_detections, metric=options.metric
    )
    _log_warnings(plan.warnings, log)
    in_background(load_matplotlib)  # for the charts of the report
    with progress("eval", min(options.limit or len(dataset), len(dataset))) as advance:

        def on_image(image: ImageResults) -> None:
            keep(image)
            if image.error:
                log(f"warning: {image.error}")
            advance()

        evaluation = evaluate_predictor(predictor, dataset, options, processes, on_image)
    _log_warnings([line for line in evaluation.warnings if line not in plan.warnings], log)
    return evaluation


def evaluate_predictor(
    predictor: Predictor,
    dataset: Dataset,
    options: EvaluationOptions,
    processes: Processes,
    on_image: Callable[[ImageResults], object] | None = None,
) -> Evaluation:
    """`evaluate_dataset` with the values of `options`."""
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
