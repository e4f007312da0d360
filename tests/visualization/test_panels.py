import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from mask2former_ext.visualization import (
    Segment,
    draw_segments,
    segments_from_instances,
    segments_from_panoptic,
    side_by_side,
)

NAMES = ["coin", "background"]


def square(top, left, side=8, size=(24, 36)):
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.fixture
def photo():
    return np.full((24, 36, 3), 128, dtype=np.uint8)


def colour_at(picture, y, x):
    return tuple(picture[y, x].tolist())


def test_picture_is_enlarged_and_only_segments_are_coloured(photo):
    picture = draw_segments(photo, [Segment(square(2, 2), "")], scale=3)
    assert picture.shape == (72, 108, 3)
    red, green, blue = colour_at(picture, 3 * 6, 3 * 6)
    assert max(red, green, blue) - min(red, green, blue) > 50
    assert colour_at(picture, 3 * 20, 3 * 30) == (128, 128, 128)


def test_things_get_colours_of_the_things_they_cover(photo):
    first, second = Segment(square(2, 2), ""), Segment(square(2, 20), "")
    truth = draw_segments(photo, [first, second])
    result = draw_segments(photo, [Segment(square(3, 20), ""), Segment(square(3, 2), "")], like=[first, second])
    left, right = (18, 15), (18, 69)
    assert colour_at(truth, *left) != colour_at(truth, *right)
    assert len(set(colour_at(truth, *right))) > 1  # not the grey of things without counterpart
    assert colour_at(result, *left) == colour_at(truth, *left)
    assert colour_at(result, *right) == colour_at(truth, *right)


def test_thing_that_covers_nothing_true_is_whitened(photo):
    picture = draw_segments(photo, [Segment(square(14, 25), "")], like=[Segment(square(2, 2), "")])
    red, green, blue = colour_at(picture, 3 * 18, 3 * 29)
    assert red == green == blue > 150


def test_stuff_is_muted_and_empty_segments_draw_nothing(photo):
    everywhere = Segment(np.ones((24, 36), dtype=bool), "background", is_thing=False)
    nowhere = Segment(np.zeros((24, 36), dtype=bool), "background", is_thing=False)
    assert (draw_segments(photo, [nowhere]) == 128).all()
    muted = draw_segments(photo, [everywhere])[10:-10, 10:-10]
    assert (muted < 128).all()


def test_segments_from_panoptic():
    panoptic_seg = torch.zeros(4, 6, dtype=torch.int32)
    panoptic_seg[:, 3:] = 7
    panoptic_seg[0, 0] = 9
    info = [{"id": 9, "category_id": 0, "isthing": True}, {"id": 7, "category_id": 1, "isthing": False}]
    thing, stuff = segments_from_panoptic(panoptic_seg, info, NAMES)
    assert (thing.label, thing.is_thing, thing.mask.sum()) == ("coin", True, 1)
    assert (stuff.label, stuff.is_thing, stuff.mask.sum()) == ("background", False, 12)


def test_segments_from_instances_drops_unsure_ones_and_sorts():
    instances = Instances((4, 6))
    instances.pred_masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    instances.pred_masks[1, 0, 0] = True
    instances.pred_classes = torch.tensor([0, 0, 0])
    instances.scores = torch.tensor([0.6, 0.93, 0.49])
    segments = segments_from_instances(instances, NAMES)
    assert [segment.label for segment in segments] == ["coin 93%", "coin 60%"]
    assert [segment.mask.sum() for segment in segments] == [1, 0]
    instances.scores = torch.tensor([0.5, 0.25, 0.5])
    assert len(segments_from_instances(instances, NAMES)) == 2  # those at the limit stay


def test_segments_from_no_instances():
    instances = Instances((4, 6), pred_masks=torch.zeros(0, 4, 6), pred_classes=torch.zeros(0), scores=torch.zeros(0))
    assert segments_from_instances(instances, NAMES) == []


@pytest.mark.parametrize("size", [(100, 400), (400, 100)])
def test_panels_stand_beside_the_longer_side(size):
    height, width = size
    panels = [(name, np.full((height, width, 3), grey, dtype=np.uint8)) for name, grey in (("one", 10), ("two", 20))]
    sheet = np.asarray(side_by_side(panels))
    stacked, beside = sheet.shape[0] > 2 * height, sheet.shape[1] > 2 * width
    assert (stacked, beside) == (width > height, height > width)
    for grey in (10, 20):
        assert (sheet == grey).all(axis=2).sum() >= height * width


def test_stuff_with_a_colour_is_drawn_in_it_with_its_label(photo):
    mask = np.ones((24, 36), dtype=bool)
    mask[:, 18:] = False
    picture = draw_segments(photo, [Segment(mask, "background", False, (1.0, 0.0, 0.0))], scale=8)
    red, green, blue = colour_at(picture, 20, 20)
    assert red > 170 and green == blue < 90
    assert colour_at(picture, 20, 8 * 30) == (128, 128, 128)
    y, x = np.nonzero((picture < 60).all(axis=2))  # the label's box
    assert len(y) > 100 and 84 < y.mean() < 120 and 62 < x.mean() < 82


@pytest.mark.parametrize("place", [(0, 0), (0, 120), (90, 0), (90, 120)])
def test_labels_at_the_edge_of_the_picture_are_whole(place):
    photo = np.full((100, 130, 3), 128, dtype=np.uint8)

    def area_of_label(top, left):
        segment = square(top, left, side=10, size=(100, 130))
        plain, labelled = (draw_segments(photo, [Segment(segment, text)], scale=2) for text in ("", "coin"))
        return (plain != labelled).any(axis=2).sum()

    assert area_of_label(*place) > 0.9 * area_of_label(45, 60)
