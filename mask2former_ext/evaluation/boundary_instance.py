"""Boundary AP of instances: COCO's average precision with the smaller of mask IoU and Boundary IoU.

"Boundary IoU: Improving Object-Centric Image Segmentation Evaluation" (Cheng et al., CVPR 2021).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.logger import create_small_table
from pycocotools import mask as rle_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .boundary import Boundary, boundary_distance, mask_boundary

logger = logging.getLogger(__name__)

RESULT = "boundary_segm"
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
ALL, SMALL, MEDIUM, LARGE = range(4)  # as COCOeval orders its ranges of areas


class BoundaryCOCOeval(COCOeval):
    """COCOeval of masks in whose matching the IoU of a pair is min(mask IoU, Boundary IoU).

    A detection is compared with a crowd as in COCO: both overlaps are then shares of the detection's pixels.
    """

    def __init__(self, coco_gt: COCO, coco_dt: COCO, dilation_ratio: float) -> None:
        """See :func:`boundary_distance` for ``dilation_ratio``."""
        super().__init__(coco_gt, coco_dt, "segm")
        self._dilation_ratio = dilation_ratio

    def computeIoU(self, imgId: int | str, catId: int) -> Any:
        """Detections × ground truth, of one image and category.

        Pairs that no threshold lets match keep their mask IoU, which the minimum could only make smaller.
        """
        ious = super().computeIoU(imgId, catId)
        if not len(ious):
            return ious
        detections, truth = self._dts[imgId, catId], self._gts[imgId, catId]
        order = np.argsort([-detection["score"] for detection in detections], kind="mergesort")
        rows, columns = np.nonzero(ious >= self.params.iouThrs.min())
        detected = {row: self._boundary(detections[order[row]]) for row in np.unique(rows)}
        true = {column: self._boundary(truth[column]) for column in np.unique(columns)}
        for row, column in zip(rows, columns, strict=True):
            overlap = _overlap(detected[row], true[column], crowd=bool(truth[column]["iscrowd"]))
            ious[row, column] = min(ious[row, column], overlap)
        return ious

    def _boundary(self, annotation: Mapping[str, Any]) -> Boundary:
        rle = annotation["segmentation"]
        left, top, width, height = (int(x) for x in rle_masks.toBbox(rle))
        box = (slice(top, top + height), slice(left, left + width))
        return mask_boundary(rle_masks.decode(rle), boundary_distance(rle["size"], self._dilation_ratio), box)


def _overlap(detected: Boundary, true: Boundary, *, crowd: bool) -> float:
    intersection = detected.intersection(true)
    union = detected.area if crowd else detected.area + true.area - intersection
    return intersection / max(union, 1)


class BoundaryCOCOEvaluator(COCOEvaluator):
    """Detectron2's evaluator of instances, whose results also have Boundary AP, under :data:`RESULT`.

    Its keys are those of "segm", for each category too. The predictions are the same; nothing more is kept of them.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        output_dir: str | None = None,
        *,
        boundary_dilation_ratio: float | None = None,
    ) -> None:
        """
        Args:
            dataset_name, tasks, output_dir: see :class:`COCOEvaluator`.
            boundary_dilation_ratio: see :func:`boundary_distance`; None to leave Boundary AP out.
        """
        super().__init__(dataset_name, tasks=tasks, output_dir=output_dir)
        self._dilation_ratio = boundary_dilation_ratio

    def _eval_predictions(self, predictions: Sequence[Mapping[str, Any]], img_ids: Sequence[Any] | None = None) -> None:
        detections = list(itertools.chain.from_iterable(prediction["instances"] for prediction in predictions))
        # collected first: the evaluation of boxes writes to the dicts, and gives them the dataset's categories
        masks = self._masks(detections)
        super()._eval_predictions(predictions, img_ids)
        if self._dilation_ratio is not None and self._do_evaluation and "segm" in self._results:
            self._results[RESULT] = self._boundary_precision(masks, img_ids, self._dilation_ratio)

    def _masks(self, detections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Masks, without boxes, from which COCO would take the areas; and with the categories of the dataset."""
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        dataset_ids = {label: category_id for category_id, label in ids.items()}
        return [
            {
                **{key: detection[key] for key in ("image_id", "score", "segmentation")},
                "category_id": dataset_ids.get(detection["category_id"], detection["category_id"]),
            }
            for detection in detections
            if "segmentation" in detection
        ]

    def _boundary_precision(
        self, detections: list[dict[str, Any]], img_ids: Sequence[Any] | None, dilation_ratio: float
    ) -> dict[str, float]:
        if not detections:
            return dict.fromkeys(METRICS, float("nan"))
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            evaluation = BoundaryCOCOeval(self._coco_api, self._coco_api.loadRes(detections), dilation_ratio)
            evaluation.params.maxDets = self._max_dets_per_image
            if img_ids is not None:
                evaluation.params.imgIds = img_ids
            evaluation.evaluate()
            evaluation.accumulate()
        figures = precision_figures(evaluation.eval["precision"], evaluation.params.iouThrs)
        logger.info("Boundary AP of masks:\n%s", create_small_table(figures))
        return figures | category_figures(evaluation.eval["precision"], self._metadata.get("thing_classes") or [])


def precision_figures(precision: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    """The headline figures of COCO, in percent, NaN where there is no ground truth.

    Args:
        precision: IoU thresholds × recalls × categories × ranges of areas × limits of detections, as
            ``COCOeval.accumulate`` leaves it: -1 where there is no ground truth. The last limit counts.
        thresholds: the IoU thresholds.
    """
    chosen = {"AP": (slice(None), ALL), "APs": (slice(None), SMALL)}
    chosen |= {"APm": (slice(None), MEDIUM), "APl": (slice(None), LARGE)}
    for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
        chosen[name] = (np.isclose(thresholds, threshold), ALL)
    return {name: _mean(precision[chosen[name][0], :, :, chosen[name][1], -1]) for name in METRICS}


def category_figures(precision: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """``AP-name`` of each category, in percent, where there are several; see :func:`precision_figures`."""
    if len(names) <= 1:
        return {}
    return {f"AP-{name}": _mean(precision[:, :, index, ALL, -1]) for index, name in enumerate(names)}


def _mean(precision: np.ndarray) -> float:
    counted = precision[precision > -1]
    return 100 * float(counted.mean()) if counted.size else float("nan")
