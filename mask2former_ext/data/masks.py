"""Masks of single objects: polygons, run-length codes and bitmaps, carried through the augmentations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
from detectron2.structures import polygons_to_bitmask
from fvcore.transforms.transform import Transform

Polygons = list[np.ndarray]


def decode_segmentation(segmentation: Any, image_size: tuple[int, int], where: str) -> Polygons | np.ndarray:
    """Check one annotation's `segmentation` and bring it to one of two forms.

    Args:
        segmentation: list of polygons [x0, y0, x1, y1, …] in pixels; run-length code {"size": [H, W], "counts": …},
            compressed (str or bytes) or not (list); or bitmap, 2-D array of uint8 or bool.
        image_size: (H, W) of the image.
        where: the annotation, for errors.

    Returns:
        Polygons as float64 copies of shape P×2, or a uint8 mask H×W of 0 and 1.

    Raises:
        ValueError: the segmentation has none of these forms or does not fit the image.
    """
    if isinstance(segmentation, list):
        return [_polygon(points, where) for points in segmentation]
    if isinstance(segmentation, dict):
        return _decode_rle(segmentation, image_size, where)
    if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2 and segmentation.dtype in (np.uint8, np.bool_):
        _check_mask_size(segmentation.shape, image_size, "bitmap", where)
        return (segmentation != 0).astype(np.uint8)
    raise ValueError(
        f"{where}: segmentation is a {type(segmentation).__name__}; it must be a list of polygons, a run-length code"
        ' {"size": [height, width], "counts": …}, or a 2-D uint8 or bool array.'
    )


def transform_mask(shape: Polygons | np.ndarray, transforms: Transform, image_size: tuple[int, int]) -> np.ndarray:
    """Bring a decoded segmentation to the augmented image of `image_size` (H, W).

    Polygons are moved as polygons, and rasterised at the final size; masks are resized to the nearest pixel.
    Polygons are changed in place.

    Returns:
        bool H×W.
    """
    if isinstance(shape, list):
        polygons = [polygon.reshape(-1) for polygon in transforms.apply_polygons(shape)]
        return polygons_to_bitmask(polygons, *image_size)
    return transforms.apply_segmentation(shape) == 1


def _polygon(points: Any, where: str) -> np.ndarray:
    polygon = np.array(points, dtype=np.float64).reshape(-1)
    if len(polygon) % 2 or len(polygon) < 6:
        raise ValueError(
            f"{where}: a polygon of {len(polygon)} numbers; it needs x and y of at least 3 points. Remove the polygon."
        )
    return polygon.reshape(-1, 2)


def _decode_rle(rle: dict[str, Any], image_size: tuple[int, int], where: str) -> np.ndarray:
    missing = [key for key in ("size", "counts") if key not in rle]
    if missing:
        raise ValueError(f"{where}: the run-length code lacks {', '.join(missing)}; it needs size and counts.")
    _check_mask_size(rle["size"], image_size, "run-length code", where)
    counts = rle["counts"]
    if isinstance(counts, list):
        if sum(counts) != image_size[0] * image_size[1]:
            raise ValueError(
                f"{where}: the counts of the run-length code sum to {sum(counts)}, but the image has"
                f" {image_size[0]}×{image_size[1]} = {image_size[0] * image_size[1]} pixels. Encode the mask again."
            )
        rle = coco_mask.frPyObjects(rle, *image_size)
    try:
        return coco_mask.decode(rle)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: the run-length code cannot be decoded: {error}. Encode the mask again.") from error


def _check_mask_size(size: Any, image_size: tuple[int, int], what: str, where: str) -> None:
    if tuple(size) != tuple(image_size):
        raise ValueError(
            f"{where}: the {what} has size {list(size)} (height, width), but the image {list(image_size)}."
            " Masks must be of the size of their image."
        )
