"""Geometry of views, matching of queries and averaging, on numbers that can be followed by hand."""

import pytest
import torch

from mask2former_ext.modeling.view_merging import Frame, ViewMerger, match_queries, resample_masks, soft_dice

PLAIN, FLIPPED = Frame((8, 16), (8, 16)), Frame((8, 16), (8, 16), flipped=True)


def logits_of(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float32).log()


def test_resampling_onto_the_same_grid_changes_nothing():
    masks = torch.randn(2, 2, 4)
    assert resample_masks(masks, PLAIN, PLAIN, (2, 4)) is masks


def test_resampling_undoes_flips():
    masks = torch.randn(2, 2, 4)
    torch.testing.assert_close(resample_masks(masks, FLIPPED, PLAIN, (2, 4)), masks.flip(-1))
    torch.testing.assert_close(resample_masks(masks, PLAIN, FLIPPED, (2, 4)), masks.flip(-1))


def test_flips_are_about_the_image_and_not_the_padding():
    # columns of 4 pixels, the image 12 wide of 16: padding is on the right of both views
    masks = torch.tensor([[[1.0, 2.0, 3.0, 90.0]]])
    flipped, plain = Frame((4, 12), (4, 16), True), Frame((4, 12), (4, 16))
    torch.testing.assert_close(
        resample_masks(masks, flipped, plain, (1, 4)), torch.tensor([[[3.0, 2.0, 1.0, 1.0]]]), atol=1e-4, rtol=0
    )
    # and 14 wide: the middle of the first column, pixel 2, is at pixel 12, in between columns 2 and 3 (10 and 14)
    odd = resample_masks(masks, flipped._replace(image_size=(4, 14)), plain._replace(image_size=(4, 14)), (1, 4))
    assert odd[0, 0, 0].item() == pytest.approx(0.5 * (3 + 90), abs=1e-3)


def test_resampling_between_sizes_and_paddings():
    """A ramp along the image stays that ramp, whatever the view's size and padding."""

    def ramp(frame, size):
        """The position of each column's middle, as a share of the image's width."""
        columns = (torch.arange(size[1]) + 0.5) * frame.padded_size[1] / size[1] / frame.image_size[1]
        return columns.expand(1, *size)

    large, small = Frame((40, 60), (64, 64)), Frame((20, 30), (32, 32))
    found = resample_masks(ramp(large, (16, 16)), large, small, (8, 8))
    torch.testing.assert_close(found, ramp(small, (8, 8)))
    enlarged = resample_masks(ramp(small, (8, 8)), small, large, (16, 16))
    torch.testing.assert_close(enlarged[..., 1:-1], ramp(large, (16, 16))[..., 1:-1])  # borders are repeated


def test_soft_dice():
    masks = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[1.0, 2 * 1 / 3, 0.0], [2 / 3, 1.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(soft_dice(masks, masks), expected)


def test_matching_recovers_the_order(seeded_blobs):
    class_logits, mask_logits = seeded_blobs(0, queries=12, height=8, width=8, classes=4, confident=0.5)
    masks = mask_logits.sigmoid().flatten(1)
    order = torch.randperm(12)
    index, same = match_queries(class_logits, masks, class_logits[order], masks[order])
    assert order[index].tolist() == list(range(12))
    assert same.all()


def test_an_object_goes_before_its_suppressed_double():
    """Queries with the very same mask, of which one has the class in each view, and the others are no-object."""
    masks = torch.tensor([[0.9, 0.9, 0.1, 0.1]]).repeat(2, 1)
    is_object, no_object = [0.9, 0.1], [0.05, 0.95]
    index, same = match_queries(logits_of(is_object, no_object), masks, logits_of(no_object, is_object), masks)
    assert index.tolist() == [1, 0]
    assert same.tolist() == [True, True]


def merge(*views, **kwargs):
    first, *others = views
    merger = ViewMerger(*first, **kwargs)
    for view in others:
        merger.add(*view)
    class_logits, mask_logits, frame = merger.merged()
    assert frame == first[2]._replace(flipped=False)
    return class_logits.softmax(-1), mask_logits


def test_means_of_probabilities():
    """Two queries, two views, the second mirrored and in the other order."""
    left = torch.tensor([[0.8, 0.8, 0.2, 0.4], [0.1, 0.1, 0.9, 0.9]]).view(2, 1, 4)
    right = torch.tensor([[0.7, 0.7, 0.3, 0.1], [0.2, 0.4, 0.6, 0.8]]).view(2, 1, 4)
    frames = Frame((4, 16), (4, 16)), Frame((4, 16), (4, 16), True)
    first = (logits_of([0.7, 0.2, 0.1], [0.1, 0.5, 0.4]), left.logit(), frames[0])
    second = (logits_of([0.2, 0.3, 0.5], [0.9, 0.05, 0.05]), right.logit(), frames[1])
    classes, masks = merge(first, second)
    torch.testing.assert_close(classes, torch.tensor([[0.8, 0.125, 0.075], [0.15, 0.4, 0.45]]))
    expected = torch.tensor([[0.8, 0.7, 0.3, 0.3], [0.1, 0.2, 0.8, 0.8]]).view(2, 1, 4)
    torch.testing.assert_close(masks.sigmoid(), expected)


def test_views_that_do_not_show_the_segment_have_no_say():
    frame = Frame((4, 16), (4, 16))
    left, right = torch.tensor([[[9.0, 9.0, -9.0, -9.0]]]), torch.tensor([[[-9.0, -9.0, 9.0, 9.0]]])
    views = [(logits_of([0.6, 0.4]), left, frame), (logits_of([0.1, 0.9]), right, frame)]
    classes, masks = merge(*views)
    torch.testing.assert_close(classes, torch.tensor([[0.6, 0.4]]))
    torch.testing.assert_close(masks, left)
    # the same mask as no-object does have one
    classes, _ = merge(*views, (logits_of([0.2, 0.8]), left, frame))
    torch.testing.assert_close(classes, torch.tensor([[0.4, 0.6]]))


def test_what_masks_are_in_the_padding_does_not_matter():
    """Two instances of a class; the other view has them in the other order, and its padding says the opposite."""
    frame = Frame((4, 16), (4, 48))
    image = torch.tensor([[[9.0, 9.0, -9.0, -9.0]], [[-9.0, -9.0, 9.0, 9.0]]])
    padding = torch.tensor([-9.0, 9.0])[:, None, None].expand(2, 1, 8)
    classes = logits_of([0.6, 0.4], [0.6, 0.4])
    first, second = (
        (classes, torch.cat([image, padding], 2), frame),
        (classes, torch.cat([image.flip(0), padding], 2), frame),
    )
    _, masks = merge(first, second)
    torch.testing.assert_close(masks[..., :4], image)


def test_instances_of_a_class_are_told_apart_by_their_masks():
    masks = torch.tensor([[0.9, 0.8, 0.1], [0.1, 0.2, 0.9]])
    classes = logits_of([0.7, 0.3], [0.7, 0.3])
    index, same = match_queries(classes, masks, classes, masks.flip(0))
    assert index.tolist() == [1, 0]
    assert same.all()


def test_equal_views_give_the_logits_back_however_large():
    frame = Frame((4, 16), (4, 16))
    masks = torch.tensor([[[-300.0, -20.0, 17.0, 250.0]], [[40.0, 1.5, -0.5, -35.0]]])
    class_logits = torch.tensor([[50.0, 1.0, -3.0], [0.5, 0.0, 30.0]])
    view = (class_logits, masks, frame)
    classes, merged = merge(view, view, view)
    torch.testing.assert_close(classes, class_logits.softmax(-1))
    torch.testing.assert_close(merged, masks)


def test_order_of_other_views_does_not_matter(seeded_blobs):
    frames = Frame((16, 24), (32, 32)), Frame((16, 24), (32, 32), True), Frame((32, 48), (32, 64))
    sizes = (8, 8), (8, 8), (8, 16)
    first, *others = (
        (*seeded_blobs(seed, 6, *size, classes=3), frame) for seed, (size, frame) in enumerate(zip(sizes, frames))
    )
    one, other = merge(first, *others, enlarge=2.0), merge(first, *reversed(others), enlarge=2.0)
    assert one[1].shape == (6, 16, 16)
    torch.testing.assert_close(one, other)


def test_no_finer_than_the_image():
    frame = Frame((5, 8), (6, 8))
    view = (torch.zeros(1, 2), torch.zeros(1, 3, 4), frame)
    assert merge(view, view, enlarge=9.0)[1].shape == (1, 6, 8)


def test_half_precision_predictions():
    frame = Frame((4, 16), (4, 16))
    view = (torch.randn(3, 4).bfloat16(), 9 * torch.randn(3, 1, 4).bfloat16(), frame)
    classes, masks = merge(view, view)
    assert classes.dtype == masks.dtype == torch.float32
    torch.testing.assert_close(masks, view[1].float())
