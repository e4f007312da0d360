"""A score for each image, so that the images where a model does well, badly, or unlike another can be found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as coco_mask
from scipy.optimize import linear_sum_assignment

from .regions import Region, Truth

IGNORED_SHARE = 0.5
DEFINITION = (
    "The score of an image is 100 · 2 · ΣIoU / (true + found): regions that were found are paired with true ones of "
    "their class so that the summed IoU of the pairs is largest, and that is set against how many regions there are. "
    "It is 100 when every region is found to the pixel and nothing else is. Void and crowds count for nothing."
)


def image_score(truth: Truth, found: Sequence[Region], kinds: frozenset[str]) -> float:
    """See :data:`DEFINITION`.

    Args:
        truth: of the image.
        found: what a model found on it. Regions of which more than half lies on void or crowds are left out, as in
            panoptic quality; of the others only what lies beside is compared.
        kinds: which kinds of regions count.

    Returns:
        The score in percent; 100 where there is nothing and nothing was found.
    """
    true = [region for region in truth.regions if region.kind in kinds]
    counted = [part for region in found if region.kind in kinds for part in _beside(region, truth)]
    if not true and not counted:
        return 100.0
    return 200.0 * _best_pairing(true, counted) / (len(true) + len(counted))


def _beside(region: Region, truth: Truth) -> list[Region]:
    """The region without what is ignored; nothing if more than half of it is."""
    covered = coco_mask.merge([region.rle, truth.ignored], intersect=True)
    area, ignored = int(coco_mask.area(region.rle)), int(coco_mask.area(covered))
    if ignored == 0:
        return [region]
    if ignored > IGNORED_SHARE * area:
        return []
    left = region.mask() & ~coco_mask.decode(truth.ignored).astype(bool)
    return [Region.of(left, region.category, region.kind, region.confidence)]


def _best_pairing(true: Sequence[Region], found: Sequence[Region]) -> float:
    """The largest sum of IoU that pairs of one class can have."""
    if not true or not found:
        return 0.0
    iou = coco_mask.iou([region.rle for region in found], [region.rle for region in true], [0] * len(true))
    alike = [[(a.category, a.kind) == (b.category, b.kind) for b in true] for a in found]
    iou = np.where(alike, iou, 0.0)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return float(iou[rows, columns].sum())
