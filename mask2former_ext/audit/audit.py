"""The audit: read a dataset, look at every image in worker processes, judge the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ..data.datasets.preparation import process
from .coco_source import instance_source, panoptic_source
from .findings import Finding
from .image_checks import ImageReport, Rules
from .instance_checks import check_instances
from .other_sources import registered_source, semantic_source
from .png_checks import check_panoptic, check_semantic
from .report import AuditReport
from .sources import Item, Source, Task
from .summary import Summary

_CHECKS: dict[Task, Callable[[Rules, Item], ImageReport]] = {
    "instance": check_instances,
    "panoptic": check_panoptic,
    "semantic": check_semantic,
}


def audit_dataset(
    images: str | Path,
    annotations: str | Path,
    task: Task,
    *,
    panoptic_root: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    ignore_label: int = 255,
    num_queries: int | None = 100,
    workers: int = 1,
) -> AuditReport:
    """Audit a dataset of one's own. A progress bar runs on stderr.

    Args:
        images: folder of the images.
        annotations: COCO's JSON file of instances or of panoptic segments; the folder of label PNGs for the task
            "semantic", which are paired with images by their names without suffix.
        task: what the annotations are.
        panoptic_root: folder of panoptic PNGs; None for that named as ``annotations`` without ".json".
        class_names: the classes. Semantic labels are 0 … their number - 1, None to take them as they come; categories
            of a JSON file must be among them.
        ignore_label: label of pixels without one, in label PNGs.
        num_queries: MODEL.MASK_FORMER.NUM_OBJECT_QUERIES of the model; None for models that have no queries.
        workers: processes that look at images.

    Raises:
        FileNotFoundError: a folder or the annotation file do not exist.
        ValueError: the annotation file is none of its format, or there are no images.
    """
    folder, file = Path(images), Path(annotations)
    if task == "instance":
        source = instance_source(folder, file, class_names)
    elif task == "panoptic":
        source = panoptic_source(folder, file, None if panoptic_root is None else Path(panoptic_root), class_names)
    elif task == "semantic":
        source = semantic_source(folder, file, class_names, ignore_label)
    else:
        raise ValueError(f'There is no task "{task}". Tasks are: {", ".join(_CHECKS)}.')
    return _audit(source, num_queries, workers)


def audit_registered(
    name: str, task: Task | None = None, *, num_queries: int | None = 100, workers: int = 1
) -> AuditReport:
    """Audit a dataset that is registered with Detectron2.

    Args:
        name: as used in DATASETS.TRAIN and DATASETS.TEST.
        task: which of its annotations; None for the first it has of panoptic, instance, semantic.
        num_queries, workers: see ``audit_dataset``.

    Raises:
        FileNotFoundError: a folder or the annotation file do not exist.
        ValueError: nothing of this name is registered, its annotations cannot be loaded, or there are no images.
    """
    return _audit(registered_source(name, task), num_queries, workers)


def find_shared_images(training: AuditReport, validation: AuditReport) -> list[Finding]:
    """Find images of the validation data whose bytes are those of an image to train on."""
    shared = sorted(
        (file, training.digests[digest]) for digest, file in validation.digests.items() if digest in training.digests
    )
    return [Finding("image-in-both", f"The file is the same as {other}.", file) for file, other in shared]


def _audit(source: Source, num_queries: int | None, workers: int) -> AuditReport:
    if not source.items:
        raise ValueError(f"{source.name}: there is no image in it.")
    things = {number: category.is_thing for number, category in source.categories.items()}
    rules = Rules(source.task, things, num_queries, source.ignore_label)
    summary = Summary(source, rules)
    work = partial(_CHECKS[source.task], rules)
    reports = process(work, source.items, workers=workers, description=f"Audit of {Path(source.name).name}")
    for item, report in zip(source.items, reports, strict=True):
        summary.add(item, report)
    return AuditReport(source, summary.findings(), summary.statistics(), summary.digests)
