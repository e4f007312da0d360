"""The ground truth of a panoptic dataset: its JSON, its PNGs, and what its categories are to a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..data.datasets import check_panoptic_metadata
from ..data.datasets.annotation_files import read_json
from ..data.reading import read_image_file, rgb_to_id
from .panoptic_quality import SegmentMismatchError, Segments, segment_index


@dataclass(frozen=True)
class TrueSegmentation:
    """The ground truth of one image.

    Attributes:
        index: int64 H×W, 0 for void, 1 + position in ``segments`` for a segment.
        segments: their categories are indices into the JSON's list of categories.
        file_name: path of the PNG below the dataset's panoptic folder.
    """

    index: np.ndarray
    segments: Segments
    file_name: str


class PanopticTruth:
    """Reads the ground truth of a panoptic dataset, image by image, in the COCO panoptic format.

    Attributes:
        description: ``images`` and ``categories`` of the JSON.
        json_file: its path.
        is_thing: bool of shape (C,), by index of the category.
        label_divisor: of the metadata.
    """

    def __init__(self, dataset_name: str) -> None:
        """Read the dataset's panoptic JSON.

        Raises:
            ValueError: the metadata lacks keys.
        """
        check_panoptic_metadata(dataset_name)
        metadata = MetadataCatalog.get(dataset_name)
        self.name = dataset_name
        self.json_file, self.label_divisor = metadata.panoptic_json, metadata.label_divisor
        self._root = metadata.panoptic_root
        self._thing_ids = {v: k for k, v in metadata.thing_dataset_id_to_contiguous_id.items()}
        self._stuff_ids = {v: k for k, v in metadata.stuff_dataset_id_to_contiguous_id.items()}
        content = read_json(self.json_file, ("images", "annotations", "categories"))
        self.description = {key: content[key] for key in ("images", "categories")}
        self._annotations = {annotation["image_id"]: annotation for annotation in content["annotations"]}
        self._category_index = {category["id"]: i for i, category in enumerate(content["categories"])}
        self.is_thing = np.array([bool(category["isthing"]) for category in content["categories"]])

    def __len__(self) -> int:
        """Number of images."""
        return len(self._annotations)

    def load(self, image_id: int | str) -> TrueSegmentation:
        """Read one image's ground truth.

        Raises:
            FileNotFoundError: its PNG is missing.
            ValueError: there is none, or it contradicts itself.
        """
        annotation = self._annotations.get(image_id)
        if annotation is None:
            raise ValueError(f"image {image_id!r} of dataset '{self.name}' has no annotation in {self.json_file}")
        path = os.path.join(PathManager.get_local_path(self._root), annotation["file_name"])
        id_map = rgb_to_id(read_image_file(path, "RGB", f"panoptic ground truth of image {image_id!r}"))
        infos = annotation["segments_info"]
        stated = all("area" in info for info in infos)
        segments = self.segments(
            [info["id"] for info in infos],
            [info["category_id"] for info in infos],
            image_id,
            crowd=np.array([bool(info.get("iscrowd", 0)) for info in infos], dtype=bool),
            areas=np.array([info["area"] for info in infos], dtype=np.float64) if stated else None,
        )
        try:
            index = segment_index(id_map, segments, "ground truth")
        except SegmentMismatchError as error:
            raise ValueError(f"image {image_id!r}, {path} and {self.json_file}: {error}") from error
        return TrueSegmentation(index, segments, annotation["file_name"])

    def segments(self, ids: Sequence[int], categories: Sequence[int], image_id: int | str, **fields: Any) -> Segments:
        """Check what lists of segments can have wrong, and replace the dataset's categories by indices.

        Args:
            ids, categories: of the segments; the categories are ids of the dataset.
            image_id: for errors.
            fields: the others of :class:`Segments`.
        """
        unknown = sorted(set(categories) - set(self._category_index))
        if unknown:
            raise ValueError(f"image {image_id!r}: categories {unknown} are not among those of {self.json_file}")
        if len(set(ids)) < len(ids) or 0 in ids:
            raise ValueError(
                f"image {image_id!r}: segment ids must be all different and not 0 (void), but are {list(ids)}"
            )
        indices = np.array([self._category_index[category] for category in categories], dtype=np.int64)
        return Segments(ids=np.array(ids, dtype=np.int64), categories=indices, **fields)

    def category_index(self, label: int, is_thing: bool) -> int:
        """Index, in the JSON's list, of the category with a contiguous id; errors as of :meth:`dataset_category`."""
        segment = {"id": label, "category_id": label, "isthing": is_thing}
        return int(self.segments([1], [self.dataset_category(segment, "any")], "any").categories[0])

    @property
    def thing_labels(self) -> set[int]:
        """Contiguous ids of the things."""
        return set(self._thing_ids)

    def dataset_category(self, segment: Mapping[str, Any], image_id: int | str) -> int:
        """The dataset's category of a predicted segment.

        Args:
            segment: ``category_id`` is a contiguous id where there is ``isthing``, else an id of the dataset.
            image_id: for the error.

        Raises:
            ValueError: the metadata knows no such thing, or no such stuff.
        """
        category, is_thing = int(segment["category_id"]), segment.get("isthing")
        if is_thing is None:
            return category
        ids = self._thing_ids if is_thing else self._stuff_ids
        if category not in ids:
            raise ValueError(
                f"image {image_id!r}: the predicted segment {segment['id']} has contiguous category {category}, which "
                f"is no {'thing' if is_thing else 'stuff'} category of dataset '{self.name}'"
            )
        return ids[category]
