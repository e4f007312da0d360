from itertools import pairwise

import numpy as np
import pytest

from mask2former_ext.visualization import Segment
from mask2former_ext.visualization.labels import _free_place, _innermost
from mask2former_ext.visualization.overlays import (
    ThingNumbers,
    class_colour,
    distinct_colour,
    draw_overlay,
    varied_colour,
)

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def box(top, left, height, width, size=(60, 80)):
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.fixture
def photo():
    return np.full((60, 80, 3), 100, dtype=np.uint8)


def test_masks_are_mixed_with_their_colours_and_the_rest_stays(photo):
    hole = box(10, 10, 30, 40)
    hole[20:30, 20:40] = False
    picture = draw_overlay(photo, [Segment(hole, "")], [RED], opacity=0.5)
    assert picture.shape == photo.shape and picture.dtype == np.uint8
    assert picture[15, 15].tolist() == [178, 50, 50]  # half of 100, and half of 255 in red
    assert picture[25, 30].tolist() == [100, 100, 100]  # in the hole
    assert picture[50, 70].tolist() == [100, 100, 100]
    assert picture[10, 30, 0] > 200 and picture[10, 30, 1] > 60  # the outline is lighter
    assert (photo == 100).all()


def test_small_segments_lie_on_top_whatever_their_order(photo):
    large, small = Segment(box(5, 5, 50, 70), ""), Segment(box(20, 30, 20, 20), "")
    for segments, colours in (([large, small], [RED, BLUE]), ([small, large], [BLUE, RED])):
        picture = draw_overlay(photo, segments, colours, opacity=1)
        assert picture[30, 40].tolist() == [0, 0, 255]
        assert picture[10, 10].tolist() == [255, 0, 0]


def test_nothing_to_draw_leaves_the_photograph(photo):
    assert np.array_equal(draw_overlay(photo, [], []), photo)
    assert np.array_equal(draw_overlay(photo, [Segment(box(0, 0, 0, 0), "empty")], [RED]), photo)


def test_label_stands_on_the_mask_even_where_its_middle_does_not():
    # an L whose foot is the thickest part; the centre of mass and the median lie off it
    mask = box(0, 0, 100, 12, size=(100, 120)) | box(60, 0, 40, 110, size=(100, 120))
    photo = np.full((100, 120, 3), 100, dtype=np.uint8)
    plain = draw_overlay(photo, [Segment(mask, "")], [RED]).astype(int)
    labelled = draw_overlay(photo, [Segment(mask, "ab")], [RED]).astype(int)
    rows, columns = np.nonzero(np.abs(plain - labelled).sum(2))
    assert len(rows) > 30
    assert mask[rows, columns].all()
    assert abs(rows.mean() - 80) < 4


def test_innermost_pixel_by_hand():
    x, y, radius = _innermost(box(10, 20, 11, 21))
    assert (x, y, radius) == (30.5, 15.5, 6)  # of the pixels that are as far, the one in the middle
    assert _innermost(box(0, 0, 1, 1)) == (0.5, 0.5, 1)  # what is out of the picture is outside


def test_labels_do_not_lie_on_each_other():
    first = _free_place((50, 50), (20, 10), (100, 100), [])
    assert first == (40, 45, 60, 55)
    second = _free_place((52, 51), (20, 10), (100, 100), [first])
    assert second == (42, 56, 62, 66)
    above = _free_place((52, 49), (20, 10), (100, 100), [first, second])
    assert above == (42, 34, 62, 44)
    everywhere = [(0, 0, 100, 100)]
    assert _free_place((50, 50), (20, 10), (100, 100), everywhere) == first
    assert _free_place((2, 99), (20, 10), (100, 100), []) == (0, 90, 20, 100)


def test_colours():
    colours = [distinct_colour(number) for number in range(24)]
    distances = [np.abs(np.subtract(one, two)).sum() for one, two in pairwise(colours)]
    assert min(distances) > 0.5 and len(set(colours)) == 24
    assert class_colour([[255, 0, 51]], 0) == (1.0, 0.0, 0.2)
    assert class_colour([[255, 0, 51]], 1) == distinct_colour(1)
    assert varied_colour((1.0, 0.5, 0.2), 0) == pytest.approx((1.0, 0.5, 0.2))
    assert len({varied_colour((1.0, 0.5, 0.2), number) for number in range(15)}) == 15


def test_things_keep_their_numbers_from_frame_to_frame():
    numbers = ThingNumbers()
    assert numbers.of([box(0, 0, 10, 10), box(30, 30, 10, 10)]) == [0, 1]
    # the second has moved by a tenth, the first is gone, another is there
    assert numbers.of([box(0, 60, 10, 10), box(31, 30, 10, 10)]) == [2, 1]
    assert numbers.of([]) == []
    assert numbers.of([box(31, 30, 10, 10)]) == [3]  # one frame before, there was none
    # two that overlap with the same one: the nearer has its number
    assert numbers.of([box(34, 30, 10, 10), box(32, 30, 10, 10)]) == [4, 3]
