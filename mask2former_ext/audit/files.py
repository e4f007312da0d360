"""Image files, read to their end, and the regions of maps of ids."""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.Image import DecompressionBombError, DecompressionBombWarning

# What Pillow is known to raise of damaged files, beside OSError.
DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, MemoryError, OverflowError),
    *(struct.error, zlib.error, DecompressionBombError),
)
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Photograph:
    """What an image file is.

    Attributes:
        size: (height, width) as training sees it, turned by its EXIF orientation.
        is_turned: whether height and width change places by that.
        bits: of a channel: 8 for 8 or less, 16, 32.
        digest: of the file's bytes.
    """

    size: tuple[int, int]
    is_turned: bool
    bits: int
    digest: bytes


def read_photograph(path: str) -> Photograph:
    """Read an image file to its end.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded, or ends early.
    """
    content, image = _open(path)
    with image:
        size, bits = image.size[::-1], _bits(image)
        try:
            # JPEG files are read to their end, but decoded at an eighth of their size: what breaks, breaks there too.
            image.draft(None, (1, 1))
            image.load()
            is_turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        except DAMAGED as error:
            raise ValueError(str(error)) from error
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Photograph(size[::-1] if is_turned else size, is_turned, bits, digest)


def _bits(image: Image.Image) -> int:
    # "I" is how earlier versions of Pillow open PNGs of 16 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return 16
    return 32 if image.mode in ("I", "F") else 8


def read_png(path: str, *, colours: bool) -> tuple[str, np.ndarray]:
    """Read a PNG of annotations.

    Args:
        path: the file.
        colours: whether pixels that are indices into a palette become its colours.

    Returns:
        Pillow's name of its mode, and its pixels, H×W or H×W×C.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded, or ends early.
    """
    _, image = _open(path)
    with image:
        try:
            if colours and image.mode == "P":
                return "RGB", np.asarray(image.convert("RGB"))
            return image.mode, np.asarray(image)
        except DAMAGED as error:
            raise ValueError(str(error)) from error


def _open(path: str) -> tuple[bytes, Image.Image]:
    try:
        content = Path(path).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DecompressionBombWarning)  # a large image is no fault
            return content, Image.open(BytesIO(content))
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise ValueError("it is no image" if isinstance(error, Image.UnidentifiedImageError) else str(error)) from error


def regions(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Areas and boxes of all ids of a map.

    Works on runs of equal pixels in a row, of which there are far fewer than pixels.

    Args:
        ids: integers H×W, at least one pixel.

    Returns:
        N different ids in rising order; int64 areas [N] in pixels; int64 boxes [N, 4] as x, y, width, height.
    """
    width = ids.shape[1]
    flat = ids.reshape(-1)
    ends = flat[1:] != flat[:-1]
    ends[width - 1 :: width] = True
    starts = np.concatenate([[0], np.flatnonzero(ends) + 1])
    lengths = np.diff(starts, append=flat.size)
    different, index = np.unique(flat[starts], return_inverse=True)
    areas = np.zeros(len(different), dtype=np.int64)
    np.add.at(areas, index, lengths)
    rows, left = np.divmod(starts, width)
    low, high = np.full((2, len(different)), flat.size), np.zeros((2, len(different)), dtype=np.int64)
    for side, (first, end) in enumerate(((left, left + lengths), (rows, rows + 1))):
        np.minimum.at(low[side], index, first)  # in one dimension, which NumPy is fast at
        np.maximum.at(high[side], index, end)
    return different, areas, np.concatenate([low, high - low]).T
