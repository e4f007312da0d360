"""The choice of thresholds and the gain on held-out images, on tables of PQ."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mask2former_ext.evaluation.panoptic_quality import PanopticCounts
from mask2former_ext.threshold_tuning import Thresholds, choose_thresholds, format_result

IS_THING = np.array([True])
OWN = Thresholds(0.5, 0.8)


class Grid:
    """One category, ten matches in each half: PQ is the mean IoU, as the tables of the halves say."""

    object_thresholds = [0.4, 0.5]
    overlap_thresholds = [0.7, 0.8, 0.9]

    def __init__(self, *halves):
        self._halves = halves
        self.images = [10 * bool(np.any(half)) for half in halves]

    def counts(self, row, column, folds=(0, 1)):
        total = PanopticCounts.zeros(1)
        for fold in folds:
            matches = np.array([self.images[fold]])
            total += PanopticCounts(self._halves[fold][row][column] * matches, matches, matches * 0, matches * 0)
        return total


NO_IMAGES = np.zeros((2, 3))
FIRST = [[0.6, 0.7, 0.8], [0.6, 0.7, 0.6]]
SECOND = [[0.6, 0.7, 0.9], [0.6, 0.7, 0.6]]


def test_best_and_gain():
    result = choose_thresholds(Grid(FIRST, SECOND), IS_THING, OWN)
    assert result.best == Thresholds(0.4, 0.9)
    assert result.images == 20
    assert (result.own_figures["PQ"], result.best_figures["PQ"]) == pytest.approx((70, 85))
    assert result.gain == result.held_out_gain == pytest.approx(15)  # both halves like the same best
    np.testing.assert_allclose(result.pq, [[60, 70, 85], [60, 70, 60]])


def test_halves_that_disagree_show_that_the_gain_is_chance():
    # the first half likes (0.4, 0.9), where the second has 50; that one likes (0.5, 0.7), where the first has 40
    first, second = [[0.6, 0.7, 1.0], [0.4, 0.7, 0.6]], [[0.6, 0.7, 0.5], [0.9, 0.7, 0.6]]
    result = choose_thresholds(Grid(first, second), IS_THING, OWN)
    assert result.best == Thresholds(0.4, 0.9)
    assert result.gain == pytest.approx(75 - 70)
    assert result.held_out_gain == pytest.approx((50 + 40) / 2 - 70)
    assert "may be chance" in format_result(result)


def test_of_equals_those_nearest_to_the_configs():
    level = np.full((2, 3), 0.5)
    assert choose_thresholds(Grid(level, level), IS_THING, OWN).best == OWN
    level[0, 0] += 1e-13  # an error of rounding
    assert choose_thresholds(Grid(level, level), IS_THING, OWN).best == OWN
    level[:, 1:] = 0.4
    assert choose_thresholds(Grid(level, level), IS_THING, OWN).best == Thresholds(0.5, 0.7)


def test_one_half_alone_tells_nothing_of_others():
    result = choose_thresholds(Grid(FIRST, NO_IMAGES), IS_THING, OWN)
    assert result.best == Thresholds(0.4, 0.9)
    assert result.held_out_gain is None
    assert "too few images" in format_result(result)


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ValueError, match="PQ is not defined: 0 images"):
        choose_thresholds(Grid(NO_IMAGES, NO_IMAGES), IS_THING, OWN)


def test_what_is_printed_and_written():
    result = choose_thresholds(Grid(FIRST, SECOND), IS_THING, OWN)
    overrides = "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD 0.4 MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD 0.9"
    text = format_result(result)
    assert text.endswith(f"To use the best, append:\n{overrides}")
    assert "+15.000" in text and "70.000" in text and "85.000" in text
    content = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert content["overrides"] == overrides
    assert content["best"] == {"object_mask": 0.4, "overlap": 0.9}
    assert content["pq"][0][2] == pytest.approx(85)
    assert content["own_figures"]["PQ_st"] is None  # there is no stuff


def test_own_thresholds_that_are_the_best():
    level = np.full((2, 3), 0.5)
    level[1, 1] = 0.6
    text = format_result(choose_thresholds(Grid(level, level), IS_THING, OWN))
    assert "No thresholds of the grid are better" in text and "append" not in text
