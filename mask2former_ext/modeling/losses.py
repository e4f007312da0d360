"""Mask losses, paired (for training) and pairwise (for matching); pure functions of float32 tensors.

Shapes: N masks, Q queries, P points; leading dimensions of predictions (``…``) are batch-like.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def sigmoid_ce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of N×P ``logits`` against N×P ``targets`` in [0, 1], averaged over points; returns N."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss (V-Net, with 1 added to both sides of the fraction) of N×P ``logits`` and ``targets``; returns N."""
    probability = logits.sigmoid()
    intersection = (probability * targets).sum(1)
    return 1 - (2 * intersection + 1) / (probability.sum(1) + targets.sum(1) + 1)


def pairwise_sigmoid_ce_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """:func:`sigmoid_ce_loss` of every query with every target: …×Q×P and …×N×P give …×Q×N.

    Per point, BCE(x, t) = softplus(x) - x·t, so that one matrix product serves all pairs.
    """
    return F.softplus(logits).mean(-1, keepdim=True) - logits @ targets.mT / logits.shape[-1]


def pairwise_dice_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """:func:`dice_loss` of every query with every target: …×Q×P and …×N×P give …×Q×N."""
    probability = logits.sigmoid()
    intersection = probability @ targets.mT
    return 1 - (2 * intersection + 1) / (probability.sum(-1, keepdim=True) + targets.sum(-1)[..., None, :] + 1)
