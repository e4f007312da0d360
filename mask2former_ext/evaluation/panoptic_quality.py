"""Panoptic quality (PQ) of id maps: pure functions on arrays, without files or Detectron2.

"Panoptic Segmentation" (Kirillov et al., CVPR 2019), section 4, with the treatment of void and crowd that the COCO
panoptic reference evaluation uses.

Shapes: H, W of an image; G segments of the ground truth; P predicted segments; C categories of the dataset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VOID_ID = 0
MATCH_IOU = 0.5
IGNORED_SHARE = 0.5
IOU_STEP = 2.0**-36


@dataclass(frozen=True)
class Segments:
    """The segments of one id map.

    Attributes:
        ids: int64 of shape (S,), the segments' ids in the map, all different, none of them :data:`VOID_ID`.
        categories: int64 of shape (S,), indices in [0, C).
        crowd: bool of shape (S,), or None where no segment is a crowd.
        areas: float64 of shape (S,), the areas in pixels that the dataset states, or None to count them in the map.
    """

    ids: np.ndarray
    categories: np.ndarray
    crowd: np.ndarray | None = None
    areas: np.ndarray | None = None

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.categories) == len(np.unique(self.ids))
        assert VOID_ID not in self.ids


@dataclass(frozen=True)
class PanopticCounts:
    """Sums per category, over any number of images, that PQ is computed from.

    Attributes:
        iou: float64 of shape (C,), the summed IoU of matched pairs.
        tp: int64 of shape (C,), matched pairs.
        fp: int64 of shape (C,), predicted segments that match nothing.
        fn: int64 of shape (C,), segments of the ground truth that nothing matches.
    """

    iou: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray

    @classmethod
    def zeros(cls, num_categories: int) -> PanopticCounts:
        tp, fp, fn = np.zeros((3, num_categories), dtype=np.int64)
        return cls(iou=np.zeros(num_categories), tp=tp, fp=fp, fn=fn)

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        return PanopticCounts(self.iou + other.iou, self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)


@dataclass(frozen=True)
class PanopticQuality:
    """PQ = SQ * RQ averaged over categories, each in [0, 1], and how many categories took part (NaN if none did)."""

    pq: float
    sq: float
    rq: float
    num_categories: int


class SegmentMismatchError(ValueError):
    """An id map and its list of segments disagree."""


def segment_index(id_map: np.ndarray, segments: Segments, owner: str) -> np.ndarray:
    """Replace ids by positions in the list of segments.

    Args:
        id_map: integer array of any shape; :data:`VOID_ID` is void.
        segments: the S segments of the map.
        owner: whose map it is, for the error.

    Returns:
        int64 array of the map's shape: 0 for void, 1 + position for a segment.

    Raises:
        SegmentMismatchError: the map has an id that is not listed, or lacks one that is.
    """
    known = np.append(segments.ids, VOID_ID)
    index_of_known = np.append(np.arange(1, len(known)), 0)
    order = np.argsort(known)
    nearest = np.searchsorted(known[order], id_map)
    nearest = order[np.minimum(nearest, len(known) - 1)]
    unlisted = np.unique(id_map[known[nearest] != id_map])
    index = index_of_known[nearest]
    present = np.bincount(index.ravel(), minlength=len(known))[1:] > 0
    differences = []
    if len(unlisted):
        differences.append(f"the map has ids {unlisted.tolist()}, which the list of segments lacks")
    if not present.all():
        differences.append(f"the list of segments has ids {segments.ids[~present].tolist()}, which the map lacks")
    if differences:
        raise SegmentMismatchError(f"{owner}: {' and '.join(differences)}")
    return index


def overlap_areas(gt_map: np.ndarray, gt: Segments, prediction_map: np.ndarray, prediction: Segments) -> np.ndarray:
    """Count the pixels that each segment of the ground truth shares with each predicted one.

    Args:
        gt_map: integer array H x W of segment ids, 0 for void.
        gt: its G segments.
        prediction_map: integer array H x W of segment ids, 0 for void.
        prediction: its P segments.

    Returns:
        int64 array (G + 1) x (P + 1) of areas in pixels; row 0 and column 0 are void.

    Raises:
        SegmentMismatchError: one of the maps has an id that its segments lack, or the reverse.
    """
    gt_index = segment_index(gt_map, gt, "ground truth")
    prediction_index = segment_index(prediction_map, prediction, "prediction")
    return overlaps_of_indices(gt_index, prediction_index, (len(gt.ids) + 1, len(prediction.ids) + 1))


def overlaps_of_indices(gt_index: np.ndarray, prediction_index: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Count as :func:`overlap_areas` does, from two results of :func:`segment_index`; ``shape`` is (G + 1, P + 1)."""
    pair = gt_index * shape[1] + prediction_index
    return np.bincount(pair.ravel(), minlength=shape[0] * shape[1]).reshape(shape)


def matchable_iou(overlap: np.ndarray, gt: Segments, prediction: Segments) -> np.ndarray:
    """IoU of the masks, float64 G×P, of the pairs that may match; 0 for the others. See :func:`count_matches`."""
    on_void, overlap_of_segments = overlap[0, 1:], overlap[1:, 1:]
    prediction_area = overlap[:, 1:].sum(axis=0)
    gt_area = overlap[1:].sum(axis=1) if gt.areas is None else gt.areas
    union = prediction_area + gt_area[:, None] - overlap_of_segments - on_void
    same_category = gt.categories[:, None] == prediction.categories
    comparable = same_category & ~_crowd(gt)[:, None] & (overlap_of_segments > 0) & (union > 0)
    return np.divide(overlap_of_segments, union, out=np.zeros(union.shape), where=comparable)


def _crowd(gt: Segments) -> np.ndarray:
    return np.zeros(len(gt.ids), dtype=bool) if gt.crowd is None else gt.crowd


def count_matches(
    overlap: np.ndarray, gt: Segments, prediction: Segments, num_categories: int, iou: np.ndarray | None = None
) -> PanopticCounts:
    """Match the predicted segments of one image with its ground truth.

    A pair of one category matches when its IoU exceeds 0.5; then it is the only match of both. In the IoU, the part of
    the prediction that lies on void counts for nothing. A crowd segment is neither matched nor missed. A predicted
    segment without a match is no false positive when more than half of it lies on void and on the crowd segment of its
    category; of several such crowd segments in an image, the one listed last counts, as in the COCO reference.

    Args:
        overlap: result of :func:`overlap_areas`.
        gt: the G segments of the ground truth.
        prediction: the P predicted segments; their ``crowd`` and ``areas`` play no part.
        num_categories: C.
        iou: float64 G×P, 0 for pairs that must not match; None stands for :func:`matchable_iou`.
    """
    on_void, overlap_of_segments = overlap[0, 1:], overlap[1:, 1:]
    prediction_area = overlap[:, 1:].sum(axis=0)
    crowd = _crowd(gt)
    if iou is None:
        iou = matchable_iou(overlap, gt, prediction)
    matched = iou > MATCH_IOU
    rows, columns = np.nonzero(matched)

    # Repeated indices: the last assignment stays, which is the crowd segment that the reference uses.
    crowd_of_category = np.full(num_categories, -1)
    crowd_of_category[gt.categories[crowd]] = np.flatnonzero(crowd)
    crowd_row = crowd_of_category[prediction.categories]
    on_crowd = (
        np.where(crowd_row >= 0, overlap_of_segments[crowd_row, np.arange(len(crowd_row))], 0) if crowd.any() else 0
    )
    ignored = (on_void + on_crowd) / prediction_area > IGNORED_SHARE

    def per_category(categories: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(categories, weights, minlength=num_categories)

    return PanopticCounts(
        # whole numbers of a step of 1e-11: float64 adds 100,000 of them exactly, in whatever order workers have them
        iou=per_category(gt.categories[rows], np.rint(iou[rows, columns] / IOU_STEP)) * IOU_STEP,
        tp=per_category(gt.categories[rows]),
        fp=per_category(prediction.categories[~matched.any(axis=0) & ~ignored]),
        fn=per_category(gt.categories[~matched.any(axis=1) & ~crowd]),
    )


def average_quality(counts: PanopticCounts, chosen: np.ndarray | None = None) -> PanopticQuality:
    """Average PQ, SQ and RQ over the categories that occur in the ground truth or in predictions.

    Args:
        counts: sums per category.
        chosen: bool of shape (C,), the categories to average over; None for all.
    """
    tp, fp, fn = (x.astype(np.float64) for x in (counts.tp, counts.fp, counts.fn))
    counted = tp + fp + fn > 0
    if chosen is not None:
        counted &= chosen
    if not counted.any():
        return PanopticQuality(pq=float("nan"), sq=float("nan"), rq=float("nan"), num_categories=0)
    iou, tp, fp, fn = counts.iou[counted], tp[counted], fp[counted], fn[counted]
    weight = tp + 0.5 * fp + 0.5 * fn
    sq = np.divide(iou, tp, out=np.zeros_like(iou), where=tp > 0)
    return PanopticQuality(
        pq=float(np.mean(iou / weight)), sq=float(np.mean(sq)), rq=float(np.mean(tp / weight)), num_categories=len(iou)
    )
