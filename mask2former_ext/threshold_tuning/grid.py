"""PQ counts of many pairs of thresholds at once.

All pairs of an image share the resized masks. Object thresholds between which no query's score lies keep the same
queries, so each set of queries is merged once; overlap thresholds only choose among the segments of that.

Shapes: T object thresholds, O overlap thresholds, C categories of the dataset, G segments of an image's ground truth,
n queries that an object threshold keeps, H, W of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from ..evaluation.panoptic_quality import PanopticCounts, Segments, count_matches
from ..evaluation.panoptic_truth import TrueSegmentation
from ..modeling.inference import MASKS_AT_ONCE, resize_masks, run_rules
from ..modeling.inference_rules import MergingRule
from .predictions import RawPrediction

FOLDS = 2


@dataclass(frozen=True)
class QueryOverlaps:
    """How the pixels of an image go to the queries that an object threshold keeps.

    Attributes:
        labels: int64 of shape (n,).
        shares: float64 of shape (n,), of its own pixels the share left to the query: what the overlap threshold is for.
        areas: int64 (G + 1)×n, of the pixels that the query's segment would have, those of each true segment; row 0 is
            void.
    """

    labels: np.ndarray
    shares: np.ndarray
    areas: np.ndarray


class OverlapRule(MergingRule):
    """The panoptic rule up to where the overlap threshold comes in: its result is a :class:`QueryOverlaps`."""

    def __init__(self, class_logits: Tensor, gt_index: Tensor, num_segments: int, object_mask_threshold: float) -> None:
        """``class_logits`` Q×(K+1); ``gt_index`` int64 H×W of the ``num_segments`` G true segments, 0 for void."""
        size = (gt_index.shape[0], gt_index.shape[1])
        super().__init__(class_logits, size, object_mask_threshold=object_mask_threshold)
        self._gt_index, self._rows = gt_index, num_segments + 1

    def result(self) -> QueryOverlaps:
        count = len(self.areas)
        if not count:
            return QueryOverlaps(np.zeros(0, np.int64), np.zeros(0), np.zeros((self._rows, 0), np.int64))
        cell = 2 * count * self._gt_index + self.owner_codes()
        table = cell.flatten().bincount(minlength=2 * count * self._rows).view(self._rows, count, 2).cpu().numpy()
        own_areas = torch.stack(self.areas).cpu().numpy()
        shares = table.sum(axis=(0, 2)) / np.maximum(own_areas, 1)
        return QueryOverlaps(np.array(self.labels), shares, table[..., 1])


class PanopticGrid:
    """Sums of PQ over images for every pair of thresholds, in two halves of the images.

    Attributes:
        object_thresholds, overlap_thresholds: T and O values, ascending.
        images: number of images in each half.
    """

    def __init__(
        self,
        object_thresholds: Sequence[float],
        overlap_thresholds: Sequence[float],
        *,
        num_categories: int,
        thing_labels: Collection[int],
        category_index: Callable[[int, bool], int],
    ) -> None:
        """
        Args:
            object_thresholds, overlap_thresholds: what to try, in any order.
            num_categories: C.
            thing_labels: the classes whose segments stay apart, as the model has it.
            category_index: from a class and whether it is a thing to its index among the C.
        """
        self.object_thresholds = sorted(set(object_thresholds))
        self.overlap_thresholds = sorted(set(overlap_thresholds))
        self.images = [0] * FOLDS
        self._num_categories = num_categories
        self._things, self._category_index = set(thing_labels), category_index
        shape = (FOLDS, len(self.object_thresholds), len(self.overlap_thresholds), num_categories)
        self._iou, (self._tp, self._fp, self._fn) = np.zeros(shape), np.zeros((3, *shape), dtype=np.int64)

    def add(self, prediction: RawPrediction, truth: TrueSegmentation) -> None:
        """Add an image; images go to the halves by turns.

        Raises:
            ValueError: prediction and ground truth differ in size, or a predicted class is none of the dataset's.
        """
        if tuple(prediction.output_size) != truth.index.shape:
            raise ValueError(
                f"{truth.file_name}: the ground truth is {truth.index.shape}, the prediction {prediction.output_size} "
                "pixels (height, width). Predictions must have the size of the dataset's image: check height and width "
                "of its dict."
            )
        fold = sum(self.images) % FOLDS
        self.images[fold] += 1
        true_areas = np.bincount(truth.index.ravel(), minlength=len(truth.segments.ids) + 1)
        for objects, overlaps in _overlaps_by_threshold(prediction, truth, self.object_thresholds):
            for shares, kept in _kept_by_threshold(overlaps, self.overlap_thresholds):
                counts = self._count(overlaps, kept, truth.segments, true_areas)
                self._iou[fold, objects, shares] += counts.iou
                self._tp[fold, objects, shares] += counts.tp
                self._fp[fold, objects, shares] += counts.fp
                self._fn[fold, objects, shares] += counts.fn

    def counts(self, row: int, column: int, folds: Sequence[int] = range(FOLDS)) -> PanopticCounts:
        """Sums over the images of some halves, for one pair of thresholds."""
        chosen = (list(folds), row, column)
        return PanopticCounts(*(sums[chosen].sum(axis=0) for sums in (self._iou, self._tp, self._fp, self._fn)))

    def _count(self, overlaps: QueryOverlaps, kept: np.ndarray, gt: Segments, true_areas: np.ndarray) -> PanopticCounts:
        """Make segments of the kept queries, one of each stuff class, and match them."""
        segment_of_stuff: dict[int, int] = {}
        columns: list[int] = []
        categories: list[int] = []
        for query in np.flatnonzero(kept):
            label = int(overlaps.labels[query])
            is_thing = label in self._things
            column = len(categories) if is_thing else segment_of_stuff.setdefault(label, len(categories))
            if column == len(categories):
                categories.append(self._category_index(label, is_thing))
            columns.append(column)
        areas = np.zeros((len(true_areas), len(categories) + 1), dtype=np.int64)
        np.add.at(areas.T, np.array(columns, dtype=np.int64) + 1, overlaps.areas.T[kept])
        areas[:, 0] = true_areas - areas.sum(axis=1)
        prediction = Segments(np.arange(1, len(categories) + 1), np.array(categories, dtype=np.int64))
        return count_matches(areas, gt, prediction, self._num_categories)


def _overlaps_by_threshold(
    prediction: RawPrediction, truth: TrueSegmentation, thresholds: Sequence[float]
) -> Iterator[tuple[slice, QueryOverlaps]]:
    """For each run of ascending object thresholds that keep the same queries: its positions, and the overlaps."""
    scores = prediction.class_logits.softmax(-1).amax(-1)
    runs = _runs([int((scores > threshold).sum()) for threshold in thresholds])
    gt_index = torch.from_numpy(truth.index).to(scores.device)
    rules = [
        OverlapRule(prediction.class_logits, gt_index, len(truth.segments.ids), thresholds[run.start]) for run in runs
    ]
    resize = partial(
        resize_masks,
        padded_size=prediction.padded_size,
        image_size=prediction.image_size,
        output_size=prediction.output_size,
    )
    yield from zip(runs, run_rules(rules, prediction.mask_logits, resize, MASKS_AT_ONCE), strict=True)


def _kept_by_threshold(overlaps: QueryOverlaps, thresholds: Sequence[float]) -> Iterator[tuple[slice, np.ndarray]]:
    """For each run of ascending overlap thresholds that keep the same segments: its positions, and bools (n,)."""
    occurs = overlaps.areas.sum(axis=0) > 0
    kept = [occurs & (overlaps.shares >= threshold) for threshold in thresholds]
    for run in _runs([int(mask.sum()) for mask in kept]):
        yield run, kept[run.start]


def _runs(values: Sequence[int]) -> list[slice]:
    """Where equal values follow each other."""
    runs, start = [], 0
    for _, group in groupby(values):
        stop = start + len(list(group))
        runs.append(slice(start, stop))
        start = stop
    return runs
