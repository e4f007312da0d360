"""Segments drawn on a photograph by Detectron2's Visualizer, and captioned panels of such pictures.

H, W: height and width of the photograph in pixels; S: the factor that the picture is enlarged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.utils.visualizer import Visualizer
from matplotlib.colors import TABLEAU_COLORS, to_rgb
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt
from torch.nn import functional as F

Colour = tuple[float, float, float]

_PALETTE: list[Colour] = [to_rgb(colour) for colour in TABLEAU_COLORS]
_STUFF_COLOUR: Colour = (0.35, 0.4, 0.45)
_UNMATCHED_COLOUR: Colour = (1.0, 1.0, 1.0)
_THING_ALPHA = 0.5
_STUFF_ALPHA = 0.25
_CAPTION_HEIGHT = 40
_MARGIN = 12


@dataclass(frozen=True)
class Segment:
    """One thing, or all of one stuff class, on a photograph.

    Attributes:
        mask: bool array H x W.
        label: the text that is written on the segment.
        is_thing: things get a colour each and a label; stuff shares one muted colour.
        colour: stuff that has one is drawn in it, with its label; things do not need one.
    """

    mask: np.ndarray
    label: str
    is_thing: bool = True
    colour: Colour | None = None


def draw_segments(
    photo: np.ndarray, segments: Sequence[Segment], *, like: Sequence[Segment] = (), scale: int = 3
) -> np.ndarray:
    """Draw segments on a photograph.

    Args:
        photo: uint8 array H x W x 3, RGB.
        segments: what to draw; masks are H x W.
        like: segments of the same photograph, the truth say: each thing is coloured as the thing there that it overlaps
            most, so that pictures can be compared at a glance.
        scale: S, how much to enlarge small photographs.

    Returns:
        uint8 array SH x SW x 3, RGB.
    """
    height, width = photo.shape[0] * scale, photo.shape[1] * scale
    enlarged = Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC)
    visualizer = Visualizer(np.asarray(enlarged))
    things = [segment for segment in segments if segment.is_thing]
    for segment in segments:
        if not segment.is_thing and segment.mask.any():
            _draw_stuff(visualizer, segment, _enlarge(segment.mask, scale))
    if things:
        reference = [segment for segment in like if segment.is_thing] or things
        visualizer.overlay_instances(
            masks=[_enlarge(segment.mask, scale) for segment in things],
            labels=[segment.label for segment in things],
            assigned_colors=_colours_like(things, reference),
            alpha=_THING_ALPHA,
        )
    return visualizer.output.get_image()


def side_by_side(panels: Sequence[tuple[str, np.ndarray]]) -> Image.Image:
    """Set captioned pictures of one size next to each other, or below each other when they are wider than high.

    Args:
        panels: (caption, uint8 array H x W x 3, RGB), at least one.
    """
    height, width = panels[0][1].shape[:2]
    step_x, step_y = (0, height + _CAPTION_HEIGHT) if width > height else (width + _MARGIN, 0)
    last = len(panels) - 1
    size = (width + last * step_x + 2 * _MARGIN, height + last * step_y + _CAPTION_HEIGHT + _MARGIN)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=_CAPTION_HEIGHT // 2)
    for index, (caption, picture) in enumerate(panels):
        x, y = _MARGIN + index * step_x, index * step_y
        pen.text((x, y + _CAPTION_HEIGHT // 2), caption, fill="black", font=font, anchor="lm")
        sheet.paste(Image.fromarray(picture), (x, y + _CAPTION_HEIGHT))
    return sheet


def _draw_stuff(visualizer: Visualizer, segment: Segment, mask: np.ndarray) -> None:
    """Draw a segment whose enlarged ``mask`` is given; a label stands where there is most room."""
    if segment.colour is None:
        visualizer.draw_binary_mask(mask, color=_STUFF_COLOUR, alpha=_STUFF_ALPHA, area_threshold=0)
        return
    visualizer.draw_binary_mask(mask, color=segment.colour, alpha=_THING_ALPHA, area_threshold=0)
    visualizer.draw_text(segment.label, _deep_inside(mask), color="white")


def _deep_inside(mask: np.ndarray) -> tuple[int, int]:
    """(x, y) of a point of a mask H x W, not empty: far from its border, in the middle of such points."""
    depths = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.nonzero(depths > 0.95 * depths.max())
    middle = np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2)
    return int(x[middle]), int(y[middle])


def _enlarge(mask: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge a bool mask H x W to uint8 SH x SW with smooth outlines; nearest-neighbour resizing would draw stairs."""
    soft = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None, None]
    return (F.interpolate(soft, scale_factor=scale, mode="bilinear")[0, 0] > 0.5).numpy().astype(np.uint8)


def _colours_like(things: Sequence[Segment], reference: Sequence[Segment]) -> list[Colour]:
    """Give each thing the colour of the reference thing that shares most pixels with it."""
    colours = []
    for thing in things:
        overlaps = [int(np.logical_and(thing.mask, other.mask).sum()) for other in reference]
        best = int(np.argmax(overlaps))
        colours.append(_PALETTE[best % len(_PALETTE)] if overlaps[best] else _UNMATCHED_COLOUR)
    return colours
