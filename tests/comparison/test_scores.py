"""Scores of images, computed by hand."""

import numpy as np
import pytest

from mask2former_ext.comparison.regions import STUFF, THINGS, Region, Truth, encode
from mask2former_ext.comparison.scores import image_score

BOTH = frozenset({THINGS, STUFF})


def strip(left, right, category=0, kind=THINGS):
    """Columns of an image of 10×20."""
    mask = np.zeros((10, 20), dtype=bool)
    mask[:, left:right] = True
    return Region.of(mask, category, kind)


def truth_of(*regions, ignored=(0, 0)):
    return Truth(list(regions), strip(*ignored).rle, BOTH)


def test_perfect_and_empty():
    truth = truth_of(strip(0, 4), strip(6, 8, category=1))
    assert image_score(truth, [strip(6, 8, category=1), strip(0, 4)], BOTH) == 100
    assert image_score(truth, [], BOTH) == 0
    assert image_score(truth_of(), [strip(0, 4)], BOTH) == 0
    assert image_score(truth_of(), [], BOTH) == 100


def test_overlap_misses_and_inventions():
    truth = truth_of(strip(0, 4), strip(6, 8))
    # IoU 2/6 with the first; the second is missed
    assert image_score(truth, [strip(2, 6)], BOTH) == pytest.approx(200 * (2 / 6) / 3)
    # IoU 1 with the first, and one that is not there
    assert image_score(truth, [strip(0, 4), strip(12, 14)], BOTH) == pytest.approx(200 * 1 / 4)


def test_a_region_is_paired_once_and_for_the_largest_sum():
    truth = truth_of(strip(0, 4), strip(4, 8))
    # the first could take either; greedily by IoU it would take the second's only partner
    found = [strip(0, 6), strip(0, 3)]
    # pairs: 0–6 with 4–8 (2/8), 0–3 with 0–4 (3/4): 1.0; the other way 4/6 alone
    assert image_score(truth, found, BOTH) == pytest.approx(200 * (2 / 8 + 3 / 4) / 4)
    assert image_score(truth_of(strip(0, 4)), [strip(0, 4), strip(0, 4)], BOTH) == pytest.approx(200 / 3)


def test_classes_and_kinds_are_told_apart():
    truth = truth_of(strip(0, 4), strip(6, 10, kind=STUFF))
    assert image_score(truth, [strip(0, 4, category=1)], BOTH) == 0
    assert image_score(truth, [strip(0, 4, kind=STUFF)], BOTH) == 0
    assert image_score(truth, [strip(0, 4)], frozenset({THINGS})) == 100
    assert image_score(truth, [strip(0, 4), strip(10, 12, kind=STUFF)], frozenset({THINGS})) == 100


def test_what_is_ignored_counts_for_nothing():
    truth = truth_of(strip(0, 4), ignored=(4, 10))
    assert image_score(truth, [strip(0, 7)], BOTH) == 100  # 3 of 7 columns are ignored
    assert image_score(truth, [strip(0, 4), strip(3, 9)], BOTH) == 100  # 5 of 6: left out
    assert image_score(truth, [strip(0, 4), strip(9, 11)], BOTH) == pytest.approx(200 / 3)  # half: stays
    assert image_score(Truth([], encode(np.ones((10, 20), bool)), BOTH), [strip(0, 4)], BOTH) == 100
