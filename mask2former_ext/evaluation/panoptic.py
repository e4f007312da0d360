"""Panoptic quality as a Detectron2 evaluator: in memory, image by image, without panopticapi."""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from ..data.datasets import check_panoptic_metadata
from ..data.reading import read_image_file, rgb_to_id
from .panoptic_files import PredictionWriter
from .panoptic_quality import (
    PanopticCounts,
    PanopticQuality,
    SegmentMismatchError,
    Segments,
    average_quality,
    count_matches,
    overlap_areas,
)

logger = logging.getLogger(__name__)

Prediction = tuple[torch.Tensor, "Sequence[Mapping[str, Any]] | None"]


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ of a model's ``panoptic_seg`` outputs, equal to the COCO panoptic reference evaluation.

    An output's ``panoptic_seg`` is a pair: the integer map H x W of segment ids, 0 for void, at the size of the
    dataset's image; and the list of its segments: ``id``, ``category_id`` and ``isthing``. With ``isthing`` the
    category is a contiguous id of the metadata's things or stuff, without it an id of the dataset. In place of the
    list, None says that the map holds category * ``label_divisor`` + instance, and -1 for void (as Panoptic-DeepLab's).

    Nothing is kept per image. With an output folder the predictions are also written there in the COCO format.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        """Read the dataset's panoptic JSON.

        Args:
            dataset_name: a registered dataset; its metadata names the panoptic JSON, the folder of PNGs and categories.
            output_dir: where ``predictions.json`` and ``predictions/*.png`` go; None to write nothing.

        Raises:
            ValueError: the metadata lacks keys, or an annotation has a category that the JSON does not list.
        """
        check_panoptic_metadata(dataset_name)
        self._metadata = MetadataCatalog.get(dataset_name)
        self._thing_ids = {v: k for k, v in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        self._stuff_ids = {v: k for k, v in self._metadata.stuff_dataset_id_to_contiguous_id.items()}
        with PathManager.open(self._metadata.panoptic_json) as file:
            ground_truth = json.load(file)
        self._description = {key: ground_truth[key] for key in ("images", "categories")}
        self._annotations = {annotation["image_id"]: annotation for annotation in ground_truth["annotations"]}
        self._category_index = {category["id"]: i for i, category in enumerate(ground_truth["categories"])}
        self._is_thing = np.array([bool(category["isthing"]) for category in ground_truth["categories"]])
        self._writer = PredictionWriter(output_dir) if output_dir else None
        self.reset()

    def reset(self) -> None:
        self._counts = PanopticCounts.zeros(len(self._category_index))
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
        """Merge the workers' counts; the main process returns ``{"panoptic_seg": figures in percent}``, others None."""
        comm.synchronize()
        if self._writer:
            self._writer.publish(self._description)
        gathered = comm.gather((self._counts, self._images, self._wrong_areas))
        if not comm.is_main_process():
            return None
        counts, images, wrong_areas = (reduce(add, part) for part in zip(*gathered, strict=True))
        if images != len(self._annotations):
            logger.warning(
                "%d images were evaluated, but %s describes %d.",
                images,
                self._metadata.panoptic_json,
                len(self._annotations),
            )
        if wrong_areas:
            logger.warning(
                "%d segments of %s state an area that is not the number of their pixels. As in the COCO reference, IoU "
                "uses the stated one; correct the JSON.", wrong_areas, self._metadata.panoptic_json
            )  # fmt: skip
        groups = {
            "All": average_quality(counts),
            "Things": average_quality(counts, self._is_thing),
            "Stuff": average_quality(counts, ~self._is_thing),
        }
        logger.info("Panoptic quality:\n%s", _table(groups))
        return OrderedDict(panoptic_seg=_figures(groups))

    def _process_image(self, image_id: int | str, panoptic_seg: Prediction) -> None:
        annotation = self._annotations.get(image_id)
        if annotation is None:
            raise ValueError(
                f"image {image_id!r} of dataset '{self._metadata.name}' has no annotation in "
                f"{self._metadata.panoptic_json}"
            )
        path = os.path.join(PathManager.get_local_path(self._metadata.panoptic_root), annotation["file_name"])
        gt_map = rgb_to_id(read_image_file(path, "RGB", f"panoptic ground truth of image {image_id!r}"))
        gt = self._ground_truth_segments(annotation)
        prediction_map, segments_info = self._decode(panoptic_seg)
        categories = [self._dataset_category(segment, image_id) for segment in segments_info]
        prediction = self._segments([int(segment["id"]) for segment in segments_info], categories, image_id)
        if gt_map.shape != prediction_map.shape:
            raise ValueError(
                f"image {image_id!r}: the prediction is {prediction_map.shape}, the ground truth {path} {gt_map.shape} "
                "pixels (height, width). Predictions must have the size of the dataset's image: check height and width "
                "of its dict."
            )
        try:
            overlap = overlap_areas(gt_map, gt, prediction_map, prediction)
        except SegmentMismatchError as error:
            raise ValueError(
                f"image {image_id!r}, ground truth {path} and {self._metadata.panoptic_json}: {error}"
            ) from error

        self._counts += count_matches(overlap, gt, prediction, len(self._category_index))
        self._images += 1
        self._wrong_areas += 0 if gt.areas is None else int((gt.areas != overlap[1:].sum(axis=1)).sum())
        if self._writer:
            ids = prediction.ids.tolist()
            segments = [{"id": id_, "category_id": category} for id_, category in zip(ids, categories, strict=True)]
            self._writer.add(image_id, annotation["file_name"], prediction_map, segments)

    def _segments(self, ids: Sequence[int], categories: Sequence[int], image_id: int | str, **fields: Any) -> Segments:
        """Check what lists of segments can have wrong, and replace the dataset's categories by indices."""
        unknown = sorted(set(categories) - set(self._category_index))
        if unknown:
            raise ValueError(
                f"image {image_id!r}: categories {unknown} are not among those of {self._metadata.panoptic_json}"
            )
        if len(set(ids)) < len(ids) or 0 in ids:
            raise ValueError(
                f"image {image_id!r}: segment ids must be all different and not 0 (void), but are {list(ids)}"
            )
        indices = np.array([self._category_index[category] for category in categories], dtype=np.int64)
        return Segments(ids=np.array(ids, dtype=np.int64), categories=indices, **fields)

    def _ground_truth_segments(self, annotation: Mapping[str, Any]) -> Segments:
        infos = annotation["segments_info"]
        stated = all("area" in info for info in infos)
        return self._segments(
            [info["id"] for info in infos],
            [info["category_id"] for info in infos],
            annotation["image_id"],
            crowd=np.array([bool(info.get("iscrowd", 0)) for info in infos], dtype=bool),
            areas=np.array([info["area"] for info in infos], dtype=np.float64) if stated else None,
        )

    def _decode(self, panoptic_seg: Prediction) -> tuple[np.ndarray, Sequence[Mapping[str, Any]]]:
        id_map, segments_info = panoptic_seg[0].cpu().numpy(), panoptic_seg[1]
        if segments_info is not None:
            return id_map, segments_info
        things = set(self._thing_ids)
        labels = [int(label) for label in np.unique(id_map) if label != -1]
        categories = [label // self._metadata.label_divisor for label in labels]
        return id_map + 1, [
            {"id": label + 1, "category_id": category, "isthing": category in things}
            for label, category in zip(labels, categories, strict=True)
        ]

    def _dataset_category(self, segment: Mapping[str, Any], image_id: int | str) -> int:
        category, is_thing = int(segment["category_id"]), segment.get("isthing")
        if is_thing is None:
            return category
        ids = self._thing_ids if is_thing else self._stuff_ids
        if category not in ids:
            raise ValueError(
                f"image {image_id!r}: the predicted segment {segment['id']} has contiguous category {category}, which "
                f"is no {'thing' if is_thing else 'stuff'} category of dataset '{self._metadata.name}'"
            )
        return ids[category]


def _figures(groups: Mapping[str, PanopticQuality]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for suffix, quality in zip(("", "_th", "_st"), groups.values(), strict=True):
        figures |= {f"PQ{suffix}": 100 * quality.pq, f"SQ{suffix}": 100 * quality.sq, f"RQ{suffix}": 100 * quality.rq}
    return figures


def _table(groups: Mapping[str, PanopticQuality]) -> str:
    rows = [[name, 100 * q.pq, 100 * q.sq, 100 * q.rq, q.num_categories] for name, q in groups.items()]
    headers = ["", "PQ", "SQ", "RQ", "#categories"]
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", stralign="center", numalign="center")
