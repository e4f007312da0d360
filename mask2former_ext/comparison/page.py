"""The report of a comparison: one HTML page that needs nothing but itself, and the same figures as JSON."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..files import write_json, write_text
from .charts import Axis, Bars, Line, bar_chart, line_chart, swatch
from .curves import IOU_THRESHOLDS, Points
from .figures import (
    HEADLINES,
    TASKS,
    ClassFigures,
    class_figures,
    figure_groups,
    finite,
    most_different,
    percent,
    seconds_text,
)
from .gallery import make_gallery
from .models import CURVED_METRICS, Comparison
from .regions import MIN_SCORE
from .scores import DEFINITION

logger = logging.getLogger(__name__)

CLASSES_CHARTED = 24
"""Of more classes only those where models differ most are drawn; a table has all."""
IMAGES_PER_GROUP = 3


@dataclass(frozen=True)
class Section:
    """Charts with captions, under a heading."""

    title: str
    charts: list[tuple[str, Markup]]


def write_report(comparison: Comparison, page: Path, json_file: Path, images_per_group: int = IMAGES_PER_GROUP) -> None:
    """Write the page and the JSON, each whole or not at all.

    Args:
        comparison: what :func:`~mask2former_ext.comparison.compare` gives.
        page: the HTML file to write; its folder is made.
        json_file: the JSON file to write.
        images_per_group: pictures for each of "best", "worst" and "most different".

    Raises:
        OSError, ValueError: an image or its truth cannot be read, or the files cannot be written.
    """
    text = render(comparison, images_per_group)
    write_json(json_file, report_of(comparison), indent=1)
    write_text(page, text)


def render(comparison: Comparison, images_per_group: int = IMAGES_PER_GROUP) -> str:
    """The page as text; see :func:`write_report`."""
    thing_classes = MetadataCatalog.get(comparison.dataset_name).get("thing_classes") or []
    classes = class_figures(comparison, thing_classes)
    logger.info("drawing the gallery")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent}
    return environment.get_template("page.html").render(
        title=_title(comparison),
        comparison=comparison,
        headlines=[_headlines(comparison, place) for place in range(len(comparison.models))],
        swatches=[swatch(place) for place in range(len(comparison.models))],
        groups=figure_groups(comparison),
        classes=[(figures, _class_chart(comparison, figures)) for figures in classes],
        charted=CLASSES_CHARTED,
        precision=_precision_sections(comparison),
        training=_training_charts(comparison),
        rooms=make_gallery(comparison, images_per_group),
        score_definition=DEFINITION,
        min_score=f"{100 * MIN_SCORE:.0f} %",
        version=version("mask2former_ext"),
    )


def _title(comparison: Comparison) -> str:
    *names, last = (model.spec.name for model in comparison.models)
    models = f"{', '.join(names)} and {last}" if names else last
    return f"{models} on {comparison.dataset_name}"


def _headlines(comparison: Comparison, place: int) -> list[tuple[str, str]]:
    """A model's figures that papers report, and its time, for the top of the page."""
    model = comparison.models[place]
    results = model.evaluation.results
    figures = [(name, finite(results.get(task, {}).get(metric))) for name, (task, metric) in HEADLINES.items()]
    shown = [(name, percent(value)) for name, value in figures if value is not None]
    return [*shown, ("s / image", seconds_text(model.costs.seconds_per_image))]


def _class_chart(comparison: Comparison, figures: ClassFigures) -> Markup:
    shown = most_different(figures, CLASSES_CHARTED)
    names = [model.spec.name for model in comparison.models]
    bars = [Bars(k, name, [row[k] for row in shown.values.values()]) for k, name in enumerate(names)]
    # A model without this task has no bars at all.
    bars = [series for series in bars if any(value is not None for value in series.values)]
    axis = Axis(f"{figures.metric} in percent", 0.0, 100.0)
    return bar_chart(f"{figures.title}: {figures.metric} of classes", axis, list(shown.values), bars)


def _precision_sections(comparison: Comparison) -> list[Section]:
    sections = []
    recall, precision = Axis("recall", 0.0, 1.0), Axis("precision", 0.0, 1.0)
    drawn = {task for model in comparison.models for task in model.evaluation.precision}
    tasks = [task for task in TASKS if task in drawn and (task != "bbox" or "segm" not in drawn)]
    for task in tasks:
        charts = []
        for threshold in IOU_THRESHOLDS:
            lines = _lines(comparison, [m.evaluation.precision.get(task, {}).get(threshold) for m in comparison.models])
            if lines:
                charts.append((threshold, line_chart(f"{TASKS[task][0]}, {threshold}", recall, precision, lines)))
        sections.append(Section(TASKS[task][0], charts))
    return sections


def _lines(comparison: Comparison, points: Iterable[Points | None]) -> list[Line]:
    names = [model.spec.name for model in comparison.models]
    return [Line(place, name, line) for place, (name, line) in enumerate(zip(names, points, strict=True)) if line]


def _training_charts(comparison: Comparison) -> list[tuple[str, Markup]]:
    """Total loss, then the metrics of the evaluations, over the iterations: (caption, chart)."""
    curves = [model.training for model in comparison.models]
    charts = []
    losses = _lines(comparison, [curve.loss if curve else None for curve in curves])
    if losses:
        loss = Axis.up_to("total loss", max(value for line in losses for _, value in line.points))
        charts.append(("total loss", line_chart("Loss", _iterations(losses), loss, losses)))
    for key in CURVED_METRICS.items():
        lines = _lines(comparison, [curve.metrics.get(key) if curve else None for curve in curves])
        if any(len(line.points) > 1 for line in lines):  # a single evaluation is no curve
            caption = f"{key[1]}: {TASKS[key[0]][0].lower()}"
            axis = Axis(f"{key[1]} in percent", 0.0, 100.0)
            charts.append((caption, line_chart(caption, _iterations(lines), axis, lines)))
    return charts


def _iterations(lines: Sequence[Line]) -> Axis:
    return Axis("iteration", 0.0, max(1.0, *(x for line in lines for x, _ in line.points)))


def report_of(comparison: Comparison) -> dict[str, Any]:
    """All figures of the page, in what JSON knows; None where there is none."""
    return _without_nan({
        "dataset": comparison.dataset_name,
        "images": len(comparison.records),
        "options": comparison.opts,
        "environment": comparison.environment,
        "models": [
            {
                "name": model.spec.name,
                "config": model.spec.config_file,
                "weights": model.spec.weights,
                "results": model.evaluation.results,
                "costs": asdict(model.costs),
                "precision_over_recall": model.evaluation.precision,
                "training": model.training and {
                    "loss": model.training.loss,
                    "metrics": {"/".join(key): points for key, points in model.training.metrics.items()},
                },
            }
            for model in comparison.models
        ],
        "image_scores": {"definition": DEFINITION, "kinds": sorted(comparison.kinds), "scores": comparison.scores},
    })  # fmt: skip


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
