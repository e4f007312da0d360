"""Boundary mIoU of semantic segmentation.

Boundaries are those of "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation" (Cheng et al., CVPR
2021), which defines them for a mask. Here the masks are those of the classes, one of each in an image.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

from ..data.reading import read_image_file
from .boundary import boundary_distance, map_boundaries

logger = logging.getLogger(__name__)

RESULT = "boundary_sem_seg"


@dataclass
class ClassOverlaps:
    """Pixels per class, summed over images: int64 of shape (K,).

    Attributes:
        intersection, union: of the boundaries.
        mask_intersection, mask_union: of the masks themselves.
        truth: of the ground truth's masks.
    """

    intersection: np.ndarray
    union: np.ndarray
    mask_intersection: np.ndarray
    mask_union: np.ndarray
    truth: np.ndarray

    @classmethod
    def zeros(cls, num_classes: int) -> ClassOverlaps:
        return cls(*np.zeros((5, num_classes), dtype=np.int64))

    def __iadd__(self, other: ClassOverlaps) -> ClassOverlaps:
        for name, sums in vars(other).items():
            vars(self)[name] += sums
        return self


class BoundarySemSegEvaluator(DatasetEvaluator):
    """Boundary IoU per class of a model's ``sem_seg`` outputs, and its mean.

    The Boundary IoU of a class is, summed over all images each: the pixels that the boundary of its predicted mask
    shares with that of its true mask, by the pixels of either. Pixels that the ground truth ignores belong to no mask,
    the predicted ones neither. As by Detectron2's evaluator of mIoU, a class that is nowhere in the ground truth but
    predicted counts as 0 in the mean, and has no figure of its own.
    """

    def __init__(self, dataset_name: str, *, dilation_ratio: float) -> None:
        """
        Args:
            dataset_name: a registered dataset, whose dicts have ``sem_seg_file_name``.
            dilation_ratio: see :func:`boundary_distance`.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self._class_names = metadata.stuff_classes
        self._ignore_label = metadata.ignore_label
        self._truth_files = {x["file_name"]: x["sem_seg_file_name"] for x in DatasetCatalog.get(dataset_name)}
        self._dilation_ratio = dilation_ratio
        self.reset()

    def reset(self) -> None:
        self._overlaps = ClassOverlaps.zeros(len(self._class_names))

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Add some images.

        Args:
            inputs: dataset dicts; ``file_name`` is read.
            outputs: the model's; ``sem_seg`` K×H×W is read.

        Raises:
            FileNotFoundError: the file of the ground truth is missing.
            ValueError: it cannot be read, has a label that is no class, or another size than the prediction.
        """
        for input_, output in zip(inputs, outputs, strict=True):
            path = self._truth_files[input_["file_name"]]
            truth = read_image_file(path, None, "semantic ground truth")
            prediction = output["sem_seg"].argmax(dim=0).cpu().numpy()
            self._check(truth, prediction, path)
            self._overlaps += class_overlaps(
                prediction, truth, truth != self._ignore_label, len(self._class_names), self._dilation_ratio
            )

    def _check(self, truth: np.ndarray, prediction: np.ndarray, path: str) -> None:
        if truth.shape != prediction.shape:
            raise ValueError(
                f"{path}: the ground truth is {truth.shape}, the prediction {prediction.shape} pixels (height, width). "
                "Predictions must have the size of the dataset's image: check height and width of its dict."
            )
        labels = np.unique(truth)
        wrong = labels[(labels != self._ignore_label) & (labels >= len(self._class_names))].tolist()
        if wrong:
            raise ValueError(
                f"{path}: labels {wrong} are neither classes (0 … {len(self._class_names) - 1}) nor the dataset's "
                f"ignore_label, {self._ignore_label}."
            )

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Merge the workers' sums; the main process returns ``{"boundary_sem_seg": figures in percent}``, others None.

        Figures are ``mIoU`` and ``IoU-name`` of each class, of boundaries; and ``mIoU_min``, the mean of the smaller of
        mask IoU and Boundary IoU of each class.
        """
        comm.synchronize()
        gathered = comm.gather(self._overlaps)
        if not comm.is_main_process():
            return None
        total = ClassOverlaps.zeros(len(self._class_names))
        for overlaps in gathered:
            total += overlaps
        figures = semantic_figures(total)
        logger.info("Boundary IoU of semantic segmentation:\n%s", create_small_table(figures))
        ious = 100 * _ratio(total.intersection, total.union)
        ious[total.truth == 0] = np.nan
        per_class = {f"IoU-{name}": float(iou) for name, iou in zip(self._class_names, ious, strict=True)}
        return OrderedDict({RESULT: figures | per_class})


def semantic_figures(overlaps: ClassOverlaps) -> dict[str, float]:
    """``mIoU`` and ``mIoU_min`` in percent; NaN when there is no class at all."""
    counted = overlaps.mask_union > 0
    if not counted.any():
        return {"mIoU": float("nan"), "mIoU_min": float("nan")}
    iou = _ratio(overlaps.intersection, overlaps.union)[counted]
    mask_iou = _ratio(overlaps.mask_intersection, overlaps.mask_union)[counted]
    return {"mIoU": 100 * float(iou.mean()), "mIoU_min": 100 * float(np.minimum(iou, mask_iou).mean())}


def _ratio(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    return intersection / np.maximum(union, 1)


def class_overlaps(
    prediction: np.ndarray, truth: np.ndarray, labelled: np.ndarray, num_classes: int, dilation_ratio: float
) -> ClassOverlaps:
    """Count, for one image, what the predicted and true masks of each class share, and their boundaries.

    Args:
        prediction: integers H×W in [0, K).
        truth: integers H×W, in [0, K) where labelled.
        labelled: bool H×W, False where pixels are ignored.
        num_classes: K.
        dilation_ratio: see :func:`boundary_distance`.
    """
    # 0 stands for pixels of no mask
    predicted_map, true_map = (np.where(labelled, labels.astype(np.int32) + 1, 0) for labels in (prediction, truth))
    overlaps = ClassOverlaps.zeros(num_classes)
    overlaps.truth += _areas(true_map, num_classes)
    overlaps.mask_intersection += _areas(np.where(predicted_map == true_map, true_map, 0), num_classes)
    overlaps.mask_union += overlaps.truth + _areas(predicted_map, num_classes) - overlaps.mask_intersection

    height, width = truth.shape
    distance = boundary_distance((height, width), dilation_ratio)
    present = (np.flatnonzero(overlaps.mask_union) + 1).tolist()
    predicted, true = (map_boundaries(labels, present, distance) for labels in (predicted_map, true_map))
    for label in present:
        shared = predicted[label].intersection(true[label])
        overlaps.intersection[label - 1] += shared
        overlaps.union[label - 1] += predicted[label].area + true[label].area - shared
    return overlaps


def _areas(label_map: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels of the labels 1 … K."""
    return np.bincount(label_map.ravel(), minlength=num_classes + 1)[1:]
