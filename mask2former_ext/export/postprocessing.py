"""The rules of :mod:`..modeling.inference_rules` for a batch, in tensors alone: what exporters can take apart.

They give what the rules give, in outputs whose number does not depend on the image: rows that hold nothing are marked
as such. Where the rules take a few masks at a time, these hold all masks of the batch at full size.

Shapes: B images, Q queries, K classes, N instances, H, W of the result.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..modeling.inference_rules import masks_to_boxes
from ..ops.panoptic_merge import is_inside


def semantic_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Sum over queries of class probability × mask probability: :class:`SemanticRule`.

    Args:
        class_logits: B×Q×(K+1); the last class is no-object.
        mask_logits: B×Q×H×W.

    Returns:
        B×K×H×W scores, in [0, Q].
    """
    classes = class_logits.softmax(-1)[..., :-1]
    return torch.einsum("bqk,bqhw->bkhw", classes, mask_logits.sigmoid())


def best_pairs(class_logits: Tensor, max_detections: int) -> tuple[Tensor, Tensor, Tensor]:
    """The (query, class) pairs of the largest probabilities, in descending order: the choice of :class:`InstanceRule`.

    Args:
        class_logits: B×Q×(K+1).
        max_detections: pairs N to take, at most Q·K.

    Returns:
        B×N probabilities, and B×N int64 queries and classes.
    """
    classes = class_logits.softmax(-1)[..., :-1]
    count = min(max_detections, math.prod(classes.shape[1:]))
    scores, index = classes.flatten(1).topk(count)
    return scores, index // classes.shape[-1], index % classes.shape[-1]


def select_queries(mask_logits: Tensor, queries: Tensor) -> Tensor:
    """B×Q×h×w masks and B×N int64 indices to B×N×h×w."""
    batch, count = mask_logits.shape[:2]
    rows = queries + count * torch.arange(batch, device=queries.device)[:, None]
    return mask_logits.flatten(0, 1)[rows.flatten()].unflatten(0, (batch, queries.shape[1]))


def instances(mask_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Masks, mean mask probabilities and boxes: what :class:`InstanceRule` makes of the masks that it has chosen.

    Args:
        mask_logits: B×N×H×W.

    Returns:
        B×N×H×W bool masks; B×N mean mask probability inside the mask, 0 where it is empty; B×N×4 boxes (x1, y1, x2,
        y2) around them, in pixels, zeros where the mask is empty.
    """
    masks = mask_logits > 0
    inside = (mask_logits.sigmoid() * masks).flatten(2).sum(2)
    mask_scores = inside / (masks.flatten(2).sum(2) + 1e-6)
    boxes = masks_to_boxes(masks.flatten(0, 1)).unflatten(0, (masks.shape[0], masks.shape[1]))
    return masks, mask_scores, boxes


def panoptic_segments(
    class_logits: Tensor,
    mask_logits: Tensor,
    is_thing: Tensor,
    *,
    object_mask_threshold: float,
    overlap_threshold: float,
) -> dict[str, Tensor]:
    """Give every pixel to at most one segment: :class:`PanopticRule`.

    Args:
        class_logits: B×Q×(K+1).
        mask_logits: B×Q×H×W.
        is_thing: K bool; segments of any other class are merged to one.
        object_mask_threshold, overlap_threshold: see :func:`panoptic_inference`.

    Returns:
        ``panoptic_seg`` B×H×W int32, the ids of segments, 0 where there is none. The segment of id i is in row i − 1
        of: ``segment_valid`` B×Q bool, False in the rows that no segment has; ``segment_classes`` B×Q int64, and
        ``segment_queries`` B×Q int64, the first query of the segment, both −1 there; ``segment_scores`` B×Q, the
        class probability of that query, 0 there.
    """
    num_classes = class_logits.shape[-1] - 1
    scores, labels = class_logits.softmax(-1).max(-1)
    candidates = (labels != num_classes) & (scores > object_mask_threshold)
    product = mask_logits.sigmoid() * scores[:, :, None, None]
    inside = is_inside(product, scores[:, :, None, None])
    best, owner = product.masked_fill(~candidates[:, :, None, None], -1.0).max(1)
    best, owner = best.flatten(1), owner.flatten(1)  # B×(H·W)
    final = is_inside(best, scores.gather(1, owner))
    zeros = torch.zeros_like(labels)
    owned = zeros.scatter_add(1, owner, torch.ones_like(owner))
    left = zeros.scatter_add(1, owner, final.to(owner.dtype))
    area = inside.flatten(2).sum(2).clamp(min=1)
    kept = candidates & (left > 0) & (owned.double() / area.double() >= overlap_threshold)

    first, opens = _first_of_segment(labels, kept, is_thing)
    ids = (opens.long().cumsum(1) * opens).gather(1, first) * kept  # B×Q
    segmentation = (ids.gather(1, owner) * final).int().unflatten(1, mask_logits.shape[-2:])
    return {"panoptic_seg": segmentation, **_rows_by_id(ids, opens, labels, scores)}


def _first_of_segment(labels: Tensor, kept: Tensor, is_thing: Tensor) -> tuple[Tensor, Tensor]:
    """B×Q int64: the first query of the segment that each is part of, and B×Q bool: whether that is itself."""
    queries = torch.arange(labels.shape[1], device=labels.device)
    thing = torch.cat([is_thing, is_thing.new_ones(1)])[labels]  # no-object merges with nothing
    same = (labels[:, :, None] == labels[:, None, :]) & ~thing[:, :, None] & kept[:, None, :]
    same = same | (queries[:, None] == queries)
    # the smallest index of those that are the same; argmax of equal numbers would be anyone's choice
    first = torch.where(same, queries, labels.shape[1]).amin(2)
    return first, kept & (first == queries)


def _rows_by_id(ids: Tensor, opens: Tensor, labels: Tensor, scores: Tensor) -> dict[str, Tensor]:
    """Bring what is known of queries into the rows of the segments that they open."""
    queries = torch.arange(ids.shape[1], device=ids.device)
    placed = (ids[:, None, :] == queries[:, None] + 1) & opens[:, None, :]  # B×rows×Q, one True a row at most
    return {
        "segment_classes": (placed * (labels + 1)[:, None, :]).sum(2) - 1,
        "segment_scores": (placed * scores[:, None, :]).sum(2),
        "segment_queries": (placed * (queries + 1)).sum(2) - 1,
        "segment_valid": placed.any(2),
    }
