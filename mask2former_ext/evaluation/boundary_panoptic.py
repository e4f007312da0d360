"""Boundary PQ: panoptic quality with the smaller of mask IoU and Boundary IoU, in matching and in the sum of SQ.

"Boundary IoU: Improving Object-Centric Image Segmentation Evaluation" (Cheng et al., CVPR 2021).

Shapes: H, W of an image; G segments of the ground truth; P predicted segments.
"""

from __future__ import annotations

import numpy as np

from .boundary import boundary_distance, boundary_iou, map_boundaries
from .panoptic_quality import MATCH_IOU


def limit_to_boundaries(
    iou: np.ndarray, gt_index: np.ndarray, prediction_index: np.ndarray, dilation_ratio: float
) -> np.ndarray:
    """Replace the IoU of masks by min(mask IoU, Boundary IoU), for the pairs that match by the former.

    As in the mask IoU of PQ, what of the prediction lies on void belongs to no segment.

    Args:
        iou: float64 G×P, see :func:`matchable_iou`.
        gt_index: int64 H×W, 0 for void, 1 + position for a segment.
        prediction_index: the same of the prediction.
        dilation_ratio: see :func:`boundary_distance`.
    """
    rows, columns = np.nonzero(iou > MATCH_IOU)  # the minimum makes no other pair match
    height, width = gt_index.shape
    distance = boundary_distance((height, width), dilation_ratio)
    gt = map_boundaries(gt_index, rows + 1, distance)
    prediction = map_boundaries(np.where(gt_index > 0, prediction_index, 0), columns + 1, distance)
    limited = iou.copy()
    for row, column in zip(rows, columns, strict=True):
        limited[row, column] = min(iou[row, column], boundary_iou(gt[row + 1], prediction[column + 1]))
    return limited
