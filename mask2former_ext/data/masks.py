"""Masks of single objects: polygons, run-length codes and bitmaps, carried through the augmentations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
from fvcore.transforms.transform import CropTransform, Transform, TransformList

from mask2former_ext.structures import PackedBitMasks
from mask2former_ext.structures.packed_bit_masks import pack_rows, row_bytes

Polygons = list[np.ndarray]

# Of the image's longer side; so far from the origin may polygons reach. Rasterising takes memory for all of an outline.
FARTHEST = 10


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
        return [_polygon(points, image_size, where) for points in segmentation]
    if isinstance(segmentation, dict):
        return _decode_rle(segmentation, image_size, where)
    if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2 and segmentation.dtype in (np.uint8, np.bool_):
        _check_mask_size(segmentation.shape, image_size, "bitmap", where)
        return (segmentation != 0).astype(np.uint8)
    raise ValueError(
        f"{where}: segmentation is a {type(segmentation).__name__}; it must be a list of polygons, a run-length code"
        ' {"size": [height, width], "counts": …}, or a 2-D uint8 or bool array.'
    )


def transform_masks(
    shapes: list[Polygons | np.ndarray], transforms: Transform, image_size: tuple[int, int]
) -> PackedBitMasks:
    """Bring N decoded segmentations to the augmented image of `image_size` (H, W).

    Polygons are moved as polygons, and rasterised at the final size; masks are resized to the nearest pixel.
    Polygons are changed in place.

    Returns:
        N masks in the order of `shapes`, empty where nothing is left of an object.
    """
    height, width = image_size
    bits = np.zeros((len(shapes), height, row_bytes(width)), dtype=np.uint8)
    rasters = [k for k, shape in enumerate(shapes) if isinstance(shape, np.ndarray)]
    # The transforms move bytes, so eight masks travel as the eight bits of one.
    for first in range(0, len(rasters), 8):
        together = rasters[first : first + 8]
        plane = np.zeros_like(shapes[together[0]])
        for bit, k in enumerate(together):
            plane |= shapes[k] << np.uint8(bit)
        plane = transforms.apply_segmentation(plane)
        for bit, k in enumerate(together):
            bits[k] = pack_rows(plane & np.uint8(1 << bit))
    for mask, shape in zip(bits, shapes, strict=True):
        if isinstance(shape, list):
            _rasterise(_transform_polygons(shape, transforms), image_size, mask)
    return PackedBitMasks(torch.from_numpy(bits), image_size)


def _transform_polygons(polygons: Polygons, transforms: Transform) -> Polygons:
    """What `transforms.apply_polygons` gives, changing `polygons` in place."""
    for transform in transforms.transforms if isinstance(transforms, TransformList) else [transforms]:
        if isinstance(transform, CropTransform):
            polygons = [part for polygon in polygons for part in _crop(polygon, transform)]
        else:
            polygons = transform.apply_polygons(polygons)
    return polygons


def _crop(polygon: np.ndarray, crop: CropTransform) -> Polygons:
    """What `crop.apply_polygons` gives, but only polygons that need it are cut, which is slow."""
    # imported where it is needed, as fvcore does
    from shapely.geometry import Polygon  # type: ignore[import-untyped]

    lowest, highest = polygon.min(axis=0), polygon.max(axis=0)
    start, end = (crop.x0, crop.y0), (crop.x0 + crop.w, crop.y0 + crop.h)
    if (lowest >= end).any() or (highest <= start).any():
        return []
    # Of polygons that cross themselves fvcore drops parts, also where the crop leaves everything.
    if (lowest >= start).all() and (highest <= end).all() and Polygon(polygon).is_valid:
        return [crop.apply_coords(polygon)]
    return crop.apply_polygons([polygon])


def _rasterise(polygons: Polygons, image_size: tuple[int, int], bits: np.ndarray) -> None:
    """Write the union of `polygons` into `bits`, the packed rows of an empty mask of `image_size` (H, W).

    Pixels are those of Detectron2's `polygons_to_bitmask`, but none is touched beside the box around the polygons.
    """
    if not polygons:
        return
    corners = np.concatenate(polygons)
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0).tolist()
    # Right and bottom of the box replace those of the image; moving left and top would change how corners round.
    width, height = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, image_size[::-1]).tolist()
    if left >= width or top >= height:
        return
    codes = coco_mask.frPyObjects([polygon.reshape(-1) for polygon in polygons], height, width)
    mask = coco_mask.decode(coco_mask.merge(codes))  # columns first
    first = left // 8
    box = torch.from_numpy(mask.T)[8 * first :, top:].t().contiguous()  # torch transposes twice as fast as NumPy
    packed = pack_rows(box.numpy())
    bits[top:height, first : first + packed.shape[1]] = packed


def _polygon(points: Any, image_size: tuple[int, int], where: str) -> np.ndarray:
    try:
        polygon = np.array(points, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: a polygon that is no list of numbers ({error}). Remove the polygon.") from error
    if len(polygon) % 2 or len(polygon) < 6:
        raise ValueError(
            f"{where}: a polygon of {len(polygon)} numbers; it needs x and y of at least 3 points. Remove the polygon."
        )
    if not np.abs(polygon).max() <= FARTHEST * max(image_size):  # NaN is not
        raise ValueError(
            f"{where}: a polygon with coordinates {polygon.min():g}…{polygon.max():g}, but the image has "
            f"{image_size[0]}×{image_size[1]} pixels (height × width). Coordinates must be finite numbers, in pixels."
        )
    return polygon.reshape(-1, 2)


def _decode_rle(rle: dict[str, Any], image_size: tuple[int, int], where: str) -> np.ndarray:
    missing = [key for key in ("size", "counts") if key not in rle]
    if missing:
        raise ValueError(f"{where}: the run-length code lacks {', '.join(missing)}; it needs size and counts.")
    _check_mask_size(rle["size"], image_size, "run-length code", where)
    try:
        runs = _run_lengths(rle["counts"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: the run-length code cannot be decoded: {error}. Encode the mask again.") from error
    # Past the mask's end pycocotools would write into other memory, before it leave what was in memory.
    pixels = image_size[0] * image_size[1]
    if runs.sum() != pixels or runs.min(initial=0) < 0 or runs.max(initial=0) > pixels:
        raise ValueError(
            f"{where}: the counts of the run-length code sum to {sum(runs.tolist())}, but the image has "
            f"{image_size[0]}×{image_size[1]} = {pixels} pixels; none may be negative. Encode the mask again."
        )
    code = {"size": list(image_size), "counts": rle["counts"]}
    if not isinstance(rle["counts"], (str, bytes)):
        code = coco_mask.frPyObjects(code | {"counts": runs.tolist()}, *image_size)
    return coco_mask.decode(code)


def _run_lengths(counts: Any) -> np.ndarray:
    """The lengths of the runs of zeros and ones, int64, of a run-length code's ``counts``.

    COCO's text has 5 bits in a character, the lowest first, with a bit for "more follows"; from the fourth number on
    it holds differences to the number before the last.

    Raises:
        ValueError, TypeError: these are no counts.
    """
    if not isinstance(counts, (str, bytes)):
        runs = np.array(counts)
        if runs.ndim != 1 or runs.dtype.kind not in "iu":
            raise ValueError("counts are neither whole numbers nor COCO's text")
        return runs.astype(np.int64)
    text = counts.encode() if isinstance(counts, str) else counts
    characters = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero((characters & 32) == 0)
    if ((characters < 0) | (characters > 63)).any() or not len(last) or last[-1] + 1 < len(characters):
        raise ValueError("counts are not COCO's text, or cut short")
    lengths = np.diff(last, prepend=-1)
    if lengths.max() > 7:
        raise ValueError("counts hold a number beyond all images")
    first = last + 1 - lengths
    shifts = 5 * (np.arange(len(characters)) - np.repeat(first, lengths))
    numbers = np.add.reduceat((characters & 31) << shifts, first)
    numbers -= np.where(characters[last] & 16, 1 << 5 * lengths, 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _check_mask_size(size: Any, image_size: tuple[int, int], what: str, where: str) -> None:
    size = list(size) if isinstance(size, (list, tuple, np.ndarray)) else size
    if size != list(image_size):
        raise ValueError(
            f"{where}: the {what} has size {size} (height, width), but the image {list(image_size)}."
            " Masks must be of the size of their image."
        )
