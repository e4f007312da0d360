"""Colours of a dataset's classes in pictures of annotations."""

from __future__ import annotations

from detectron2.data import Metadata
from matplotlib import colormaps

from ..classes import listed_colours
from .panels import Colour

# Neighbours differ in hue. None is among the colours of things, or red, which is for what has no target.
_DISTINCT: list[Colour] = [colormaps["tab20b"](hue + shade)[:3] for shade in range(4) for hue in (0, 8, 16, 4)]


def class_colours(metadata: Metadata, num_classes: int) -> list[Colour]:
    """K colours by label: the dataset's if it has one for each, else distinct ones."""
    if own := listed_colours(metadata, num_classes):
        return [(red / 255, green / 255, blue / 255) for red, green, blue in own]
    return [_DISTINCT[index % len(_DISTINCT)] for index in range(num_classes)]
