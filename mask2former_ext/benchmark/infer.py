"""Benchmark of inference: the network, post-processing, or both; this package's models against each other and others.

What the stages are: data is normalising and padding images that are decoded already; decoder ends with class and mask
predictions; post-processing makes results of predictions, which are made up like those of a trained model, since those
of random weights would leave nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from . import straightforward
from .model_measure import (
    Job,
    ModelOptions,
    ModelRow,
    build_subjects,
    logit_differences,
    time_jobs,
    timed_row,
    with_memory,
    with_ratios,
)
from .model_reports import model_report, model_tables
from .model_variants import OWN, STRAIGHTFORWARD, Variant, variants_of
from .models import TASKS, Subject
from .timing import cpu_threads

ALL, FORWARD, POSTPROCESS = "all", "forward", "postprocess"
PARTS = (ALL, FORWARD, POSTPROCESS)


@dataclass(frozen=True)
class InferOptions(ModelOptions):
    """What to measure.

    Attributes:
        part: "all", "forward" (from images to predictions) or "postprocess" (from predictions to results; then each
            task alone, and all together).
    """

    part: str = ALL


def infer_job(subject: Subject, part: str, tasks: Sequence[str] = ()) -> Job:
    """One run over the subject's images, of the ``part`` named; ``tasks`` to do, or none to do those that are on."""
    if tasks:
        subject.select(tasks)
    with torch.no_grad(), subject.work.autocast():
        predicted = subject.predicted() if part == POSTPROCESS else None

    @torch.no_grad()
    def run() -> Any:
        with subject.work.autocast():
            if part == FORWARD:
                return subject.predict()
            return subject.finish(predicted if part == POSTPROCESS else subject.predict())

    return run


def measure_inference(options: InferOptions) -> tuple[list[ModelRow], dict[str, str]]:
    """Time all models in turn, check that they agree, and measure their memory.

    Returns:
        A row for every task and model, and for each peer that is not here why.

    Raises:
        FileNotFoundError, ValueError: a config cannot be used.
    """
    effort = options.effort
    variants = variants_of(options.configs, options.peers, options.work)
    with cpu_threads(effort.threads):
        subjects, absent = build_subjects(variants, options.work)
        checks = logit_differences(subjects) if options.part != POSTPROCESS else {}
        rows = []
        for tasks in _task_sets(subjects, options.part):
            chosen = {variant: subject for variant, subject in subjects.items() if set(tasks) <= set(subject.possible)}
            rows += with_ratios(_measure_tasks(chosen, tasks, options, checks))
    return rows, absent


def _task_sets(subjects: Mapping[Variant, Subject], part: str) -> list[tuple[str, ...]]:
    """What to measure in turn: each task and then all, or (), which leaves tasks as they are."""
    if part != POSTPROCESS:
        return [()]
    on = {task for subject in subjects.values() for task in subject.tasks}
    tasks = tuple(task for task in TASKS if task in on)
    return [*((task,) for task in tasks), *([tasks] if len(tasks) > 1 else [])]


def _measure_tasks(
    subjects: Mapping[Variant, Subject],
    tasks: tuple[str, ...],
    options: InferOptions,
    differences: Mapping[Variant, float | None],
) -> list[ModelRow]:
    make_job = partial(infer_job, part=options.part, tasks=tasks)
    jobs = {variant: (subject, make_job(subject)) for variant, subject in subjects.items()}
    wrong = _wrong_results(jobs) if options.part != FORWARD else {}
    rows = []
    for variant, (timing, stages) in time_jobs(jobs, options.effort).items():
        names = FORWARD if options.part == FORWARD else " + ".join(subjects[variant].tasks)
        row = ModelRow(variant.name, variant.config, variant.implementation, names)
        row = replace(row, difference=differences.get(variant), wrong=tuple(wrong.get(variant, ())))
        rows.append(timed_row(row, timing, stages))
    if not options.effort.memory:
        return rows
    return with_memory(rows, jobs, options.work, make_job, options.effort.threads)


def _wrong_results(jobs: Mapping[Variant, tuple[Subject, Job]]) -> dict[Variant, list[str]]:
    """What differs between results of this package and the straightforward ones, whose predictions are the same."""
    found = {}
    for variant, (_, job) in jobs.items():
        own = jobs.get(Variant(variant.config, OWN))
        if variant.implementation == STRAIGHTFORWARD and own is not None:
            pairs: Any = zip(own[1](), job(), strict=True)  # type: ignore[call-overload]
            found[variant] = [text for ours, theirs in pairs for text in straightforward.differences(ours, theirs)]
    return found


def run_infer_benchmark(options: InferOptions) -> dict[str, Any]:
    """:func:`measure_inference` as a report, see :func:`~mask2former_ext.benchmark.model_reports.model_report`."""
    rows, absent = measure_inference(options)
    return model_report("infer", options, rows, absent, part=options.part, kept_queries=options.work.kept)


def format_report(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    work = report["work"]
    what = (
        f"Inference ({work['part']}): {work['batch']} image(s) of {work['size']}, results of {work['output_size']}, "
        f"{work['precision']}; weights random; in post-processing {work['kept_queries']} queries are sure of a class."
    )
    return model_tables(report, what)
