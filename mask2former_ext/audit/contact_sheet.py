"""A sheet of images with their annotations drawn on them, those with findings first and marked."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures.masks import polygons_to_bitmask
from PIL import Image, ImageDraw, ImageFont

from ..data.masks import decode_segmentation
from ..data.reading import read_image_file, rgb_to_id
from ..visualization import Segment, draw_segments
from .findings import KINDS, Finding, printable
from .report import AuditReport
from .sources import Category, Item, Source

_TILE = 320
_CAPTION = 44
_MARGIN = 8
_MOST_SEGMENTS = 100
"""So many are drawn on an image, the largest: drawing takes time by the square of their number."""
_COLOURS = {"fault": "#c62828", "warning": "#d98200", "info": "#1565c0"}


def draw_contact_sheet(report: AuditReport, *, columns: int = 4, limit: int = 24) -> Image.Image:
    """Draw images of the audited dataset with their annotations.

    First comes one image for each kind of faults and warnings, then others with findings, then others, evenly spread.
    Images with findings have a coloured frame, and the kinds below. What cannot be drawn is a grey tile, or left out.

    Args:
        columns: tiles side by side.
        limit: tiles in all.
    """
    of_image = _findings_of_images(report)
    items = _choose(report.source.items, of_image, limit)
    columns = min(columns, len(items))
    step = (_TILE + 2 * _MARGIN, _TILE + _CAPTION + 2 * _MARGIN)
    rows = -(-len(items) // columns)
    sheet = Image.new("RGB", (columns * step[0], rows * step[1]), "white")
    for place, item in enumerate(items):
        corner = (place % columns * step[0] + _MARGIN, place // columns * step[1] + _MARGIN)
        _draw_tile(sheet, corner, item, report.source, of_image[item.image])
    return sheet


def _findings_of_images(report: AuditReport) -> dict[str, list[Finding]]:
    """Path of an image → the faults and warnings that are about it, its PNG or its annotations."""
    image_of = {item.png: item.image for item in report.source.items if item.png is not None}
    image_of_id: dict[int | str | None, str] = {
        item.image_id: item.image for item in report.source.items if item.image_id is not None
    }
    of_image: dict[str, list[Finding]] = defaultdict(list)
    for finding in report.faults + report.warnings:
        if finding.image_id in image_of_id:
            of_image[image_of_id[finding.image_id]].append(finding)
        elif finding.file is not None:
            of_image[image_of.get(finding.file, finding.file)].append(finding)
    return of_image


def _choose(items: Sequence[Item], of_image: Mapping[str, Sequence[Finding]], limit: int) -> list[Item]:
    seen: set[str] = set()
    of_a_new_kind: list[Item] = []
    marked: list[Item] = []
    others: list[Item] = []
    for item in items:
        kinds = {finding.kind for finding in of_image.get(item.image, ())}
        (of_a_new_kind if kinds - seen else marked if kinds else others).append(item)
        seen |= kinds
    chosen = (of_a_new_kind + marked)[:limit]
    room = min(limit - len(chosen), len(others))
    return chosen + [others[round(index * (len(others) - 1) / max(room - 1, 1))] for index in range(room)]


def _draw_tile(
    sheet: Image.Image, corner: tuple[int, int], item: Item, source: Source, findings: Sequence[Finding]
) -> None:
    x, y = corner
    pen = ImageDraw.Draw(sheet)
    tile = _picture(item, source)
    if findings:
        colour = _COLOURS[min((finding.severity for finding in findings), key=list(_COLOURS).index)]
        pen.rectangle((x - 4, y - 4, x + _TILE + 3, y + _TILE + 3), fill=colour)
    pen.rectangle((x, y, x + _TILE - 1, y + _TILE - 1), fill="#dddddd")
    sheet.paste(tile, (x + (_TILE - tile.width) // 2, y + (_TILE - tile.height) // 2))
    font = ImageFont.load_default(size=14)
    name = printable(os.path.basename(item.image))
    pen.text((x, y + _TILE + 7), _fitting(name, font), fill="black", font=font)
    kinds = [kind for kind in KINDS if any(finding.kind == kind for finding in findings)]
    if kinds:
        pen.text((x, y + _TILE + 24), _fitting(", ".join(kinds), font), fill=colour, font=font)


def _fitting(text: str, font: Any) -> str:
    """The text, with an ellipsis where a tile ends."""
    if font.getlength(text) <= _TILE:
        return text
    while font.getlength(f"{text}…") > _TILE:
        text = text[:-1]
    return f"{text}…"


def _picture(item: Item, source: Source) -> Image.Image:
    """The image with its annotations, at most as large as a tile."""
    try:
        photo = Image.fromarray(read_image_file(item.image, "RGB", "image"))
    except (FileNotFoundError, ValueError):
        return Image.new("RGB", (_TILE, _TILE), "#999999")
    original = (photo.height, photo.width)
    photo.thumbnail((_TILE, _TILE))
    scale = max(1, _TILE // max(photo.size))
    segments = sorted(_segments(item, source, original, photo.size), key=lambda segment: -int(segment.mask.sum()))
    return Image.fromarray(draw_segments(np.asarray(photo), segments[:_MOST_SEGMENTS], scale=scale))


def _segments(item: Item, source: Source, original: tuple[int, int], size: tuple[int, int]) -> list[Segment]:
    """The annotations of an image as masks of ``size`` (width, height); its file has ``original`` (height, width)."""
    if source.task == "instance":
        return [
            Segment(_resized(mask, size), _name(source.categories, annotation["category_id"]))
            for annotation in item.annotations
            if (mask := _mask(annotation, item.size or original)) is not None
        ]
    try:
        mode = "RGB" if source.task == "panoptic" else None
        pixels = read_image_file(str(item.png), mode, "PNG")
    except (FileNotFoundError, ValueError):
        return []
    if source.task == "panoptic":
        ids = _resized(rgb_to_id(pixels), size)
        return [
            Segment(
                ids == segment["id"],
                _name(source.categories, segment["category_id"]),
                source.categories.get(segment["category_id"], Category("")).is_thing,
            )
            for segment in item.annotations
        ]
    labels = _resized(pixels if pixels.ndim == 2 else pixels[..., 0], size)
    present = zip(*(values.tolist() for values in np.unique(labels, return_counts=True)), strict=True)
    ranked = sorted(((count, label) for label, count in present if label != source.ignore_label), reverse=True)
    return [Segment(labels == label, _name(source.categories, label)) for _, label in ranked[:_MOST_SEGMENTS]]


def _mask(annotation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray | None:
    try:
        shape = decode_segmentation(annotation.get("segmentation"), size, "")
    except ValueError:
        return None
    if isinstance(shape, np.ndarray):
        return shape
    return polygons_to_bitmask([polygon.reshape(-1) for polygon in shape], *size)


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The nearest pixels of a map H×W, as a map of ``size`` (width, height)."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size[::-1], values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def _name(categories: Mapping[int, Category], number: int) -> str:
    return categories[number].name if number in categories else str(number)
