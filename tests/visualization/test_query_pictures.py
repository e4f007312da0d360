"""Pictures of queries: what is coloured, dark and written."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mask2former_ext.modeling.targets import Target
from mask2former_ext.structures import PackedBitMasks
from mask2former_ext.visualization.queries import QueryTrace
from mask2former_ext.visualization.query_pictures import (
    SHEET_WIDTH,
    attention_caption,
    describe_query,
    draw_queries,
    mask_caption,
    query_tiles,
)

NAMES = ["cat", "dog"]
BLUE = (0.0, 0.0, 1.0)
SIZE = (80, 120)


def logits_of(rows, columns):
    """8×12 logits, sure of the rectangle of these rows and columns."""
    logits = torch.full((8, 12), -20.0)
    logits[rows, columns] = 20.0
    return logits


@pytest.fixture
def trace():
    """One query, three predictions: of nothing, of the upper left quarter, of the left half, which is the truth.

    The image has 8×12 pixels; below are 2 rows of padding.
    """
    masks = [logits_of(slice(0), slice(0)), logits_of(slice(4), slice(6)), logits_of(slice(8), slice(6))]
    masks = [torch.cat([mask, torch.full((2, 12), -20.0)]) for mask in masks]
    logits = torch.tensor([[0.0, 0.0, 9.0], [3.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    truth = torch.zeros(2, 8, 12, dtype=torch.bool)
    truth[0, 0, 11] = True
    truth[1, :, :6] = True
    return QueryTrace(
        photo=np.full((10, 12, 3), 100, dtype=np.uint8),
        image_size=(8, 12),
        predictions=[
            {"pred_logits": own[None, None], "pred_masks": mask[None, None]}
            for own, mask in zip(logits, masks, strict=True)
        ],
        scale_sizes=[(5, 6), (10, 12)],
        target=Target(torch.tensor([0, 1]), PackedBitMasks.from_masks(truth), (10, 12), "image"),
        matches=[{0: 0}, {}, {0: 1}],
    )


def region(rows, columns):
    """Of 100×120 pixels the inner part of an area of the 10×12 photo."""
    mask = np.zeros((100, 120), dtype=bool)
    mask[10 * rows.start + 5 : 10 * rows.stop - 5, 10 * columns.start + 5 : 10 * columns.stop - 5] = True
    return mask


def is_blue(picture):
    return (picture[..., 2] > picture[..., 0] + 30) & (picture[..., 0] == picture[..., 1])


def is_white(picture):
    return (picture > 240).all(axis=2)


def test_masks_are_coloured_where_they_are(trace):
    trace = replace(trace, matches=[{}, {}, {}])
    masks, _ = query_tiles(trace, 0, NAMES, (100, 120), BLUE)
    for tile, inside in zip(masks, [None, (slice(0, 4), slice(0, 6)), (slice(0, 8), slice(0, 6))], strict=True):
        blue = is_blue(tile.picture)
        if inside is None:
            assert not blue.any()
            continue
        assert blue[region(*inside)].all()
        outside = np.ones((10, 12), dtype=bool)
        outside[inside[0].start : inside[0].stop + 1, inside[1].start : inside[1].stop + 1] = False
        assert not blue[np.kron(outside, np.ones((10, 10), dtype=bool))].any()
        assert not is_white(tile.picture).any()


def test_the_matched_object_has_a_white_line_around_it(trace):
    masks, _ = query_tiles(trace, 0, NAMES, (100, 120), BLUE)
    first, second, third = (is_white(tile.picture) for tile in masks)
    assert first.any() and not np.delete(first, np.s_[:11], axis=0)[:, :109].any() and not first[:, :105].any()
    assert not second.any()
    assert third[:78, :2].all() and third[:2, :58].all() and third[2:76, 56:60].any(axis=1).all()
    assert not third[:, 62:].any() and not third[82:].any() and not third[region(slice(0, 8), slice(0, 6))].any()


def test_attention_is_dark_where_it_is_blocked_in_cells_of_the_scale(trace):
    _, attention = query_tiles(trace, 0, NAMES, (100, 120), BLUE)
    everywhere, quarter = (tile.picture[:80] for tile in attention)
    assert is_blue(everywhere).all()
    expected = np.zeros((80, 120), dtype=bool)
    expected[:40, :60] = True
    assert (is_blue(quarter) == expected).all()
    assert (quarter[~expected] < 50).all()


def test_padding_has_black_stripes_and_the_image_none(trace):
    masks, attention = query_tiles(trace, 0, NAMES, (100, 120), BLUE)
    black = (masks[1].picture < 30).all(axis=2)
    assert 0.3 < black[80:].mean() < 0.5 and not black[:80].any()
    assert 0.3 < (attention[0].picture[80:] < 40).all(axis=2).mean() < 0.5


def test_captions(trace):
    masks, attention = query_tiles(trace, 0, NAMES, SIZE, BLUE)
    assert [tile.caption for tile in masks] == [
        "no object 100%, cat 0%\nIoU 0.00 with 0 cat",
        "cat 91%\nnot matched",
        "dog 100%\nIoU 1.00 with 1 dog",
    ]
    assert [tile.caption for tile in attention] == ["6×5 (1/2)\nopen: all (mask empty)", "12×10 (1/1)\nopen: 20%"]
    without = replace(trace, target=None, matches=[{}, {}, {}])
    assert mask_caption(without, without.steps(0)[1], NAMES) == "cat 91%"
    assert attention_caption(without, without.steps(0)[1]) == "12×10 (1/1)\nopen: 20%"
    assert describe_query(without, 0, NAMES) == "query 0: no object 100%, cat 0% | cat 91% | dog 100%"


def test_a_sheet_has_a_row_in_the_order_of_computation_or_two(trace):
    few = draw_queries(trace, [0], NAMES, title="title")
    assert few.width > 5 * 300
    many = replace(
        trace,
        predictions=trace.predictions[:1] * 10,
        scale_sizes=[(5, 6)] * 9,
        matches=[{}] * 10,
    )
    one, two = draw_queries(many, [0], NAMES), draw_queries(many, [0, 0], NAMES)
    assert SHEET_WIDTH < one.width == two.width < 1.3 * SHEET_WIDTH
    tile_height = round(SHEET_WIDTH / 10 * 10 / 12)
    assert two.height - one.height > 2 * tile_height
    taller = draw_queries(trace, [0, 0], NAMES)
    assert 250 < taller.height - few.height < 400
