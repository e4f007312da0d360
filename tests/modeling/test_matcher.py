"""Matching against assignments written out by hand."""

import logging

import pytest
import torch
from detectron2.utils.events import EventStorage

from mask2former_ext.modeling.matcher import HungarianMatcher, NonFiniteCostError
from mask2former_ext.modeling.targets import Target

FULL, EMPTY = 20.0, -20.0


def matcher(class_weight=1.0, mask_weight=1.0, dice_weight=1.0):
    return HungarianMatcher(class_weight, mask_weight, dice_weight, num_points=32)


def halves(*kinds, size=8):
    """Masks N×size×size bool: the named halves, or all, or nothing."""
    masks = torch.zeros(len(kinds), size, size, dtype=torch.bool)
    where = {"left": (..., slice(None, size // 2)), "right": (..., slice(size // 2, None)), "all": (...,)}
    for mask, kind in zip(masks, kinds, strict=True):
        if kind != "none":
            mask[where[kind]] = True
    return masks


def target(kinds, labels):
    return Target(torch.tensor(labels, dtype=torch.int64), halves(*kinds), "photo.jpg")


def logits_of(masks):
    return torch.where(masks, FULL, EMPTY)


def pairs(assignment):
    return [list(zip(q.tolist(), m.tolist(), strict=True)) for q, m in assignment]


def test_masks_decide_where_classes_say_nothing():
    predicted = logits_of(halves("right", "none", "left", "all"))[None]
    found = matcher()(torch.zeros(1, 4, 3), predicted, [target(["left", "right"], [0, 1])])
    assert pairs(found) == [[(0, 1), (2, 0)]]


def test_classes_decide_between_equal_masks():
    predicted = logits_of(halves("left", "left", "left"))[None]
    class_logits = torch.tensor([[[0.0, 5, 0], [5, 0, 0], [0, 0, 5]]])
    assert pairs(matcher()(class_logits, predicted, [target(["left", "left"], [0, 1])])) == [[(0, 1), (1, 0)]]


def test_the_best_sum_wins_over_the_best_pair():
    # costs -p by query (rows) and mask (columns): greedy takes 0.6 and is left with 0.1; 0.5 + 0.4 is more
    probabilities = torch.tensor([[[0.6, 0.5, 0.0], [0.4, 0.1, 0.5]]]).clamp(min=1e-9)
    predicted = logits_of(halves("left", "left"))[None]
    found = matcher(mask_weight=0, dice_weight=0)(probabilities.log(), predicted, [target(["left", "left"], [0, 1])])
    assert pairs(found) == [[(0, 1), (1, 0)]]


def test_cost_is_the_weighted_sum_of_class_cross_entropy_and_dice():
    coords = torch.tensor([[[0.3, 0.5], [0.7, 0.5]]])  # one point in each half, away from borders
    class_logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    cost = matcher(2.0, 3.0, 5.0).cost(class_logits, torch.zeros(1, 8, 8), target(["left"], [1]), coords)
    cross_entropy, dice = torch.tensor(2.0).log().item(), 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert cost.item() == pytest.approx(-2.0 * 0.25 + 3.0 * cross_entropy + 5.0 * dice, rel=1e-5)


def test_each_image_has_its_own_masks_and_an_image_may_have_none():
    predicted = torch.stack([logits_of(halves("left", "right")), logits_of(halves("right", "left"))])
    targets = [target([], []), target(["left"], [0])]
    assert pairs(matcher()(torch.zeros(2, 2, 3), predicted, targets)) == [[], [(1, 0)]]


def test_more_masks_than_queries_leaves_the_worst_out_and_warns(caplog):
    predicted = logits_of(halves("left", "right"))[None]
    with caplog.at_level(logging.WARNING):
        found = matcher()(torch.zeros(1, 2, 3), predicted, [target(["none", "right", "left"], [0, 0, 0])])
    assert pairs(found) == [[(0, 2), (1, 1)]]
    assert "photo.jpg has 3 masks, more than the 2 queries" in caplog.text


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_non_finite_costs_name_iteration_layer_and_image(poison):
    predicted = logits_of(halves("left", "right"))[None]
    predicted[0, 1, 2:, 2:] = poison
    with EventStorage(41), pytest.raises(NonFiniteCostError, match=r"iteration 41, .* prediction 3, image photo.jpg"):
        matcher()(torch.zeros(1, 2, 3), predicted, [target(["left"], [0])], layer=3)
    with pytest.raises(NonFiniteCostError, match="iteration unknown"):
        matcher()(torch.zeros(1, 2, 3), predicted, [target(["left"], [0])])


def test_half_precision_predictions_are_costed_in_float32():
    predicted = logits_of(halves("right", "left"))[None].bfloat16()
    found = matcher()(torch.zeros(1, 2, 3, dtype=torch.bfloat16), predicted, [target(["left", "right"], [0, 1])])
    assert pairs(found) == [[(0, 1), (1, 0)]]


def test_refuses_weights_that_are_all_zero():
    with pytest.raises(ValueError, match="CLASS_WEIGHT"):
        matcher(0, 0, 0)
