"""Index maps: how rasters of annotations travel through the augmentations.

An index map is H×W, uint8 (uint16 beyond 255 entries): 0 for pixels that belong to nothing (ignored, void, crowd,
padding), k + 1 for entry k. So padding with 0 is always right, and nearest-neighbour resizing runs in Pillow on bytes,
aligned with the resizing of the image; Detectron2 sends wider types through torch, whose "nearest" is shifted.
"""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, Transform

NOTHING = 0


def index_dtype(largest: int) -> type[np.unsignedinteger]:
    """The dtype of an index map whose largest index is `largest`."""
    assert largest <= np.iinfo(np.uint16).max, largest
    return np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16


def transform_index_map(transforms: Transform, index_map: np.ndarray) -> np.ndarray:
    """Apply `transforms` to an index map, H×W → H'×W' of the same dtype."""
    if index_map.dtype == np.uint8:
        return transforms.apply_segmentation(index_map)
    # As two bytes in the channels of an image, because bytes are what Pillow resizes.
    low, high = index_map & 0xFF, index_map >> 8
    planes = transforms.apply_segmentation(np.stack([low, high, np.zeros_like(low)], axis=2).astype(np.uint8))
    return planes[..., 0].astype(np.uint16) | planes[..., 1].astype(np.uint16) << 8


def keep_a_pixel(transform: Transform, image_size: tuple[int, ...]) -> None:
    """Let a resizing or crop leave at least one row and column of an image of `image_size` (H, W).

    Detectron2's round to nothing where an image is hundreds of times longer than wide.
    """
    if isinstance(transform, T.ResizeTransform):
        transform.new_h, transform.new_w = max(transform.new_h, 1), max(transform.new_w, 1)
    if isinstance(transform, CropTransform):
        transform.h, transform.w = max(transform.h, 1), max(transform.w, 1)
        transform.y0, transform.x0 = min(transform.y0, image_size[0] - 1), min(transform.x0, image_size[1] - 1)


class IndexMapInput(T.AugInput):
    """Detectron2's augmentation input: with an index map of categories as `sem_seg`, for images of any proportions."""

    def transform(self, tfm: Transform) -> None:
        keep_a_pixel(tfm, self.image.shape[:2])
        self.image = tfm.apply_image(self.image)
        if self.sem_seg is not None:
            self.sem_seg = transform_index_map(tfm, self.sem_seg)
