"""What is noted of queries while a model runs, and what is made of it."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch.nn import functional as F

from mask2former_ext.modeling.targets import Target
from mask2former_ext.structures import PackedBitMasks
from mask2former_ext.visualization.queries import QueryTrace, trace_queries

HEIGHT, WIDTH = 50, 70  # padded to 64×96


@pytest.fixture
def model(tiny_cfg):
    tiny_cfg.MODEL.MASK_FORMER.DEC_LAYERS = 5  # the fourth layer attends to the first scale again
    return build_model(tiny_cfg).eval()


@pytest.fixture
def inputs():
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, :20, :30] = masks[1, 30:, 40:] = True
    instances = Instances((HEIGHT, WIDTH), gt_classes=torch.tensor([2, 0]), gt_masks=masks)
    return {"image": torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8), "instances": instances}


def test_predictions_are_those_of_the_head(model, inputs):
    trace = trace_queries(model, inputs)
    image = (inputs["image"] - model.pixel_mean) / model.pixel_std
    with torch.no_grad():
        outputs = model.sem_seg_head(model.backbone(F.pad(image, (0, 26, 0, 14))[None]))
    expected = [*outputs["aux_outputs"], outputs]
    assert len(trace.predictions) == len(expected) == 5
    for own, other in zip(trace.predictions, expected, strict=True):
        assert (own["pred_masks"] == other["pred_masks"]).all()
        assert (own["pred_logits"] == other["pred_logits"]).all()
    assert trace.num_queries == 10 and trace.image_size == (HEIGHT, WIDTH) and trace.padded_size == (64, 96)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_the_photo_is_what_the_model_sees(model, inputs, image_format):
    photo = trace_queries(model, inputs, image_format).photo
    expected = inputs["image"].permute(1, 2, 0).numpy()[..., :: -1 if image_format == "BGR" else 1]
    assert (photo[:HEIGHT, :WIDTH] == expected).all()
    mean = model.pixel_mean.flatten().round().byte().numpy()[:: -1 if image_format == "BGR" else 1]
    assert (photo[HEIGHT:] == mean).all() and (photo[:, WIDTH:] == mean).all()


def test_attention_masks_are_those_that_the_layers_get(model, inputs):
    given = []
    for layer in model.sem_seg_head.predictor.transformer_cross_attention_layers:
        layer.register_forward_pre_hook(lambda _, arguments: given.append(arguments[4][0].numpy()))
    trace = trace_queries(model, inputs)
    assert trace.scale_sizes == [(2, 3), (4, 6), (8, 12), (2, 3)] and len(given) == 4
    open_cells = 0
    for query in range(trace.num_queries):
        *steps, last = trace.steps(query)
        assert last.allowed is None
        for step, allowed in zip(steps, given, strict=True):
            assert (step.allowed.flatten() == allowed[query]).all()
            open_cells += step.allowed.sum()
    assert 0 < open_cells < trace.num_queries * sum(h * w for h, w in trace.scale_sizes)


def test_every_layer_is_matched_where_there_is_truth(model, inputs):
    trace = trace_queries(model, inputs)
    assert len(trace.matches) == 5
    assert all(len(matches) == 2 and set(matches.values()) == {0, 1} for matches in trace.matches)
    del inputs["instances"]
    assert trace_queries(model, inputs).matches == [{}] * 5
    inputs["instances"] = Instances(
        (HEIGHT, WIDTH), gt_classes=torch.zeros(0, dtype=torch.int64), gt_masks=torch.zeros(0, HEIGHT, WIDTH)
    )
    trace = trace_queries(model, inputs)
    assert len(trace.target) == 0 and trace.matches == [{}] * 5


def test_the_model_is_left_as_it_was(model, inputs):
    trace_queries(model, inputs)
    assert not model.backbone._forward_pre_hooks and not model.sem_seg_head.predictor._forward_hooks


def test_models_that_keep_no_earlier_predictions_are_refused(model, inputs):
    model.sem_seg_head.predictor.resize_mask_features = True
    with pytest.raises(ValueError, match="no predictions of earlier layers"):
        trace_queries(model, inputs)


@pytest.fixture
def trace():
    """Two queries, two predictions, 8×8 pixels of which the right quarter is padding; one object, the left half."""
    left = torch.where(torch.arange(8).expand(8, 8) < 4, 4.0, -4.0)
    top = left.T
    nothing = torch.full((8, 8), -4.0)
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]]).log_softmax(-1)
    predictions = [
        {"pred_logits": logits[None], "pred_masks": torch.stack([top, nothing])[None]},
        {"pred_logits": logits.flip(0)[None], "pred_masks": torch.stack([left, left])[None]},
    ]
    masks = PackedBitMasks.from_masks((left > 0)[None, :, :6])
    return QueryTrace(
        photo=np.full((8, 8, 3), 100, dtype=np.uint8),
        image_size=(8, 6),
        predictions=predictions,
        scale_sizes=[(4, 4)],
        target=Target(torch.tensor([1]), masks, (8, 8), "image"),
        matches=[{0: 0}, {1: 0}],
    )


def test_steps_by_hand(trace):
    first, last = trace.steps(0)
    assert first.label == 0 and first.score == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert last.label == 1 and last.score == pytest.approx(np.e / (np.e + np.exp(3) + 1))
    assert last.no_object == pytest.approx(np.exp(3) / (np.e + np.exp(3) + 1))
    assert ((first.probabilities > 0.5) == (np.arange(8) < 4)[:, None]).all()
    assert (first.allowed == (np.arange(4) < 2)[:, None]).all() and not first.is_empty
    # 4 of 8 rows, 6 columns without padding; the object has 4 columns of them
    assert first.matched == 0 and first.iou == pytest.approx(16 / (24 + 32 - 16))
    assert last.allowed is None and last.matched is None and last.iou is None
    first, last = trace.steps(1)
    assert first.allowed.all() and first.is_empty and first.matched is None
    assert last.iou == 1


def test_a_mask_that_covers_all_is_not_empty(trace):
    trace.predictions[0]["pred_masks"][0, 1] = 4.0
    step = trace.steps(1)[0]
    assert step.allowed.all() and not step.is_empty


def test_truth_is_padded_and_queries_are_sorted(trace):
    assert (trace.truth(0) == (np.arange(8) < 4)).all() and trace.truth(0).shape == (8, 8)
    assert trace.most_confident(5) == [1, 0] and trace.most_confident(1) == [1]
