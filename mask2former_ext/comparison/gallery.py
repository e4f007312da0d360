"""Which images of a comparison are shown, and how: photograph, truth and what each model found, beside each other.

H, W: height and width of a photograph in pixels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from PIL import Image

from ..classes import thing_labels
from ..data.reading import describe, read_image_file
from ..visualization import Segment, draw_segments
from .figures import percent
from .models import Comparison
from .regions import THINGS, Region, read_truth, region_name

WIDE, NARROW = 640, 400
"""How many pixels wide pictures are at most, landscapes and others; smaller photographs are enlarged by a whole number
that brings them near. It is about as large as they are shown, so that labels, whose letters have a size in pixels, can
be read."""
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Panel:
    """A picture of the gallery.

    Attributes:
        caption: what it shows.
        model: place of the model, or None.
        score: of the model on the image in percent, or None.
        best: the score is higher than those of all others.
        picture: as a data URI.
        width, height: of the picture in pixels.
    """

    caption: str
    model: int | None
    score: float | None
    best: bool
    picture: str
    width: int
    height: int


@dataclass(frozen=True)
class Exhibit:
    """An image of the gallery: the name of its file, and its panels, all of one size."""

    name: str
    panels: list[Panel]

    @property
    def wide(self) -> bool:
        """Whether the panels are landscapes."""
        return self.panels[0].width > self.panels[0].height

    @property
    def columns(self) -> int:
        """How many panels to set beside each other where there is room."""
        count = len(self.panels)
        if self.wide:
            return 2 if count in (2, 4) else 3
        return count if count <= 5 else 4


@dataclass(frozen=True)
class Room:
    """Images that are shown for the same reason."""

    title: str
    explanation: str
    exhibits: list[Exhibit]


def choose_images(comparison: Comparison, per_group: int) -> list[tuple[str, str, list[str]]]:
    """Choose images to look at: the best, the worst, and those where models differ most, no image twice.

    Args:
        comparison: with the scores of its images.
        per_group: images for each reason. A dataset that has no more than all groups together is shown whole.

    Returns:
        (title, explanation, file names) of each group that is not empty.
    """
    scores = comparison.scores
    names = [record["file_name"] for record in comparison.records]
    if not scores:
        return [("First images", "There are no scores to choose by.", names[:per_group])]
    several = len(comparison.models) > 1
    if len(names) <= (3 if several else 2) * per_group:
        ordered = sorted(names, key=lambda name: _mean(scores.get(name, [])))
        title = "The image of the dataset" if len(names) == 1 else f"All {len(names)} images, the worst first"
        return [(title, "", ordered)]
    rules: list[tuple[str, str, Callable[[str], float]]] = [
        ("Best images", "The highest mean score of the models.", lambda name: -_mean(scores[name])),
        ("Worst images", "The lowest mean score of the models.", lambda name: _mean(scores[name])),
    ]
    if several:
        explanation = "The largest gap between the scores of models."
        rules.append(("Most different images", explanation, lambda name: min(scores[name]) - max(scores[name])))
    groups = []
    taken: set[str] = set()
    for title, explanation, key in rules:
        chosen = [name for name in sorted(scores, key=key) if name not in taken][:per_group]
        taken |= set(chosen)
        groups.append((title, explanation, chosen))
    return groups


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def make_gallery(comparison: Comparison, per_group: int) -> list[Room]:
    """Draw the images that :func:`choose_images` chooses.

    Raises:
        OSError, ValueError: an image or its truth cannot be read.
    """
    records = {record["file_name"]: record for record in comparison.records}
    return [
        Room(title, explanation, [_exhibit(comparison, records[name]) for name in names])
        for title, explanation, names in choose_images(comparison, per_group)
    ]


def _exhibit(comparison: Comparison, record: Mapping[str, Any]) -> Exhibit:
    name = record["file_name"]
    metadata = MetadataCatalog.get(comparison.dataset_name)
    photo = read_image_file(name, "RGB", describe(dict(record)))
    canvas = Canvas(photo, metadata)
    truth = read_truth(record, metadata.get("ignore_label"))
    true = canvas.segments(truth.regions) if truth else []
    panels = [canvas.panel("photograph", [])]
    if truth:
        panels.append(canvas.panel("truth", true))
    scores = comparison.scores.get(name, [])
    for place, model in enumerate(comparison.models):
        found = canvas.segments(model.evaluation.found[name])
        score = scores[place] if scores else None
        panels.append(
            canvas.panel(model.spec.name, found, true, model=place, score=score, best=place == _best_place(scores))
        )
    return Exhibit(name.rpartition("/")[2], panels)


def _best_place(scores: Sequence[float]) -> int | None:
    """The place of the highest score, unless another one looks the same, or there is no other."""
    shown = [percent(score) for score in scores]
    place = max(range(len(scores)), key=lambda k: scores[k], default=None)
    return place if place is not None and len(scores) > 1 and shown.count(shown[place]) == 1 else None


class Canvas:
    """A photograph in the size that it is shown in, to draw regions on."""

    def __init__(self, photo: np.ndarray, metadata: Metadata) -> None:
        """
        Args:
            photo: uint8 H×W×3, RGB.
            metadata: names the classes.
        """
        self._metadata = metadata
        # One class of stuff is what lies between the things; of several each is to be seen.
        self._stuff_is_background = len(metadata.get("stuff_classes") or []) - len(thing_labels(metadata)) <= 1
        height, width = photo.shape[:2]
        limit = WIDE if width > height else NARROW
        shrink = min(1.0, limit / width)
        self._size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        self._photo = np.asarray(Image.fromarray(photo).resize(self._size, Image.Resampling.LANCZOS))
        self._scale = max(1, limit // width)

    def segments(self, regions: Sequence[Region]) -> list[Segment]:
        """The regions as segments of the shown size, the most confident first."""
        ordered = sorted(regions, key=lambda region: -(region.confidence or 0.0))
        return [self._segment(region) for region in ordered]

    def _segment(self, region: Region) -> Segment:
        mask = Image.fromarray(region.mask()).resize(self._size, Image.Resampling.NEAREST)
        sure = "" if region.confidence is None else f" {region.confidence:.0%}"
        coloured = region.kind == THINGS or not self._stuff_is_background
        return Segment(np.asarray(mask), f"{region_name(region, self._metadata)}{sure}", coloured)

    def panel(
        self,
        caption: str,
        segments: Sequence[Segment],
        like: Sequence[Segment] = (),
        *,
        model: int | None = None,
        score: float | None = None,
        best: bool = False,
    ) -> Panel:
        """Draw segments, coloured as those of ``like`` that they overlap."""
        drawn = Image.fromarray(draw_segments(self._photo, segments, like=like, scale=self._scale))
        buffer = io.BytesIO()
        drawn.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        picture = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
        return Panel(caption, model, score, best, picture, drawn.width, drawn.height)
