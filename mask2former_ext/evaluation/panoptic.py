"""Panoptic quality as a Detectron2 evaluator: in memory, image by image, without panopticapi."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from .boundary_panoptic import limit_to_boundaries
from .panoptic_files import PredictionWriter
from .panoptic_quality import (
    PanopticCounts,
    PanopticQuality,
    SegmentMismatchError,
    average_quality,
    count_matches,
    matchable_iou,
    overlaps_of_indices,
    segment_index,
)
from .panoptic_truth import PanopticTruth

logger = logging.getLogger(__name__)

Prediction = tuple[torch.Tensor, "Sequence[Mapping[str, Any]] | None"]
RESULT, BOUNDARY_RESULT = "panoptic_seg", "boundary_panoptic_seg"


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ of a model's ``panoptic_seg`` outputs, equal to the COCO panoptic reference evaluation.

    An output's ``panoptic_seg`` is a pair: the integer map H x W of segment ids, 0 for void, at the size of the
    dataset's image; and the list of its segments: ``id``, ``category_id`` and ``isthing``. With ``isthing`` the
    category is a contiguous id of the metadata's things or stuff, without it an id of the dataset. In place of the
    list, None says that the map holds category * ``label_divisor`` + instance, and -1 for void (as Panoptic-DeepLab's).

    Nothing is kept per image. With an output folder the predictions are also written there in the COCO format.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, *, boundary_dilation_ratio: float | None = None
    ) -> None:
        """Read the dataset's panoptic JSON.

        Args:
            dataset_name: a registered dataset; its metadata names the panoptic JSON, the folder of PNGs and categories.
            output_dir: where ``predictions.json`` and ``predictions/*.png`` go; None to write nothing.
            boundary_dilation_ratio: when given, results have Boundary PQ too, see :func:`boundary_distance`.

        Raises:
            ValueError: the metadata lacks keys.
        """
        self._truth = PanopticTruth(dataset_name)
        self._boundary_dilation_ratio = boundary_dilation_ratio
        self._writer = PredictionWriter(output_dir) if output_dir else None
        self.reset()

    def reset(self) -> None:
        results = [RESULT] if self._boundary_dilation_ratio is None else [RESULT, BOUNDARY_RESULT]
        self._counts = {result: PanopticCounts.zeros(len(self._truth.is_thing)) for result in results}
        self._images = 0
        self._wrong_areas = 0
        if self._writer:
            self._writer.reset()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Add some images to the counts.

        Args:
            inputs: dataset dicts; ``image_id`` is read.
            outputs: the model's; ``panoptic_seg`` is read (see the class).

        Raises:
            FileNotFoundError: the PNG of the ground truth is missing.
            ValueError: ground truth or prediction contradict themselves or each other; says which image.
        """
        for input_, output in zip(inputs, outputs, strict=True):
            self._process_image(input_["image_id"], output["panoptic_seg"])

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Merge the workers' counts.

        Returns:
            On the main process ``{"panoptic_seg": figures in percent}``, with boundaries also
            ``"boundary_panoptic_seg"``; None on the others.
        """
        comm.synchronize()
        if self._writer:
            self._writer.publish(self._truth.description)
        gathered = comm.gather((*self._counts.values(), self._images, self._wrong_areas))
        if not comm.is_main_process():
            return None
        *counts, images, wrong_areas = (reduce(add, part) for part in zip(*gathered, strict=True))
        if images != len(self._truth):
            logger.warning(
                "%d images were evaluated, but %s describes %d.", images, self._truth.json_file, len(self._truth)
            )
        if wrong_areas:
            logger.warning(
                "%d segments of %s state an area that is not the number of their pixels. As in the COCO reference, IoU "
                "uses the stated one; correct the JSON.", wrong_areas, self._truth.json_file
            )  # fmt: skip
        return OrderedDict((name, self._figures(name, of)) for name, of in zip(self._counts, counts, strict=True))

    def _figures(self, name: str, counts: PanopticCounts) -> dict[str, float]:
        groups = quality_groups(counts, self._truth.is_thing)
        logger.info("%s quality:\n%s", "Panoptic" if name == RESULT else "Boundary panoptic", _table(groups))
        return quality_figures(groups)

    def _process_image(self, image_id: int | str, panoptic_seg: Prediction) -> None:
        truth = self._truth.load(image_id)
        prediction_map, segments_info = self._decode(panoptic_seg)
        categories = [self._truth.dataset_category(segment, image_id) for segment in segments_info]
        prediction = self._truth.segments([int(segment["id"]) for segment in segments_info], categories, image_id)
        if truth.index.shape != prediction_map.shape:
            raise ValueError(
                f"image {image_id!r}: the prediction is {prediction_map.shape}, the ground truth {truth.file_name} "
                f"{truth.index.shape} pixels (height, width). Predictions must have the size of the dataset's image: "
                "check height and width of its dict."
            )
        try:
            prediction_index = segment_index(prediction_map, prediction, "prediction")
        except SegmentMismatchError as error:
            raise ValueError(f"image {image_id!r}: {error}") from error
        gt = truth.segments
        overlap = overlaps_of_indices(truth.index, prediction_index, (len(gt.ids) + 1, len(prediction.ids) + 1))
        ious = {RESULT: matchable_iou(overlap, gt, prediction)}
        if self._boundary_dilation_ratio is not None:
            ious[BOUNDARY_RESULT] = limit_to_boundaries(
                ious[RESULT], truth.index, prediction_index, self._boundary_dilation_ratio
            )
        for result, iou in ious.items():
            self._counts[result] += count_matches(overlap, gt, prediction, len(self._truth.is_thing), iou)
        self._images += 1
        self._wrong_areas += 0 if gt.areas is None else int((gt.areas != overlap[1:].sum(axis=1)).sum())
        if self._writer:
            ids = prediction.ids.tolist()
            segments = [{"id": id_, "category_id": category} for id_, category in zip(ids, categories, strict=True)]
            self._writer.add(image_id, truth.file_name, prediction_map, segments)

    def _decode(self, panoptic_seg: Prediction) -> tuple[np.ndarray, Sequence[Mapping[str, Any]]]:
        id_map, segments_info = panoptic_seg[0].cpu().numpy(), panoptic_seg[1]
        if segments_info is not None:
            return id_map, segments_info
        things = self._truth.thing_labels
        labels = [int(label) for label in np.unique(id_map) if label != -1]
        categories = [label // self._truth.label_divisor for label in labels]
        return id_map + 1, [
            {"id": label + 1, "category_id": category, "isthing": category in things}
            for label, category in zip(labels, categories, strict=True)
        ]


def quality_groups(counts: PanopticCounts, is_thing: np.ndarray) -> dict[str, PanopticQuality]:
    """Quality averaged over all categories, over things and over stuff; ``is_thing`` is bool of shape (C,)."""
    return {
        "All": average_quality(counts),
        "Things": average_quality(counts, is_thing),
        "Stuff": average_quality(counts, ~is_thing),
    }


def quality_figures(groups: Mapping[str, PanopticQuality]) -> dict[str, float]:
    """Figures in percent, under the names that results have: PQ, SQ, RQ, the same with ``_th`` and with ``_st``."""
    figures: dict[str, float] = {}
    for suffix, quality in zip(("", "_th", "_st"), groups.values(), strict=True):
        figures |= {f"PQ{suffix}": 100 * quality.pq, f"SQ{suffix}": 100 * quality.sq, f"RQ{suffix}": 100 * quality.rq}
    return figures


def _table(groups: Mapping[str, PanopticQuality]) -> str:
    rows = [[name, 100 * q.pq, 100 * q.sq, 100 * q.rq, q.num_categories] for name, q in groups.items()]
    headers = ["", "PQ", "SQ", "RQ", "#categories"]
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", stralign="center", numalign="center")
