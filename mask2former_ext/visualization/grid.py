"""Captioned pictures in rows and columns.

H, W: height and width of a picture in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image, ImageDraw, ImageFont

from .panels import Colour

FONT_SIZE = 14
LINE_HEIGHT = 18
MARGIN = 12
_BAR_WIDTH = 6


@dataclass(frozen=True)
class Tile:
    """A picture and what is written below it.

    Attributes:
        picture: uint8 array H×W×3, RGB.
        caption: lines that are wider than the picture are broken between words.
    """

    picture: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """Tiles beside each other.

    Attributes:
        tiles: None leaves a place empty.
        label: lines that stand on the left.
        colour: of a bar between label and tiles; rows that belong together share it.
        headings: what stands above the tiles, a line each.
    """

    tiles: Sequence[Tile | None]
    label: str = ""
    colour: Colour | None = None
    headings: Sequence[str] = ()


def picture_grid(rows: Sequence[Row], *, title: str = "", legend: str = "") -> Image.Image:
    """Lay rows of tiles out on a white sheet.

    Args:
        rows: at least one, with a tile at least; pictures may differ in size.
        title, legend: lines at the top; they are broken between words.
    """
    count = max(len(row.tiles) for row in rows)
    widths = [max(_width(row, column) for row in rows) for column in range(count)]
    captions = [[_caption(tile, width) for tile, width in zip(row.tiles, widths, strict=False)] for row in rows]
    heights = [_height(row, lines) for row, lines in zip(rows, captions, strict=True)]
    labels_width = _labels_width(rows)
    width = labels_width + sum(widths) + (count + 1) * MARGIN
    room = width - 2 * MARGIN
    headings = [(line, bold) for text, bold in ((title, True), (legend, False)) for line in _broken(text, room, bold)]
    top = MARGIN + len(headings) * LINE_HEIGHT + bool(headings) * MARGIN // 2
    sheet = Image.new("RGB", (width, top + sum(heights) + len(rows) * MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (line, bold) in enumerate(headings):
        pen.text((MARGIN, MARGIN + number * LINE_HEIGHT), line, fill="black", font=_font(bold))
    lefts = [labels_width + MARGIN + sum(widths[:column]) + column * MARGIN for column in range(count)]
    for row, lines, height in zip(rows, captions, heights, strict=True):
        _draw_label(pen, row, top, height, labels_width)
        for left, text in zip(lefts, row.headings, strict=False):
            pen.text((left, top), text, fill="black", font=_font(bold=True))
        for left, tile, caption in zip(lefts, row.tiles, lines, strict=False):
            _draw_tile(sheet, pen, (left, top + _headings_height(row)), tile, caption)
        top += height + MARGIN
    return sheet


def _width(row: Row, column: int) -> int:
    tile = row.tiles[column] if column < len(row.tiles) else None
    return tile.picture.shape[1] if tile else 0


def _height(row: Row, captions: Sequence[Sequence[str]]) -> int:
    tiles = max((tile.picture.shape[0] for tile in row.tiles if tile), default=0)
    below = max((len(lines) for lines in captions), default=0) * LINE_HEIGHT
    return max(_headings_height(row) + tiles + below, len(row.label.splitlines()) * LINE_HEIGHT)


def _headings_height(row: Row) -> int:
    return LINE_HEIGHT + 2 if row.headings else 0


def _caption(tile: Tile | None, width: int) -> list[str]:
    return _broken(tile.caption, width) if tile else []


def _labels_width(rows: Sequence[Row]) -> int:
    lines = [line for row in rows for line in row.label.splitlines()]
    text = max((round(_font(bold=True).getlength(line)) for line in lines), default=0)
    return text + 2 * MARGIN + _BAR_WIDTH if text else 0


def _draw_label(pen: ImageDraw.ImageDraw, row: Row, top: int, height: int, width: int) -> None:
    for number, line in enumerate(row.label.splitlines()):
        pen.text((MARGIN, top + number * LINE_HEIGHT), line, fill="black", font=_font(bold=number == 0))
    if row.colour is not None:
        pen.rectangle((width - _BAR_WIDTH, top, width - 1, top + height - 1), fill=to_hex(row.colour))


def _draw_tile(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, place: tuple[int, int], tile: Tile | None, caption: Sequence[str]
) -> None:
    if tile is None:
        return
    left, top = place
    sheet.paste(Image.fromarray(tile.picture), (left, top))
    for number, line in enumerate(caption):
        y = top + tile.picture.shape[0] + number * LINE_HEIGHT
        pen.text((left, y + 2), line, fill="black", font=_font(bold=False))


def _broken(text: str, width: int, bold: bool = False) -> list[str]:
    """Break lines between words so that each is ``width`` pixels at most; a longer word stays whole."""
    font = _font(bold)
    lines = []
    for paragraph in text.splitlines():
        words = paragraph.split(" ")
        line = words[0]
        for word in words[1:]:
            if font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}"
        lines.append(line)
    return lines


@lru_cache
def _font(bold: bool) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which has the letters of most languages and the signs of mathematics."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), FONT_SIZE)
