"""What is done with evaluation results: expectations that a run must meet, and a line that sums them up."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode

from .ema import SUFFIX as AVERAGE_SUFFIX

logger = logging.getLogger(__name__)

# The metrics that papers report, in the order of the summary.
HEADLINE_METRICS = (
    ("panoptic_seg", "PQ"),
    ("panoptic_seg", "PQ_th"),
    ("panoptic_seg", "PQ_st"),
    ("boundary_panoptic_seg", "PQ"),
    ("segm", "AP"),
    ("segm", "AP50"),
    ("boundary_segm", "AP"),
    ("bbox", "AP"),
    ("keypoints", "AP"),
    ("sem_seg", "mIoU"),
    ("sem_seg", "IoU"),
    ("boundary_sem_seg", "mIoU"),
)

# Of test-time augmentation, of the moving average of the weights, of both.
SUFFIXES = ("", "_TTA", AVERAGE_SUFFIX, f"_TTA{AVERAGE_SUFFIX}")

Results = Mapping[str, Any]


def _results_per_dataset(cfg: CfgNode, results: Results) -> Iterator[tuple[str, Results]]:
    """Undo that ``DefaultTrainer.test`` leaves the dataset's name out when there is only one."""
    names = cfg.DATASETS.TEST
    if len(names) == 1:
        yield names[0], results
        return
    for name in names:
        yield (
            name,
            {
                f"{task}{suffix}": figures
                for suffix in SUFFIXES
                for task, figures in (results.get(f"{name}{suffix}") or {}).items()
            },
        )


def failed_expectations(cfg: CfgNode, results: Results) -> list[str]:
    """Compare results with ``TEST.EXPECTED_RESULTS``: entries [task, metric, expected value, tolerance to both sides].

    Args:
        cfg: ``DATASETS.TEST`` and ``TEST.EXPECTED_RESULTS`` are read. With several datasets, each must meet them.
        results: what ``DefaultTrainer.test`` returns.

    Returns:
        A sentence for each expectation that is not met, or cannot be told.
    """
    failures = []
    for dataset, tasks in _results_per_dataset(cfg, results):
        for task, metric, expected, tolerance in cfg.TEST.EXPECTED_RESULTS:
            wanted = f"{dataset}: {task}/{metric} should be {expected} ± {tolerance}"
            actual = tasks.get(task, {}).get(metric)
            if actual is None:
                failures.append(f"{wanted}, but was not evaluated (there are: {_available(tasks)})")
            elif not math.isfinite(actual) or abs(actual - expected) > tolerance:
                failures.append(f"{wanted}, but is {actual:.4f}")
    return failures


def _available(tasks: Results) -> str:
    return ", ".join(f"{task}/{metric}" for task, metrics in tasks.items() for metric in metrics) or "no results"


def verify_expected_results(cfg: CfgNode, results: Results) -> None:
    """End the process with status 1 when ``TEST.EXPECTED_RESULTS`` are not met, after logging each one that is not."""
    if not cfg.TEST.EXPECTED_RESULTS:
        return
    failures = failed_expectations(cfg, results)
    for failure in failures:
        logger.error("Expected result not met: %s", failure)
    if failures:
        sys.exit(1)
    logger.info("All %d expected results are met.", len(cfg.TEST.EXPECTED_RESULTS))


def summary_line(cfg: CfgNode, results: Results) -> str:
    """Sum up results in a line: the metrics that papers report, for each dataset."""
    parts = []
    for dataset, tasks in _results_per_dataset(cfg, results):
        figures = [
            f"{task}{suffix} {metric} {tasks[task + suffix][metric]:.2f}"
            for suffix in SUFFIXES
            for task, metric in HEADLINE_METRICS
            if metric in tasks.get(task + suffix, {})
        ]
        parts.append(f"{dataset}: {', '.join(figures) or 'no results'}")
    return "; ".join(parts)
