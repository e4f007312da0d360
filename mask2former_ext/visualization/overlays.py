"""Results drawn over a photograph at its own size: every segment filled, outlined, and with its label on it.

H, W: height and width of the photograph, in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.utils.visualizer import GenericMask, Visualizer
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from pycocotools import mask as coco_mask

from .labels import Rectangle, lighter, write_label
from .panels import LABEL_LIGHTER, Colour, Segment

OPACITY = 0.5
OUTLINE_LIGHTER = 0.35  # an outline is this share of the way from the segment's colour to white
CORNER_TOLERANCE = 0.5  # pixels that an outline may be off
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
# Of a class's own colour, for things of the class that are next to each other: hue and brightness in turn.
HUE_STEPS = (0.0, 0.07, -0.07, 0.035, -0.035)
BRIGHTNESS = (1.0, 0.8, 0.65)
SAME_THING_IOU = 0.5


def draw_overlay(
    photo: np.ndarray, segments: Sequence[Segment], colours: Sequence[Colour], *, opacity: float = OPACITY
) -> np.ndarray:
    """Draw segments over a photograph.

    Args:
        photo: uint8 array H×W×3, RGB.
        segments: what to draw; masks are H×W and may overlap: small ones lie on top. Empty ones are left out.
        colours: one for each segment.
        opacity: of the fillings, in [0, 1].

    Returns:
        uint8 array H×W×3, RGB.
    """
    areas = [int(segment.mask.sum()) for segment in segments]
    drawn = sorted((index for index, area in enumerate(areas) if area), key=lambda index: -areas[index])
    picture = photo.copy()
    if not drawn:
        return picture
    # Visualizer would keep a float RGBA picture in memory for every mask that has holes, until all is drawn
    for index in drawn:
        _fill(picture, segments[index].mask, colours[index], opacity)
    visualizer = Visualizer(picture)
    height, width = photo.shape[:2]
    for index in drawn:
        outline = lighter(colours[index], OUTLINE_LIGHTER)
        for polygon in GenericMask(segments[index].mask, height, width).polygons:
            # every pixel of the edge is a corner of it, over which matplotlib would take its time
            corners = cv2.approxPolyDP(polygon.reshape(-1, 1, 2).astype(np.float32), CORNER_TOLERANCE, True)
            visualizer.draw_polygon(corners[:, 0], color=outline, edge_color=outline, alpha=0)
    written: list[Rectangle] = []
    for index in drawn:
        if segments[index].label:
            colour = lighter(colours[index], LABEL_LIGHTER)
            write_label(visualizer, segments[index].label, segments[index].mask, colour, written)
    return visualizer.output.get_image()


def distinct_colour(number: int) -> Colour:
    """The colour of that number in an endless series in which neighbours differ clearly."""
    hue = (0.6 + number * GOLDEN_RATIO) % 1
    return _as_colour(hsv_to_rgb((hue, (0.85, 0.6)[number // 8 % 2], (0.95, 0.75)[number // 16 % 2])))


def class_colour(colours: Sequence[Sequence[int]], category: int) -> Colour:
    """The colour of a class from a data set's list (0…255, RGB), or a distinct one where the list has none."""
    if category >= len(colours):
        return distinct_colour(category)
    red, green, blue = (channel / 255 for channel in colours[category])
    return (red, green, blue)


def varied_colour(colour: Colour, number: int) -> Colour:
    """A class's colour for the thing of that number in it: number 0 has the colour itself, others are close to it."""
    hue, saturation, value = rgb_to_hsv(colour)
    hue = (hue + HUE_STEPS[number % len(HUE_STEPS)]) % 1
    return _as_colour(hsv_to_rgb((hue, saturation, value * BRIGHTNESS[number % len(BRIGHTNESS)])))


class ThingNumbers:
    """Numbers for the things of one frame after the other: a thing that stays keeps its number, so its colour."""

    def __init__(self) -> None:
        self._previous: list[tuple[int, dict[str, bytes]]] = []
        self._next = 0

    def of(self, masks: Sequence[np.ndarray]) -> list[int]:
        """The number of each thing of the next frame; 0, 1, … in the first.

        A thing is the same as one of the frame before when the IoU of their masks is at least ``SAME_THING_IOU``.

        Args:
            masks: bool arrays H×W.
        """
        codes = [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
        numbers: list[int | None] = [None] * len(codes)
        if codes and self._previous:
            overlaps = np.array(coco_mask.iou([code for _, code in self._previous], codes, [0] * len(codes)))
            for old, new in _pairs(overlaps):
                numbers[new] = self._previous[old][0]
        result = [self._fresh() if number is None else number for number in numbers]
        self._previous = list(zip(result, codes, strict=True))
        return result

    def _fresh(self) -> int:
        self._next += 1
        return self._next - 1


def _pairs(overlaps: np.ndarray) -> list[tuple[int, int]]:
    """Rows and columns of the largest entries of at least ``SAME_THING_IOU``, each row and column once."""
    overlaps = overlaps.copy()
    pairs = []
    while overlaps.size and overlaps.max() >= SAME_THING_IOU:
        row, column = (int(index) for index in np.unravel_index(overlaps.argmax(), overlaps.shape))
        pairs.append((row, column))
        overlaps[row, :] = overlaps[:, column] = 0
    return pairs


def _fill(picture: np.ndarray, mask: np.ndarray, colour: Colour, opacity: float) -> None:
    """Mix a colour into the pixels of a mask, in place."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    part = picture[top : top + height, left : left + width]
    inside = mask[top : top + height, left : left + width]
    part[inside] = np.rint((1 - opacity) * part[inside] + opacity * 255 * np.array(colour)).astype(np.uint8)


def _as_colour(channels: Sequence[float] | np.ndarray) -> Colour:
    red, green, blue = (float(channel) for channel in channels)
    return (red, green, blue)
