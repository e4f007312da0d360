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
from torch.nn import functional as F

from .labels import Colour, Rectangle, lighter, write_label

_PALETTE: list[Colour] = [to_rgb(colour) for colour in TABLEAU_COLORS]
_STUFF_COLOUR: Colour = (0.35, 0.4, 0.45)
_UNMATCHED_COLOUR: Colour = (1.0, 1.0, 1.0)
_THING_ALPHA = 0.5
_STUFF_ALPHA = 0.25
LABEL_LIGHTER = 0.6  # a label is this share of the way from the segment's colour to white
_SMALLEST_LETTERS = 9.0  # points
_CAPTION_HEIGHT = 40
_MARGIN = 12


@dataclass(frozen=True)
class Segment:
    """One thing, or all of one stuff class, on a photograph.

    Attributes:
        mask: bool array H×W.
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
        photo: uint8 array H×W×3, RGB.
        segments: what to draw; masks are H×W.
        like: segments of the same photograph, the truth say: each thing is coloured as the thing there that it overlaps
            most, so that pictures can be compared at a glance.
        scale: S, how much to enlarge small photographs.

    Returns:
        uint8 array SH×SW×3, RGB.
    """
    height, width = photo.shape[0] * scale, photo.shape[1] * scale
    enlarged = Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC)
    visualizer = Visualizer(np.asarray(enlarged))
    things = [segment for segment in segments if segment.is_thing and segment.mask.any()]
    stuff = [segment for segment in segments if not segment.is_thing and segment.mask.any()]
    labels: list[tuple[str, np.ndarray, Colour]] = []
    for segment in stuff:
        mask = _enlarge(segment.mask, scale)
        colour, alpha = (segment.colour, _THING_ALPHA) if segment.colour else (_STUFF_COLOUR, _STUFF_ALPHA)
        visualizer.draw_binary_mask(mask, color=colour, alpha=alpha, area_threshold=0)
        if segment.colour:
            labels.append((segment.label, mask, (1.0, 1.0, 1.0)))
    if things:
        reference = [segment for segment in like if segment.is_thing] or things
        colours, masks = _colours_like(things, reference), [_enlarge(segment.mask, scale) for segment in things]
        visualizer.overlay_instances(masks=masks, assigned_colors=colours, alpha=_THING_ALPHA)
        labels += [
            (thing.label, mask, lighter(colour, LABEL_LIGHTER))
            for thing, mask, colour in zip(things, masks, colours, strict=True)
        ]
    written: list[Rectangle] = []
    for text, mask, colour in labels:
        if text and mask.any():
            write_label(visualizer, text, mask, colour, written, smallest=_SMALLEST_LETTERS)
    return visualizer.output.get_image()


def side_by_side(panels: Sequence[tuple[str, np.ndarray]]) -> Image.Image:
    """Set captioned pictures of one size next to each other, or below each other when they are wider than high.

    Args:
        panels: (caption, uint8 array H×W×3, RGB), at least one.
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


def _enlarge(mask: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge a bool mask H×W to uint8 SH×SW with smooth outlines; nearest-neighbour resizing would draw stairs."""
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
