"""Bipartite matching of queries with ground truth (Mask2Former, section 3.3).

Shapes: B images, Q queries, K classes, N masks of an image, P points.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from detectron2.utils.events import get_event_storage
from detectron2.utils.logger import log_first_n
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from .losses import pairwise_dice_cost, pairwise_sigmoid_ce_cost
from .points import sample_points
from .targets import Target

# indices of matched queries and of the masks that they are matched with
Assignment = tuple[Tensor, Tensor]


class NonFiniteCostError(FloatingPointError):
    """The matching cost of some image holds infinities or NaN."""


class HungarianMatcher(nn.Module):
    """Assign to every mask of an image one query, at the least sum of costs.

    The cost of a pair is class_weight · (-p[class]) + mask_weight · BCE + dice_weight · dice, both mask terms over the
    same uniformly drawn points for all queries and masks of an image.
    """

    def __init__(self, class_weight: float, mask_weight: float, dice_weight: float, num_points: int) -> None:
        super().__init__()
        if class_weight == 0 and mask_weight == 0 and dice_weight == 0:
            raise ValueError("matching needs a positive CLASS_WEIGHT, MASK_WEIGHT or DICE_WEIGHT in MODEL.MASK_FORMER.")
        self.class_weight, self.mask_weight, self.dice_weight = (class_weight, mask_weight, dice_weight)
        self.num_points = num_points

    @torch.no_grad()
    def forward(
        self, pred_logits: Tensor, pred_masks: Tensor, targets: Sequence[Target], layer: int | str = "last"
    ) -> list[Assignment]:
        """Match one layer's predictions.

        Args:
            pred_logits: B×Q×(K+1) class logits.
            pred_masks: B×Q×h×w mask logits.
            targets: B targets.
            layer: what to call the decoder layer in messages.

        Returns:
            Per image (query indices, mask indices), int64 on the CPU, min(Q, N) each, in ascending query order.

        Raises:
            NonFiniteCostError: naming iteration, layer and image.
        """
        assignments = []
        for logits, masks, target in zip(pred_logits, pred_masks, targets, strict=True):
            coords = torch.rand(1, self.num_points, 2, device=masks.device)
            _warn_if_too_many(target, len(logits))
            cost = self.cost(logits, masks, target, coords).cpu()
            _check_finite(cost, layer, target.name)
            queries, chosen = linear_sum_assignment(cost.numpy())
            assignments.append((torch.from_numpy(queries), torch.from_numpy(chosen)))
        return assignments

    def cost(self, logits: Tensor, masks: Tensor, target: Target, coords: Tensor) -> Tensor:
        """Q×N float32 costs of one image's Q×(K+1) class and Q×h×w mask logits, at 1×P×2 ``coords``."""
        points = sample_points(masks[None].float(), coords)[0]
        truth = sample_points(target.masks[None].float(), coords)[0]
        with torch.autocast(masks.device.type, enabled=False):
            probability = logits.float().softmax(-1)
            return (
                -self.class_weight * probability[:, target.labels]
                + self.mask_weight * pairwise_sigmoid_ce_cost(points, truth)
                + self.dice_weight * pairwise_dice_cost(points, truth)
            )


def _warn_if_too_many(target: Target, queries: int) -> None:
    if len(target.labels) > queries:
        log_first_n(
            logging.WARNING,
            f"image {target.name} has {len(target.labels)} masks, more than the {queries} queries: those that fit "
            f"worst go "
            "unmatched. Raise MODEL.MASK_FORMER.NUM_OBJECT_QUERIES if this is common.",
            n=5,
        )


def _check_finite(cost: Tensor, layer: int | str, image: str) -> None:
    if cost.isfinite().all():
        return
    try:
        iteration = str(get_event_storage().iter)
    except AssertionError:  # Detectron2's way to say that no training loop is running
        iteration = "unknown"
    raise NonFiniteCostError(
        f"matching cost is not finite: iteration {iteration}, decoder prediction {layer}, image {image}. The "
        f"predictions have "
        "overflowed or become NaN: lower SOLVER.BASE_LR, check gradient clipping, or train in float32 or bfloat16."
    )
