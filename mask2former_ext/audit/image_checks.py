"""What is checked of one image and its annotations, whatever the task; runs in worker processes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .files import read_photograph, read_png
from .findings import Finding
from .sources import Item, Task

TINY_AREA = 16
"""Pixels: masks are predicted at a quarter of the image's height and width."""
FARTHEST = 1e9
"""Pixels from the origin; no box reaches so far."""


@dataclass(frozen=True)
class Rules:
    """What the annotations of an image must agree with.

    Attributes:
        task: selects the checks.
        things: category id → whether it is a thing.
        num_queries: the number of objects that a model can find in an image, None where nothing limits it.
        ignore_label: label of pixels without one (semantic).
    """

    task: Task
    things: Mapping[int, bool]
    num_queries: int | None
    ignore_label: int


@dataclass
class ImageReport:
    """What one image adds to the audit. It holds no pixels, because it travels between processes.

    Attributes:
        findings: all of them.
        size: (height, width), None when the file could not be read.
        digest: of the file, None when it could not be read.
        objects: annotations that queries have to find: instances, segments, or classes; crowds are none.
        counts: category → its number of such objects.
        pixels: category → its pixels, of PNGs.
        measured: pixels of the annotations' map, or of the annotated size: what the next two are shares of.
        void: pixels without a label.
        crowd: pixels of crowds.
    """

    findings: list[Finding] = field(default_factory=list)
    size: tuple[int, int] | None = None
    digest: bytes | None = None
    objects: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    pixels: dict[int, int] = field(default_factory=dict)
    measured: int = 0
    void: int = 0
    crowd: int = 0


def check_photograph(item: Item, report: ImageReport) -> None:
    """Read the image file; compare its size with that of the annotations."""

    def found(kind: str, cause: str) -> None:
        report.findings.append(Finding(kind, cause, item.image, item.image_id))

    try:
        photograph = read_photograph(item.image)
    except FileNotFoundError:
        found("image-missing", "The file does not exist.")
        return
    except ValueError as error:
        found("image-unreadable", f"The image cannot be read: {error}.")
        return
    report.size, report.digest = photograph.size, photograph.digest
    if photograph.bits > 8:
        found("image-deep" if photograph.bits == 16 else "image-mode", f"A channel has {photograph.bits} bits.")
    if item.size is not None and tuple(item.size) != photograph.size:
        turned = " after its EXIF orientation has turned it" if photograph.is_turned else ""
        found("image-size-differs", f"The file has {of_size(photograph.size)}{turned}, its entry {of_size(item.size)}.")


def check_png(item: Item, report: ImageReport, *, colours: bool) -> tuple[str, np.ndarray] | None:
    """Read the PNG of an image whose file was read before; None when it cannot be read.

    Returns:
        Mode and pixels, see ``read_png``.
    """

    def found(kind: str, cause: str) -> None:
        report.findings.append(Finding(kind, cause, item.png, item.image_id))

    assert item.png is not None
    try:
        mode, pixels = read_png(item.png, colours=colours)
    except FileNotFoundError:
        found("png-missing", f"The annotation of {os.path.basename(item.image)} does not exist.")
        return None
    except ValueError as error:
        found("png-unreadable", f"The annotation of {os.path.basename(item.image)} cannot be read: {error}.")
        return None
    size = report.size or item.size
    if size is not None and pixels.shape[:2] != tuple(size):
        found("png-size-differs", f"The PNG has {of_size(pixels.shape)}, its image {of_size(size)}.")
    return mode, pixels


def check_number(item: Item, report: ImageReport, rules: Rules) -> None:
    """Compare the number of objects with that of queries."""
    if rules.num_queries is not None and report.objects > rules.num_queries:
        cause = f"The image has {report.objects} objects, the model {rules.num_queries} queries."
        report.findings.append(Finding("too-many-objects", cause, item.image, item.image_id))


def boxes_differ(stated: Sequence[float], actual: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether two boxes [x, y, width, height] differ by more than 2 pixels, and 5 % of the second, at some side.

    Args:
        stated, actual: both are cut at the border.
        size: (height, width) of the image.
    """
    limit = np.array(size[::-1], dtype=float)
    corners = []
    for box in (stated, actual):
        x, y, width, height = box
        corners.append(np.concatenate([np.clip([x, y], 0, limit), np.clip([x + width, y + height], 0, limit)]))
    tolerance = np.maximum(2.0, 0.05 * np.tile(corners[1][2:] - corners[1][:2], 2))
    return bool((np.abs(corners[0] - corners[1]) > tolerance).any())


def is_box(box: object) -> bool:
    """Whether this is [x, y, width, height], not empty, of numbers that are finite and not beyond any image."""
    if not isinstance(box, Sequence | np.ndarray) or isinstance(box, str) or len(box) != 4:
        return False
    if not all(isinstance(number, int | float | np.number) for number in box):
        return False
    return all(abs(number) < FARTHEST for number in box) and bool(box[2] > 0 and box[3] > 0)


def of_size(size: Sequence[int]) -> str:
    return f"{size[0]}×{size[1]} pixels (height × width)"


def listed(values: Sequence[object], limit: int = 8) -> str:
    """The values, or the first of them and how many there are more."""
    shown = ", ".join(map(str, values[:limit]))
    return shown if len(values) <= limit else f"{shown} and {len(values) - limit} more"
