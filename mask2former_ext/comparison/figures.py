"""The figures of a comparison in rows: what is shown of each model's results and costs, and which is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..analysis.model_statistics import in_short
from .models import Comparison, ModelResult

NOT_MEASURED = "–"

_AVERAGE_PRECISION = {
    "AP": "AP",
    "AP50": "AP at IoU 0.50",
    "AP75": "AP at IoU 0.75",
    "APs": "AP, small (below 32² pixels)",
    "APm": "AP, medium",
    "APl": "AP, large (above 96² pixels)",
    "APr": "AP, rare classes",
    "APc": "AP, common classes",
    "APf": "AP, frequent classes",
}
_PANOPTIC_QUALITY = {
    f"{figure}{suffix}": f"{figure}{group}"
    for suffix, group in (("", ""), ("_th", ", things"), ("_st", ", stuff"))
    for figure in ("PQ", "SQ", "RQ")
}
_SEMANTIC = {
    "mIoU": "mIoU",
    "mIoU_min": "mIoU, the smaller of masks and boundaries",
    "fwIoU": "IoU weighted by frequency",
    "mACC": "mean accuracy of classes",
    "pACC": "accuracy of pixels",
}
TASKS = {
    "segm": ("Instance masks", _AVERAGE_PRECISION),
    "boundary_segm": ("Instance masks, boundaries", _AVERAGE_PRECISION),
    "bbox": ("Boxes", _AVERAGE_PRECISION),
    "panoptic_seg": ("Panoptic segmentation", _PANOPTIC_QUALITY),
    "boundary_panoptic_seg": ("Panoptic segmentation, boundaries", _PANOPTIC_QUALITY),
    "sem_seg": ("Semantic segmentation", _SEMANTIC),
    "boundary_sem_seg": ("Semantic segmentation, boundaries", _SEMANTIC),
}
"""Task of the evaluators → its heading, and its metrics with what people call them; other tasks and metrics follow
under their own names."""

CLASS_METRICS = {
    "segm": "AP",
    "boundary_segm": "AP",
    "panoptic_seg": "PQ",
    "boundary_panoptic_seg": "PQ",
    "sem_seg": "IoU",
    "boundary_sem_seg": "IoU",
}
"""Task → its metric of single classes, which evaluators return as "metric-class"."""

HEADLINES = {"PQ": ("panoptic_seg", "PQ"), "mask AP": ("segm", "AP"), "mIoU": ("sem_seg", "mIoU")}
"""What the top of the page shows of each model → task and metric."""


@dataclass(frozen=True)
class Row:
    """A figure of all models.

    Attributes:
        label: what it is.
        cells: as text, a model each.
        best: whether a model's is the best; none is where all are the same.
        difference: of the second model from the first; empty unless there are two.
    """

    label: str
    cells: list[str]
    best: list[bool]
    difference: str


@dataclass(frozen=True)
class Group:
    """Rows under a heading; ``note`` says what holds for all."""

    title: str
    rows: list[Row]
    note: str = ""


@dataclass(frozen=True)
class ClassFigures:
    """A metric of single classes.

    Attributes:
        task, metric: which.
        title: of the task.
        values: class → a figure in percent for each model; None where a model has none.
    """

    task: str
    metric: str
    title: str
    values: dict[str, list[float | None]]


def finite(value: float | None) -> float | None:
    """``value``, or None where it is no number."""
    return value if value is not None and math.isfinite(value) else None


def percent(value: float | None) -> str:
    """With one decimal, or a dash."""
    return NOT_MEASURED if value is None else f"{value:.1f}"


def figure_groups(comparison: Comparison) -> list[Group]:
    """All results of all models, then what they cost; rows that no model has a figure for are left out."""
    models = comparison.models
    found = list(dict.fromkeys(task for model in models for task in model.evaluation.results))
    tasks = [task for task in TASKS if task in found] + [task for task in found if task not in TASKS]
    groups = [_task_group(models, task) for task in tasks]
    return [group for group in [*groups, _cost_group(models)] if group.rows]


def _task_group(models: Sequence[ModelResult], task: str) -> Group:
    title, labels = TASKS.get(task, (task, {}))
    present = dict.fromkeys(metric for model in models for metric in model.evaluation.results.get(task, {}))
    metrics = [metric for metric in labels if metric in present]
    metrics += [metric for metric in present if metric not in labels and "-" not in metric]  # not those of classes
    rows = []
    for metric in metrics:
        values = [finite(model.evaluation.results.get(task, {}).get(metric)) for model in models]
        if any(value is not None for value in values):
            rows.append(_row(labels.get(metric, metric), values, percent, higher=True))
    return Group(title, rows, "in percent; higher is better")


def _cost_group(models: Sequence[ModelResult]) -> Group:
    costs = [model.costs for model in models]
    quantities: list[tuple[str, list[float | None], Callable[[float | None], str]]] = [
        ("parameters", [cost.parameters for cost in costs], _count),
        ("multiply-adds of an image", [cost.multiply_adds for cost in costs], _count),
        ("seconds per image", [cost.seconds_per_image for cost in costs], _seconds),
        ("peak memory of an image, without weights", [cost.peak_bytes for cost in costs], _bytes),
    ]
    rows = [_row(label, values, text, higher=False) for label, values, text in quantities]
    return Group("Costs", rows, "lower is better")


def _row(label: str, values: Sequence[float | None], text: Callable[[float | None], str], *, higher: bool) -> Row:
    cells = [text(value) for value in values]
    known = [value for value in values if value is not None]
    best = text((max if higher else min)(known)) if known else NOT_MEASURED
    told_apart = len({cell for cell in cells if cell != NOT_MEASURED}) > 1
    difference = ""
    if len(values) == 2 and len(known) == 2:
        first, second = known
        difference = _signed(second - first) if higher else f"× {second / first:.2f}"
    return Row(label, cells, [told_apart and cell == best for cell in cells], difference)


def _signed(value: float) -> str:
    """With one decimal and a sign, which nothing has that is rounded to 0."""
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def _count(value: float | None) -> str:
    return NOT_MEASURED if value is None else in_short(int(value)).replace("M", " M").replace("G", " G")


def _seconds(value: float | None) -> str:
    return NOT_MEASURED if value is None else seconds_text(value)


def seconds_text(value: float) -> str:
    """Three decimals, more only where they would leave less than two digits."""
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"


def _bytes(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    mebibytes = value / 2**20
    return f"{mebibytes / 1024:.2f} GiB" if mebibytes >= 1000 else f"{mebibytes:.0f} MiB"


def class_figures(comparison: Comparison, thing_classes: Sequence[str]) -> list[ClassFigures]:
    """The metrics of single classes that any model has.

    Args:
        comparison: of the models.
        thing_classes: of the dataset. Detectron2 does not repeat its AP for the class where there is one alone.
    """
    found = []
    for task, metric in CLASS_METRICS.items():
        per_model = [_of_classes(model.evaluation.results.get(task, {}), metric) for model in comparison.models]
        if metric == "AP" and len(thing_classes) == 1:
            per_model = [
                {thing_classes[0]: finite(model.evaluation.results.get(task, {}).get("AP"))}
                for model in comparison.models
            ]
        names = dict.fromkeys(name for figures in per_model for name in figures)
        values = {name: [figures.get(name) for figures in per_model] for name in names}
        values = {name: row for name, row in values.items() if any(value is not None for value in row)}
        if values:
            found.append(ClassFigures(task, metric, TASKS[task][0], values))
    return found


def _of_classes(results: dict[str, float], metric: str) -> dict[str, float | None]:
    prefix = f"{metric}-"
    return {name.removeprefix(prefix): finite(value) for name, value in results.items() if name.startswith(prefix)}


def most_different(figures: ClassFigures, limit: int) -> ClassFigures:
    """Of more classes than ``limit`` those where models differ most; always from the best class to the worst."""

    def spread(values: Sequence[float | None]) -> float:
        known = [value for value in values if value is not None]
        return max(known) - min(known)

    def mean(values: Sequence[float | None]) -> float:
        known = [value for value in values if value is not None]
        return sum(known) / len(known)

    chosen = sorted(figures.values.items(), key=lambda item: -spread(item[1]))[:limit]
    ordered = sorted(chosen, key=lambda item: -mean(item[1]))
    return ClassFigures(figures.task, figures.metric, figures.title, dict(ordered))
