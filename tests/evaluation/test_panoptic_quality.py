"""PQ against values computed by hand, and against a naive implementation that follows the definition pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mask2former_ext.evaluation.panoptic_quality import (
    PanopticCounts,
    SegmentMismatchError,
    Segments,
    average_quality,
    count_matches,
    overlap_areas,
)

C = 3


def segments(*described, areas=None):
    """Segments from (id, category) or (id, category, is_crowd)."""
    return Segments(
        ids=np.array([d[0] for d in described], dtype=np.int64),
        categories=np.array([d[1] for d in described], dtype=np.int64),
        crowd=np.array([len(d) > 2 and d[2] for d in described], dtype=bool),
        areas=None if areas is None else np.array(areas, dtype=np.float64),
    )


def count(gt_map, gt, prediction_map, prediction, categories=C):
    overlap = overlap_areas(np.array(gt_map), gt, np.array(prediction_map), prediction)
    return count_matches(overlap, gt, prediction, categories)


def assert_counts(counts, *, iou=(0, 0, 0), tp=(0, 0, 0), fp=(0, 0, 0), fn=(0, 0, 0)):
    np.testing.assert_allclose(counts.iou, iou, rtol=0, atol=len(iou) * 2.0**-37)
    assert (counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist()) == (list(tp), list(fp), list(fn))


def test_perfect_prediction():
    gt_map = [[7, 7, 7], [9, 9, 0]]
    counts = count(gt_map, segments((7, 0), (9, 2)), [[1, 1, 1], [2, 2, 0]], segments((1, 0), (2, 2)))
    assert_counts(counts, iou=(1, 0, 1), tp=(1, 0, 1))
    quality = average_quality(counts)
    assert (quality.pq, quality.sq, quality.rq, quality.num_categories) == (1, 1, 1, 2)


def test_iou_of_exactly_one_half_is_no_match():
    counts = count([[7, 7, 0, 0]], segments((7, 0)), [[1, 0, 0, 0]], segments((1, 0)))
    assert_counts(counts, fp=(1, 0, 0), fn=(1, 0, 0))
    assert average_quality(counts).pq == 0


def test_iou_just_above_one_half_matches():
    # intersection 3, union 5
    counts = count([[7, 7, 7, 7, 8]], segments((7, 0), (8, 1)), [[0, 1, 1, 1, 1]], segments((1, 0)))
    assert_counts(counts, iou=(3 / 5, 0, 0), tp=(1, 0, 0), fn=(0, 1, 0))
    # category 0: PQ 0.6, category 1: PQ 0, category 2 does not occur
    assert average_quality(counts).pq == pytest.approx(0.3)


def test_void_under_the_prediction_does_not_count_in_the_union():
    # prediction 5 pixels, 2 of them on void: union = 5 + 3 - 3 - 2
    counts = count([[7, 7, 7, 0, 0]], segments((7, 0)), [[1, 1, 1, 1, 1]], segments((1, 0)))
    assert_counts(counts, iou=(1, 0, 0), tp=(1, 0, 0))


def test_void_in_the_prediction_does_count():
    counts = count([[7, 7, 7, 7]], segments((7, 0)), [[1, 1, 1, 0]], segments((1, 0)))
    assert_counts(counts, iou=(3 / 4, 0, 0), tp=(1, 0, 0))


@pytest.mark.parametrize(("void_pixels", "false_positives"), [(2, 1), (3, 0)])
def test_prediction_is_forgiven_when_more_than_half_is_void(void_pixels, false_positives):
    gt_map = [[0] * void_pixels + [7] * (4 - void_pixels) + [7] * 6]
    prediction_map = [[1] * 4 + [0] * 6]
    counts = count(gt_map, segments((7, 1)), prediction_map, segments((1, 0)))
    assert_counts(counts, fp=(false_positives, 0, 0), fn=(0, 1, 0))


def test_prediction_on_crowd_of_its_category_is_forgiven_and_crowd_is_not_missed():
    counts = count([[7, 7, 7, 8]], segments((7, 0, True), (8, 1)), [[1, 1, 1, 2]], segments((1, 0), (2, 1)))
    assert_counts(counts, iou=(0, 1, 0), tp=(0, 1, 0))


def test_prediction_on_crowd_of_another_category_is_a_false_positive():
    counts = count([[7, 7, 7]], segments((7, 0, True)), [[1, 1, 1]], segments((1, 1)))
    assert_counts(counts, fp=(0, 1, 0))


def test_void_and_crowd_shares_add_up():
    # 2 of 8 pixels on void and 3 on crowd: enough together, neither alone
    gt_map = [[0, 0, 7, 7, 7, 8, 8, 8]]
    gt = segments((7, 0, True), (8, 1))
    assert_counts(count(gt_map, gt, [[1] * 8], segments((1, 0))), fn=(0, 1, 0))


def test_of_several_crowds_of_a_category_the_last_listed_counts():
    gt_map, prediction_map = [[7, 7, 7, 8, 5]], [[1, 1, 1, 1, 0]]
    seven_last = segments((5, 1), (8, 0, True), (7, 0, True))
    eight_last = segments((5, 1), (7, 0, True), (8, 0, True))
    assert_counts(count(gt_map, seven_last, prediction_map, segments((1, 0))), fn=(0, 1, 0))
    assert_counts(count(gt_map, eight_last, prediction_map, segments((1, 0))), fp=(1, 0, 0), fn=(0, 1, 0))


def test_right_shape_of_wrong_category_is_missed_and_false():
    counts = count([[7, 7]], segments((7, 0)), [[1, 1]], segments((1, 2)))
    assert_counts(counts, fp=(0, 0, 1), fn=(1, 0, 0))


def test_empty_prediction_misses_everything_but_crowds():
    counts = count([[7, 8, 9]], segments((7, 0), (8, 0), (9, 1, True)), [[0, 0, 0]], segments())
    assert_counts(counts, fn=(2, 0, 0))


def test_image_of_void_alone():
    counts = count([[0, 0]], segments(), [[1, 1]], segments((1, 0)))
    assert_counts(counts)
    quality = average_quality(counts)
    assert quality.num_categories == 0
    assert math.isnan(quality.pq)


def test_stated_areas_enter_the_union():
    counts = count([[7, 7, 7]], segments((7, 0), areas=[4]), [[1, 1, 1]], segments((1, 0)))
    assert_counts(counts, iou=(3 / 4, 0, 0), tp=(1, 0, 0))


def test_things_and_stuff_are_averaged_apart():
    counts = PanopticCounts(
        iou=np.array([1.6, 0.0, 0.9]), tp=np.array([2, 0, 1]), fp=np.array([1, 0, 0]), fn=np.array([1, 2, 0])
    )
    is_thing = np.array([True, True, False])
    things, stuff = average_quality(counts, is_thing), average_quality(counts, ~is_thing)
    # category 0: 1.6 / (2 + 0.5 + 0.5), SQ 0.8, RQ 2 / 3; category 1: nothing matched
    assert things.pq == pytest.approx(1.6 / 3 / 2)
    assert things.sq == pytest.approx(0.8 / 2)
    assert things.rq == pytest.approx(2 / 3 / 2)
    assert (stuff.pq, stuff.sq, stuff.rq, stuff.num_categories) == pytest.approx((0.9, 0.9, 1, 1))


@pytest.mark.parametrize("listed", [(3,), (3, 4, 5)])
def test_map_and_list_that_disagree_are_refused(listed):
    id_map, described = np.array([[3, 4, 0]]), segments(*((id_, 0) for id_ in listed))
    named = {(3,): r"map has ids \[4\]", (3, 4, 5): r"list of segments has ids \[5\]"}[listed]
    with pytest.raises(SegmentMismatchError, match=f"ground truth: the {named}"):
        overlap_areas(id_map, described, np.zeros_like(id_map), segments())
    with pytest.raises(SegmentMismatchError, match=f"prediction: the {named}"):
        overlap_areas(np.zeros_like(id_map), segments(), id_map, described)


def naive_counts(gt_map, gt, prediction_map, prediction, num_categories):
    """The definition, with a loop over pairs of masks."""
    counts = PanopticCounts.zeros(num_categories)
    void = gt_map == 0
    matched_gt, matched_predictions = set(), set()
    for gt_id, gt_category, crowd in zip(gt.ids, gt.categories, gt.crowd, strict=True):
        for id_, category in zip(prediction.ids, prediction.categories, strict=True):
            gt_mask, mask = gt_map == gt_id, prediction_map == id_
            iou = (gt_mask & mask).sum() / (gt_mask | (mask & ~void)).sum()
            if iou > 0.5 and category == gt_category and not crowd:
                counts.tp[category] += 1
                counts.iou[category] += iou
                matched_gt.add(gt_id)
                matched_predictions.add(id_)
    for gt_id, category, crowd in zip(gt.ids, gt.categories, gt.crowd, strict=True):
        counts.fn[category] += not crowd and gt_id not in matched_gt
    for id_, category in zip(prediction.ids, prediction.categories, strict=True):
        mask, ignored = prediction_map == id_, void.copy()
        crowds = [
            gt_id for gt_id, c, crowd in zip(gt.ids, gt.categories, gt.crowd, strict=True) if crowd and c == category
        ]
        if crowds:
            ignored |= gt_map == crowds[-1]
        counts.fp[category] += id_ not in matched_predictions and (mask & ignored).sum() / mask.sum() <= 0.5
    return counts


def random_segmentation(generator, crowd_probability):
    """A coarse random map of 13 x 17 pixels with ids as large as PNGs hold."""
    ids = generator.choice(np.arange(1, 256**3), size=6, replace=False)
    blocks = generator.choice([0, *ids], size=(4, 5))
    id_map = np.kron(blocks, np.ones((4, 4), dtype=np.int64))[:13, :17]
    present = generator.permutation(np.setdiff1d(np.unique(id_map), [0]))
    return id_map, Segments(
        ids=present,
        categories=generator.integers(C, size=len(present)),
        crowd=generator.random(len(present)) < crowd_probability,
    )


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_the_naive_implementation(seed):
    generator = np.random.default_rng(seed)
    gt_map, gt = random_segmentation(generator, crowd_probability=0.3)
    noise, other = random_segmentation(generator, crowd_probability=0)
    # mostly the ground truth, with some of its categories changed, so that there is something to match
    keep = np.kron(generator.random((13, 1)) < 0.7, np.ones((1, 17), dtype=bool))
    prediction_map = np.where(keep, gt_map, noise)
    ids = np.setdiff1d(np.unique(prediction_map), [0])
    known = dict(zip(other.ids, other.categories, strict=True)) | dict(zip(gt.ids, gt.categories, strict=True))
    prediction = Segments(ids=ids, categories=np.array([known[i] for i in ids]))
    actual = count(gt_map, gt, prediction_map, prediction)
    expected = naive_counts(gt_map, gt, prediction_map, prediction, C)
    assert_counts(actual, iou=expected.iou, tp=expected.tp, fp=expected.fp, fn=expected.fn)


def test_non_contiguous_maps():
    gt_map = np.repeat(np.array([[7, 7, 8, 0]]), 3, axis=0)[::2, ::-1]
    counts = count_matches(
        overlap_areas(gt_map, segments((7, 0), (8, 1)), gt_map, segments((7, 0), (8, 1))),
        segments((7, 0), (8, 1)),
        segments((7, 0), (8, 1)),
        C,
    )
    assert_counts(counts, iou=(1, 1, 0), tp=(1, 1, 0))
