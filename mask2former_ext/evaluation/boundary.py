"""Boundaries of masks, and how well two of them agree.

"Boundary IoU: Improving Object-Centric Image Segmentation Evaluation" (Cheng et al., CVPR 2021): the boundary of a mask
is what of it lies within some distance of its contour, and Boundary IoU is the IoU of two boundaries. The measures of
that paper take the smaller of mask IoU and Boundary IoU wherever the usual ones take mask IoU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

Box = tuple[slice, slice]


@dataclass(frozen=True)
class Boundary:
    """The boundary of one mask.

    Attributes:
        box: the rows and columns of the image that hold all of the mask.
        pixels: bool, of the size of ``box``.
        area: number of pixels.
    """

    box: Box
    pixels: np.ndarray
    area: int

    def intersection(self, other: Boundary) -> int:
        """Count the pixels of both, which are of the same image."""
        common = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(self.box, other.box)]
        if any(side.start >= side.stop for side in common):
            return 0
        return int(np.count_nonzero(self._within(common) & other._within(common)))

    def _within(self, common: list[slice]) -> np.ndarray:
        rows, columns = (
            slice(side.start - own.start, side.stop - own.start) for side, own in zip(common, self.box, strict=True)
        )
        return self.pixels[rows, columns]


def boundary_distance(size: tuple[int, int], dilation_ratio: float) -> int:
    """How far from the contour a mask's boundary reaches, in pixels, at least 1.

    Args:
        size: (height, width) of the image.
        dilation_ratio: the distance as a share of the image's diagonal; the paper uses 0.02.
    """
    return max(1, round(dilation_ratio * math.hypot(*size)))


def mask_boundary(mask: np.ndarray, distance: int, box: Box | None = None) -> Boundary:
    """Find the boundary of a mask: its pixels that ``distance`` erosions by a 3×3 square take away.

    Beyond the image's border there is no mask, so pixels there count as boundary too.

    Args:
        mask: bool or uint8 of 0 and 1, H×W.
        distance: in pixels, see :func:`boundary_distance`.
        box: rows and columns that hold all of the mask, where they are known.
    """
    box = box or bounding_box(mask)
    pixels = np.ascontiguousarray(mask[box]).view(np.uint8)
    if min(pixels.shape) > 2 * distance:  # of a thinner mask nothing would be left
        # erosions by a square are one erosion by a larger square; around the box there is nothing
        framed = cv2.copyMakeBorder(pixels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        side = 2 * distance + 1
        pixels = pixels - cv2.erode(framed, np.ones((side, side), np.uint8))[1:-1, 1:-1]
    return Boundary(box, pixels.astype(bool), int(np.count_nonzero(pixels)))


def map_boundaries(index_map: np.ndarray, wanted: Iterable[int], distance: int) -> dict[int, Boundary]:
    """Find the boundaries of some segments of a map, or classes of a label map.

    Args:
        index_map: integers H×W, at least 0; 0 belongs to no segment.
        wanted: numbers above 0; where the map lacks one, its boundary is empty.
        distance: in pixels, see :func:`boundary_distance`.
    """
    boxes = dict(enumerate(ndimage.find_objects(index_map), start=1))
    boundaries = {}
    for index in wanted:
        rows, columns = boxes.get(index) or (slice(0, 0), slice(0, 0))
        inside = mask_boundary(index_map[rows, columns] == index, distance, (slice(None), slice(None)))
        boundaries[index] = Boundary((rows, columns), inside.pixels, inside.area)
    return boundaries


def bounding_box(mask: np.ndarray) -> Box:
    """The rows and columns from the first to the last that has a pixel; empty ones for an empty mask."""
    box = []
    for axis in (1, 0):
        occupied = np.flatnonzero(mask.any(axis=axis))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else slice(0, 0))
    return box[0], box[1]


def boundary_iou(one: Boundary, other: Boundary) -> float:
    """Boundary IoU of two masks of an image, in [0, 1]; 0 when both are empty."""
    intersection = one.intersection(other)
    return intersection / max(one.area + other.area - intersection, 1)
