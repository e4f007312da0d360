"""Annotations of one image → training targets: a class and a mask per object.

Shape legend: H, W height and width in pixels, before or after the augmentations; N number of objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from detectron2.structures import Instances
from fvcore.transforms.transform import Transform

from mask2former_ext.structures import PackedBitMasks

from .index_maps import NOTHING, index_dtype, transform_index_map
from .masks import Polygons, decode_segmentation, transform_masks
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
            Instances with gt_classes int64 [N], gt_masks PackedBitMasks [N, H, W], gt_boxes [N, 4] tight around them.
            Objects of which nothing is left in the image are dropped; N may be 0.
        """


def read_label_image(dataset_dict: DatasetDict, image_size: tuple[int, int]) -> np.ndarray:
    """Read `sem_seg_file_name` of a dataset dict whose image has `image_size` (H, W): uint16 H×W.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, holds no labels, or is of another size.
    """
    path = dataset_dict["sem_seg_file_name"]
    label_map = read_image_file(path, None, "label image of " + describe(dataset_dict))
    lowest, highest = label_map.min(), label_map.max()
    is_labels = label_map.ndim == 2 and label_map.dtype.kind in "bui"
    if not is_labels or lowest < 0 or highest > np.iinfo(np.uint16).max:
        raise ValueError(
            f"{path}: a label image has one channel of labels in 0…65535, this one has shape {label_map.shape} and"
            f" {label_map.dtype} values {lowest}…{highest} ({describe(dataset_dict)}). Convert colour-coded labels"
            " to contiguous ids first."
        )
    check_size(path, label_map.shape, image_size, dataset_dict)
    return label_map.astype(np.uint16)  # one-bit files come as bool, which would not index the table below


class SemanticTargets:
    """A one-channel image of labels (`sem_seg_file_name`): one mask per class that is present."""

    SOURCE_KEYS: ClassVar[tuple[str, ...]] = ("sem_seg_file_name",)

    def __init__(self, index_map: np.ndarray, classes: np.ndarray) -> None:
        """
        Args:
            index_map: H×W, k + 1 for class k, 0 where there is none.
            classes: sorted int64, those that occur.
        """
        self._index_map = index_map
        self._classes = classes

    @classmethod
    def read(cls, dataset_dict: DatasetDict, image_size: tuple[int, int], labels: LabelSpace) -> SemanticTargets:
        require_keys(dataset_dict, cls.SOURCE_KEYS)
        path = dataset_dict["sem_seg_file_name"]
        label_map = read_label_image(dataset_dict, image_size)
        present = np.flatnonzero(np.bincount(label_map.reshape(-1)))
        classes = present[present != labels.ignore_label].astype(np.int64)
        check_labels(classes.tolist(), labels, f"{path} ({describe(dataset_dict)})")
        table = np.full(int(label_map.max()) + 1, NOTHING, dtype=index_dtype(labels.num_classes))
        table[classes] = classes + 1
        return cls(table[label_map], classes)

    def category_map(self) -> np.ndarray:
        return self._index_map

    def to_instances(self, transforms: Transform, image_size: tuple[int, int]) -> Instances:
        index_map = transform_index_map(transforms, self._index_map)
        return _instances(self._classes, _masks_of(index_map, self._classes + 1))


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
        check_labels((segment.get("category_id") for segment in segments), labels, describe(dataset_dict))
        return cls(png_ids, np.searchsorted(png_ids, id_map), segments)

    def category_map(self) -> np.ndarray:
        # From the panoptic image alone: it needs no second file, and a crowd has its category here.
        return self._index_map({segment["id"]: segment["category_id"] + 1 for segment in self._segments})

    def to_instances(self, transforms: Transform, image_size: tuple[int, int]) -> Instances:
        segments = [segment for segment in self._segments if not segment.get("iscrowd", 0)]
        index_map = self._index_map({segment["id"]: k + 1 for k, segment in enumerate(segments)})
        index_map = transform_index_map(transforms, index_map)
        classes = np.array([segment["category_id"] for segment in segments], dtype=np.int64)
        return _instances(classes, _masks_of(index_map, range(1, len(segments) + 1)))

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
        classes: list[Any] = []
        shapes = []
        for k, annotation in enumerate(dataset_dict["annotations"]):
            if annotation.get("iscrowd", 0):
                continue
            where = f"{describe(dataset_dict)}, annotation {k}"
            segmentation = annotation.get("segmentation")
            if segmentation is None or (isinstance(segmentation, list) and not segmentation):
                raise ValueError(
                    f"{where}: no segmentation, and a box alone trains no mask. Remove the annotation or add a mask."
                )
            classes.append(annotation.get("category_id"))
            shapes.append(decode_segmentation(segmentation, image_size, where))
        check_labels(classes, labels, describe(dataset_dict))
        return cls(classes, shapes)

    def category_map(self) -> None:
        return None

    def to_instances(self, transforms: Transform, image_size: tuple[int, int]) -> Instances:
        masks = transform_masks(self._shapes, transforms, image_size)
        return _instances(np.array(self._classes, dtype=np.int64), masks)


def _masks_of(index_map: np.ndarray, indices: Iterable[int]) -> PackedBitMasks:
    """One mask per index, packed as it is made: as bools they would take eight times the room."""
    return PackedBitMasks.from_each((index_map == index for index in indices), index_map.shape)


def _instances(classes: np.ndarray, masks: PackedBitMasks) -> Instances:
    """Wrap int64 classes [N] and as many masks, less those that are empty."""
    kept = masks.nonempty()
    masks = masks if kept.all() else masks[kept]
    return Instances(
        masks.image_size,
        gt_classes=torch.from_numpy(classes)[kept],
        gt_masks=masks,
        gt_boxes=masks.get_bounding_boxes(),
    )
