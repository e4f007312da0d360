"""What is checked of the panoptic or semantic PNG of an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.reading import rgb_to_id
from .files import regions
from .findings import Finding
from .image_checks import (
    TINY_AREA,
    ImageReport,
    Rules,
    boxes_differ,
    check_number,
    check_photograph,
    check_png,
    is_box,
    listed,
)
from .sources import Item


def check_panoptic(rules: Rules, item: Item) -> ImageReport:
    """Check one image with its ``png`` and, as ``annotations``, its ``segments_info``."""
    report = ImageReport()
    check_photograph(item, report)
    _check_segments(item, report, rules)
    check_number(item, report, rules)
    content = None if item.png is None else check_png(item, report, colours=True)
    if content is None:
        return report
    mode, pixels = content
    if mode not in ("RGB", "RGBA"):
        cause = f"The PNG has the colour mode {mode}, not RGB."
        report.findings.append(Finding("png-mode", cause, item.png, item.image_id))
        return report
    ids, areas, boxes = regions(rgb_to_id(pixels[..., :3]))
    in_png = {number: (int(area), box) for number, area, box in zip(ids.tolist(), areas, boxes.tolist(), strict=True)}
    report.measured = int(areas.sum())
    report.void = in_png.get(0, (0, None))[0]
    _compare_ids(item, report, in_png)
    for segment in item.annotations:
        if segment["id"] in in_png and segment["id"] != 0:
            _check_region(item, report, segment, *in_png[segment["id"]], pixels.shape[:2])
    return report


def _check_segments(item: Item, report: ImageReport, rules: Rules) -> None:
    """Check ``segments_info`` by itself, and count what it lists."""

    def found(kind: str, cause: str, number: int | str | None = None) -> None:
        report.findings.append(Finding(kind, cause, item.png, item.image_id, number))

    for number, times in Counter(segment["id"] for segment in item.annotations).items():
        if times > 1:
            found("segment-id-repeated", f"{times} segments have this id.", number)
    for segment in item.annotations:
        category = segment["category_id"]
        if category not in rules.things:
            found("category-unknown", f"There is no category {category}.", segment["id"])
            continue
        if bool(segment.get("isthing", rules.things[category])) != rules.things[category]:
            is_one = "is a thing" if rules.things[category] else "is stuff"
            cause = f"The segment has isthing {segment['isthing']}, its category {category} {is_one}."
            found("isthing-differs", cause, segment["id"])
        if not segment.get("iscrowd", 0):
            report.counts[category] = report.counts.get(category, 0) + 1
    report.objects = sum(not segment.get("iscrowd", 0) for segment in item.annotations)
    for category, times in report.counts.items():
        if times > 1 and not rules.things[category]:
            found("stuff-repeated", f"Category {category}, which is stuff, has {times} segments.")


def _compare_ids(item: Item, report: ImageReport, in_png: dict[int, tuple[int, list[int]]]) -> None:
    listed_ids = {segment["id"] for segment in item.annotations}
    unlisted = sorted(in_png.keys() - listed_ids - {0})
    missing = sorted(number for number in listed_ids if number == 0 or number not in in_png)
    if unlisted:
        share = sum(in_png[number][0] for number in unlisted) / report.measured
        cause = f"{len(unlisted)} ids of the PNG ({share:.1%} of its pixels) have no segment: {listed(unlisted)}."
        report.findings.append(Finding("pixels-without-segment", cause, item.png, item.image_id))
    for number in missing:
        cause = "0 is the id of void." if number == 0 else "The PNG has no pixel of this id."
        report.findings.append(Finding("segment-without-pixels", cause, item.png, item.image_id, number))


def _check_region(
    item: Item, report: ImageReport, segment: Mapping[str, Any], area: int, box: list[int], size: tuple[int, int]
) -> None:
    """Compare what a segment says with its pixels."""

    def found(kind: str, cause: str) -> None:
        report.findings.append(Finding(kind, cause, item.png, item.image_id, segment["id"]))

    category = segment["category_id"]
    if segment.get("iscrowd", 0):
        report.crowd += area
    else:
        report.pixels[category] = report.pixels.get(category, 0) + area
        if area < TINY_AREA:
            found("mask-tiny", f"The segment has {area} pixels.")
    if segment.get("area", area) != area:
        found("area-wrong", f"The area is {segment['area']}, the segment has {area} pixels.")
    stated = segment.get("bbox")
    if stated is None:
        return
    if not is_box(stated):
        found("box-invalid", f"The box is {stated}.")
    elif boxes_differ(stated, box, size):
        found("box-differs", f"The box is {stated}, that of the segment {box}.")


def check_semantic(rules: Rules, item: Item) -> ImageReport:
    """Check one image with its ``png`` of labels."""
    report = ImageReport()
    check_photograph(item, report)
    content = check_png(item, report, colours=False)
    if content is None:
        return report

    def found(kind: str, cause: str) -> None:
        report.findings.append(Finding(kind, cause, item.png, item.image_id))

    mode, pixels = content
    if pixels.ndim != 2 or pixels.dtype.kind not in "bui":
        found("png-mode", f"The PNG is of mode {mode}, {pixels.shape[2:] or (1,)} channels of {pixels.dtype}.")
        return report
    labels, areas, _ = regions(pixels)
    present = dict(zip(labels.astype(np.int64).tolist(), areas.tolist(), strict=True))
    report.measured = pixels.size
    report.void = present.pop(rules.ignore_label, 0)
    if not present:
        found("all-ignored", f"Every pixel has the ignore label {rules.ignore_label}.")
    wrong = {label: area for label, area in present.items() if rules.things and label not in rules.things}
    if wrong:
        found("label-outside-range", _outside(list(wrong), sum(wrong.values()) / pixels.size, rules))
    report.pixels = {label: area for label, area in present.items() if label not in wrong}
    report.counts = dict.fromkeys(report.pixels, 1)
    report.objects = len(report.pixels)
    check_number(item, report, rules)
    return report


def _outside(wrong: list[int], share: float, rules: Rules) -> str:
    cause = (
        f"The label {listed(wrong)} ({share:.1%} of the pixels) is none of 0…{len(rules.things) - 1}, and pixels to"
        f" ignore have {rules.ignore_label}."
    )
    if wrong == [rules.ignore_label - 1]:
        cause += (
            f" {wrong[0]} is what {rules.ignore_label} becomes when all labels are reduced by one; it must stay"
            f" {rules.ignore_label}."
        )
    return cause
