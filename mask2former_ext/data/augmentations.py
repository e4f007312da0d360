"""Augmentation recipes: from the INPUT group of a config to a list of Detectron2 augmentations.

Both recipes pad on the right and at the bottom only: grey in the image, "nothing" in index maps (index_maps.py).
"""

from __future__ import annotations

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform, PadTransform, Transform

from .index_maps import NOTHING

IMAGE_PAD_VALUE = 128


class PadToMultiple(T.Augmentation):
    """Pad the right and the bottom until both sides are multiples of `size` pixels.

    An image that is smaller than `size` becomes size × size; a larger one grows to the next multiple and is never cut.
    The image is padded with 128, rasters of indices with 0.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        bottom, right = -height % self.size, -width % self.size
        if bottom == 0 and right == 0:
            return NoOpTransform()
        return PadTransform(0, 0, right, bottom, width, height, pad_value=IMAGE_PAD_VALUE, seg_pad_value=NOTHING)


def random_flip(cfg: CfgNode) -> list[T.Augmentation]:
    """The flip that INPUT.RANDOM_FLIP asks for: an empty list for "none"."""
    choice = cfg.INPUT.RANDOM_FLIP
    if choice not in ("none", "horizontal", "vertical"):
        raise ValueError(f'INPUT.RANDOM_FLIP is "{choice}"; it must be "none", "horizontal" or "vertical".')
    if choice == "none":
        return []
    return [T.RandomFlip(horizontal=choice == "horizontal", vertical=choice == "vertical")]


def resize_crop_flip(cfg: CfgNode, *, by_category: bool) -> list[T.Augmentation | Transform]:
    """Shorter side drawn from a list, random crop, SSD colours, flip, fixed size (MaskFormer, section 4.1).

    Args:
        by_category: the augmented input has an index map of categories as `sem_seg`, and
            INPUT.CROP.SINGLE_CATEGORY_MAX_AREA limits the share that one of them may take of the crop.
    """
    augmentations: list[T.Augmentation | Transform] = [
        T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
    ]
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(_random_crop(cfg, by_category=by_category))
    if cfg.INPUT.COLOR_AUG_SSD:
        # Imported here: PointRend brings OpenCV, which nothing else in this package needs.
        from detectron2.projects.point_rend import ColorAugSSDTransform

        augmentations.append(ColorAugSSDTransform(img_format=cfg.INPUT.FORMAT))
    augmentations += random_flip(cfg)
    if cfg.INPUT.SIZE_DIVISIBILITY > 0:
        augmentations.append(PadToMultiple(cfg.INPUT.SIZE_DIVISIBILITY))
    return augmentations


def large_scale_jitter(cfg: CfgNode, *, by_category: bool) -> list[T.Augmentation | Transform]:
    """Large-scale jittering ("Simple Copy-Paste", section 3): flip, resize, crop or pad to a square of IMAGE_SIZE.

    The image is fitted into the square times a factor drawn from MIN_SCALE … MAX_SCALE. `by_category` makes no
    difference: the crop looks at no labels.
    """
    size = cfg.INPUT.IMAGE_SIZE
    return [
        *random_flip(cfg),
        T.ResizeScale(cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE, size, size),
        # Detectron2's releases disagree on what FixedSizeCrop pads segmentations with, so the padding is ours.
        T.FixedSizeCrop((size, size), pad=False),
        PadToMultiple(size),
    ]


def _random_crop(cfg: CfgNode, *, by_category: bool) -> T.Augmentation:
    crop = cfg.INPUT.CROP
    if not by_category:
        return T.RandomCrop(crop.TYPE, crop.SIZE)
    return T.RandomCrop_CategoryAreaConstraint(
        crop.TYPE, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, ignored_category=NOTHING
    )
