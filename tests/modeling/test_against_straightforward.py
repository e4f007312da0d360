"""Every shortcut of inference, matching and losses against the same work done the straightforward way."""

from dataclasses import replace

import pytest
import torch
from detectron2.modeling import build_model

from mask2former_ext.benchmark import straightforward
from mask2former_ext.benchmark.model_inputs import make_images, make_predictions, make_truths, spread_samples
from mask2former_ext.benchmark.straightforward import Settings, differences
from mask2former_ext.modeling.targets import Target
from mask2former_ext.structures import PackedBitMasks

CLASSES = 3
SETTINGS = {
    "all": {},
    "low thresholds": {"object_mask_threshold": 0.0, "overlap_threshold": 0.0},
    "high overlap": {"overlap_threshold": 0.95},
    "nothing is sure enough": {"object_mask_threshold": 1.0},
    "instances of all classes": {"panoptic_on": False},
    "few instances": {"max_detections": 4},
    "more instances than pairs": {"max_detections": 1000},
    "semantic alone, scores resized": {"panoptic_on": False, "instance_on": False, "resize_masks_first": False},
}
SIZES = {  # of the padded image, of the image in it, of the result
    "as they are": ((64, 96), (64, 96), (64, 96)),
    "padded, smaller result": ((64, 96), (50, 91), (37, 61)),
    "larger result": ((32, 64), (32, 50), (77, 120)),
    "result as large as the image": ((64, 64), (61, 40), (61, 40)),
}


def settings_of(model, changes):
    model.semantic_on = model.panoptic_on = model.instance_on = True
    model.object_mask_threshold, model.overlap_threshold = 0.5, 0.6
    model.sem_seg_postprocess_before_inference = True
    settings = replace(Settings.of(model), **changes)
    for name in ("semantic_on", "panoptic_on", "instance_on", "object_mask_threshold", "overlap_threshold"):
        setattr(model, name, getattr(settings, name))
    model.test_topk_per_image = settings.max_detections
    model.sem_seg_postprocess_before_inference = settings.resize_masks_first
    return settings


@pytest.fixture
def model(tiny_cfg):
    model = build_model(tiny_cfg).eval()
    spread_samples(model)
    return model


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_results_are_the_same(model, changes, sizes):
    settings = settings_of(model, changes)
    padded_size = sizes[0]
    for seed, kept in ((0, 0), (1, 12), (2, 30)):
        made = make_predictions(1, 30, CLASSES, (padded_size[0] // 4, padded_size[1] // 4), kept, seed)
        predictions = made.class_logits[0], made.mask_logits[0]
        expected = straightforward.infer_image(*predictions, *sizes, settings)
        assert differences(expected, model.infer_image(*predictions, *sizes)) == []


def test_the_cases_have_something_to_tell_apart(model):
    """Segments that are kept, dropped and merged; instances of a query that is taken twice, and empty masks."""
    made = make_predictions(1, 30, CLASSES, (16, 24), 30, seed=2)
    result = straightforward.infer_image(
        made.class_logits[0], made.mask_logits[0], *SIZES["as they are"], settings_of(model, {"max_detections": 60})
    )
    ids, segments = result["panoptic_seg"]
    kept = [segment["id"] for segment in segments]
    assert 3 < len(kept) < 30 and set(ids.unique().tolist()) == {0, *kept}
    assert [segment["isthing"] for segment in segments].count(False) == 1
    assert 0 < len(result["instances"]) < 60


@pytest.mark.parametrize("seed", [0, 1])
def test_a_whole_model_gives_the_same_results(tiny_cfg, model, seed):
    """In float64: in float32 a logit near 0 falls on either side."""
    settings = settings_of(model, {"object_mask_threshold": 0.3, "overlap_threshold": 0.1})
    (image,) = make_images(1, (70, 90), seed)
    other = build_model(tiny_cfg).eval()
    other.load_state_dict(model.state_dict())
    straightforward.use_reference_attention(other)
    outputs = []
    for network in (model.double(), other.double()):
        with torch.no_grad():
            outputs.append(network.sem_seg_head(network.backbone(network._preprocess([{"image": image}]).tensor)))
    for key in ("pred_logits", "pred_masks"):
        torch.testing.assert_close(outputs[0][key], outputs[1][key], rtol=0, atol=1e-9)
    sizes = ((96, 96), (70, 90), (100, 60))
    found = model.infer_image(outputs[0]["pred_logits"][0], outputs[0]["pred_masks"][0], *sizes)
    predictions = outputs[1]["pred_logits"][0], outputs[1]["pred_masks"][0]
    assert differences(straightforward.infer_image(*predictions, *sizes, settings), found) == []


@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (0, 0), (14, 2)])
def test_losses_and_gradients_are_the_same(tiny_cfg, counts):
    """Ten queries: an image may have none, and more masks than that."""
    model = build_model(tiny_cfg).train()
    images = make_images(2, (64, 60), seed=3)
    targets = []
    for index, count in enumerate(counts):
        if count:
            (truth,) = make_truths(1, count, (64, 60), CLASSES, seed=index)
            labels, masks = truth.labels, truth.masks
        else:
            labels, masks = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 64, 60, dtype=torch.bool)
        targets.append(Target(labels, PackedBitMasks.from_masks(masks), (64, 64), "photo.jpg"))
    batch = [{"image": image} for image in images]
    found = []
    for losses in (model.criterion, lambda *args: straightforward.losses(model.criterion, *args)):
        model.zero_grad()
        outputs = model.sem_seg_head(model.backbone(model._preprocess(batch).tensor))
        torch.manual_seed(5)
        values = losses(outputs, targets)
        sum(values.values()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((values, {name: gradient.clone() for name, gradient in gradients.items()}))
    (values, gradients), (expected, expected_gradients) = found
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected_gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-5 * largest)
