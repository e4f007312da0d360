"""Annotations of one image → training targets: a class and a mask per object.

Shape legend: H, W height and width in pixels, before or after the augmentations; N number of objects.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances
from fvcore.transforms.transform import Transform

from .index_maps import NOTHING, index_dtype, transform_index_map
from .masks import Polygons, decode_segmentation, transform_mask
from .reading import (
    DatasetDict,
    LabelSpace,
    check_labels,
    check_segment_ids,
    check_size,
    describe,
    read_image_file,
    require_keys,
    rgb_to_id,
)


class Targets(Protocol):
    """What is known about one image before its augmentations."""

    SOURCE_KEYS: ClassVar[tuple[str, ...]]
    """Keys of the dataset dict that are read here and not passed on to the model."""

    @classmethod
    def read(cls, dataset_dict: DatasetDict, image_size: tuple[int, int], labels: LabelSpace) -> Targets:
        """Read and check the annotations of an image of `image_size` (H, W); the dict stays as it is.

        Raises:
            FileNotFoundError: a file of annotations does not exist.
            ValueError: the annotations contradict themselves, the image or the labels.
        """

    def category_map(self) -> np.ndarray | None:
        """Index map of categories, H×W: 0 ignored, c + 1 category c. None where objects may overlap."""

    def to_instances(self, transforms: Transform, image_size: tuple[int, int]) -> Instances:
        """Targets for the image as it is after `transforms`, of `image_size` (H, W). To be called once.

        Returns:
            Instances with gt_classes int64 [N], gt_masks bool [N, H, W], gt_boxes [N, 4] tight around the masks.
            Objects of which nothing is left in the image are dropped; N may be 0.
        """


class SemanticTargets:
    """A one-channel image of labels (`sem_seg_file_name`): one mask per class that is present."""

    SOURCE_KEYS: ClassVar[tuple[str, ...]] = ("sem_seg_file_name",)

    def __init__(self, index_map: np.ndarray) -> None:
        self._index_map = index_map

    @classmethod
    def read(cls, dataset_dict: DatasetDict, image_size: tuple[int, int], labels: LabelSpace) -> SemanticTargets:
        require_keys(dataset_dict, cls.SOURCE_KEYS)
        path = dataset_dict["sem_seg_file_name"]
        label_map = read_image_file(path, None, "label image of " + describe(dataset_dict))
        if label_map.ndim != 2 or label_map.min() < 0 or label_map.max() > np.iinfo(np.uint16).max:
            raise ValueError(
                f"{path}: a label image has one channel of labels in 0…65535, this one has shape {label_map.shape} and"
                f" values {label_map.min()}…{label_map.max()}. Convert colour-coded labels to contiguous ids first."
            )
        check_size(path, label_map.shape, image_size, dataset_dict)
        label_map = label_map.astype(np.uint16)  # one-bit files come as bool, which would not index the table below
        present = np.unique(label_map)
        classes = present[present != labels.ignore_label].astype(np.int64)
        check_labels(classes.tolist(), labels, f"{path} ({describe(dataset_dict)})")
        table = np.full(int(label_map.max()) + 1, NOTHING, dtype=index_dtype(labels.num_classes))
        table[classes] = classes + 1
        return cls(table[label_map])

    def category_map(self) -> np.ndarray:
        return self._index_map

    def to_instances(self, transforms: Transform, image_size: tuple[int, int]) -> Instances:
        index_map = transform_index_map(transforms, self._index_map)
        indices = _present_indices(index_map)
        return _instances(image_size, indices.astype(np.int64) - 1, index_map == indices[:, None, None])


class PanopticTargets:
    """A COCO panoptic PNG (`pan_seg_file_name`) and its `segments_info`: one mask per segment that is no crowd."""

    SOURCE_KEYS: ClassVar[tuple[str, ...]] = ("pan_seg_file_name", "segments_info", "sem_seg_file_name")

    def __init__(self, png_ids: np.ndarray, positions: np.ndarray, segments: list[dict[str, Any]]) -> None:
        """
        Args:
            png_ids: sorted ids that occur in the PNG.
            positions: H×W, for each pixel the position of its id in `png_ids`.
            segments: every segment of `segments_info`, crowds too.
        """
        self._png_ids = png_ids
        self._positions = positions
        self._segments = segments

    @classmethod
    def read(cls, dataset_dict: DatasetDict, image_size: tuple[int, int], labels: LabelSpace) -> PanopticTargets:
        require_keys(dataset_dict, ("pan_seg_file_name", "segments_info"))
        path, segments = dataset_dict["pan_seg_file_name"], dataset_dict["segments_info"]
        id_map = rgb_to_id(read_image_file(path, "RGB", "panoptic image of " + describe(dataset_dict)))
        check_size(path, id_map.shape, image_size, dataset_dict)
        png_ids = np.unique(id_map)
        check_segment_ids(png_ids, segments, path, dataset_dict)
        check_labels((segment["category_id"] for segment in segments), labels, describe(dataset_dict))
        return cls(png_ids, np.searchsorted(png_ids, id_map), segments)

    def category_map(self) -> np.ndarray:
        # From the panoptic image alone: it needs no second file, and a crowd has its category here.
        return self._index_map({segment["id"]: segment["category_id"] + 1 for segment in self._segments})

    def to_instances(self, transforms: Transform, image_size: tuple[int, int]) -> Instances:
        segments = [segment for segment in self._segments if not segment.get("iscrowd", 0)]
        index_map = self._index_map({segment["id"]: k + 1 for k, segment in enumerate(segments)})
        index_map = transform_index_map(transforms, index_map)
        indices = _present_indices(index_map)
        classes = [segments[index - 1]["category_id"] for index in indices.tolist()]
        return _instances(image_size, np.array(classes, dtype=np.int64), index_map == indices[:, None, None])

    def _index_map(self, index_of_id: dict[int, int]) -> np.ndarray:
        indices = [index_of_id.get(png_id, NOTHING) for png_id in self._png_ids.tolist()]
        return np.array(indices, dtype=index_dtype(max(indices)))[self._positions]


class InstanceTargets:
    """`annotations` with polygons, run-length codes or bitmaps, mixed as they come: one mask per object, no crowds."""

    SOURCE_KEYS: ClassVar[tuple[str, ...]] = ("annotations",)

    def __init__(self, classes: list[int], shapes: list[Polygons | np.ndarray]) -> None:
        self._classes = classes
        self._shapes = shapes

    @classmethod
    def read(cls, dataset_dict: DatasetDict, image_size: tuple[int, int], labels: LabelSpace) -> InstanceTargets:
        require_keys(dataset_dict, cls.SOURCE_KEYS)
        classes, shapes = [], []
        for k, annotation in enumerate(dataset_dict["annotations"]):
            if annotation.get("iscrowd", 0):
                continue
            where = f"{describe(dataset_dict)}, annotation {k}"
            if "segmentation" not in annotation:
                raise ValueError(
                    f"{where}: no segmentation, and a box alone trains no mask. Remove the annotation or add a mask."
                )
            classes.append(annotation["category_id"])
            shapes.append(decode_segmentation(annotation["segmentation"], image_size, where))
        check_labels(classes, labels, describe(dataset_dict))
        return cls(classes, shapes)

    def category_map(self) -> None:
        return None

    def to_instances(self, transforms: Transform, image_size: tuple[int, int]) -> Instances:
        masks = np.zeros((len(self._shapes), *image_size), dtype=bool)
        for mask, shape in zip(masks, self._shapes, strict=True):
            mask[:] = transform_mask(shape, transforms, image_size)
        kept = masks.any(axis=(1, 2))
        return _instances(image_size, np.array(self._classes, dtype=np.int64)[kept], masks[kept])


def _present_indices(index_map: np.ndarray) -> np.ndarray:
    indices = np.unique(index_map)
    return indices[indices != NOTHING]


def _instances(image_size: tuple[int, int], classes: np.ndarray, masks: np.ndarray) -> Instances:
    """Wrap int64 classes [N] and non-empty bool masks [N, H, W]."""
    assert masks.shape == (len(classes), *image_size), (masks.shape, len(classes), image_size)
    bit_masks = BitMasks(torch.from_numpy(np.ascontiguousarray(masks)))
    return Instances(
        image_size,
        gt_classes=torch.from_numpy(classes),
        gt_masks=bit_masks.tensor,
        gt_boxes=bit_masks.get_bounding_boxes(),
    )
