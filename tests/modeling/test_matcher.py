"""Matching against assignments written out by hand."""

import logging

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from scipy.optimize import linear_sum_assignment

from mask2former_ext.modeling.matcher import HungarianMatcher, NonFiniteCostError
from mask2former_ext.modeling.points import sample_points
from mask2former_ext.modeling.targets import Target
from mask2former_ext.structures import PackedBitMasks

FULL, EMPTY = 20.0, -20.0


def matcher(class_weight=1.0, mask_weight=1.0, dice_weight=1.0):
    return HungarianMatcher(class_weight, mask_weight, dice_weight)


def match(class_logits, mask_logits, targets, names=("last",), **weights):
    """Match one prediction for each name, all the same, at 32 random points; pairs by image."""
    coords = torch.rand(len(targets), 32, 2)
    prediction = {"pred_logits": class_logits, "pred_masks": mask_logits}
    found = matcher(**weights)([prediction] * len(names), targets, [coords] * len(names), names)
    for assignment in found:
        assert assignment.shape[:2] == (2, len(names))
    return [list(zip(*assignment[:, -1].tolist(), strict=True)) for assignment in found]


def halves(*kinds, size=8):
    """Masks N×size×size bool: the named halves, or all, or nothing."""
    masks = torch.zeros(len(kinds), size, size, dtype=torch.bool)
    where = {"left": (..., slice(None, size // 2)), "right": (..., slice(size // 2, None)), "all": (...,)}
    for mask, kind in zip(masks, kinds, strict=True):
        if kind != "none":
            mask[where[kind]] = True
    return masks


def target(kinds, labels):
    masks = PackedBitMasks.from_masks(halves(*kinds))
    return Target(torch.tensor(labels, dtype=torch.int64), masks, masks.image_size, "photo.jpg")


def logits_of(masks):
    return torch.where(masks, FULL, EMPTY)


def test_masks_decide_where_classes_say_nothing():
    predicted = logits_of(halves("right", "none", "left", "all"))[None]
    found = match(torch.zeros(1, 4, 3), predicted, [target(["left", "right"], [0, 1])])
    assert found == [[(0, 1), (2, 0)]]


def test_classes_decide_between_equal_masks():
    predicted = logits_of(halves("left", "left", "left"))[None]
    class_logits = torch.tensor([[[0.0, 5, 0], [5, 0, 0], [0, 0, 5]]])
    assert match(class_logits, predicted, [target(["left", "left"], [0, 1])]) == [[(0, 1), (1, 0)]]


def test_the_best_sum_wins_over_the_best_pair():
    # costs -p by query (rows) and mask (columns): greedy takes 0.6 and is left with 0.1; 0.5 + 0.4 is more
    probabilities = torch.tensor([[[0.6, 0.5, 0.0], [0.4, 0.1, 0.5]]]).clamp(min=1e-9)
    predicted = logits_of(halves("left", "left"))[None]
    targets = [target(["left", "left"], [0, 1])]
    found = match(probabilities.log(), predicted, targets, mask_weight=0, dice_weight=0)
    assert found == [[(0, 1), (1, 0)]]


def test_cost_is_the_weighted_sum_of_class_cross_entropy_and_dice():
    class_logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    truth = torch.tensor([[1.0, 0.0]])  # of two points, one inside
    cost = matcher(2.0, 3.0, 5.0).cost(class_logits, torch.zeros(1, 2), torch.tensor([1]), truth)
    cross_entropy, dice = torch.tensor(2.0).log().item(), 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert cost.item() == pytest.approx(-2.0 * 0.25 + 3.0 * cross_entropy + 5.0 * dice, rel=1e-5)


def test_each_image_has_its_own_masks_and_an_image_may_have_none():
    predicted = torch.stack([logits_of(halves("left", "right")), logits_of(halves("right", "left"))])
    targets = [target([], []), target(["left"], [0])]
    assert match(torch.zeros(2, 2, 3), predicted, targets) == [[], [(1, 0)]]


def test_more_masks_than_queries_leaves_the_worst_out_and_warns(caplog):
    predicted = logits_of(halves("left", "right"))[None]
    with caplog.at_level(logging.WARNING):
        found = match(torch.zeros(1, 2, 3), predicted, [target(["none", "right", "left"], [0, 0, 0])])
    assert found == [[(0, 2), (1, 1)]]
    assert "photo.jpg has 3 masks, more than the 2 queries" in caplog.text


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_non_finite_costs_name_iteration_layer_and_image(poison):
    predicted = logits_of(halves("left", "right"))[None]
    predicted[0, 1, 2:, 2:] = poison
    with EventStorage(41), pytest.raises(NonFiniteCostError, match=r"iteration 41, .* prediction 3, image photo.jpg"):
        match(torch.zeros(1, 2, 3), predicted, [target(["left"], [0])], names=["3"])
    with pytest.raises(NonFiniteCostError, match="iteration unknown"):
        match(torch.zeros(1, 2, 3), predicted, [target(["left"], [0])])


def test_half_precision_predictions_are_costed_in_float32():
    predicted = logits_of(halves("right", "left"))[None].bfloat16()
    found = match(torch.zeros(1, 2, 3, dtype=torch.bfloat16), predicted, [target(["left", "right"], [0, 1])])
    assert found == [[(0, 1), (1, 0)]]


def test_refuses_weights_that_are_all_zero():
    with pytest.raises(ValueError, match="CLASS_WEIGHT"):
        matcher(0, 0, 0)


def test_every_prediction_is_matched_by_its_own_masks_and_points():
    left_right, right_left = (logits_of(halves(*kinds))[None] for kinds in (("left", "right"), ("right", "left")))
    predictions = [{"pred_logits": torch.zeros(1, 2, 3), "pred_masks": masks} for masks in (left_right, right_left)]
    coords = [torch.rand(1, points, 2) for points in (16, 16)]
    (found,) = matcher()(predictions, [target(["left", "right"], [0, 1])], coords, ["0", "1"])
    assert found.tolist() == [[[0, 1], [0, 1]], [[0, 1], [1, 0]]]


def test_agrees_with_matching_image_by_image_and_prediction_by_prediction():
    torch.manual_seed(0)
    targets = [
        Target(torch.randint(0, 2, (count,)), PackedBitMasks.from_masks(torch.rand(count, 8, 8) > 0.5), (8, 12), "x")
        for count in (3, 0, 7)
    ]
    predictions = [{"pred_logits": torch.randn(3, 5, 3), "pred_masks": torch.randn(3, 5, 4, 6)} for _ in range(3)]
    coords = [torch.rand(3, 16, 2) for _ in predictions]
    together = matcher()(predictions, targets, coords, ["0", "1", "2"])
    for j, (prediction, own) in enumerate(zip(predictions, coords, strict=True)):
        for b, target_of_image in enumerate(targets):
            single = {name: value[b : b + 1] for name, value in prediction.items()}
            (alone,) = matcher()([single], [target_of_image], [own[b : b + 1]], ["x"])
            padded = torch.zeros(len(target_of_image), 8, 12)
            padded[..., :8] = target_of_image.masks.tensor
            points = sample_points(single["pred_masks"], own[b : b + 1])[0]
            truth = sample_points(padded[None], own[b : b + 1])[0]
            cost = matcher().cost(single["pred_logits"][0], points, target_of_image.labels, truth)
            expected = torch.from_numpy(np.stack(linear_sum_assignment(cost.numpy())))
            assert torch.equal(together[b][:, j], expected) and torch.equal(alone[:, 0], expected)
