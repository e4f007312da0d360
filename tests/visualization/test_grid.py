"""Sheets of captioned pictures: what stands where."""

import numpy as np
import pytest

from mask2former_ext.visualization.grid import LINE_HEIGHT, MARGIN, Row, Tile, picture_grid

BLUE, GREEN = (10, 20, 200), (10, 200, 20)


def tile(colour, caption="", size=(40, 60)):
    return Tile(np.full((*size, 3), colour, dtype=np.uint8), caption)


def place_of(sheet, colour):
    """Top, left, height and width of the rectangle of a colour."""
    y, x = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    assert len(y) == (y.max() - y.min() + 1) * (x.max() - x.min() + 1)
    return y.min(), x.min(), y.max() - y.min() + 1, x.max() - x.min() + 1


def has_ink(sheet, top, left, height, width):
    return (np.asarray(sheet)[top : top + height, left : left + width] < 128).any()


def test_tiles_stand_beside_and_rows_below_each_other():
    sheet = picture_grid([Row([tile(BLUE), tile(GREEN, size=(20, 30))]), Row([None, tile((1, 1, 1), size=(10, 35))])])
    assert place_of(sheet, BLUE) == (MARGIN, MARGIN, 40, 60)
    assert place_of(sheet, GREEN) == (MARGIN, MARGIN + 60 + MARGIN, 20, 30)
    assert place_of(sheet, (1, 1, 1)) == (MARGIN + 40 + MARGIN, MARGIN + 60 + MARGIN, 10, 35)
    assert sheet.size == (60 + 35 + 3 * MARGIN, 40 + 10 + 3 * MARGIN)


def test_captions_are_broken_to_the_width_of_their_picture():
    plain = picture_grid([Row([tile(BLUE)])])
    one_line = picture_grid([Row([tile(BLUE, "mask")])])
    three_lines = picture_grid([Row([tile(BLUE, "mask mask\nthere")])])
    assert [sheet.height - plain.height for sheet in (one_line, three_lines)] == [LINE_HEIGHT, 3 * LINE_HEIGHT]
    below = (MARGIN + 40, MARGIN, LINE_HEIGHT, 60)
    assert has_ink(one_line, *below) and not has_ink(one_line, MARGIN + 40, MARGIN + 60, LINE_HEIGHT, MARGIN)
    assert has_ink(three_lines, MARGIN + 40 + 2 * LINE_HEIGHT, *below[1:])


@pytest.mark.parametrize("word", ["i", "m"])
def test_titles_are_broken_before_the_edge_of_the_sheet(word):
    words = " ".join([word] * 60)
    sheet = picture_grid([Row([tile(BLUE), tile(GREEN)])], title=words, legend=words)
    assert has_ink(sheet, 0, sheet.width - 5 * MARGIN, sheet.height, 3 * MARGIN)
    assert not has_ink(sheet, 0, sheet.width - MARGIN, sheet.height, MARGIN)


def test_labels_headings_and_bars_leave_the_pictures_free():
    row = Row([tile(BLUE), tile(GREEN)], label="query 3\nmask", colour=(1.0, 0.0, 0.0), headings=["raw", "after"])
    sheet = picture_grid([row], title="title", legend="legend")
    top, left, *size = place_of(sheet, BLUE)
    assert size == [40, 60]
    assert left > 2 * MARGIN and has_ink(sheet, top - LINE_HEIGHT, 0, 2 * LINE_HEIGHT, left - MARGIN)
    for x in (left, left + 60 + MARGIN):
        assert has_ink(sheet, top - LINE_HEIGHT, x, LINE_HEIGHT, 60)
    _, bar_left, bar_height, bar_width = place_of(sheet, (255, 0, 0))
    assert bar_left + bar_width <= left and bar_height >= 40
    assert has_ink(sheet, MARGIN, MARGIN, LINE_HEIGHT, 100)
    assert has_ink(sheet, MARGIN + LINE_HEIGHT, MARGIN, LINE_HEIGHT, 100)
