"""Counts on the grid of thresholds against the panoptic rule, run anew for each pair."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mask2former_ext.evaluation.panoptic_quality import PanopticCounts, Segments, count_matches, overlap_areas
from mask2former_ext.evaluation.panoptic_truth import TrueSegmentation
from mask2former_ext.modeling.inference import MASKS_AT_ONCE, panoptic_inference, resize_masks
from mask2former_ext.threshold_tuning import PanopticGrid, RawPrediction

K, THINGS = 4, {0, 2}
INDEX = {0: 3, 1: 0, 2: 1, 3: 2}  # from labels to the dataset's order
SIZES = PADDED, IMAGE, OUTPUT = (48, 64), (44, 60), (50, 70)
OBJECTS, OVERLAPS = [0.0, 0.3, 0.35, 0.5, 0.6, 0.8, 0.99], [0.0, 0.1, 0.3, 0.5, 0.7, 0.9]


def full_size(raw):
    # as many at a time as the grid resizes, because the last digits depend on it
    return torch.cat([resize_masks(chunk, *SIZES) for chunk in raw.mask_logits.split(MASKS_AT_ONCE)])


def infer(raw, object_threshold, overlap_threshold):
    """Id map and segments by the panoptic rule."""
    ids, infos = panoptic_inference(
        raw.class_logits,
        full_size(raw),
        thing_classes=THINGS,
        object_mask_threshold=object_threshold,
        overlap_threshold=overlap_threshold,
    )
    categories = np.array([INDEX[info["category_id"]] for info in infos], dtype=np.int64)
    return ids.numpy(), Segments(np.array([info["id"] for info in infos], dtype=np.int64), categories)


def random_image(seed, queries=14):
    """Class logits, coarse mask logits, and ground truth near to what they give; some queries are there twice.

    The ground truth is displaced, has void, and its first segment is a crowd.
    """
    torch.manual_seed(seed)
    class_logits = 2 * torch.randn(queries, K + 1)
    masks = F.interpolate(6 * torch.randn(1, queries, 5, 6), size=(12, 16), mode="bilinear")[0]
    class_logits[1::4], masks[1::4] = class_logits[::4], masks[::4]
    id_map, segments = infer(RawPrediction.of(class_logits, masks, *SIZES), 0.45, 0.2)
    index = np.roll(id_map, seed - 1, axis=1).astype(np.int64)  # ids are positions, counted from one
    index[:5] = 0
    crowd = np.arange(len(segments.ids)) == 0
    assert len(segments.ids) > 2
    return class_logits, masks, TrueSegmentation(index, replace(segments, crowd=crowd), f"{seed}.png")


def grid_of(images):
    grid = PanopticGrid(
        OBJECTS[::-1],
        OVERLAPS,
        num_categories=K,
        thing_labels=THINGS,
        category_index=lambda label, is_thing: INDEX[label] if is_thing == (label in THINGS) else -1,
    )
    for class_logits, masks, truth in images:
        grid.add(RawPrediction.of(class_logits, masks, *SIZES), truth)
    return grid


def counts_by_the_rule(image, object_threshold, overlap_threshold):
    class_logits, masks, truth = image
    id_map, prediction = infer(RawPrediction.of(class_logits, masks, *SIZES), object_threshold, overlap_threshold)
    overlap = overlap_areas(truth.index, truth.segments, id_map, prediction)
    return count_matches(overlap, truth.segments, prediction, K)


def assert_equal(actual, expected):
    np.testing.assert_allclose(actual.iou, expected.iou, rtol=1e-12)
    for name in ("tp", "fp", "fn"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), err_msg=name)


def test_every_pair_counts_as_the_rule_does():
    images = [random_image(seed) for seed in range(4)]
    grid = grid_of(images)
    seen = set()
    for (row, objects), (column, overlaps) in itertools.product(enumerate(OBJECTS), enumerate(OVERLAPS)):
        by_image = [counts_by_the_rule(image, objects, overlaps) for image in images]
        halves = [by_image[0] + by_image[2], by_image[1] + by_image[3]]
        assert_equal(grid.counts(row, column), halves[0] + halves[1])
        assert_equal(grid.counts(row, column, [0]), halves[0])
        assert_equal(grid.counts(row, column, [1]), halves[1])
        seen.add((*(halves[0] + halves[1]).iou.round(6), *(halves[0] + halves[1]).fp))
    assert len(seen) > 15  # there is something to tell apart
    assert grid.images == [2, 2]


def test_no_usable_query_and_no_true_segment():
    class_logits, masks, truth = random_image(0)
    no_object = torch.zeros_like(class_logits)
    no_object[:, -1] = 5
    grid = grid_of([(no_object, masks, truth)])
    missed = PanopticCounts.zeros(K)
    missed.fn[:] = np.bincount(truth.segments.categories[1:], minlength=K)
    assert_equal(grid.counts(0, 0), missed)
    assert_equal(grid.counts(6, 5), missed)

    void = TrueSegmentation(np.zeros_like(truth.index), Segments(np.zeros(0, np.int64), np.zeros(0, np.int64)), "void")
    grid = grid_of([(class_logits, masks, void)])
    assert_equal(grid.counts(0, 0), PanopticCounts.zeros(K))


def test_scores_and_shares_at_a_threshold():
    """The one must be above it, the other not below."""
    truth = TrueSegmentation(np.ones(OUTPUT, np.int64), Segments(np.array([1]), np.array([0])), "whole")
    class_logits, masks = torch.tensor([[0.0, -9, -9, -9, -0.6]]), torch.full((1, 12, 16), 5.0)
    score = class_logits.softmax(-1)[0, 0].item()
    below = np.nextafter(np.float32(score), np.float32(0)).item()
    one = {"num_categories": K, "thing_labels": [0], "category_index": lambda label, is_thing: label}
    grid = PanopticGrid([below, score], [1.0, np.nextafter(1, 2)], **one)
    grid.add(RawPrediction.of(class_logits, masks, *SIZES), truth)
    matches = [[int(grid.counts(row, column).tp.sum()) for column in (0, 1)] for row in (0, 1)]
    assert matches == [[1, 0], [0, 0]]


def test_another_size_is_refused():
    class_logits, masks, truth = random_image(1)
    prediction = RawPrediction.of(class_logits, masks, PADDED, IMAGE, (20, 30))
    add = partial(grid_of([]).add, prediction, truth)
    with pytest.raises(ValueError, match=r"1\.png: the ground truth is \(50, 70\), the prediction \(20, 30\)"):
        add()
