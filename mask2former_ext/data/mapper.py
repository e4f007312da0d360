"""The dataset mapper: dataset dict → what MaskFormer trains on. One class; what differs by name stands in a table."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform

from .augmentations import large_scale_jitter, resize_crop_flip
from .index_maps import NOTHING, IndexMapInput
from .reading import DatasetDict, LabelSpace, check_image_size, describe, read_image_file, require_keys
from .targets import InstanceTargets, PanopticTargets, SemanticTargets, Targets, read_label_image

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What one DATASET_MAPPER_NAME stands for.

    Attributes:
        augmentations: builds the list of augmentations from the config.
        targets: reads the annotations.
        with_sem_seg: the map of categories is augmented with the image: crops look at it, and it is returned.
    """

    augmentations: Callable[..., list[T.Augmentation | Transform]]
    targets: type[Targets]
    with_sem_seg: bool = False


DATASET_MAPPERS: dict[str, Recipe] = {
    "mask_former_semantic": Recipe(resize_crop_flip, SemanticTargets, with_sem_seg=True),
    "mask_former_panoptic": Recipe(resize_crop_flip, PanopticTargets, with_sem_seg=True),
    "mask_former_instance": Recipe(resize_crop_flip, InstanceTargets),
    "coco_instance_lsj": Recipe(large_scale_jitter, InstanceTargets),
    "coco_panoptic_lsj": Recipe(large_scale_jitter, PanopticTargets),
}


class MaskFormerDatasetMapper:
    """Training mapper for every value of INPUT.DATASET_MAPPER_NAME in `DATASET_MAPPERS`.

    Calling it with a dataset dict in Detectron2's standard format gives a new dict: the keys that came in, less those
    the targets were read from, and

    * `image`: uint8 tensor [C, H, W] in INPUT.FORMAT, H and W after the augmentations;
    * `instances`: Instances with gt_classes int64 [N], gt_masks [N, H, W] as PackedBitMasks,
      gt_boxes [N, 4]; N may be 0;
    * `sem_seg` (mask_former_semantic, mask_former_panoptic): int64 tensor [H, W], the dataset's ignore_label where
      there is no label, padding included;
    * `height`, `width`: of the image file.

    Random numbers come from NumPy's global generator (and, for COLOR_AUG_SSD, Python's), as in Detectron2.

    Raises, when called:
        FileNotFoundError: the image or a file of annotations does not exist.
        ValueError: a file cannot be read, or annotations do not fit the image, each other or the number of classes.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentations: list[T.Augmentation | Transform],
        image_format: str,
        targets: type[Targets],
        labels: LabelSpace,
        with_sem_seg: bool,
    ) -> None:
        """
        Args:
            augmentations: applied to the image and its annotations, in this order.
            image_format: a format of `detectron2.data.detection_utils.read_image`.
            targets: how annotations are read.
            labels: the labels the model knows.
            with_sem_seg: see `Recipe`; `labels.ignore_label` must be given then.
        """
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.targets = targets
        self.labels = labels
        self.with_sem_seg = with_sem_seg
        logger.info("%s with augmentations %s", targets.__name__, augmentations)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        recipe = DATASET_MAPPERS[cfg.INPUT.DATASET_MAPPER_NAME]
        return {
            "augmentations": recipe.augmentations(cfg, by_category=recipe.with_sem_seg),
            "image_format": cfg.INPUT.FORMAT,
            "targets": recipe.targets,
            "labels": LabelSpace(
                num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
                ignore_label=_ignore_label(cfg) if recipe.with_sem_seg else None,
            ),
            "with_sem_seg": recipe.with_sem_seg,
        }

    def __call__(self, dataset_dict: DatasetDict) -> DatasetDict:
        """Map one dataset dict, which stays as it is."""
        require_keys(dataset_dict, ("file_name",))
        image = read_image_file(dataset_dict["file_name"], self.image_format, describe(dataset_dict))
        output = {key: value for key, value in dataset_dict.items() if key not in self.targets.SOURCE_KEYS}
        check_image_size(output, image)
        targets = self.targets.read(dataset_dict, image.shape[:2], self.labels)

        augmented = IndexMapInput(image, sem_seg=targets.category_map() if self.with_sem_seg else None)
        transforms = self.augmentations(augmented)
        image = augmented.image

        # A copy in every case: flipped arrays have negative strides, and Pillow's are read-only.
        output["image"] = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
        output["instances"] = targets.to_instances(transforms, image.shape[:2])
        if self.with_sem_seg:
            output["sem_seg"] = self._sem_seg(augmented.sem_seg)
        return output

    def _sem_seg(self, index_map: np.ndarray) -> torch.Tensor:
        assert self.labels.ignore_label is not None
        labels = torch.from_numpy(index_map.astype(np.int64))
        return torch.where(labels == NOTHING, self.labels.ignore_label, labels - 1)


class EvaluationMapper(DatasetMapper):
    """Detectron2's mapper as evaluation uses it, but it reads images as training does, and names those that are bad.

    Calling it with a dataset dict gives a new dict: the keys that came in, less ``annotations`` and
    ``sem_seg_file_name``, and ``image``, uint8 tensor [C, H, W] in INPUT.FORMAT, resized as INPUT.MIN_SIZE_TEST and
    INPUT.MAX_SIZE_TEST say; ``sem_seg``, int64 tensor [H, W], if there are label images; ``height``, ``width`` of the
    file.

    Raises, when called:
        FileNotFoundError: the image does not exist.
        ValueError: it cannot be read, or has another size than its annotations say.
    """

    SOURCE_KEYS = ("annotations", "sem_seg_file_name")

    def __call__(self, dataset_dict: DatasetDict) -> DatasetDict:
        """Map one dataset dict, which stays as it is."""
        require_keys(dataset_dict, ("file_name",))
        image = read_image_file(dataset_dict["file_name"], self.image_format, describe(dataset_dict))
        output = {key: value for key, value in dataset_dict.items() if key not in self.SOURCE_KEYS}
        check_image_size(output, image)
        labels = read_label_image(dataset_dict, image.shape[:2]) if "sem_seg_file_name" in dataset_dict else None
        augmented = IndexMapInput(image, sem_seg=labels)
        self.augmentations(augmented)
        if labels is not None:
            output["sem_seg"] = torch.from_numpy(augmented.sem_seg.astype(np.int64))
        output["image"] = torch.from_numpy(np.array(augmented.image.transpose(2, 0, 1), order="C"))
        return output


def build_dataset_mapper(cfg: CfgNode, is_train: bool = True) -> Callable[[DatasetDict], DatasetDict]:
    """Build the mapper for INPUT.DATASET_MAPPER_NAME.

    Args:
        cfg: a config with the keys of `add_maskformer2_config`.
        is_train: False for evaluation.

    Returns:
        A `MaskFormerDatasetMapper`; for evaluation an `EvaluationMapper`; for a name that is not in
        `DATASET_MAPPERS` Detectron2's DatasetMapper, with a warning.

    Raises:
        ValueError: a key of the INPUT group cannot be used, or the training set has no ignore_label and needs one,
            or training sets have different ones.
    """
    if not is_train:
        return EvaluationMapper(cfg, is_train=False)
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name in DATASET_MAPPERS:
        return MaskFormerDatasetMapper(cfg)
    logger.warning(
        "INPUT.DATASET_MAPPER_NAME '%s' is not one of %s: using Detectron2's DatasetMapper.",
        name,
        ", ".join(DATASET_MAPPERS),
    )
    return DatasetMapper(cfg, is_train=True)


def _ignore_label(cfg: CfgNode) -> int:
    names = cfg.DATASETS.TRAIN
    labels = {name: MetadataCatalog.get(name).get("ignore_label") for name in names}
    ignore_label = labels[names[0]] if names else None
    if ignore_label is None:
        raise ValueError(
            f"DATASETS.TRAIN is {tuple(names)}, and INPUT.DATASET_MAPPER_NAME {cfg.INPUT.DATASET_MAPPER_NAME} needs the"
            " ignore_label of its first entry: MetadataCatalog.get(NAME).set(ignore_label=255), for instance."
        )
    if set(labels.values()) - {ignore_label, None}:  # the others' would be trained as a class
        raise ValueError(
            f"DATASETS.TRAIN names datasets with different ignore_label: {labels}. One model needs one: write the same "
            "number into the label images of all, and register them with it."
        )
    return ignore_label
