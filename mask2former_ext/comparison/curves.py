"""Curves of a model: precision over recall from COCO's evaluation, losses and metrics over its training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators

Points = list[tuple[float, float]]

IOU_THRESHOLDS = {"IoU 0.50": 0.5, "IoU 0.75": 0.75, "mean of IoU 0.50 to 0.95": None}
"""Precision-recall curves → IoU from which a mask counts as found; None for the mean over COCO's ten."""
NOT_COUNTED = -1
ALL_AREAS, MOST_DETECTIONS = 0, -1


@dataclass(frozen=True)
class TrainingCurves:
    """What a training wrote about itself, over its iterations.

    Attributes:
        loss: (iteration, total loss).
        metrics: (task, metric) → (iteration, figure in percent).
    """

    loss: Points = field(default_factory=list)
    metrics: dict[tuple[str, str], Points] = field(default_factory=dict)


def keep_precision(evaluator: DatasetEvaluator, kept: dict[str, dict[str, Points]]) -> None:
    """Let COCO evaluators put precision-recall curves of each of their tasks into ``kept`` when they evaluate.

    Their results have no curves, and the ``COCOeval`` objects which have are gone when ``evaluate`` returns.

    Args:
        evaluator: one evaluator, or a :class:`DatasetEvaluators` of several; those of other kinds are left alone.
        kept: gets task → name of :data:`IOU_THRESHOLDS` → curve.
    """
    if isinstance(evaluator, DatasetEvaluators):
        for part in evaluator._evaluators:
            keep_precision(part, kept)
    elif isinstance(evaluator, COCOEvaluator):
        derive = evaluator._derive_coco_results

        def derive_and_keep(coco_eval: Any, iou_type: str, *args: Any, **kwargs: Any) -> dict[str, float]:
            if coco_eval is not None:
                kept[iou_type] = precision_recall(coco_eval)
            return derive(coco_eval, iou_type, *args, **kwargs)

        evaluator._derive_coco_results = derive_and_keep


def precision_recall(coco_eval: Any) -> dict[str, Points]:
    """Curves of an accumulated ``COCOeval``, mean over the classes that occur in the truth.

    Returns:
        Name of :data:`IOU_THRESHOLDS` → (recall, precision), both in [0, 1], at 101 recalls. Empty where no class
        occurs.
    """
    # thresholds × recalls × classes × ranges of area × limits of detections
    precision = coco_eval.eval["precision"][:, :, :, ALL_AREAS, MOST_DETECTIONS]
    thresholds, recalls = np.asarray(coco_eval.params.iouThrs), coco_eval.params.recThrs
    counted = precision[:, :, (precision > NOT_COUNTED).all(axis=(0, 1))]
    if counted.shape[2] == 0:
        return {}
    curves = {}
    for name, iou in IOU_THRESHOLDS.items():
        chosen = slice(None) if iou is None else np.isclose(thresholds, iou)
        means = counted[chosen].mean(axis=(0, 2))
        curves[name] = [(float(recall), float(value)) for recall, value in zip(recalls, means, strict=True)]
    return curves


def read_training_curves(metrics_file: Path, dataset_name: str, metrics: Mapping[str, str]) -> TrainingCurves:
    """Read the ``metrics.json`` (a JSON object a line) that Detectron2 writes while it trains.

    Args:
        metrics_file: a run that was resumed may have lines of one iteration twice: the later one counts. A last line
            that has not ended, of a training that is under way or was killed, does not.
        dataset_name: whose figures to take where the training evaluated several datasets.
        metrics: task → metric that is of interest.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no JSON object.
    """
    loss: dict[float, float] = {}
    figures: dict[tuple[str, str], dict[float, float]] = {}
    *lines, _ = metrics_file.read_text(encoding="utf-8").split("\n")
    for number, text in enumerate(lines, start=1):
        line = _parse(text, f"{metrics_file}, line {number}")
        iteration = line.get("iteration")
        if iteration is None:
            continue
        total = line.get("total_loss")
        if _is_finite(total):
            loss[iteration] = total
        for task, metric in metrics.items():
            value = line.get(f"{task}/{metric}", line.get(f"{dataset_name}/{task}/{metric}"))
            if _is_finite(value):
                figures.setdefault((task, metric), {})[iteration] = value
    return TrainingCurves(sorted(loss.items()), {key: sorted(points.items()) for key, points in figures.items()})


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}. Remove the line.") from error
    if not isinstance(line, dict):
        raise ValueError(f"{where} is no JSON object. It must be the metrics.json of a training with Detectron2.")
    return line


def _is_finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)
