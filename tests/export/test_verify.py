"""Comparison of outputs, by hand."""

import math

import pytest
import torch

from mask2former_ext.export.verify import compare, verification_images, verification_sizes, verify


def test_numbers_are_compared_by_the_largest():
    expected = {"pred_logits": torch.tensor([[-4.0, 1.0]])}
    assert compare(expected, {"pred_logits": torch.tensor([[-4.0, 1.5]])}) == {"pred_logits": 0.125}
    assert compare(expected, {"pred_logits": torch.tensor([[-4.0, math.nan]])}) == {"pred_logits": math.inf}
    assert compare(expected, {"pred_logits": torch.tensor([[-4.0]])}) == {"pred_logits": math.inf}
    assert compare(expected, {"pred_logits": expected["pred_logits"].double()}) == {"pred_logits": math.inf}
    broken = {"pred_logits": torch.tensor([[-4.0, math.nan]])}  # a share of NaN would be below any tolerance
    assert compare(broken, expected) == {"pred_logits": math.inf}
    with pytest.raises(ValueError, match="has no output 'pred_logits', only \\['x'\\]"):
        compare(expected, {"x": torch.zeros(1)})


def instances_of(queries, classes, scores, masks):
    return {
        "instance_scores": torch.tensor([scores]),
        "instance_classes": torch.tensor([classes]),
        "instance_queries": torch.tensor([queries]),
        "instance_masks": torch.tensor([masks]),
    }


def test_instances_are_compared_whatever_their_order():
    expected = instances_of([5, 5, 2], [0, 1, 1], [0.8, 0.5, 0.4], [[True, True], [True, False], [False, False]])
    found = instances_of([5, 2, 5], [0, 1, 1], [0.8, 0.4, 0.5], [[True, True], [False, False], [True, False]])
    assert set(compare(expected, found).values()) == {0.0}
    other_masks = {**found, "instance_masks": torch.tensor([[[True, True], [False, True], [True, False]]])}
    assert compare(expected, other_masks)["instance_masks"] == pytest.approx(1 / 6)
    missing = compare(expected, {**found, "instance_queries": torch.tensor([[5, 3, 5]])})
    assert missing["instance_queries"] == missing["instance_classes"] == pytest.approx(1 / 3)
    assert missing["instance_masks"] == missing["instance_scores"] == 0


def test_segments_are_compared_whatever_their_ids():
    expected = {
        "panoptic_seg": torch.tensor([[[0, 1, 2, 2]]], dtype=torch.int32),
        "segment_queries": torch.tensor([[3, 7, -1]]),
        "segment_classes": torch.tensor([[1, 0, -1]]),
    }
    found = {
        "panoptic_seg": torch.tensor([[[0, 2, 1, 1]]], dtype=torch.int32),
        "segment_queries": torch.tensor([[7, 3, -1]]),
        "segment_classes": torch.tensor([[0, 1, -1]]),
    }
    assert set(compare(expected, found).values()) == {0.0}
    found["panoptic_seg"] = torch.tensor([[[2, 2, 1, 1]]], dtype=torch.int32)
    assert compare(expected, found)["panoptic_seg"] == 0.25


def test_sizes_and_images():
    sizes = verification_sizes((2, 128, 160), 32, static=False)
    assert sizes[0] == (2, 128, 160) and len(set(sizes)) == 4
    assert {size[0] for size in sizes} == {1, 2}
    assert any(size[1] % 32 and size[2] % 32 for size in sizes)
    assert all(min(size[1:]) > 32 for size in verification_sizes((2, 64, 64), 32, static=False))
    assert verification_sizes((1, 128, 160), 32, static=True) == [(1, 128, 160)]
    images = verification_images((2, 20, 30), 4)
    assert images.shape == (2, 4, 20, 30) and images.equal(verification_images((2, 20, 30), 4))
    assert 0 <= images.min() < 60 and 190 < images.max() <= 255


def test_what_does_not_run_is_said():
    def run(images):
        raise RuntimeError("Sizes of\n  tensors must match")

    with pytest.raises(ValueError, match=r"does not run at 1×8×9 .*: Sizes of tensors must match. .*--static"):
        verify(run, torch.nn.Identity(), [(1, 8, 9)], torch.zeros(1, 3, 1, 1))
