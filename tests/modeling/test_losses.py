"""Losses and costs against values computed by hand."""

import math

import pytest
import torch

from mask2former_ext.modeling.losses import dice_loss, pairwise_dice_cost, pairwise_sigmoid_ce_cost, sigmoid_ce_loss

LOG3 = math.log(3)  # sigmoid(±log 3) = 3/4, 1/4
LOGITS = torch.tensor([[0.0, LOG3], [-LOG3, LOG3]])
TARGETS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def test_binary_cross_entropy_by_hand():
    expected = [(math.log(2) + math.log(4)) / 2, (2 * math.log(4 / 3)) / 2]
    assert sigmoid_ce_loss(LOGITS, TARGETS).tolist() == pytest.approx(expected)


def test_dice_by_hand():
    # 1 - (2·Σpt + 1) / (Σp + Σt + 1)
    expected = [1 - (2 * 0.5 + 1) / (1.25 + 1 + 1), 1 - (2 * 0.75 + 1) / (1.0 + 1 + 1)]
    assert dice_loss(LOGITS, TARGETS).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pairwise", "paired"), [(pairwise_sigmoid_ce_cost, sigmoid_ce_loss), (pairwise_dice_cost, dice_loss)]
)
def test_pairwise_costs_are_the_losses_of_all_pairs(pairwise, paired):
    logits, targets = torch.randn(2, 5, 30) * 20, (torch.rand(4, 30) > 0.5).float()
    cost = pairwise(logits, targets)
    assert cost.shape == (2, 5, 4)
    for b, q in [(0, 0), (1, 4)]:
        expected = paired(logits[b, q].expand(4, -1), targets)
        torch.testing.assert_close(cost[b, q], expected, rtol=1e-4, atol=1e-5)


def test_empty_and_full_masks_are_finite():
    extreme = torch.tensor([[100.0, -100.0]])
    for target in (torch.zeros(1, 2), torch.ones(1, 2)):
        assert sigmoid_ce_loss(extreme, target).item() == pytest.approx(50.0)
        assert 0 <= dice_loss(extreme, target).item() <= 1
