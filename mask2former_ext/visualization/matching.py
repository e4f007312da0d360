"""Which query is matched with which object of the truth, layer by layer, as training matches them.

Shapes: J predictions, Q queries, K classes, h, w of the mask predictions, N objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..modeling.criterion import SetCriterion
from ..modeling.points import RandomCoords
from ..modeling.targets import Target


def match_layers(
    criterion: SetCriterion, predictions: Sequence[Mapping[str, Tensor]], target: Target
) -> list[dict[int, int]]:
    """Match every layer's predictions for one image with its truth, by the criterion's own matcher.

    The points that masks are compared at are the same at every call; the global random generator is left as it was.

    Args:
        criterion: whose matcher and number of points are used.
        predictions: J dicts with ``pred_logits`` 1×Q×(K+1) and ``pred_masks`` 1×Q×h×w, both logits.
        target: N objects.

    Returns:
        J dicts, query → object.

    Raises:
        NonFiniteCostError: a prediction is not finite.
    """
    queries = predictions[0]["pred_logits"].shape[1]
    device = predictions[0]["pred_logits"].device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        counts = [min(len(target), queries)]
        coords = [RandomCoords.draw(criterion.point_sampling, counts, device).matching for _ in predictions]
    names = [f"after layer {layer}" if layer else "of the raw queries" for layer in range(len(predictions))]
    (pairs,) = criterion.matcher([dict(prediction) for prediction in predictions], [target], coords, names)
    matched, objects = pairs.tolist()
    return [dict(zip(own, theirs, strict=True)) for own, theirs in zip(matched, objects, strict=True)]


def mask_iou(first: Tensor, second: Tensor) -> float:
    """Intersection over union of two bool masks H×W; 0 where both are empty."""
    union = (first | second).sum().item()
    return (first & second).sum().item() / union if union else 0.0
