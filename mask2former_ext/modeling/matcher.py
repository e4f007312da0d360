"""Bipartite matching of queries with ground truth (Mask2Former, section 3.3).

Shapes: J predictions (one a decoder layer, and one more), B images, Q queries, K classes, N masks of an image, P
points.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.utils.events import get_event_storage
from detectron2.utils.logger import log_first_n
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from .losses import pairwise_dice_cost, pairwise_sigmoid_ce_cost
from .points import sample_points
from .targets import Target


class NonFiniteCostError(FloatingPointError):
    """The matching cost of some image holds infinities or NaN."""


class HungarianMatcher(nn.Module):
    """Assign to every mask of an image one query, at the least sum of costs, for all predictions at once.

    The cost of a pair is class_weight · (-p[class]) + mask_weight · BCE + dice_weight · dice, both mask terms over the
    same points for all queries and masks of an image. Costs travel to the host in one copy, and the assignments back in
    one, whatever the number of images and predictions.

    Attributes:
        strict: raise an error for costs that are not finite. If False, ``fault`` is set, and what is assigned for them
            means nothing; so that a worker does not leave the others waiting in the middle of a step.
        fault: what was wrong with the costs of the last call; None if nothing was.
    """

    def __init__(self, class_weight: float, mask_weight: float, dice_weight: float) -> None:
        super().__init__()
        self.strict = True
        self.fault: str | None = None
        if class_weight == 0 and mask_weight == 0 and dice_weight == 0:
            raise ValueError("matching needs a positive CLASS_WEIGHT, MASK_WEIGHT or DICE_WEIGHT in MODEL.MASK_FORMER.")
        self.class_weight, self.mask_weight, self.dice_weight = (class_weight, mask_weight, dice_weight)

    @torch.no_grad()
    def forward(
        self,
        predictions: Sequence[dict[str, Tensor]],
        targets: Sequence[Target],
        coords: Sequence[Tensor],
        names: Sequence[str],
    ) -> list[Tensor]:
        """Match.

        Args:
            predictions: J dicts with ``pred_logits`` B×Q×(K+1) and ``pred_masks`` B×Q×h×w, both logits.
            targets: B targets.
            coords: J coordinates B×P×2, of the points to compare at, (x, y) in [0, 1] of the padded image.
            names: what to call the J predictions in messages.

        Returns:
            Per image int64 2×J×min(Q, N), on the predictions' device: for each prediction the matched queries, in
            ascending order, and the masks they are matched with.

        Raises:
            NonFiniteCostError: naming iteration, prediction and image; see ``strict``.
        """
        queries = predictions[0]["pred_logits"].shape[1]
        for target in targets:
            _warn_if_too_many(target, queries)
        costs = [self._image_costs(predictions, image, target, coords) for image, target in enumerate(targets)]
        flat = torch.cat([cost.flatten() for cost in costs])
        host = flat.cpu().numpy()
        parts = np.split(host, np.cumsum([cost.numel() for cost in costs])[:-1])
        host_costs = [part.reshape(cost.shape) for part, cost in zip(parts, costs, strict=True)]
        self.fault = _first_fault(host_costs, names, [target.name for target in targets])
        if self.fault and self.strict:
            raise NonFiniteCostError(self.fault)
        solved = [_assign(cost) for cost in host_costs]
        everything = torch.from_numpy(np.concatenate([pairs.reshape(-1) for pairs in solved])).to(flat.device)
        pieces = everything.split([pairs.size for pairs in solved])
        return [piece.view(pairs.shape) for piece, pairs in zip(pieces, solved, strict=True)]

    def _image_costs(
        self, predictions: Sequence[dict[str, Tensor]], image: int, target: Target, coords: Sequence[Tensor]
    ) -> Tensor:
        """J×Q×N float32 costs of one image."""
        truth = target.masks.sample(torch.cat([own[image] for own in coords]), target.padded_size)
        costs = []
        for prediction, own, own_truth in zip(predictions, coords, truth.chunk(len(coords), dim=1), strict=True):
            logits, masks = prediction["pred_logits"][image], prediction["pred_masks"][image]
            points = sample_points(masks[None].float(), own[image : image + 1])[0]
            with torch.autocast(logits.device.type, enabled=False):
                costs.append(self.cost(logits.float(), points, target.labels, own_truth))
        return torch.stack(costs)

    def cost(self, class_logits: Tensor, points: Tensor, labels: Tensor, truth: Tensor) -> Tensor:
        """…×Q×N costs from …×Q×(K+1) class logits, …×Q×P mask logits, N labels and …×N×P truth at points."""
        return (
            -self.class_weight * class_logits.softmax(-1)[..., labels]
            + self.mask_weight * pairwise_sigmoid_ce_cost(points, truth)
            + self.dice_weight * pairwise_dice_cost(points, truth)
        )


def _assign(costs: np.ndarray) -> np.ndarray:
    """Solve each of J×Q×N ``costs``; returns int64 2×J×min(Q, N)."""
    solvable = [cost if np.isfinite(cost).all() else np.zeros_like(cost) for cost in costs]
    return np.stack([linear_sum_assignment(cost) for cost in solvable], axis=1).astype(np.int64, copy=False)


def _warn_if_too_many(target: Target, queries: int) -> None:
    if len(target) > queries:
        log_first_n(
            logging.WARNING,
            f"image {target.name} has {len(target)} masks, more than the {queries} queries: those that fit worst go "
            "unmatched. Raise MODEL.MASK_FORMER.NUM_OBJECT_QUERIES if this is common.",
            n=5,
        )


def _first_fault(costs: Sequence[np.ndarray], names: Sequence[str], images: Sequence[str]) -> str | None:
    """Say which of the images' J×Q×N ``costs`` is not finite, by the names of predictions and images; None if none."""
    for of_image, image in zip(costs, images, strict=True):
        for cost, prediction in zip(of_image, names, strict=True):
            if not np.isfinite(cost).all():
                return (
                    f"matching cost is not finite: iteration {_iteration()}, decoder prediction {prediction}, image "
                    f"{image}. The predictions have overflowed or become NaN: lower SOLVER.BASE_LR, check gradient "
                    "clipping, or train in float32 or bfloat16."
                )
    return None


def _iteration() -> str:
    try:
        return str(get_event_storage().iter)
    except AssertionError:  # Detectron2's way to say that no training loop is running
        return "unknown"
