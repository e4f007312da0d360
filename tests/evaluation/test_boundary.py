"""Boundaries of masks counted by hand, and against the definition: erosion by a 3×3 square, several times."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from mask2former_ext.evaluation.boundary import (
    boundary_distance,
    boundary_iou,
    bounding_box,
    map_boundaries,
    mask_boundary,
)

SQUARE = np.ones((3, 3))


def rectangle(size, rows, columns):
    mask = np.zeros(size, dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def full_size(boundary, size):
    pixels = np.zeros(size, dtype=bool)
    pixels[boundary.box] = boundary.pixels
    return pixels


def eroded_away(mask, distance):
    """The definition, on the whole image; beyond its border there is no mask."""
    return mask & ~ndimage.binary_erosion(mask, SQUARE, iterations=distance, border_value=0)


@pytest.mark.parametrize(
    ("size", "ratio", "distance"),
    [((480, 640), 0.02, 16), ((640, 480), 0.02, 16), ((1024, 2048), 0.02, 46), ((30, 40), 0.02, 1), ((6, 8), 0.02, 1)],
)
def test_distance_is_a_share_of_the_diagonal_and_at_least_one(size, ratio, distance):
    assert boundary_distance(size, ratio) == distance


def test_pixels_by_hand():
    boundary = mask_boundary(rectangle((7, 8), (1, 6), (1, 6)), 1)
    ring, side, empty = ".#####..", ".#...#..", "........"
    expected = [empty, ring, side, side, side, ring, empty]
    assert ["".join(".#"[x] for x in row) for row in full_size(boundary, (7, 8)).astype(int)] == expected
    assert boundary.area == 16


def test_border_of_the_image_is_contour():
    assert mask_boundary(np.ones((5, 6), dtype=bool), 1).area == 5 * 6 - 3 * 4
    assert mask_boundary(np.ones((5, 6), dtype=bool), 2).area == 5 * 6 - 1 * 2
    assert mask_boundary(np.ones((5, 6), dtype=bool), 3).area == 5 * 6


def test_a_hole_has_a_contour():
    mask = rectangle((9, 9), (0, 9), (0, 9))
    mask[4, 4] = False
    # ring along the border, and the 8 pixels around the hole
    assert mask_boundary(mask, 1).area == 81 - 49 + 8


@pytest.mark.parametrize("distance", [1, 2, 5])
@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_agrees_with_repeated_erosion(distance, dtype):
    generator = np.random.default_rng(distance)
    for _ in range(20):
        mask = ndimage.zoom(generator.random((5, 6)), 9, order=1)[: generator.integers(20, 45)] > 0.45
        boundary = mask_boundary(mask.astype(dtype)[:, ::-1], distance)
        np.testing.assert_array_equal(full_size(boundary, mask.shape), eroded_away(mask[:, ::-1], distance))
        assert boundary.area == boundary.pixels.sum()


def test_boundaries_of_a_map_are_those_of_its_masks():
    generator = np.random.default_rng(0)
    index_map = np.kron(generator.integers(0, 4, (5, 6)), np.ones((7, 6), dtype=np.int64))
    for index, boundary in map_boundaries(index_map, [1, 3], 2).items():
        np.testing.assert_array_equal(full_size(boundary, index_map.shape), eroded_away(index_map == index, 2))


def test_one_pixel_dilated():
    size = (100, 100)
    distance = boundary_distance(size, 0.02)
    assert distance == 3
    true, dilated = rectangle(size, (20, 30), (40, 50)), rectangle(size, (19, 31), (39, 51))
    one, other = mask_boundary(true, distance), mask_boundary(dilated, distance)
    assert (one.area, other.area) == (100 - 16, 144 - 36)
    assert one.intersection(other) == other.intersection(one) == 100 - 36
    assert boundary_iou(one, other) == 64 / 128
    assert boundary_iou(one, one) == 1


def test_empty_and_disjoint_masks():
    empty = mask_boundary(np.zeros((9, 9), dtype=bool), 1)
    corner = mask_boundary(rectangle((9, 9), (0, 3), (0, 3)), 1)
    other = mask_boundary(rectangle((9, 9), (5, 9), (1, 4)), 1)
    assert empty.area == 0
    assert boundary_iou(empty, empty) == boundary_iou(empty, corner) == boundary_iou(corner, other) == 0
    assert map_boundaries(np.ones((4, 4), dtype=np.int64), [2], 1)[2].area == 0
    assert bounding_box(rectangle((9, 9), (5, 9), (1, 4))) == (slice(5, 9), slice(1, 4))
