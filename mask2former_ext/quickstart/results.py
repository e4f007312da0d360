"""What training runs wrote about themselves, as a table."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

Results = dict[str, dict[str, float]]
"""Task → metric → value, as Detectron2's trainer returns evaluation results; in percent."""

METRIC_COLUMNS = {
    "PQ": ("panoptic_seg", "PQ"),
    "PQ things": ("panoptic_seg", "PQ_th"),
    "segm AP": ("segm", "AP"),
    "AP50": ("segm", "AP50"),
    "mIoU": ("sem_seg", "mIoU"),
}
"""Column heading → task and metric."""

_NOT_MEASURED = "–"


@dataclass(frozen=True)
class ModelReport:
    """One row of the table.

    Attributes:
        name: of the model.
        results: on the held-out images. A task that the model does not do is absent.
        seconds_per_iteration: of training, data loading included; NaN when that is unknown.
        seconds_per_image: of inference, pre- and post-processing included.
        parameters: how many the model has.
    """

    name: str
    results: Results
    seconds_per_iteration: float
    seconds_per_image: float
    parameters: int


def read_training_log(metrics_file: Path) -> tuple[Results, float]:
    """Read the ``metrics.json`` (a JSON object a line) that Detectron2 writes while it trains.

    Returns:
        The results of the last evaluation, and the median of the logged seconds per iteration.

    Raises:
        FileNotFoundError: there is no such file: the training stopped before its first progress line.
        ValueError: it holds no evaluation: the training stopped before its end.
    """
    lines = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    evaluations = [line for line in lines if any("/" in name for name in line)]
    if not evaluations:
        raise ValueError(f"{metrics_file} holds no evaluation; the log.txt beside it says how far the training came.")
    results: Results = {}
    for name, value in evaluations[-1].items():
        task, slash, metric = name.partition("/")
        if slash:
            results.setdefault(task, {})[metric] = float(value)
    seconds = [line["time"] for line in lines if "time" in line]
    return results, statistics.median(seconds) if seconds else math.nan


def format_table(reports: Sequence[ModelReport]) -> str:
    """Lay the reports out as a text table, a row each."""
    rows = [
        [
            report.name,
            *(_percent(report.results.get(task, {}).get(metric, math.nan)) for task, metric in METRIC_COLUMNS.values()),
            f"{report.seconds_per_iteration:.2f}",
            f"{report.seconds_per_image:.2f}",
            f"{report.parameters / 1e6:.1f} M",
        ]
        for report in reports
    ]
    headers = ["model", *METRIC_COLUMNS, "s / iteration", "s / image", "parameters"]
    alignment = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=alignment)


def _percent(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else _NOT_MEASURED
