"""From class and mask logits to semantic, instance and panoptic results (Mask2Former, section 3.4; MaskFormer,
section 3.4).

:func:`run_rules` resizes masks a few at a time and gives them to the rules of the tasks, which are in
:mod:`~mask2former_ext.modeling.inference_rules`. The functions ``…_inference`` apply one rule to masks that are there
at full size already.

Shapes: Q queries, K classes, n queries taken at once, H, W of the result, h, w of the mask predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from .inference_rules import Chunk, InstanceRule, PanopticRule, PanopticSegmentation, Rule, SemanticRule, Size

# Of those that are at full size already: a few, so that what is made of them stays in a processor's cache.
MASKS_AT_ONCE = 8


def run_rules(
    rules: Sequence[Rule], mask_logits: Tensor, resize: Callable[[Tensor], Tensor], chunk_size: int
) -> list[Any]:
    """Resize the masks that any rule needs, ``chunk_size`` at a time, and return each rule's result.

    Args:
        rules: what to compute.
        mask_logits: Q×h×w.
        resize: brings n×h×w logits to the size of the result, n×H×W.
        chunk_size: queries n at a time, at least 1.
    """
    wanted = sorted(set().union(*(rule.queries for rule in rules)))
    for start in range(0, len(wanted), chunk_size):
        queries = wanted[start : start + chunk_size]
        logits = resize(_select(mask_logits, queries))
        chunk = Chunk(queries, logits, logits.sigmoid())
        for rule in rules:
            rule.add(chunk)
    return [rule.result() for rule in rules]


def _select(maps: Tensor, indices: Sequence[int]) -> Tensor:
    """The maps of ascending ``indices``; where these leave none out, without a copy."""
    first, last = indices[0], indices[-1]
    return maps[first : last + 1] if last - first + 1 == len(indices) else maps[indices]


def resize_masks(mask_logits: Tensor, padded_size: Size, image_size: Size, output_size: Size) -> Tensor:
    """Bring n×h×w logits of a padded image to ``output_size``: up to the padded image, crop, on to the output.

    Sizes are (height, width) in pixels. Both steps are bilinear; a step that would change no size is left out.
    """
    if tuple(mask_logits.shape[-2:]) != tuple(padded_size):
        mask_logits = _interpolate(mask_logits, padded_size)
    mask_logits = mask_logits[:, : image_size[0], : image_size[1]]
    return mask_logits if tuple(image_size) == tuple(output_size) else _interpolate(mask_logits, output_size)


def _interpolate(maps: Tensor, size: Size) -> Tensor:
    return F.interpolate(maps[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def semantic_inference(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Sum over queries of class probability × mask probability.

    Args:
        class_logits: Q×(K+1); the last class is no-object.
        mask_logits: Q×H×W.

    Returns:
        K×H×W scores, in [0, Q].
    """
    return _apply(SemanticRule(class_logits, _size_of(mask_logits)), mask_logits)


def panoptic_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    thing_classes: Collection[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> PanopticSegmentation:
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
    rule = PanopticRule(
        class_logits,
        _size_of(mask_logits),
        thing_classes=thing_classes,
        object_mask_threshold=object_mask_threshold,
        overlap_threshold=overlap_threshold,
    )
    return _apply(rule, mask_logits)


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
    rule = InstanceRule(class_logits, _size_of(mask_logits), max_detections=max_detections, thing_classes=thing_classes)
    return _apply(rule, mask_logits)


def _size_of(maps: Tensor) -> Size:
    return (maps.shape[-2], maps.shape[-1])


def _apply(rule: Rule, mask_logits: Tensor) -> Any:
    return run_rules([rule], mask_logits, lambda logits: logits, MASKS_AT_ONCE)[0]
