"""Labels on segments: where there is most room on the segment, inside the picture, and beside each other.

H, W: height and width of the picture, in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.utils.visualizer import Visualizer

Colour = tuple[float, float, float]

# Sizes of letters, in points; what share of that the letters are wide, on average, and a line is high.
SMALLEST_LETTERS = 6.0
LETTERS_PER_SIDE = 1 / 60  # of the square root of the picture's area
PIXELS_PER_POINT = 100 / 72
LETTER_WIDTH = 0.62
LINE_HEIGHT = 1.4
# Where a label goes when another is in its place: lines down (negative: up), in the order in which they are tried.
LINES_TO_MOVE = (0, 1, -1, 2, -2)
ALMOST_AS_FAR = 0.95

# Left, top, right, bottom, in pixels.
Rectangle = tuple[float, float, float, float]


def write_label(
    visualizer: Visualizer,
    text: str,
    mask: np.ndarray,
    colour: Colour,
    written: list[Rectangle],
    *,
    smallest: float = SMALLEST_LETTERS,
) -> None:
    """Write a label on the point of a segment that is farthest from its edge, beside what is written already.

    The letters are made smaller, down to a half, for the label not to be wider than the segment is there.

    Args:
        visualizer: of a picture H×W.
        text: the label.
        mask: bool or uint8 array H×W of the segment, not empty.
        colour: of the letters.
        written: where there are labels on the picture; this one is added.
        smallest: size of letters, in points.
    """
    x, y, radius = _innermost(mask)
    letters = len(text) * LETTER_WIDTH * PIXELS_PER_POINT
    usual = math.sqrt(mask.size) * LETTERS_PER_SIDE
    size = max(min(usual, 2 * radius / letters), usual / 2, smallest)
    box = _free_place((x, y), (size * letters, LINE_HEIGHT * size * PIXELS_PER_POINT), mask.shape, written)
    written.append(box)
    # Visualizer takes the middle of the upper edge
    visualizer.draw_text(text, ((box[0] + box[2]) / 2, box[1]), font_size=size, color=colour)


def lighter(colour: Colour, share: float) -> Colour:
    """The colour that is ``share`` of the way to white."""
    red, green, blue = (float(channel + share * (1 - channel)) for channel in colour)
    return (red, green, blue)


def _free_place(
    centre: tuple[float, float], size: tuple[float, float], shape: tuple[int, ...], taken: Sequence[Rectangle]
) -> Rectangle:
    """A rectangle of ``size`` (width, height) in a picture of ``shape`` (H, W), as near to ``centre`` as is free."""
    width, height = size
    left = min(max(centre[0] - width / 2, 0), max(shape[1] - width, 0))
    boxes = []
    for lines in LINES_TO_MOVE:
        top = min(max(centre[1] + (lines - 0.5) * height, 0), max(shape[0] - height, 0))
        boxes.append((left, top, left + width, top + height))
    return next((box for box in boxes if not any(_overlap(box, other) for other in taken)), boxes[0])


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _innermost(mask: np.ndarray) -> tuple[float, float, float]:
    """x and y of the pixel centre that is farthest from the edge of a mask, and how far.

    Of those that are almost as far, along a band say, it is the one in the middle.
    """
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    inside = np.pad(mask[top : top + height, left : left + width].astype(np.uint8), 1)
    distances = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    rows, columns = np.nonzero(distances >= ALMOST_AS_FAR * distances.max())
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return left + float(columns[middle]) - 0.5, top + float(rows[middle]) - 0.5, float(distances.max())
