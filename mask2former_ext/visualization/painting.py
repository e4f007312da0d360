"""Pictures as arrays: brought to a size, tinted, striped, outlined.

H, W: height and width in pixels; C channels.
"""

from __future__ import annotations

import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from PIL import Image
from scipy.ndimage import binary_erosion

from .panels import Colour


def rgb_picture(image: np.ndarray, image_format: str) -> np.ndarray:
    """Turn an image H×W×C, in the values of ``image_format`` (INPUT.FORMAT), into a uint8 picture H×W×3, RGB."""
    if image_format != "RGB":
        image = convert_image_to_rgb(image, image_format)
    return np.ascontiguousarray(image.round().clip(0, 255).astype(np.uint8))


def fit_size(size: tuple[int, int], longer_side: int) -> tuple[int, int]:
    """(height, width) of a picture of ``size`` that is brought to ``longer_side``, in its shape; at least 1 pixel."""
    factor = longer_side / max(size)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def resize_picture(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a uint8 picture H×W×3 to ``size`` (height, width)."""
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a bool mask H×W to ``size`` (height, width), with smooth outlines."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize(size[::-1], Image.Resampling.BILINEAR)) > 127


def tint(picture: np.ndarray, weight: np.ndarray, colour: Colour) -> np.ndarray:
    """Mix a picture H×W×3 with ``colour`` (in [0, 1]): ``weight`` H×W, in [0, 1], is the colour's share of a pixel."""
    share = weight[..., None].astype(np.float32)
    return ((1 - share) * picture + share * 255 * np.asarray(colour, dtype=np.float32)).round().astype(np.uint8)


def stripe(picture: np.ndarray, region: np.ndarray, colour: Colour) -> np.ndarray:
    """Draw diagonal stripes of ``colour`` on ``region``, bool H×W, of a picture H×W×3."""
    y, x = np.indices(region.shape)
    stripes = region & ((x + y) % 10 < 4)
    return tint(picture, 0.8 * stripes, colour)


def outline(picture: np.ndarray, mask: np.ndarray, colour: Colour, width: int = 2) -> np.ndarray:
    """Draw the border of a bool mask H×W, inside of it and ``width`` pixels wide, on a picture H×W×3."""
    border = mask & ~binary_erosion(mask, iterations=width)
    return tint(picture, border, colour)
