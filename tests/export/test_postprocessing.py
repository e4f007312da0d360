"""Batched post-processing against the rules that the model itself runs, image by image."""

import pytest
import torch

from mask2former_ext.export.postprocessing import (
    best_pairs,
    instances,
    panoptic_segments,
    select_queries,
    semantic_scores,
)
from mask2former_ext.modeling.inference import instance_inference, panoptic_inference, semantic_inference

QUERIES, CLASSES, HEIGHT, WIDTH = 12, 4, 37, 29
THINGS = (0, 2)


@pytest.fixture
def batch():
    """Class logits 3×Q×(K+1) and mask logits 3×Q×H×W of soft ellipses; the last image is nothing but no-object."""
    generator = torch.Generator().manual_seed(3)
    classes = torch.randn(3, QUERIES, CLASSES + 1, generator=generator) * 2
    classes[2, :, CLASSES] = 50
    centers = torch.rand(3, QUERIES, 2, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1, WIDTH), indexing="ij")
    distance = (y - centers[:, :, 0]) ** 2 + (x - centers[:, :, 1]) ** 2
    masks = 3 - 60 * distance
    masks[0, 4] = -5.0  # an empty mask
    return classes, masks


def test_semantic_scores(batch):
    expected = torch.stack([semantic_inference(*image) for image in zip(*batch, strict=True)])
    torch.testing.assert_close(semantic_scores(*batch), expected)


@pytest.mark.parametrize("max_detections", [7, 100])
def test_instances(batch, max_detections):
    classes, masks = batch
    scores, queries, labels = best_pairs(classes, max_detections)
    found_masks, mask_scores, boxes = instances(select_queries(masks, queries))
    assert scores.shape == (3, min(max_detections, QUERIES * CLASSES))
    for index in range(3):
        expected = instance_inference(classes[index], masks[index], max_detections=max_detections)
        found = scores[index] * mask_scores[index]
        # the rule's rows come in no order: both are put into that of scores, and of boxes where these are the same
        ours = sorted(range(len(found)), key=lambda i: (-found[i].item(), boxes[index, i].tolist()))
        theirs = sorted(
            range(len(found)), key=lambda i: (-expected.scores[i].item(), expected.pred_boxes.tensor[i].tolist())
        )
        torch.testing.assert_close(found[ours], expected.scores[theirs])
        assert labels[index][ours].equal(expected.pred_classes[theirs])
        assert found_masks[index][ours].equal(expected.pred_masks[theirs])
        assert boxes[index][ours].equal(expected.pred_boxes.tensor[theirs])


@pytest.mark.parametrize("object_threshold, overlap_threshold", [(0.0, 0.0), (0.5, 0.0), (0.3, 0.6), (0.0, 0.95)])
def test_panoptic_segments(batch, object_threshold, overlap_threshold):
    thresholds = {"object_mask_threshold": object_threshold, "overlap_threshold": overlap_threshold}
    is_thing = torch.zeros(CLASSES, dtype=torch.bool)
    is_thing[list(THINGS)] = True
    found = panoptic_segments(*batch, is_thing, **thresholds)
    for index, (classes, masks) in enumerate(zip(*batch, strict=True)):
        segmentation, segments = panoptic_inference(classes, masks, thing_classes=THINGS, **thresholds)
        assert found["panoptic_seg"][index].equal(segmentation)
        count = len(segments)
        assert found["segment_valid"][index].tolist() == [True] * count + [False] * (QUERIES - count)
        categories = [segment["category_id"] for segment in segments]
        assert found["segment_classes"][index].tolist() == categories + [-1] * (QUERIES - count)
        queries = found["segment_queries"][index]
        assert queries[count:].eq(-1).all() and queries[:count].diff().gt(0).all()
        best = classes.softmax(-1).max(-1)
        torch.testing.assert_close(found["segment_scores"][index, :count], best.values[queries[:count]])
        assert best.indices[queries[:count]].tolist() == categories
        assert found["segment_scores"][index, count:].eq(0).all()


def test_stuff_is_merged_and_things_are_not():
    """Four queries of a quarter each: two of stuff class 1, two of thing class 0."""
    labels = [1, 0, 1, 0]
    classes = torch.full((1, 4, 3), -9.0)
    for query, label in enumerate(labels):
        classes[0, query, label] = 9
    masks = torch.full((1, 4, 2, 2), -9.0)
    for query in range(4):
        masks[0, query].view(-1)[query] = 9
    found = panoptic_segments(
        classes, masks, torch.tensor([True, False]), object_mask_threshold=0.5, overlap_threshold=0.5
    )
    assert found["panoptic_seg"].tolist() == [[[1, 2], [1, 3]]]
    assert found["segment_classes"].tolist() == [[1, 0, 0, -1]]
    assert found["segment_queries"].tolist() == [[0, 1, 3, -1]]
    assert found["segment_valid"].tolist() == [[True, True, True, False]]
