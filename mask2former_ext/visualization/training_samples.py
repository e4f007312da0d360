"""What the dataset mapper makes of images: the very samples that training sees, with what they were made from.

H, W: height and width in pixels, of the image file or after the augmentations; N objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import BitMasks, Instances, PolygonMasks
from fvcore.transforms.transform import NoOpTransform, Transform

from ..classes import class_name, class_names, thing_labels
from ..config import is_maskformer
from ..data import MaskFormerDatasetMapper, build_dataset_mapper
from ..data.masks import decode_segmentation, transform_masks
from ..data.reading import DatasetDict, describe, read_image_file, rgb_to_id
from ..data.targets import SemanticTargets
from ..engine.checks import check_dataset_mapper
from ..seeding import derive_seed, seeded
from .classes import class_colours
from .painting import rgb_picture
from .panels import Segment

SPLITS = ("train", "test")
DEFAULT_IGNORE_LABEL = 255


@dataclass(frozen=True)
class TrainingSample:
    """One image as the mapper gives it.

    Attributes:
        file_name: of the image.
        before: uint8 H×W×3, RGB: the image file.
        image: uint8 H'×W'×3, RGB: what the model gets, before it normalises.
        padding: bool H'×W', where the augmentations have added to the image.
        targets: the objects to learn; None where the mapper gives no ``instances``, as in evaluation.
        crowds: groups of objects that are annotated as such, at their place in ``image``; they are no targets.
        void: bool H'×W', what belongs to no target and no crowd. None where objects are annotated one by one, and the
            rest is background.
        semantic: a segment for each class of the semantic map, if the mapper gives one.
        ignored: bool H'×W', where the semantic map has no label, padding aside; None without a map.
    """

    file_name: str
    before: np.ndarray
    image: np.ndarray
    padding: np.ndarray
    targets: list[Segment] | None
    crowds: list[Segment]
    void: np.ndarray | None
    semantic: list[Segment] | None
    ignored: np.ndarray | None


class _Recorder:
    """Augmentations that remember the last image they were applied to, and what they did."""

    def __init__(self, augmentations: Callable[[T.AugInput], Transform]) -> None:
        self.augmentations = augmentations
        self.before = np.empty((0, 0, 3), dtype=np.uint8)
        self.done: Transform = NoOpTransform()

    def __call__(self, augmented: T.AugInput) -> Transform:
        self.before = augmented.image.copy()
        self.done = self.augmentations(augmented)
        return self.done


class SampleReader:
    """Reads samples as training does: the same dataset dicts, mapper and random numbers."""

    def __init__(self, cfg: CfgNode, split: str = "train") -> None:
        """
        Args:
            cfg: of a MaskFormer, or of another of Detectron2's models, which has Detectron2's own mapper.
            split: "train" for DATASETS.TRAIN and the training mapper, "test" for DATASETS.TEST and that of evaluation.

        Raises:
            FileNotFoundError: the dataset is not there.
            ValueError: the config names no dataset or an unknown one, or a mapper that does not exist.
        """
        train = split == "train"
        self.records = _records(cfg, train)
        self.metadata = MetadataCatalog.get(cfg.DATASETS[split.upper()][0])
        self.mapper: Any
        if is_maskformer(cfg):
            check_dataset_mapper(cfg)
            self.mapper = build_dataset_mapper(cfg, is_train=train)
            self.num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        else:
            self.mapper = DatasetMapper(cfg, is_train=train)
            self.num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        self.image_format = cfg.INPUT.FORMAT
        self._recorder = _Recorder(self.mapper.augmentations)
        self.mapper.augmentations = self._recorder

    def samples(self, count: int, seed: int = 0) -> Iterator[TrainingSample]:
        """Yield the first ``count`` samples of training on one GPU, with this SEED and the sampler TrainingSampler.

        Images come in random order, and where there are fewer than ``count`` they come again, augmented anew.

        Raises:
            FileNotFoundError, ValueError: an image or its annotations cannot be used, as the mapper says.
        """
        order = TrainingSampler(len(self.records), seed=seed)
        for position, index in enumerate(islice(order, count)):
            with seeded(derive_seed(seed, position)):
                sample = self.sample(self.records[index])
            yield sample

    def sample(self, record: DatasetDict) -> TrainingSample:
        """Map one dataset dict with random numbers as they come, and describe the result."""
        mapped = self.mapper(record)
        image = rgb_picture(mapped["image"].numpy().transpose(1, 2, 0), self.image_format)
        whole = np.ones(self._recorder.before.shape[:2], dtype=np.uint8)
        padding = self._recorder.done.apply_segmentation(whole) != 1
        targets = self._targets(mapped["instances"], record) if "instances" in mapped else None
        crowds = self._crowds(record) if targets is not None else []
        semantic, ignored = self._semantic(mapped.get("sem_seg"))
        return TrainingSample(
            file_name=record["file_name"],
            before=rgb_picture(self._recorder.before, self.image_format),
            image=image,
            padding=padding,
            targets=targets,
            crowds=crowds,
            void=_rest(padding, [*targets, *crowds]) if targets is not None and self._every_pixel_annotated else None,
            semantic=semantic,
            ignored=None if ignored is None else ignored & ~padding,
        )

    @property
    def _source_keys(self) -> tuple[str, ...]:
        """What of a dataset dict the mapper makes targets of."""
        return self.mapper.targets.SOURCE_KEYS if isinstance(self.mapper, MaskFormerDatasetMapper) else ("annotations",)

    @property
    def _every_pixel_annotated(self) -> bool:
        return "annotations" not in self._source_keys

    def _targets(self, instances: Instances, record: DatasetDict) -> list[Segment]:
        labels = instances.gt_classes.tolist()
        wrong = [label for label in labels if label >= self.num_classes]
        if wrong:  # which Detectron2's own mapper lets pass
            raise ValueError(
                f"{describe(record)}: label {wrong[0]} does not fit MODEL.ROI_HEADS.NUM_CLASSES = {self.num_classes}."
            )
        names = self._class_names()
        colours = class_colours(self.metadata, self.num_classes)
        things = self._things()
        return [
            Segment(mask, names[label], True) if label in things else Segment(mask, names[label], False, colours[label])
            for mask, label in zip(_masks(instances), labels, strict=True)
        ]

    def _class_names(self) -> list[str]:
        return class_names(self.metadata, self.num_classes, of_things=not self._every_pixel_annotated)

    def _things(self) -> set[int]:
        """Labels of which each object is a target of its own; the others have one target for all their pixels."""
        if not self._every_pixel_annotated:
            return set(range(self.num_classes))
        if self.mapper.targets is SemanticTargets:
            return set()
        return thing_labels(self.metadata)

    def _crowds(self, record: DatasetDict) -> list[Segment]:
        size = self._recorder.before.shape[:2]
        key = next((key for key in ("segments_info", "annotations") if key in self._source_keys), "")
        crowds = [annotation for annotation in record.get(key, ()) if annotation.get("iscrowd", 0)]
        if not crowds:
            return []
        if key == "segments_info":
            ids = rgb_to_id(read_image_file(record["pan_seg_file_name"], "RGB", "panoptic image"))
            shapes: list[Any] = [(ids == crowd["id"]).astype(np.uint8) for crowd in crowds]
        else:
            crowds = [crowd for crowd in crowds if "segmentation" in crowd]
            shapes = [decode_segmentation(crowd["segmentation"], size, describe(record)) for crowd in crowds]
        after = self._recorder.done.apply_segmentation(np.zeros(size, dtype=np.uint8)).shape
        masks = transform_masks(shapes, self._recorder.done, after).tensor.numpy()
        names = self._class_names()
        labels = [crowd["category_id"] for crowd in crowds]  # not checked by any mapper, as nothing learns them
        return [
            Segment(mask, class_name(names, label)) for mask, label in zip(masks, labels, strict=True) if mask.any()
        ]

    def _semantic(self, sem_seg: torch.Tensor | None) -> tuple[list[Segment] | None, np.ndarray | None]:
        if sem_seg is None:
            return None, None
        labels = sem_seg.numpy()
        ignored = labels == self.metadata.get("ignore_label", DEFAULT_IGNORE_LABEL)
        present = np.unique(labels[~ignored]).tolist()
        count = max([len(self.metadata.get("stuff_classes") or ()), *(label + 1 for label in present)])
        names, colours = class_names(self.metadata, count), class_colours(self.metadata, count)
        return [Segment(labels == label, names[label], False, colours[label]) for label in present], ignored


def _records(cfg: CfgNode, train: bool) -> list[DatasetDict]:
    """The dataset dicts that Detectron2's loaders of training and of evaluation go through."""
    key = "TRAIN" if train else "TEST"
    if not cfg.DATASETS[key]:
        raise ValueError(f"DATASETS.{key} is empty: nothing to look at. Append: DATASETS.{key} \"('NAME',)\"")
    try:
        return get_detection_dataset_dicts(
            cfg.DATASETS[key], filter_empty=train and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    except (KeyError, AssertionError) as error:  # so Detectron2 says that it knows no such dataset, or an empty one
        raise ValueError(f"DATASETS.{key}: {error.args[0]}") from error


def _masks(instances: Instances) -> np.ndarray:
    """N×H×W bools; of objects that have boxes alone, their boxes."""
    height, width = instances.image_size
    if not instances.has("gt_masks"):
        return _boxes(instances)
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, height, width)
    return masks.tensor.numpy().astype(bool)


def _boxes(instances: Instances) -> np.ndarray:
    masks = np.zeros((len(instances), *instances.image_size), dtype=bool)
    for mask, (left, top, right, bottom) in zip(masks, instances.gt_boxes.tensor.round().int().tolist(), strict=True):
        mask[max(top, 0) : bottom, max(left, 0) : right] = True
    return masks


def _rest(padding: np.ndarray, segments: list[Segment]) -> np.ndarray:
    covered = padding.copy()
    for segment in segments:
        covered |= segment.mask
    return ~covered
