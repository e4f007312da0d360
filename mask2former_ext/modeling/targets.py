"""What one image's annotations become before matching and losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from ..structures import PackedBitMasks


@dataclass(frozen=True)
class Target:
    """Ground truth of one image: N labelled masks.

    Attributes:
        labels: N int64 classes in [0, K).
        masks: N masks of the image's size.
        padded_size: (H, W) of the padded batch, which coordinates refer to; masks end where the image ends.
        name: what to call the image in messages; its file name where that is known.
    """

    labels: Tensor
    masks: PackedBitMasks
    padded_size: tuple[int, int]
    name: str

    def __len__(self) -> int:
        return len(self.labels)


def prepare_target(
    instances: Instances, padded_size: tuple[int, int], num_classes: int, device: torch.device, name: str
) -> Target:
    """Check one image's ``gt_classes`` and ``gt_masks`` and bring them to ``device``, masks as packed bits.

    Raises:
        ValueError: a label is outside [0, ``num_classes``), or the masks are polygons or differ in number from the
            labels.
    """
    labels, masks = instances.gt_classes, instances.gt_masks
    if not isinstance(masks, BitMasks | Tensor):
        raise ValueError(
            f"image {name}: gt_masks are {type(masks).__name__}; MaskFormer takes an N×H×W tensor or BitMasks. Use "
            "one of this package's mappers (INPUT.DATASET_MAPPER_NAME), or INPUT.MASK_FORMAT bitmask with Detectron2's "
            "own."
        )
    if len(labels) != len(masks):
        raise ValueError(f"image {name}: {len(labels)} gt_classes for {len(masks)} gt_masks.")
    check_labels(labels, num_classes, name)
    if not isinstance(masks, PackedBitMasks):
        masks = PackedBitMasks.from_masks((masks.tensor if isinstance(masks, BitMasks) else masks).bool())
    return Target(
        labels.to(device=device, dtype=torch.int64, non_blocking=True),
        masks.to(device=device, non_blocking=True),
        padded_size,
        name,
    )


def check_labels(labels: Tensor, num_classes: int, name: str) -> None:
    """Raise ValueError when a class label lies outside [0, ``num_classes``), naming image and label."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ValueError(
            f"image {name}: label {wrong[0].item()} is outside 0 … {num_classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES "
            f"is {num_classes}). Raise NUM_CLASSES, map the dataset's ids to contiguous ones, or mark the label as "
            "ignored."
        )
