"""Semantic, panoptic and instance rules on maps small enough to see through."""

import pytest
import torch

from mask2former_ext.modeling.inference import instance_inference, panoptic_inference, run_rules, semantic_inference
from mask2former_ext.modeling.inference_rules import SemanticRule, masks_to_boxes

FULL = 20.0
THING, OTHER_THING, STUFF, NO_OBJECT = 0, 1, 2, 3


def class_logits(*rows):
    """A row (class, probability) each; what is left goes to no-object, or to class 0 for a no-object row."""
    probabilities = torch.full((len(rows), 4), 1e-9)
    for row, (label, probability) in zip(probabilities, rows, strict=True):
        row[label] = probability
        row[NO_OBJECT if label != NO_OBJECT else THING] += 1 - probability
    return probabilities.log()


def mask_logits(*drawings, value=FULL):
    """Drawings like "##.. #..." with a row each word; '#' is inside, '-' is inside by a hair."""
    levels = {"#": value, ".": -value, "-": 0.4}
    return torch.tensor([[[levels[c] for c in row] for row in drawing.split()] for drawing in drawings])


def panoptic(classes, masks, object_mask_threshold=0.5, overlap_threshold=0.5):
    return panoptic_inference(
        classes,
        masks,
        thing_classes=[THING, OTHER_THING],
        object_mask_threshold=object_mask_threshold,
        overlap_threshold=overlap_threshold,
    )


def test_semantic_scores_sum_class_times_mask_probability():
    classes = class_logits((THING, 0.75), (STUFF, 0.5))
    masks = torch.tensor([[[0.0, FULL]], [[FULL, FULL]]])
    expected = torch.tensor([[[0.375, 0.75]], [[0.0, 0.0]], [[0.5, 0.5]]])
    torch.testing.assert_close(semantic_inference(classes, masks), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 7, 20])
@pytest.mark.parametrize("chunk_size", [1, 2, 4, 7])
def test_semantic_scores_are_those_of_any_number_of_masks_at_once(chunk_size, at_once):
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(7, 4, generator=generator, dtype=torch.float64).requires_grad_()
    masks = torch.randn(7, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    expected = torch.einsum("qk,qhw->khw", classes.softmax(-1)[:, :-1], masks.sigmoid())
    (scores,) = run_rules([SemanticRule(classes, (2, 3), at_once)], masks, lambda logits: logits, chunk_size)
    torch.testing.assert_close(scores, expected)
    weights = torch.randn(scores.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((result * weights).sum(), (classes, masks)) for result in (scores, expected)]
    torch.testing.assert_close(*gradients)


def test_no_queries_give_scores_of_zero():
    assert torch.equal(semantic_inference(torch.zeros(0, 4), torch.zeros(0, 2, 3)), torch.zeros(3, 2, 3))


def test_panoptic_gives_each_pixel_to_the_surest_segment():
    segmentation, segments = panoptic(
        class_logits((THING, 0.9), (OTHER_THING, 0.7)), mask_logits("###. ....", "..## ..##")
    )
    assert segmentation.dtype == torch.int32
    assert segmentation.tolist() == [[1, 1, 1, 2], [0, 0, 2, 2]]
    assert segments == [
        {"id": 1, "isthing": True, "category_id": THING},
        {"id": 2, "isthing": True, "category_id": OTHER_THING},
    ]


def test_stuff_of_one_class_is_one_segment_and_things_stay_apart():
    classes = class_logits((STUFF, 0.9), (THING, 0.9), (THING, 0.8), (STUFF, 0.8))
    segmentation, segments = panoptic(classes, mask_logits("#...", ".#..", "..#.", "...#"))
    assert segmentation.tolist() == [[1, 2, 3, 1]]
    assert [s["category_id"] for s in segments] == [STUFF, THING, THING]
    assert [s["id"] for s in segments] == [1, 2, 3]


def test_queries_that_are_unsure_or_no_object_are_dropped():
    classes = class_logits((THING, 0.5), (NO_OBJECT, 0.9), (THING, 0.51))
    segmentation, segments = panoptic(classes, mask_logits("#...", ".#..", "..##"), object_mask_threshold=0.505)
    assert segmentation.tolist() == [[0, 0, 1, 1]] and len(segments) == 1


@pytest.mark.parametrize(("threshold", "kept"), [(0.25, 2), (0.26, 1)])
def test_a_segment_mostly_covered_by_others_is_dropped(threshold, kept):
    classes = class_logits((THING, 0.9), (OTHER_THING, 0.8))
    masks = mask_logits("###.", "####")  # the second keeps one of its four pixels
    segmentation, segments = panoptic(classes, masks, overlap_threshold=threshold)
    assert len(segments) == kept
    assert segmentation.tolist() == [[1, 1, 1, 2 if kept == 2 else 0]]


def test_only_pixels_inside_the_own_mask_are_written():
    # the last pixel belongs to the query by argmax, at a mask probability below one half
    segmentation, segments = panoptic(class_logits((THING, 0.9)), mask_logits("##-."))
    assert segmentation.tolist() == [[1, 1, 1, 0]] and len(segments) == 1


def test_a_mask_without_any_pixel_makes_no_segment():
    segmentation, segments = panoptic(class_logits((THING, 0.9), (STUFF, 0.9)), mask_logits("....", "##.."))
    assert segmentation.tolist() == [[1, 1, 0, 0]]
    assert segments == [{"id": 1, "isthing": False, "category_id": STUFF}]


def test_panoptic_of_nothing():
    segmentation, segments = panoptic(class_logits((NO_OBJECT, 0.9)), mask_logits("##.. ...."))
    assert segmentation.dtype == torch.int32 and segmentation.shape == (2, 4)
    assert not segmentation.any() and segments == []


def test_instances_have_masks_scores_classes_and_tight_boxes():
    classes = class_logits((THING, 0.9), (OTHER_THING, 0.6))
    masks = mask_logits(".... .##. .#..", "...# .... ....")
    found = instance_inference(classes, masks, max_detections=2)
    order = found.scores.argsort(descending=True)
    assert found.pred_classes[order].tolist() == [THING, OTHER_THING]
    assert found.scores[order].tolist() == pytest.approx([0.9, 0.6], abs=1e-3)
    assert found.pred_boxes.tensor[order].tolist() == [[1, 1, 3, 3], [3, 0, 4, 1]]
    assert found.pred_masks.dtype == torch.bool
    assert torch.equal(found.pred_masks[order], masks > 0)


def test_instance_score_is_class_times_mean_mask_probability_inside():
    found = instance_inference(class_logits((THING, 0.8)), torch.tensor([[[0.0, 1.0, 3.0]]]), max_detections=1)
    inside = torch.tensor([1.0, 3.0]).sigmoid().mean().item()  # a logit of zero is outside
    assert found.scores.item() == pytest.approx(0.8 * inside, rel=1e-5)


def test_one_query_may_give_several_instances_and_never_more_than_there_are():
    found = instance_inference(class_logits((THING, 0.6)), mask_logits("##.."), max_detections=100)
    assert sorted(found.pred_classes.tolist()) == [THING, OTHER_THING, STUFF]


def test_instances_of_things_only():
    classes = class_logits((STUFF, 0.9), (THING, 0.3))
    found = instance_inference(classes, mask_logits("##..", "..##"), max_detections=2, thing_classes=[THING])
    assert found.pred_classes.tolist() == [THING]
    assert len(instance_inference(classes, mask_logits("##..", "..##"), max_detections=1, thing_classes=[THING])) == 0


def test_boxes_of_empty_masks_and_of_no_masks():
    assert masks_to_boxes(torch.zeros(2, 3, 4, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]] * 2
    assert masks_to_boxes(torch.zeros(0, 3, 4, dtype=torch.bool)).shape == (0, 4)
    assert masks_to_boxes(torch.ones(1, 3, 4, dtype=torch.bool)).tolist() == [[0, 0, 4, 3]]
