"""What each task makes of class and mask predictions (Mask2Former, section 3.4; MaskFormer, section 3.4).

A rule first says, from the classes alone, which queries it needs, then takes their masks a few at a time, at the size
of the result, and at the end gives the result. So queries that cannot matter are never resized, and memory is bounded
by how many are taken at once.

Shapes: Q queries, K classes, n queries of a chunk, H, W of the result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..ops.panoptic_merge import is_inside, panoptic_merge

Size = tuple[int, int]
PanopticSegmentation = tuple[Tensor, list[dict[str, Any]]]


@dataclass(frozen=True)
class Chunk:
    """Masks of a few queries.

    Attributes:
        queries: their n indices among the Q, ascending.
        logits: n×H×W.
        probabilities: n×H×W, the sigmoid of ``logits``.
    """

    queries: Sequence[int]
    logits: Tensor
    probabilities: Tensor


class Rule(Protocol):
    """One task's way from predictions to a result."""

    queries: Collection[int]
    """Indices of the queries whose masks :meth:`add` must see."""

    def add(self, chunk: Chunk) -> None:
        """Take masks; may hold other queries too. Over all chunks, queries come once each and in ascending order."""

    def result(self) -> Any:
        """The result of all masks taken; to be called once."""


class SemanticRule:
    """Sum over queries of class probability × mask probability."""

    def __init__(self, class_logits: Tensor, size: Size, summed_at_once: int = 1) -> None:
        """
        Args:
            class_logits: Q×(K+1), the last class being no-object.
            size: (H, W) of the result.
            summed_at_once: masks that are kept until there are so many, because a sum goes through all K×H×W scores.
        """
        self.classes = class_logits.softmax(-1)[:, :-1]
        self.queries: Collection[int] = range(len(class_logits))
        self._size, self._summed_at_once = size, summed_at_once
        self._scores = self.classes.new_empty(self.classes.shape[1], size[0] * size[1])
        self._summed = 0
        self._kept: Tensor | None = None
        self._num_kept = 0

    def add(self, chunk: Chunk) -> None:
        first, last = chunk.queries[0], chunk.queries[-1]
        assert last - first + 1 == len(chunk.queries), "every query counts, none may be left out"
        probabilities = chunk.probabilities.flatten(1)
        if self._num_kept + len(probabilities) > self._summed_at_once:
            self._sum_kept()
        if len(probabilities) >= self._summed_at_once:
            self._sum(probabilities)
            return
        if self._kept is None:
            self._kept = probabilities.new_empty(self._summed_at_once, probabilities.shape[1])
        self._kept[self._num_kept : self._num_kept + len(probabilities)] = probabilities
        self._num_kept += len(probabilities)

    def _sum_kept(self) -> None:
        if self._kept is not None:
            self._sum(self._kept[: self._num_kept])
        self._kept, self._num_kept = None, 0  # not written over, because gradients may need it

    def _sum(self, probabilities: Tensor) -> None:
        classes = self.classes[self._summed : self._summed + len(probabilities)].t()
        # in place, which autocast leaves in float32; by 0, what is there at first counts for nothing
        self._scores.addmm_(classes, probabilities, beta=min(self._summed, 1))
        self._summed += len(probabilities)

    def result(self) -> Tensor:
        """K×H×W scores, in [0, Q]."""
        self._sum_kept()
        scores = self._scores if self._summed else self._scores.zero_()
        return scores.unflatten(1, self._size)


class MergingRule:
    """Give every pixel to the query with the largest class × mask probability, of those that a threshold keeps."""

    def __init__(self, class_logits: Tensor, size: Size, *, object_mask_threshold: float) -> None:
        """``class_logits`` Q×(K+1), the last class being no-object; ``size`` (H, W) of the result."""
        num_classes = class_logits.shape[-1] - 1
        scores, labels = class_logits.detach().softmax(-1).max(-1)
        keep = (labels != num_classes) & (scores > object_mask_threshold)
        # choices are made on the host after one copy, so that nothing waits for the device once for every query
        kept_labels = torch.where(keep, labels, -1).tolist()
        self._labels = {query: label for query, label in enumerate(kept_labels) if label >= 0}
        self._scores = scores
        self.queries: Collection[int] = self._labels.keys()
        # per pixel the best product so far, and the rank of its query among those kept
        self._best = class_logits.new_full(size, -1.0)
        self._owner = torch.zeros(size, dtype=torch.int32, device=class_logits.device)
        self.areas: list[Tensor] = []

    @property
    def labels(self) -> list[int]:
        """Classes of the queries that are kept, by rank; ``areas`` has the number of pixels of each one's own mask."""
        return list(self._labels.values())

    def add(self, chunk: Chunk) -> None:
        for query, probability in zip(chunk.queries, chunk.probabilities.detach(), strict=True):
            if query not in self._labels:
                continue
            score, rank = self._scores[query], len(self.areas)
            self.areas.append(panoptic_merge(probability, self._best, self._owner, score, rank))

    def owner_codes(self) -> Tensor:
        """int H×W: twice the rank of the pixel's query, plus one inside that query's own mask.

        There must be a query that is kept.
        """
        kept_scores = self._scores[list(self._labels)]
        return 2 * self._owner + is_inside(self._best, kept_scores[self._owner])


class PanopticRule(MergingRule):
    """Give every pixel to at most one segment: to the query with the largest class × mask probability."""

    def __init__(
        self,
        class_logits: Tensor,
        size: Size,
        *,
        thing_classes: Collection[int],
        object_mask_threshold: float,
        overlap_threshold: float,
    ) -> None:
        """See :func:`panoptic_inference`; ``size`` is (H, W) of the result."""
        super().__init__(class_logits, size, object_mask_threshold=object_mask_threshold)
        self.thing_classes, self.overlap_threshold = thing_classes, overlap_threshold

    def result(self) -> PanopticSegmentation:
        """int32 H×W segment ids, 0 where there is none, and the list of segments."""
        if not self.areas:
            return self._owner, []
        code = self.owner_codes()
        outside, inside = code.flatten().bincount(minlength=2 * len(self.areas)).view(-1, 2).unbind(1)
        areas = torch.stack([outside + inside, inside, torch.stack(self.areas)]).tolist()
        # a share of two integers is a Python float, which is float64
        kept = [
            final > 0 and owned / max(area, 1) >= self.overlap_threshold
            for owned, final, area in zip(*areas, strict=True)
        ]
        ids, segments = _number_segments(self.labels, kept, self.thing_classes)
        lookup = torch.tensor([[0, segment_id] for segment_id in ids], dtype=torch.int32, device=code.device)
        return lookup.flatten()[code], segments


class InstanceRule:
    """The best (query, class) pairs as instances."""

    def __init__(
        self,
        class_logits: Tensor,
        size: Size,
        *,
        max_detections: int,
        thing_classes: Collection[int] | None = None,
    ) -> None:
        """See :func:`instance_inference`; ``size`` is (H, W) of the result."""
        classes = class_logits.softmax(-1)[:, :-1]
        scores, index = classes.flatten().topk(min(max_detections, classes.numel()), sorted=False)
        queries, labels = index // classes.shape[1], index % classes.shape[1]
        if thing_classes is not None:
            things = torch.tensor(sorted(thing_classes), dtype=labels.dtype, device=labels.device)
            # positions, which are waited for once; each index by bools would wait
            kept = torch.isin(labels, things).nonzero().squeeze(1)
            scores, queries, labels = scores[kept], queries[kept], labels[kept]
        # a query that is taken with several classes gives its mask to several rows of the result
        self._rows: dict[int, list[int]] = defaultdict(list)
        for row, query in enumerate(queries.tolist()):
            self._rows[query].append(row)
        self.queries: Collection[int] = self._rows.keys()
        self._scores, self._labels = scores, labels
        self._masks = torch.empty(len(labels), *size, dtype=torch.bool, device=labels.device)
        self._boxes = torch.empty(len(labels), 4, device=labels.device)
        self._size = size

    def add(self, chunk: Chunk) -> None:
        chosen = [position for position, query in enumerate(chunk.queries) if query in self._rows]
        if not chosen:
            return
        logits, probabilities = chunk.logits, chunk.probabilities
        if len(chosen) < len(chunk.queries):
            logits, probabilities = logits[chosen], probabilities[chosen]
        masks = logits > 0
        inside = (probabilities * masks).flatten(1).sum(1)
        mask_scores = inside / (masks.flatten(1).count_nonzero(1) + 1e-6)
        rows = [self._rows[chunk.queries[position]] for position in chosen]
        source = [index for index, targets in enumerate(rows) for _ in targets]
        target = [row for targets in rows for row in targets]
        self._masks[target] = masks[source]
        self._scores[target] *= mask_scores[source]
        self._boxes[target] = masks_to_boxes(masks)[source]

    def result(self) -> Instances:
        """Instances with ``pred_masks``, ``scores``, ``pred_classes`` and ``pred_boxes``."""
        result = Instances(self._size)
        result.pred_masks = self._masks
        result.scores = self._scores
        result.pred_classes = self._labels
        result.pred_boxes = Boxes(self._boxes)
        return result


def _number_segments(
    labels: list[int], kept: list[bool], thing_classes: Collection[int]
) -> tuple[list[int], list[dict[str, Any]]]:
    """An id for each kept query, 0 for the dropped; queries of one stuff class share theirs."""
    segments: list[dict[str, Any]] = []
    stuff_ids: dict[int, int] = {}
    ids = []
    for label, is_kept in zip(labels, kept, strict=True):
        if not is_kept:
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


def masks_to_boxes(masks: Tensor) -> Tensor:
    """N×4 float32 boxes (x1, y1, x2, y2), in pixels, around the pixels of N×H×W bool masks; zeros for an empty mask."""
    height, width = masks.shape[-2:]
    if masks.shape[0] == 0:  # len() would make the number a constant of a graph that is being exported
        return torch.zeros(0, 4, device=masks.device)
    columns, rows = masks.any(1), masks.any(2)
    x1, x2 = columns.byte().argmax(1), width - columns.flip(1).byte().argmax(1)
    y1, y2 = rows.byte().argmax(1), height - rows.flip(1).byte().argmax(1)
    boxes = torch.stack([x1, y1, x2, y2], dim=1).float()
    return boxes * rows.any(1, keepdim=True)
