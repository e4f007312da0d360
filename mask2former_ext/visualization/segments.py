"""Ground truth and model outputs as a list of `Segment`, one form for all pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import Instances

from .panels import Segment


def segments_from_panoptic(
    panoptic_seg: torch.Tensor, segments_info: Sequence[Mapping[str, Any]], class_names: Sequence[str]
) -> list[Segment]:
    """Turn a panoptic result, or panoptic ground truth, into segments.

    Args:
        panoptic_seg: integer H×W, the segment id of each pixel.
        segments_info: dicts with ``id``, ``category_id`` (contiguous) and ``isthing``.
        class_names: by contiguous category id.
    """
    ids = panoptic_seg.cpu().numpy()
    return [
        Segment(ids == info["id"], class_names[info["category_id"]], bool(info["isthing"])) for info in segments_info
    ]


def segments_from_instances(
    instances: Instances, class_names: Sequence[str], *, min_score: float = 0.5
) -> list[Segment]:
    """Turn the instances that a model predicted into segments, the most confident first.

    Args:
        instances: with ``pred_masks`` (bool N×H×W), ``pred_classes`` and ``scores``.
        class_names: by contiguous category id.
        min_score: less confident instances are left out.
    """
    instances = instances[instances.scores >= min_score].to("cpu")
    instances = instances[instances.scores.argsort(descending=True, stable=True)]
    return [
        Segment(mask.numpy().astype(bool), f"{class_names[category]} {score:.0%}")
        for mask, category, score in zip(
            instances.pred_masks, instances.pred_classes.tolist(), instances.scores.tolist(), strict=True
        )
    ]
