"""Pictures of what the mapper makes of an image: before, after, and the targets on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .grid import Row, Tile, picture_grid
from .painting import fit_size, outline, resize_mask, resize_picture, stripe
from .panels import Colour, Segment, draw_segments
from .training_samples import TrainingSample

PADDING_COLOUR: Colour = (0.0, 0.0, 0.0)
NO_TARGET_COLOUR: Colour = (0.9, 0.0, 0.1)
LEGEND = "black stripes: padding · red stripes: void and crowds, which are no target · red outline: a crowd"
SIDE = 400


def sample_sheet(samples: Sequence[TrainingSample], *, title: str = "", side: int = SIDE) -> Image.Image:
    """Draw samples below each other.

    Args:
        samples: at least one.
        title: a line at the top.
        side: pixels of the longer side of each picture.
    """
    rows = [Row(sample_tiles(sample, side)) for sample in samples]
    return picture_grid(rows, title=title, legend=LEGEND)


def sample_tiles(sample: TrainingSample, side: int = SIDE) -> list[Tile]:
    """Draw a sample: before the augmentations, after them, with targets, and the semantic map if the mapper gives one.

    Args:
        side: pixels of the longer side of each picture.
    """
    photo = resize_picture(sample.image, fit_size(sample.image.shape[:2], side))
    padding = resize_mask(sample.padding, photo.shape[:2])
    before = resize_picture(sample.before, fit_size(sample.before.shape[:2], side))
    tiles = [
        Tile(before, f"{Path(sample.file_name).name}\n{_size(sample.before)}, before the augmentations"),
        Tile(stripe(photo, padding, PADDING_COLOUR), _caption_of_image(sample)),
    ]
    if sample.targets is not None:
        tiles.append(Tile(_draw_targets(sample, photo, padding), _caption_of_targets(sample)))
    if sample.semantic is not None and sample.ignored is not None:
        picture = _draw(photo, sample.semantic, sample.ignored)
        names = ", ".join(segment.label for segment in sample.semantic) or "no class"
        caption = f"semantic map: {names}\n{_share(sample.ignored, sample)} ignored"
        tiles.append(Tile(stripe(picture, padding, PADDING_COLOUR), caption))
    return tiles


def describe_sample(sample: TrainingSample) -> str:
    """Say in a line what :func:`sample_tiles` shows."""
    parts = [f"{_size(sample.before)} to {_caption_of_image(sample)}"]
    if sample.targets is not None:
        parts.append(_caption_of_targets(sample))
    if sample.ignored is not None:
        parts.append(f"semantic map with {_share(sample.ignored, sample)} ignored")
    return f"{sample.file_name}: " + "; ".join(parts).replace("\n", ", ")


def _draw_targets(sample: TrainingSample, photo: np.ndarray, padding: np.ndarray) -> np.ndarray:
    assert sample.targets is not None
    no_target = np.zeros(sample.padding.shape, dtype=bool) if sample.void is None else sample.void.copy()
    for crowd in sample.crowds:
        no_target |= crowd.mask
    picture = _draw(photo, sample.targets, no_target)
    for crowd in sample.crowds:
        picture = outline(picture, resize_mask(crowd.mask, photo.shape[:2]), NO_TARGET_COLOUR)
    return stripe(picture, padding, PADDING_COLOUR)


def _draw(photo: np.ndarray, segments: Sequence[Segment], no_target: np.ndarray) -> np.ndarray:
    """Draw segments and stripes, whose masks are of the size of the sample, on its photograph of another size."""
    size = photo.shape[:2]
    fitted = [
        Segment(resize_mask(segment.mask, size), segment.label, segment.is_thing, segment.colour)
        for segment in segments
    ]
    return stripe(draw_segments(photo, fitted, scale=1), resize_mask(no_target, size), NO_TARGET_COLOUR)


def _caption_of_image(sample: TrainingSample) -> str:
    padding = f"{sample.padding.mean():.0%} padding" if sample.padding.any() else "no padding"
    return f"{_size(sample.image)}, {padding}"


def _caption_of_targets(sample: TrainingSample) -> str:
    assert sample.targets is not None
    counts = Counter(segment.label for segment in sample.targets)
    names = ", ".join(f"{name} {count}" if count > 1 else name for name, count in counts.items())
    number = "1 target" if len(sample.targets) == 1 else f"{len(sample.targets)} targets"
    lines = [f"{number}: {names}" if names else "no target"]
    left_out = [] if sample.void is None else [f"{_share(sample.void, sample)} void"]
    left_out += [f"crowd: {crowd.label}" for crowd in sample.crowds]
    return "\n".join([*lines, ", ".join(left_out)] if left_out else lines)


def _share(region: np.ndarray, sample: TrainingSample) -> str:
    """Percentage of the image, without its padding."""
    pixels = int((~sample.padding).sum())
    return f"{int(region.sum()) / max(pixels, 1):.0%}"


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}×{picture.shape[0]} pixels"
