"""What the benchmarks of whole models report."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from .model_measure import DIFFERENCE_LIMIT, ModelOptions, ModelRow
from .models import Size, Work
from .reports import environment, markdown_table
from .stages import STAGES
from .timing import cpu_threads

# Whose versions figures depend on.
PACKAGES = ("torchvision", "detectron2", "transformers", "numpy", "scipy")


def model_report(
    benchmark: str, options: ModelOptions, rows: Sequence[ModelRow], absent: dict[str, str], **more_work: Any
) -> dict[str, Any]:
    """What was measured, as a report.

    Args:
        benchmark: "infer" or "train".
        options: what was to be measured, and how.
        rows: every model's figures.
        absent: of each peer that is not here why.
        more_work: what else this benchmark says of their work.

    Returns:
        ``benchmark``, ``environment``, ``work``, ``not_measured`` (why, by name) and ``results``, a list of
        :class:`ModelRow` as dictionaries. All of it can be written as JSON.
    """
    with cpu_threads(options.effort.threads):
        ran = environment(options.work.device)
    return {
        "benchmark": benchmark,
        "environment": ran,
        "work": _describe(options.work) | more_work,
        "not_measured": absent,
        "results": [asdict(row) for row in rows],
    }


def _describe(work: Work) -> dict[str, Any]:
    """Sizes, batch, precision, overrides, and versions of packages that took part."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "size": _size(work.size),
        "output_size": _size(work.output_size),
        "batch": work.batch,
        "precision": work.precision,
        "seed": work.seed,
        "overrides": [str(word) for word in work.opts],
        "versions": versions,
    }


def _size(size: Size) -> str:
    return f"{size[0]}×{size[1]}"


def wrong_rows(report: dict[str, Any]) -> list[str]:
    """What is wrong, in words: predictions, results or losses that differ though weights are the same."""
    found = []
    for row in report["results"]:
        where = f"{row['model']}, {row['task']}"
        found += [f"{where}: {text}" for text in row["wrong"]]
        if row["difference"] is not None and not row["difference"] <= DIFFERENCE_LIMIT:
            found.append(f"{where}: logits differ by {row['difference']:.1e}, more than {DIFFERENCE_LIMIT:.0e}")
    return found


def model_tables(report: dict[str, Any], what: str) -> str:
    """A report in Markdown: what was done and where, then a table of times and one of memory.

    Args:
        report: of ``benchmark`` infer or train.
        what: was done, in a sentence.
    """
    ran, rows = report["environment"], report["results"]
    versions = [f"{name} {version}" for name, version in report["work"]["versions"].items()]
    lines = [
        what,
        f"{ran['device']}, {ran['threads']} threads, {ran['date']}; torch {ran['torch']}, {', '.join(versions)}.",
        "",
        "Milliseconds, medians of alternating runs; « times ours » says how many times as fast this package is with "
        "the same config:",
        "",
        _time_table(rows),
    ]
    if any(row["peak_bytes"] is not None for row in rows):
        lines += ["", "Peak memory in MB, beyond weights and inputs, each model in a process of its own:", ""]
        lines.append(_memory_table(rows))
    notes = [f"not measured: {name} ({why})" for name, why in report["not_measured"].items()]
    notes += [f"memory not measured: {row['problem']}" for row in rows if row["problem"]]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def _stages(rows: Sequence[dict[str, Any]], key: str) -> list[str]:
    """Of any row, in the order of the work."""
    found: Collection[str] = {stage for row in rows for stage in row[key]}
    return [stage for stage in STAGES if stage in found]


def _show(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _milliseconds(value: float | None) -> str:
    return _show(value, ".1f" if value is None or value < 1000 else ",.0f")


def _time_table(rows: Sequence[dict[str, Any]]) -> str:
    stages = _stages(rows, "stages_ms")
    with_loss = any(row["loss"] is not None for row in rows)
    header = ["model", "task", "median", "lowest", "× first", "times ours", *stages, "difference"]
    table = [
        [
            row["model"],
            row["task"],
            _milliseconds(row["median_ms"]),
            _milliseconds(row["lowest_ms"]),
            _show(row["ratio_to_first"], ".2f"),
            _show(row["times_own"], ".2f"),
            *(_milliseconds(row["stages_ms"].get(stage)) for stage in stages),
            _show(row["difference"], ".1e"),
            *([_show(row["loss"], ".5g")] if with_loss else []),
        ]
        for row in rows
    ]
    return markdown_table([*header, *(["loss"] if with_loss else [])], table)


def _memory_table(rows: Sequence[dict[str, Any]]) -> str:
    stages = _stages(rows, "stages_peak_bytes")
    table = [
        [
            row["model"],
            row["task"],
            _megabytes(row["peak_bytes"]),
            _show(row["own_memory_share"], ".0%"),
            *(_megabytes(row["stages_peak_bytes"].get(stage)) for stage in stages),
        ]
        for row in rows
    ]
    return markdown_table(["model", "task", "peak", "ours over it", *stages], table)


def _megabytes(value: int | None) -> str:
    return _show(None if value is None else value / 1e6, ",.1f")
