"""The criterion: names and weights of losses, their values by hand, empty images, normalisation."""

import math

import pytest
import torch

from mask2former_ext.modeling import HungarianMatcher, SetCriterion
from mask2former_ext.modeling import criterion as criterion_module
from mask2former_ext.modeling.targets import Target

CLASSES, QUERIES, SIZE = 2, 3, 8


def make_criterion(deep_supervision=True, **weights):
    weights = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 3.0, **weights}
    return SetCriterion(
        num_classes=CLASSES,
        matcher=HungarianMatcher(num_points=16, **weights),
        no_object_weight=0.1,
        num_points=16,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        deep_supervision=deep_supervision,
        **weights,
    )


def target(count):
    masks = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    masks[:, 1:-1, 1:-1] = True
    return Target(torch.zeros(count, dtype=torch.int64), masks, "photo.jpg")


def outputs(batch=1, earlier=2):
    def predict():
        return {
            "pred_logits": torch.zeros(batch, QUERIES, CLASSES + 1, requires_grad=True),
            "pred_masks": torch.zeros(batch, QUERIES, SIZE, SIZE, requires_grad=True),
        }

    return {**predict(), "aux_outputs": [predict() for _ in range(earlier)]}


def test_every_prediction_has_three_losses():
    names = set(make_criterion()(outputs(), [target(1)]))
    assert names == {f"loss_{kind}{suffix}" for kind in ("ce", "mask", "dice") for suffix in ("", "_0", "_1")}
    assert set(make_criterion(deep_supervision=False)(outputs(), [target(1)])) == {"loss_ce", "loss_mask", "loss_dice"}


def test_values_of_undecided_predictions_by_hand():
    losses = make_criterion()(outputs(), [target(1)])
    # every class has probability 1/3; the weighted mean of equal terms does not depend on the weights
    assert losses["loss_ce"].item() == pytest.approx(2.0 * math.log(3), rel=1e-5)
    # sigmoid(0) = 1/2 everywhere: binary cross entropy is log 2 whatever the target
    assert losses["loss_mask_1"].item() == pytest.approx(5.0 * math.log(2), rel=1e-5)


def test_no_object_counts_by_its_weight():
    prediction = outputs(earlier=0)
    with torch.no_grad():
        prediction["pred_logits"][..., CLASSES] = math.log(2)  # probabilities 1/4, 1/4, 1/2
    loss = make_criterion(class_weight=1.0)(prediction, [target(1)])["loss_ce"].item()
    # one matched query (-log 1/4, weight 1), two unmatched (-log 1/2, weight 0.1 each)
    assert loss == pytest.approx((math.log(4) + 2 * 0.1 * math.log(2)) / 1.2, rel=1e-5)


def test_dice_of_a_perfect_mask_is_zero_and_of_its_opposite_large():
    for sign, expected in ((40.0, 0.0), (-40.0, 1.0)):
        prediction = outputs(earlier=0)
        with torch.no_grad():
            prediction["pred_masks"].fill_(sign)
        full = Target(torch.zeros(1, dtype=torch.int64), torch.ones(1, SIZE * 4, SIZE * 4, dtype=torch.bool), "x")
        loss = make_criterion(dice_weight=1.0)(prediction, [full])["loss_dice"].item()
        # border points read less than one from the truth, so that neither end is reached exactly
        assert loss == pytest.approx(expected, abs=0.1)


def test_mask_losses_are_averaged_over_the_masks_of_the_batch():
    one = make_criterion()(outputs(batch=2), [target(1), target(1)])["loss_mask"].item()
    three = make_criterion()(outputs(batch=2), [target(3), target(0)])["loss_mask"].item()
    assert one == pytest.approx(three, rel=1e-5) == pytest.approx(5.0 * math.log(2), rel=1e-5)


def test_without_any_mask_losses_are_zero_and_attached():
    prediction = outputs(batch=2)
    losses = make_criterion()(prediction, [target(0), target(0)])
    assert losses["loss_mask"].item() == losses["loss_dice_0"].item() == 0
    sum(losses.values()).backward()
    for p in (prediction, *prediction["aux_outputs"]):
        assert p["pred_masks"].grad is not None and p["pred_logits"].grad.abs().sum() > 0


def test_masks_are_counted_over_all_workers(monkeypatch):
    def all_reduce(total):
        total += 5  # what the other worker holds

    monkeypatch.setattr(criterion_module.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    assert criterion_module.average_num_masks([target(1), target(2)]) == 4.0
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: None)
    assert criterion_module.average_num_masks([target(0)]) == 1.0


@pytest.mark.parametrize("wrong", [{"oversample_ratio": 0.5}, {"importance_sample_ratio": 1.5}])
def test_refuses_ratios_out_of_range(tiny_cfg, wrong):
    for key, value in wrong.items():
        tiny_cfg.MODEL.MASK_FORMER[key.upper()] = value
    with pytest.raises(ValueError, match="OVERSAMPLE_RATIO"):
        SetCriterion.from_config(tiny_cfg)
