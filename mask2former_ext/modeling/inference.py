"""From class and mask logits to semantic, instance and panoptic results (Mask2Former, section 3.4; MaskFormer,
section 3.4).

Pure functions of tensors and plain numbers. Shapes: Q queries, K classes, H, W of the result.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor


def semantic_inference(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Sum over queries of class probability × mask probability.

    Args:
        class_logits: Q×(K+1); the last class is no-object.
        mask_logits: Q×H×W.

    Returns:
        K×H×W scores, in [0, Q].
    """
    classes = class_logits.softmax(-1)[:, :-1]
    return torch.einsum("qk,qhw->khw", classes, mask_logits.sigmoid())


def panoptic_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    thing_classes: Collection[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Give every pixel to at most one segment.

    Args:
        class_logits: Q×(K+1); the last class is no-object.
        mask_logits: Q×H×W.
        thing_classes: the classes whose segments stay apart; segments of any other class are merged to one.
        object_mask_threshold: queries whose class probability is not above this are dropped, in [0, 1].
        overlap_threshold: a segment is dropped when fewer than this share of its own pixels is left to it.

    Returns:
        int32 H×W segment ids, 0 where there is none, and a list of {``id``, ``isthing``, ``category_id``}.
    """
    num_classes = class_logits.shape[-1] - 1
    scores, labels = class_logits.softmax(-1).max(-1)
    keep = (labels != num_classes) & (scores > object_mask_threshold)
    scores, labels, masks = scores[keep], labels[keep], mask_logits[keep].sigmoid()
    if not len(masks):
        return torch.zeros(mask_logits.shape[1:], dtype=torch.int32, device=mask_logits.device), []

    count = len(masks)
    owner = (scores[:, None, None] * masks).argmax(0)  # H×W
    inside = masks.gather(0, owner[None])[0] >= 0.5
    owned_area = owner.flatten().bincount(minlength=count)
    mask_area = (masks >= 0.5).flatten(1).sum(1)
    area = owner[inside].bincount(minlength=count)
    # the ratio is taken in float64, as Python takes that of two integers
    share = owned_area.double() / mask_area.clamp(min=1).double()
    valid = (area > 0) & (share >= overlap_threshold)

    segment_ids, segments = _number_segments(labels.tolist(), valid.tolist(), thing_classes)
    lookup = torch.tensor(segment_ids, dtype=torch.int32, device=owner.device)
    return lookup[owner] * inside, segments


def _number_segments(
    labels: list[int], valid: list[bool], thing_classes: Collection[int]
) -> tuple[list[int], list[dict[str, Any]]]:
    """An id for each kept query, 0 for the dropped; queries of one stuff class share theirs."""
    segments: list[dict[str, Any]] = []
    stuff_ids: dict[int, int] = {}
    ids = []
    for label, is_valid in zip(labels, valid, strict=True):
        if not is_valid:
            ids.append(0)
            continue
        if label in stuff_ids:
            ids.append(stuff_ids[label])
            continue
        is_thing = label in thing_classes
        segments.append({"id": len(segments) + 1, "isthing": is_thing, "category_id": label})
        ids.append(len(segments))
        if not is_thing:
            stuff_ids[label] = len(segments)
    return ids, segments


def instance_inference(
    class_logits: Tensor, mask_logits: Tensor, *, max_detections: int, thing_classes: Collection[int] | None = None
) -> Instances:
    """The best (query, class) pairs as instances.

    Args:
        class_logits: Q×(K+1); the last class is no-object.
        mask_logits: Q×H×W.
        max_detections: pairs to take, at most Q·K.
        thing_classes: where given, pairs of other classes are dropped from those taken.

    Returns:
        Instances of size (H, W) with ``pred_masks`` N×H×W bool, ``scores`` N (class probability × mean mask
        probability inside the mask), ``pred_classes`` N int64 and ``pred_boxes``, tight around the masks, (x1, y1,
        x2, y2) in pixels; an empty mask has the box (0, 0, 0, 0).
    """
    classes = class_logits.softmax(-1)[:, :-1]
    scores, index = classes.flatten().topk(min(max_detections, classes.numel()), sorted=False)
    queries, labels = index // classes.shape[1], index % classes.shape[1]
    if thing_classes is not None:
        is_thing = torch.isin(labels, torch.tensor(sorted(thing_classes), dtype=labels.dtype, device=labels.device))
        scores, queries, labels = scores[is_thing], queries[is_thing], labels[is_thing]
    chosen = mask_logits[queries]
    masks = chosen > 0
    inside = (chosen.sigmoid() * masks).flatten(1).sum(1)
    mask_scores = inside / (masks.flatten(1).sum(1) + 1e-6)

    result = Instances(tuple(mask_logits.shape[-2:]))
    result.pred_masks = masks
    result.scores = scores * mask_scores
    result.pred_classes = labels
    result.pred_boxes = Boxes(masks_to_boxes(masks))
    return result


def masks_to_boxes(masks: Tensor) -> Tensor:
    """N×4 float32 boxes (x1, y1, x2, y2), in pixels, around the pixels of N×H×W bool masks; zeros for an empty mask."""
    height, width = masks.shape[-2:]
    if not len(masks):
        return torch.zeros(0, 4, device=masks.device)
    columns, rows = masks.any(1), masks.any(2)
    x1, x2 = columns.byte().argmax(1), width - columns.flip(1).byte().argmax(1)
    y1, y2 = rows.byte().argmax(1), height - rows.flip(1).byte().argmax(1)
    boxes = torch.stack([x1, y1, x2, y2], dim=1).float()
    return boxes * rows.any(1, keepdim=True)
