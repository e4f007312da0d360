"""What is checked of the instances of an image: categories, masks, boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask

from ..data.masks import Polygons, decode_segmentation
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
    """Check one image with its ``annotations`` in COCO's form; masks may be arrays, too."""
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
    masks: set[tuple[Any, bytes]] = field(default_factory=set)

    def found(self, kind: str, cause: str, number: int | str) -> None:
        self.report.findings.append(Finding(kind, cause, self.item.image, self.item.image_id, number))


def _check_annotation(annotation: Annotation, index: int, image: _Image) -> None:
    number: int | str = annotation.get("id", index)
    category: Any = annotation.get("category_id")
    is_crowd = bool(annotation.get("iscrowd", 0))
    if category not in image.rules.things:
        image.found("category-unknown", f"There is no category {category!r}.", number)
    elif not is_crowd:
        image.report.counts[category] = image.report.counts.get(category, 0) + 1
    image.report.objects += not is_crowd
    if annotation.get("ignore", 0) != 0:  # null is refused, too
        image.found("annotation-ignore-flag", 'The annotation has "ignore" set.', number)
    box = annotation.get("bbox")
    if box is not None and not is_box(box):
        image.found("box-invalid", f"The box is {box}.", number)
        box = None
    try:
        shape = _decode(annotation.get("segmentation"), image)
    except _Problem as problem:
        kind, cause = problem.args
        if not (is_crowd and kind == "segmentation-missing"):
            image.found(kind, cause, number)
        return
    _check_mask(annotation, shape, box, image, number)


def _check_mask(
    annotation: Annotation, shape: Polygons | np.ndarray, box: Any, image: _Image, number: int | str
) -> None:
    code = _encode(shape, image, number)
    area = int(coco_mask.area(code))
    if area == 0:
        image.found("mask-empty", "The mask has no pixel.", number)
        return
    if annotation.get("iscrowd", 0):
        image.report.crowd += area
    else:
        key = (annotation.get("category_id"), code["counts"])
        if key in image.masks:
            image.found("annotation-repeated", "Another annotation has the same mask and category.", number)
        image.masks.add(key)
        if area < TINY_AREA:
            image.found("mask-tiny", f"The mask has {area} pixels.", number)
    actual = coco_mask.toBbox(code).tolist()
    # The tips of polygons cover no pixel: a box around the corners is as right as one around the pixels.
    tight = [actual, _extent(shape)] if isinstance(shape, list) else [actual]
    if box is not None and all(boxes_differ(box, each, image.size) for each in tight):
        stated = [round(float(side), 1) for side in box]
        image.found("box-differs", f"The box is {stated}, that of the mask {list(map(int, actual))}.", number)
    area_stated = annotation.get("area")
    if isinstance(area_stated, int | float) and not math.isclose(area_stated, area, rel_tol=0.2, abs_tol=TINY_AREA):
        image.found("area-differs", f"The area is {area_stated}, that of the mask {area}.", number)


def _decode(segmentation: Any, image: _Image) -> Polygons | np.ndarray:
    """The segmentation as training reads it, see ``decode_segmentation``; every polygon touches the image.

    Raises:
        _Problem: there is none, or it cannot be used.
    """
    if segmentation is None or (isinstance(segmentation, list | dict | str) and not segmentation):
        raise _Problem("segmentation-missing", "The annotation has no mask.")
    is_polygons = isinstance(segmentation, list)
    try:
        shape = decode_segmentation(segmentation, image.size, "The mask cannot be used")
    except (ValueError, OverflowError) as error:
        raise _Problem("polygon-invalid" if is_polygons else "rle-invalid", str(error)) from None
    if isinstance(shape, np.ndarray):
        return shape
    if any(np.ndim(points) != 1 for points in segmentation):
        raise _Problem("polygon-invalid", "A polygon is no list of numbers, but of lists.")
    for polygon in shape:
        lowest, highest = polygon.min(axis=0), polygon.max(axis=0)
        if (lowest >= image.size[::-1]).any() or (highest <= 0).any():
            reach = f"from {lowest.tolist()} to {highest.tolist()} (x, y)"
            raise _Problem("polygon-outside", f"A polygon {reach} lies outside of {of_size(image.size)}.")
    return shape


def _encode(shape: Polygons | np.ndarray, image: _Image, number: int | str) -> Code:
    """Compressed run-length code of the image's size."""
    if isinstance(shape, np.ndarray):
        return coco_mask.encode(np.asfortranarray(shape))
    height, width = image.size
    corners = np.concatenate(shape)
    beyond = max(float(-corners.min()), float((corners - (width, height)).max()))
    if beyond > BEYOND_BORDER:
        cause = f"A polygon reaches {beyond:.1f} pixels beyond the border of {of_size(image.size)}."
        image.found("polygon-beyond-border", cause, number)
    return coco_mask.merge(coco_mask.frPyObjects([polygon.reshape(-1) for polygon in shape], height, width))


def _extent(polygons: Polygons) -> list[float]:
    """The box x, y, width, height around the corners of polygons."""
    corners = np.concatenate(polygons)
    lowest, highest = corners.min(axis=0), corners.max(axis=0)
    return [*lowest.tolist(), *(highest - lowest).tolist()]
