"""The straightforward way itself, by hand, and what it finds different."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from mask2former_ext.benchmark import straightforward
from mask2former_ext.benchmark.straightforward import Settings, differences
from mask2former_ext.ops import MSDeformAttn

SURE = 20.0
SETTINGS = Settings(
    semantic_on=True,
    panoptic_on=True,
    instance_on=True,
    thing_classes={0},
    object_mask_threshold=0.5,
    overlap_threshold=0.5,
    max_detections=3,
    resize_masks_first=True,
)
SIZES = ((2, 4), (2, 4), (2, 4))


def classes(*labels):
    """Sure of these of two classes; 2 is no-object."""
    return nn.functional.one_hot(torch.tensor(labels), 3).float() * SURE


def masks(*drawings):
    """A drawing is rows of # (inside, logit 20), + (just inside, 1) and . (outside, -20)."""
    values = {"#": SURE, "+": 1.0, ".": -SURE}
    return torch.tensor([[[values[pixel] for pixel in row] for row in drawing] for drawing in drawings])


def test_panoptic_by_hand():
    class_logits = classes(0, 1, 1, 2, 0)
    mask_logits = masks(
        ["##..", "##.."],  # a thing
        ["..#.", "...."],  # stuff
        ["...#", "...."],  # the same stuff
        ["....", "####"],  # no object
        ["+...", "+..."],  # a thing that the first covers
    )
    ids, segments = straightforward.infer_image(class_logits, mask_logits, *SIZES, SETTINGS)["panoptic_seg"]
    assert ids.tolist() == [[1, 1, 2, 2], [1, 1, 0, 0]] and ids.dtype == torch.int32
    assert segments == [
        {"id": 1, "isthing": True, "category_id": 0},
        {"id": 2, "isthing": False, "category_id": 1},
    ]


def test_semantic_and_instances_by_hand():
    class_logits = classes(0, 1)
    mask_logits = masks(["##..", "##.."], ["...+", "...."])
    result = straightforward.infer_image(class_logits, mask_logits, *SIZES, SETTINGS)
    inside = torch.sigmoid(torch.tensor(1.0)).item()
    torch.testing.assert_close(result["sem_seg"][0], torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0]]), atol=1e-6, rtol=0)
    assert result["sem_seg"][1, 0, 3].item() == pytest.approx(inside, abs=1e-6)
    instances = result["instances"]  # of the three best pairs those of things: one sure, and one that is not
    best = instances.scores.argmax()
    assert instances.pred_classes.tolist() == [0] * len(instances)
    assert instances.scores[best].item() == pytest.approx(1.0, abs=1e-5)
    assert instances.pred_boxes.tensor[best].tolist() == [0, 0, 2, 2]
    every = straightforward.infer_image(class_logits, mask_logits, *SIZES, replace(SETTINGS, panoptic_on=False))
    second = every["instances"].scores.argsort(descending=True)[1]
    assert every["instances"].pred_classes[second] == 1
    assert every["instances"].scores[second].item() == pytest.approx(inside, abs=1e-5)
    assert every["instances"].pred_boxes.tensor[second].tolist() == [3, 0, 4, 1]


def test_padding_is_cut_off():
    mask_logits = masks(["##..", "...."])
    settings = replace(SETTINGS, panoptic_on=False, instance_on=False)
    for first in (True, False):
        changed = replace(settings, resize_masks_first=first)
        scores = straightforward.infer_image(classes(0), mask_logits, (2, 4), (2, 2), (4, 4), changed)["sem_seg"]
        assert scores.shape == (2, 4, 4)
        assert scores[0, 0].min() > 0.99 and scores[0, 3].max() < 0.01


def results():
    mask_logits = masks(["##..", "##.."], ["..#.", "...."])
    return straightforward.infer_image(classes(0, 1), mask_logits, *SIZES, SETTINGS)


def test_equal_results_have_no_differences():
    assert differences(results(), results()) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda r: r.pop("sem_seg"), "tasks "),
        (lambda r: r["sem_seg"].add_(1e-4), "semantic scores differ by 0.0001"),
        (lambda r: r["sem_seg"].fill_(float("nan")), "semantic scores differ by nan"),
        (lambda r: r["panoptic_seg"][0][1].fill_(7), "panoptic ids differ in 4 pixels"),
        (lambda r: r["panoptic_seg"][1].pop(), "panoptic segments differ"),
        (lambda r: r.update(instances=r["instances"][:1]), "1 instances instead of"),
        (lambda r: r["instances"].pred_masks.logical_not_(), "pred_masks differ"),
        (lambda r: r["instances"].pred_classes.add_(1), "pred_classes differ"),
        (lambda r: r["instances"].pred_boxes.tensor.add_(1), "pred_boxes differ"),
        (lambda r: r["instances"].scores.add_(1e-5), "scores differ"),
    ],
)
def test_what_differs_is_said(change, found):
    changed = copy.deepcopy(results())
    change(changed)
    (text,) = differences(results(), changed)
    assert text.startswith(found)


def test_reference_attention_is_the_modules_own():
    module = MSDeformAttn(d_model=16, n_levels=2, n_heads=2, n_points=3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    shapes, starts = torch.tensor([[2, 3], [4, 6]]), torch.tensor([0, 6])
    inputs = (torch.randn(2, 5, 16), torch.rand(2, 5, 2, 2), torch.randn(2, 30, 16), shapes, starts)
    expected = module(*inputs)
    straightforward.use_reference_attention(nn.Sequential(module))
    assert "forward" in vars(module)
    torch.testing.assert_close(module(*inputs), expected, rtol=1e-4, atol=1e-5)
