"""What is checked of the instances of an image: categories, masks, boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
from detectron2.structures import BoxMode

from .findings import Finding
from .image_checks import (
    TINY_AREA,
    ImageReport,
    Rules,
    boxes_differ,
    check_number,
    check_photograph,
    is_box,
    of_size,
)
from .sources import Item

BEYOND_BORDER = 1.0
"""Pixels by which a polygon may reach beyond the border of its image, for rounding's sake."""
Annotation = Mapping[str, Any]
Code = dict[str, Any]


class _Problem(Exception):
    """An annotation that has no mask: kind and cause of the finding."""


def check_instances(rules: Rules, item: Item) -> ImageReport:
    """Check one image with its ``annotations`` in COCO's form, or that of Detectron2's dataset dicts."""
    report = ImageReport()
    check_photograph(item, report)
    size = item.size or report.size
    if size is None:
        return report
    report.measured = size[0] * size[1]
    image = _Image(item, size, report, rules)
    for index, annotation in enumerate(item.annotations):
        _check_annotation(annotation, index, image)
    check_number(item, report, rules)
    return report


@dataclass
class _Image:
    """The image that annotations are checked against, and where what is found goes."""

    item: Item
    size: tuple[int, int]
    report: ImageReport
    rules: Rules
    masks: set[tuple[int, bytes]] = field(default_factory=set)

    def found(self, kind: str, cause: str, number: int | str) -> None:
        self.report.findings.append(Finding(kind, cause, self.item.image, self.item.image_id, number))


def _check_annotation(annotation: Annotation, index: int, image: _Image) -> None:
    number, category = annotation.get("id", index), annotation["category_id"]
    is_crowd = bool(annotation.get("iscrowd", 0))
    if category not in image.rules.things:
        image.found("category-unknown", f"There is no category {category}.", number)
    elif not is_crowd:
        image.report.counts[category] = image.report.counts.get(category, 0) + 1
    image.report.objects += not is_crowd
    if annotation.get("ignore", 0):
        image.found("annotation-ignore-flag", 'The annotation has "ignore" set.', number)
    box = _box(annotation)
    if box is not None and not is_box(box):
        image.found("box-invalid", f"The box is {box}.", number)
        box = None
    try:
        code = _encode(annotation.get("segmentation"), image, number)
    except _Problem as problem:
        kind, cause = problem.args
        if not (is_crowd and kind == "segmentation-missing"):
            image.found(kind, cause, number)
        return
    _check_mask(annotation, code, box, image, number)


def _check_mask(annotation: Annotation, code: Code, box: Any, image: _Image, number: int | str) -> None:
    area = int(coco_mask.area(code))
    if area == 0:
        image.found("mask-empty", "The mask has no pixel.", number)
        return
    if annotation.get("iscrowd", 0):
        image.report.crowd += area
    else:
        key = (annotation["category_id"], code["counts"])
        if key in image.masks:
            image.found("annotation-repeated", "Another annotation has the same mask and category.", number)
        image.masks.add(key)
        if area < TINY_AREA:
            image.found("mask-tiny", f"The mask has {area} pixels.", number)
    actual = [int(side) for side in coco_mask.toBbox(code)]
    # The tips of polygons cover no pixel: boxes around the corners are as right as those around the pixels.
    tight: list[Sequence[float]] = [actual, *_extents(annotation["segmentation"])]
    if box is not None and all(boxes_differ(box, each, image.size) for each in tight):
        stated = [round(float(side), 1) for side in box]
        image.found("box-differs", f"The box is {stated}, that of the mask {actual}.", number)
    area_stated = annotation.get("area")
    if isinstance(area_stated, int | float) and not math.isclose(area_stated, area, rel_tol=0.2, abs_tol=TINY_AREA):
        image.found("area-differs", f"The area is {area_stated}, that of the mask {area}.", number)


def _box(annotation: Annotation) -> Any:
    """The box as x, y, width, height; as it is when it is none."""
    box, mode = annotation.get("bbox"), annotation.get("bbox_mode", BoxMode.XYWH_ABS)
    if mode == BoxMode.XYWH_ABS or box is None or len(box) != 4:
        return box
    return BoxMode.convert(list(box), mode, BoxMode.XYWH_ABS)


def _encode(segmentation: Any, image: _Image, number: int | str) -> Code:
    """The segmentation as compressed run-length code of the image's size.

    Raises:
        _Problem: there is none, or it cannot be used.
    """
    if isinstance(segmentation, np.ndarray):
        if segmentation.shape != tuple(image.size):
            raise _Problem("rle-invalid", f"The mask has shape {segmentation.shape}, its image {of_size(image.size)}.")
        return coco_mask.encode(np.asfortranarray(segmentation != 0).view(np.uint8))
    if not segmentation:
        raise _Problem("segmentation-missing", "The annotation has no mask.")
    if isinstance(segmentation, list):
        return _encode_polygons(segmentation, image, number)
    if isinstance(segmentation, dict):
        return _checked_code(segmentation, image.size)
    raise _Problem("rle-invalid", f"The segmentation is a {type(segmentation).__name__}.")


def _extents(segmentation: Any) -> list[list[float]]:
    """The box x, y, width, height around the corners of polygons; none of other segmentations."""
    if not isinstance(segmentation, list):
        return []
    corners = np.concatenate([_points(points) for points in segmentation])
    lowest, highest = corners.min(axis=0), corners.max(axis=0)
    return [[*lowest.tolist(), *(highest - lowest).tolist()]]


def _encode_polygons(polygons: Sequence[Any], image: _Image, number: int | str) -> Code:
    height, width = image.size
    limit = np.array([width, height], dtype=float)
    usable = []
    beyond = 0.0
    for points in polygons:
        polygon = _points(points)
        lowest, highest = polygon.min(axis=0), polygon.max(axis=0)
        if (lowest >= limit).any() or (highest <= 0).any():
            cause = (
                f"A polygon from {lowest.tolist()} to {highest.tolist()} (x, y) lies outside of {of_size(image.size)}."
            )
            raise _Problem("polygon-outside", cause)
        beyond = max(beyond, float((-lowest).max()), float((highest - limit).max()))
        # pycocotools takes memory by the length of edges, and its numbers overflow.
        usable.append(np.clip(polygon, -limit, 2 * limit).reshape(-1))
    if beyond > BEYOND_BORDER:
        cause = f"A polygon reaches {beyond:.1f} pixels beyond the border of {of_size(image.size)}."
        image.found("polygon-beyond-border", cause, number)
    return coco_mask.merge(coco_mask.frPyObjects(usable, height, width))


def _points(points: Any) -> np.ndarray:
    """The points of a polygon, P×2."""
    try:
        polygon = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise _Problem("polygon-invalid", "A polygon is no list of numbers.") from None
    if polygon.ndim != 1:
        raise _Problem("polygon-invalid", "A polygon is no list of numbers: polygons are lists in a list.")
    if len(polygon) % 2 or len(polygon) < 6:
        raise _Problem("polygon-invalid", f"A polygon has {len(polygon)} numbers.")
    if not np.isfinite(polygon).all():
        raise _Problem("polygon-invalid", "A polygon has numbers that are not finite.")
    return polygon.reshape(-1, 2)


def _checked_code(code: Mapping[str, Any], size: tuple[int, int]) -> Code:
    stated, counts = code.get("size"), code.get("counts")
    if not isinstance(stated, list | tuple) or len(stated) != 2 or not isinstance(counts, list | str | bytes):
        raise _Problem("rle-invalid", "The run-length code lacks size or counts.")
    if tuple(stated) != tuple(size):
        raise _Problem("rle-invalid", f"The run-length code is of {of_size(stated)}, its image of {of_size(size)}.")
    if isinstance(counts, list):
        runs = counts if all(isinstance(run, int) for run in counts) else [-1]
    else:
        runs = run_lengths(counts)
    pixels = size[0] * size[1]
    if any(run < 0 for run in runs) or sum(runs) != pixels:
        raise _Problem("rle-invalid", f"The run-length code does not add up to {pixels} pixels.")
    if isinstance(counts, list):
        return coco_mask.frPyObjects(dict(code), *size)
    return {"size": list(size), "counts": counts.encode("ascii") if isinstance(counts, str) else counts}


def run_lengths(counts: str | bytes) -> list[int]:
    """The lengths of runs in COCO's compressed code, which pycocotools reads without a look at its end.

    A length takes groups of 5 bits, lowest first, each in a character from "0" on; bit 5 says that another follows,
    and the highest bit of the last is the sign. From the fourth on they are differences to the last but one.

    Returns:
        The lengths; [-1] when the code breaks off or has other characters.
    """
    codes = counts.encode("latin-1", "replace") if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for code in codes:
        group = code - ord("0")
        if not 0 <= group < 64:
            return [-1]
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return [-1] if shift else runs
