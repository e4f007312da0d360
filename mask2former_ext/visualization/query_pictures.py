"""One picture of single queries, layer by layer: rows are queries, columns are predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import TABLEAU_COLORS, to_rgb
from PIL import Image
from scipy.ndimage import binary_dilation

from ..modeling.targets import Target
from .grid import Row, Tile, picture_grid
from .painting import fit_size, outline, resize_mask, resize_picture, stripe, tint
from .panels import Colour, Segment, draw_segments
from .queries import INSIDE, QueryStep, QueryTrace

LEGEND = (
    "Masks: what a query predicts, in its colour, and a white line around the object that it is matched with. "
    "Looks at: where the layer lets the query look, at the resolution of the scale it attends to; the dark is blocked."
)
PADDING_LEGEND = " Black stripes: padding."
SHEET_WIDTH = 2200
SMALLEST_SIDE, LARGEST_SIDE = 150, 320
# on grey photographs, hence without grey
_PALETTE: list[Colour] = [to_rgb(TABLEAU_COLORS[name]) for name in TABLEAU_COLORS if name != "tab:gray"]
_BLACK: Colour = (0.0, 0.0, 0.0)
_WHITE: Colour = (1.0, 1.0, 1.0)


def draw_queries(
    trace: QueryTrace, queries: Sequence[int], class_names: Sequence[str], *, title: str = ""
) -> Image.Image:
    """Draw queries below each other, each with a row of masks and one of attention masks.

    Args:
        trace: of one image.
        queries: which ones, at least one.
        class_names: K names.
        title: a line at the top.
    """
    count = len(trace.predictions)
    width = min(max(SHEET_WIDTH // count, SMALLEST_SIDE), LARGEST_SIDE)
    size = fit_size(trace.padded_size, width)
    rows = [Row(_overview(trace, class_names, size), label="image")]
    for number, query in enumerate(queries):
        masks, attention = query_tiles(trace, query, class_names, size, _PALETTE[number % len(_PALETTE)])
        rows += _arrange(f"query {query}", masks, attention, _PALETTE[number % len(_PALETTE)])
    legend = LEGEND + (PADDING_LEGEND if _padding(trace).any() else "")
    return picture_grid(rows, title=title, legend=legend)


def query_tiles(
    trace: QueryTrace, query: int, class_names: Sequence[str], size: tuple[int, int], colour: Colour
) -> tuple[list[Tile], list[Tile]]:
    """Draw a query at all predictions.

    Args:
        size: (height, width) of each picture.
        colour: of the query.

    Returns:
        J masks, and J - 1 attention masks, of the layers that come after each.
    """
    photo = resize_picture(trace.photo, size)
    padding = resize_mask(_padding(trace), size)
    masks, attention = [], []
    for step in trace.steps(query):
        truth = None if step.matched is None else resize_mask(trace.truth(step.matched), size)
        picture = stripe(_draw_mask(photo, step, truth, colour), padding, _BLACK)
        masks.append(Tile(picture, mask_caption(trace, step, class_names)))
        if step.allowed is not None:
            picture = stripe(_draw_attention(photo, step.allowed, colour), padding, _BLACK)
            attention.append(Tile(picture, attention_caption(trace, step)))
    return masks, attention


def _arrange(label: str, masks: list[Tile], attention: list[Tile], colour: Colour) -> list[Row]:
    """In one row, in the order of computation, where there is room; else attention masks below masks."""
    after = ["raw queries", *(f"after layer {layer}" for layer in range(1, len(masks)))]
    inside = [f"layer {layer} looks at" for layer in range(1, len(masks))]
    if (len(masks) + len(attention)) * masks[0].picture.shape[1] > SHEET_WIDTH:
        return [Row(masks, label, colour, after), Row(attention, label, colour, inside)]
    tiles = [tile for pair in zip(masks, attention, strict=False) for tile in pair]
    headings = [heading for pair in zip(after, inside, strict=False) for heading in pair]
    return [Row([*tiles, masks[-1]], label, colour, [*headings, after[-1]])]


def mask_caption(trace: QueryTrace, step: QueryStep, class_names: Sequence[str]) -> str:
    """Class and score; with truth, also the object that the query is matched with and their IoU."""
    caption = f"{class_names[step.label]} {step.score:.0%}"
    if step.no_object > step.score:
        caption = f"no object {step.no_object:.0%}, {caption}"
    if trace.target is None:
        return caption
    if step.matched is None:
        return f"{caption}\nnot matched"
    return f"{caption}\nIoU {step.iou:.2f} with {_object(trace.target, step.matched, class_names)}"


def _object(target: Target, index: int, class_names: Sequence[str]) -> str:
    return f"{index} {class_names[int(target.labels[index])]}"


def attention_caption(trace: QueryTrace, step: QueryStep) -> str:
    """The scale that the next layer attends to, and how much of it is open to the query."""
    assert step.allowed is not None
    height, width = step.allowed.shape
    stride = round(trace.padded_size[0] / height)
    open_share = "all (mask empty)" if step.is_empty else f"{step.allowed.mean():.0%}"
    return f"{width}×{height} (1/{stride})\nopen: {open_share}"


def describe_query(trace: QueryTrace, query: int, class_names: Sequence[str]) -> str:
    """Say in a line what a query predicts, layer by layer."""
    captions = (mask_caption(trace, step, class_names).replace("\n", ", ") for step in trace.steps(query))
    return f"query {query}: " + " | ".join(captions)


def _overview(trace: QueryTrace, class_names: Sequence[str], size: tuple[int, int]) -> list[Tile]:
    """The image, and the truth on it if there is one."""
    photo = resize_picture(trace.photo, size)
    height, width = trace.image_size
    padding = resize_mask(_padding(trace), size)
    tiles = [Tile(stripe(photo, padding, _BLACK), f"{width}×{height} pixels")]
    if trace.target is not None:
        truth = []
        for index in range(len(trace.target)):
            mask, colour = resize_mask(trace.truth(index), size), _PALETTE[index % len(_PALETTE)]
            # as stuff, whose holes stay free
            truth.append(Segment(mask, _object(trace.target, index, class_names), False, colour))
        picture = stripe(draw_segments(photo, truth, scale=1), padding, _BLACK)
        tiles.append(Tile(picture, f"truth: {len(truth)} objects"))
    return tiles


def _padding(trace: QueryTrace) -> np.ndarray:
    padding = np.ones(trace.padded_size, dtype=bool)
    padding[: trace.image_size[0], : trace.image_size[1]] = False
    return padding


def _draw_mask(photo: np.ndarray, step: QueryStep, truth: np.ndarray | None, colour: Colour) -> np.ndarray:
    size = (photo.shape[0], photo.shape[1])
    grey = np.repeat(photo.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)  # so that colour is the mask's
    soft = Image.fromarray(step.probabilities).resize(size[::-1], Image.Resampling.BILINEAR)
    probabilities = np.asarray(soft).clip(0, 1)
    picture = outline(tint(grey, 0.6 * probabilities, colour), probabilities >= INSIDE, colour)
    if truth is None:
        return picture
    picture = tint(picture, binary_dilation(truth) & ~truth, _BLACK)
    return outline(picture, truth, _WHITE)


def _draw_attention(photo: np.ndarray, allowed: np.ndarray, colour: Colour) -> np.ndarray:
    cells = Image.fromarray(allowed).resize((photo.shape[1], photo.shape[0]), Image.Resampling.NEAREST)
    is_open = np.asarray(cells)
    return tint(tint(photo, 0.65 * ~is_open, _BLACK), 0.35 * is_open, colour)
