"""Names and colours of a dataset's classes."""

from __future__ import annotations

from detectron2.data import Metadata
from matplotlib import colormaps

from .panels import Colour

# Neighbours differ in hue. None is among the colours of things, or red, which is for what has no target.
_DISTINCT: list[Colour] = [colormaps["tab20b"](hue + shade)[:3] for shade in range(4) for hue in (0, 8, 16, 4)]


def class_names(metadata: Metadata, num_classes: int) -> list[str]:
    """Names by contiguous class id.

    Args:
        metadata: of a dataset. Of its ``stuff_classes`` and ``thing_classes`` the list is taken that has a name for
            each class and no more; else the first that has enough.
        num_classes: K.

    Returns:
        K names; ``class 0`` and so on where neither list has enough.
    """
    lists = [list(metadata.get(key) or []) for key in ("stuff_classes", "thing_classes")]
    for names in lists:
        if len(names) == num_classes:
            return names
    longer = [names for names in lists if len(names) > num_classes]
    return longer[0][:num_classes] if longer else [f"class {index}" for index in range(num_classes)]


def class_colours(metadata: Metadata, num_classes: int) -> list[Colour]:
    """K colours by contiguous class id: the dataset's ``stuff_colors`` if it has one for each, else distinct ones."""
    own = list(metadata.get("stuff_colors") or [])
    if len(own) == num_classes:
        return [(red / 255, green / 255, blue / 255) for red, green, blue in own]
    return [_DISTINCT[index % len(_DISTINCT)] for index in range(num_classes)]
