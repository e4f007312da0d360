"""The whole model, tiny and without pretrained weights: training steps and results on all kinds of batches."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances, PolygonMasks

from mask2former_ext.modeling import maskformer
from mask2former_ext.modeling.inference import resize_masks


@pytest.fixture
def model(tiny_cfg):
    return build_model(tiny_cfg)


def image(h, w, **extra):
    return {"image": torch.randint(0, 256, (3, h, w), dtype=torch.uint8), **extra}


def instances(height, width, labels, masks=None):
    result = Instances((height, width))
    result.gt_classes = torch.tensor(labels, dtype=torch.int64)
    result.gt_masks = torch.rand(len(labels), height, width) > 0.5 if masks is None else masks
    return result


def train_step(model, batch):
    losses = model.train()(batch)
    sum(losses.values()).backward()
    return losses


def test_it_learns_one_batch(model):
    square = torch.zeros(1, 64, 64, dtype=torch.bool)
    square[:, 16:48, 16:48] = True
    sample = image(64, 64, instances=instances(64, 64, [1], square))
    sample["image"][:, 16:48, 16:48] = 255
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(12):
        optimizer.zero_grad()
        totals.append(sum(train_step(model, [sample, sample]).values()).item())
        optimizer.step()
    assert totals[-1] < 0.6 * totals[0]


@pytest.mark.parametrize("labels", [[[], []], [[0, 2, 1], []], [[1], [2, 2]]])
def test_training_step_with_none_half_and_all_images_annotated(model, labels):
    sizes = [(64, 96), (64, 96)]
    batch = [image(h, w, instances=instances(h, w, y)) for (h, w), y in zip(sizes, labels, strict=True)]
    losses = train_step(model, batch)
    assert len(losses) == 9 and all(loss.isfinite() for loss in losses.values())
    no_masks = not any(labels)
    assert (losses["loss_mask"].item() == 0) == no_masks
    # every parameter has a gradient, or distributed training would wait for it
    assert all(p.grad is not None for p in model.parameters())


def test_training_step_with_sizes_that_32_does_not_divide(model):
    batch = [image(h, w, instances=instances(h, w, [0, 1])) for h, w in [(50, 77), (33, 90)]]
    assert all(loss.isfinite() for loss in train_step(model, batch).values())


def test_masks_may_be_bitmasks_and_non_contiguous(model):
    masks = (torch.rand(64, 64, 2) > 0.5).permute(2, 0, 1)
    assert not masks.is_contiguous()
    losses = []
    for form in (masks, BitMasks(masks)):
        torch.manual_seed(0)
        sample = {"image": torch.full((3, 64, 64), 90, dtype=torch.uint8)}
        losses.append(model.train()([{**sample, "instances": instances(64, 64, [0, 1], form)}])["loss_mask"].item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("labels", "masks", "message"),
    [
        ([0, 3], None, r"image cat.jpg: label 3 is outside 0 … 2 .*NUM_CLASSES is 3"),
        ([-1], None, r"cat.jpg: label -1 is outside"),
        ([0], PolygonMasks([[[1.0, 1, 5, 1, 5, 5]]]), r"cat.jpg: gt_masks are PolygonMasks"),
        ([0, 1], torch.zeros(1, 64, 64), r"cat.jpg: 2 gt_classes for 1 gt_masks"),
    ],
)
def test_unusable_annotations_are_refused_by_image(model, labels, masks, message):
    truth = Instances((64, 64))
    truth._fields = {
        "gt_classes": torch.tensor(labels),
        "gt_masks": torch.zeros(len(labels), 64, 64) if masks is None else masks,
    }
    with pytest.raises(ValueError, match=message):
        model.train()([image(64, 64, instances=truth, file_name="cat.jpg")])


def test_images_without_file_name_are_told_apart(model):
    good, bad = (image(64, 64, instances=instances(64, 64, [label])) for label in (0, 9))
    with pytest.raises(ValueError, match="number 1 of the batch"):
        model.train()([good, bad])


@torch.no_grad()
def test_results_have_the_wanted_sizes_and_types(model):
    batch = [image(50, 77, height=100, width=154), image(64, 40)]
    results = model.eval()(batch)
    for result, (height, width) in zip(results, [(100, 154), (64, 40)], strict=True):
        assert set(result) == {"sem_seg", "panoptic_seg", "instances"}
        assert result["sem_seg"].shape == (3, height, width)
        segmentation, segments = result["panoptic_seg"]
        assert segmentation.shape == (height, width) and segmentation.dtype == torch.int32
        assert {s["id"] for s in segments} >= set(segmentation.unique().tolist()) - {0}
        found = result["instances"]
        assert found.image_size == (height, width) and found.pred_masks.shape[1:] == (height, width)
        assert set(found.pred_classes.tolist()) <= {0, 1}  # things only while panoptic is on
        assert len(found.pred_boxes) == len(found.scores) == len(found.pred_masks)


@torch.no_grad()
def test_padding_does_not_reach_the_results(model):
    """An image predicts the same alone, and beside a larger one, up to what padded borders do to convolutions."""
    small, large = image(64, 64), image(64, 160)
    alone = model.eval()([small])[0]["sem_seg"]
    beside = model([small, large])[0]["sem_seg"]
    assert alone.shape == beside.shape
    assert (alone - beside).abs().mean() < 0.2 * alone.abs().mean()


@torch.no_grad()
def test_switches_choose_the_results(tiny_cfg):
    test = tiny_cfg.MODEL.MASK_FORMER.TEST
    test.PANOPTIC_ON = test.INSTANCE_ON = False
    assert set(build_model(tiny_cfg).eval()([image(64, 64)])[0]) == {"sem_seg"}
    test.SEMANTIC_ON, test.INSTANCE_ON = False, True
    result = build_model(tiny_cfg).eval()([image(64, 64)])[0]
    assert set(result) == {"instances"}
    assert 2 in result["instances"].pred_classes  # without panoptic, every class is an instance class


@torch.no_grad()
def test_semantic_scores_may_be_resized_before_or_after_the_sum(tiny_cfg):
    test = tiny_cfg.MODEL.MASK_FORMER.TEST
    test.PANOPTIC_ON = test.INSTANCE_ON = False
    model, sample = build_model(tiny_cfg).eval(), image(64, 64, height=96, width=128)
    after = model([sample])[0]["sem_seg"]
    model.sem_seg_postprocess_before_inference = True
    before = model([sample])[0]["sem_seg"]
    assert before.shape == after.shape == (3, 96, 128)
    assert not torch.equal(before, after)
    torch.testing.assert_close(before, after, atol=0.3, rtol=0.1)


def test_size_divisibility_of_the_backbone_where_the_key_is_negative(tiny_cfg):
    tiny_cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY = -1
    model = build_model(tiny_cfg)
    assert model.size_divisibility == model.backbone.size_divisibility


def test_normalisation_constants_are_not_in_the_checkpoint(model):
    assert not any(name.startswith("pixel_") for name in model.state_dict())
    assert "criterion.empty_weight" in model.state_dict()


def test_batches_are_left_as_they_were(model):
    batch = [image(50, 60, instances=instances(50, 60, [0]), height=50, width=60)]
    before = copy.deepcopy(batch)
    model.train()(batch)
    model.eval()(batch)
    assert torch.equal(batch[0]["image"], before[0]["image"]) and batch[0].keys() == before[0].keys()
    assert torch.equal(batch[0]["instances"].gt_masks, before[0]["instances"].gt_masks)


@torch.no_grad()
def test_results_do_not_depend_on_how_many_queries_are_taken_at_a_time(model, monkeypatch):
    taken = []

    def spy(mask_logits, *sizes):
        taken.append(len(mask_logits))
        return resize_masks(mask_logits, *sizes)

    monkeypatch.setattr(maskformer, "resize_masks", spy)
    sample = image(50, 77, height=100, width=154)
    together = model.eval()([sample])[0]
    assert taken == [10]
    # four maps of the output and one of the padded image, in bytes: three queries fit into half of this many MiB
    model.max_memory_mb = 2 * 3.5 * 4 * (64 * 96 + 4 * 100 * 154) / 2**20
    few = model([sample])[0]
    assert taken[1:] == [3, 3, 3, 1]
    model.max_memory_mb = 0
    single = model([sample])[0]
    assert taken[5:] == [1] * 10
    for other in (few, single):
        torch.testing.assert_close(other["sem_seg"], together["sem_seg"])
        assert torch.equal(other["panoptic_seg"][0], together["panoptic_seg"][0])
        assert other["panoptic_seg"][1] == together["panoptic_seg"][1]
        found, expected = other["instances"], together["instances"]
        assert torch.equal(found.pred_masks, expected.pred_masks)
        assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(found.pred_classes, expected.pred_classes)
        torch.testing.assert_close(found.scores, expected.scores)


@torch.no_grad()
def test_masks_of_queries_that_cannot_matter_are_not_resized(model, monkeypatch):
    taken = []
    monkeypatch.setattr(maskformer, "resize_masks", lambda masks, *sizes: (taken.append(len(masks)), masks)[1])
    logits = torch.full((10, 4), -9.0)
    logits[:, 3] = 9.0  # no-object, all but two
    logits[[2, 7]] = logits[[2, 7]].flip(1)
    model.semantic_on = model.instance_on = False
    model.infer_image(logits, torch.randn(10, 16, 16), (16, 16), (16, 16), (16, 16))
    assert taken == [2]
