"""Queries and objects, matched layer by layer."""

import pytest
import torch

from mask2former_ext.config import get_cfg_defaults
from mask2former_ext.modeling.criterion import SetCriterion
from mask2former_ext.modeling.matcher import NonFiniteCostError
from mask2former_ext.modeling.targets import Target
from mask2former_ext.structures import PackedBitMasks
from mask2former_ext.visualization.matching import mask_iou, match_layers

LEFT = torch.arange(8).expand(8, 8) < 4


@pytest.fixture
def criterion():
    cfg = get_cfg_defaults()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.MODEL.MASK_FORMER.TRAIN_NUM_POINTS = 64
    return SetCriterion.from_config(cfg)


@pytest.fixture
def target():
    """Object 0, of class 1, on the left; object 1, of class 0, on the right."""
    masks = PackedBitMasks.from_masks(torch.stack([LEFT, ~LEFT]))
    return Target(torch.tensor([1, 0]), masks, (8, 8), "image")


def prediction(left, right):
    """Of three queries ``left`` and ``right`` predict one half each, the third everything and no object."""
    masks, logits = torch.full((3, 8, 8), 10.0), torch.tensor([0.0, 0.0, 5.0]).repeat(3, 1)
    masks[left], masks[right] = LEFT * 20.0 - 10, ~LEFT * 20.0 - 10
    logits[left], logits[right] = torch.tensor([0.0, 5, 0]), torch.tensor([5.0, 0, 0])
    return {"pred_logits": logits[None], "pred_masks": masks[None]}


def test_each_layer_has_its_own_matches(criterion, target):
    layers = [prediction(0, 2), prediction(2, 1), prediction(1, 0)]
    assert match_layers(criterion, layers, target) == [{0: 0, 2: 1}, {2: 0, 1: 1}, {1: 0, 0: 1}]


def test_points_are_seeded_and_the_generator_is_left_alone(criterion, target):
    torch.manual_seed(3)
    random = [{"pred_logits": torch.randn(1, 3, 3), "pred_masks": torch.randn(1, 3, 8, 8)} for _ in range(20)]
    state = torch.get_rng_state()
    first = match_layers(criterion, random, target)
    assert (torch.get_rng_state() == state).all()
    torch.manual_seed(4)
    assert match_layers(criterion, random, target) == first


def test_what_is_not_finite_is_named(criterion, target):
    broken = prediction(2, 1)
    broken["pred_masks"][0, 0] = float("nan")
    with pytest.raises(NonFiniteCostError, match="decoder prediction after layer 1, image image"):
        match_layers(criterion, [prediction(0, 2), broken], target)


def test_intersection_over_union():
    top = LEFT.T
    assert mask_iou(LEFT, top) == pytest.approx(16 / 48)
    assert mask_iou(LEFT, LEFT) == 1 and mask_iou(LEFT, ~LEFT) == 0
    assert mask_iou(torch.zeros(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)) == 0
