"""The criterion: names and weights of losses, their values by hand, empty images, normalisation."""

import math
import re

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from mask2former_ext.modeling import HungarianMatcher, SetCriterion
from mask2former_ext.modeling import criterion as criterion_module
from mask2former_ext.modeling.losses import dice_loss, sigmoid_ce_loss
from mask2former_ext.modeling.points import choose_points, sample_points
from mask2former_ext.modeling.targets import Target
from mask2former_ext.structures import PackedBitMasks

CLASSES, QUERIES, SIZE = 2, 3, 8


def make_criterion(deep_supervision=True, **weights):
    weights = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 3.0, **weights}
    return SetCriterion(
        num_classes=CLASSES,
        matcher=HungarianMatcher(**weights),
        no_object_weight=0.1,
        num_points=16,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        deep_supervision=deep_supervision,
        **weights,
    )


def target(count):
    masks = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    masks[:, 1:-1, 1:-1] = True
    return labelled(masks)


def labelled(masks):
    """A target of class 0 for N×H×W bool masks."""
    packed = PackedBitMasks.from_masks(masks)
    return Target(torch.zeros(len(masks), dtype=torch.int64), packed, packed.image_size, "photo.jpg")


def outputs(batch=1, earlier=2):
    def predict():
        return {
            "pred_logits": torch.zeros(batch, QUERIES, CLASSES + 1, requires_grad=True),
            "pred_masks": torch.zeros(batch, QUERIES, SIZE, SIZE, requires_grad=True),
        }

    return {**predict(), "aux_outputs": [predict() for _ in range(earlier)]}


def test_every_prediction_has_three_losses():
    names = set(make_criterion()(outputs(), [target(1)]))
    assert names == {f"loss_{kind}{suffix}" for kind in ("ce", "mask", "dice") for suffix in ("", "_0", "_1")}
    assert set(make_criterion(deep_supervision=False)(outputs(), [target(1)])) == {"loss_ce", "loss_mask", "loss_dice"}


def test_values_of_undecided_predictions_by_hand():
    losses = make_criterion()(outputs(), [target(1)])
    # every class has probability 1/3; the weighted mean of equal terms does not depend on the weights
    assert losses["loss_ce"].item() == pytest.approx(2.0 * math.log(3), rel=1e-5)
    # sigmoid(0) = 1/2 everywhere: binary cross entropy is log 2 whatever the target
    assert losses["loss_mask_1"].item() == pytest.approx(5.0 * math.log(2), rel=1e-5)


def test_no_object_counts_by_its_weight():
    prediction = outputs(earlier=0)
    with torch.no_grad():
        prediction["pred_logits"][..., CLASSES] = math.log(2)  # probabilities 1/4, 1/4, 1/2
    loss = make_criterion(class_weight=1.0)(prediction, [target(1)])["loss_ce"].item()
    # one matched query (-log 1/4, weight 1), two unmatched (-log 1/2, weight 0.1 each)
    assert loss == pytest.approx((math.log(4) + 2 * 0.1 * math.log(2)) / 1.2, rel=1e-5)


def test_dice_of_a_perfect_mask_is_zero_and_of_its_opposite_large():
    for sign, expected in ((40.0, 0.0), (-40.0, 1.0)):
        prediction = outputs(earlier=0)
        with torch.no_grad():
            prediction["pred_masks"].fill_(sign)
        full = labelled(torch.ones(1, SIZE * 4, SIZE * 4, dtype=torch.bool))
        loss = make_criterion(dice_weight=1.0)(prediction, [full])["loss_dice"].item()
        # border points read less than one from the truth, so that neither end is reached exactly
        assert loss == pytest.approx(expected, abs=0.1)


def test_mask_losses_are_averaged_over_the_masks_of_the_batch():
    one = make_criterion()(outputs(batch=2), [target(1), target(1)])["loss_mask"].item()
    three = make_criterion()(outputs(batch=2), [target(3), target(0)])["loss_mask"].item()
    assert one == pytest.approx(three, rel=1e-5) == pytest.approx(5.0 * math.log(2), rel=1e-5)


def test_without_any_mask_losses_are_zero_and_attached():
    prediction = outputs(batch=2)
    losses = make_criterion()(prediction, [target(0), target(0)])
    assert losses["loss_mask"].item() == losses["loss_dice_0"].item() == 0
    sum(losses.values()).backward()
    for p in (prediction, *prediction["aux_outputs"]):
        assert p["pred_masks"].grad is not None and p["pred_logits"].grad.abs().sum() > 0


def test_denominators_are_averages_over_workers(tiny_cfg, monkeypatch):
    criterion = SetCriterion.from_config(tiny_cfg)  # 10 queries; no-object weighs 0.1
    counts, device = [1, 12], torch.device("cpu")
    num_masks, class_weight = criterion._denominators(counts, 10, device)
    assert num_masks == 13 and class_weight == pytest.approx(1 + 10 + 9 * 0.1)

    def all_reduce(total):
        total += torch.tensor([5.0, 3.0, 17.0])  # the other worker's masks, queries that are matched, and that are not

    monkeypatch.setattr(criterion_module.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    num_masks, class_weight = criterion._denominators(counts, 10, device)
    assert num_masks == 9 and class_weight == pytest.approx((1 + 10 + 3 + (9 + 17) * 0.1) / 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: None)
    assert criterion._denominators([0, 0], 10, device)[0] == 1.0


@pytest.mark.parametrize("wrong", [{"oversample_ratio": 0.5}, {"importance_sample_ratio": 1.5}])
def test_refuses_ratios_out_of_range(tiny_cfg, wrong):
    for key, value in wrong.items():
        tiny_cfg.MODEL.MASK_FORMER[key.upper()] = value
    with pytest.raises(ValueError, match="OVERSAMPLE_RATIO"):
        SetCriterion.from_config(tiny_cfg)


def random_case(with_embeddings):
    """Predictions of three images with 3, 0 and 2 masks; masks as a product, as the decoder makes them, or alone."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(3, 5, 6, 6, generator=generator).requires_grad_()
    predictions, leaves = [], [features]
    for _ in range(3):
        logits = torch.randn(3, 4, CLASSES + 1, generator=generator).requires_grad_()
        embeddings = torch.randn(3, 4, 5, generator=generator).requires_grad_()
        prediction = {"pred_logits": logits, "pred_masks": torch.einsum("bqc,bchw->bqhw", embeddings, features)}
        if with_embeddings:
            prediction["mask_embeddings"] = embeddings
        predictions.append(prediction)
        leaves += [logits, embeddings]
    result = {**predictions[0], "aux_outputs": predictions[1:]}
    if with_embeddings:
        result["mask_features"] = features
    targets = [labelled(torch.rand(count, 24, 20, generator=generator) > 0.5) for count in (3, 0, 2)]
    return result, targets, leaves


def losses_one_by_one(criterion, outputs, targets):
    """The same losses prediction by prediction and image by image, on unpacked masks, without anything shared."""
    losses = {}
    total = max(sum(len(target) for target in targets), 1)
    sampling, matcher = criterion.point_sampling, criterion.matcher
    for suffix, prediction in {"": outputs, **{f"_{i}": p for i, p in enumerate(outputs["aux_outputs"])}}.items():
        coords = [torch.rand(1, sampling.num_points, 2) for _ in targets]
        pairs, classes = [], torch.full((len(targets), prediction["pred_logits"].shape[1]), CLASSES)
        for b, target in enumerate(targets):
            truth = target.masks.tensor.float()
            points = sample_points(prediction["pred_masks"][b][None].detach(), coords[b])[0]
            cost = matcher.cost(
                prediction["pred_logits"][b].detach(), points, target.labels, sample_points(truth[None], coords[b])[0]
            )
            queries, masks = map(torch.as_tensor, linear_sum_assignment(cost))
            classes[b, queries] = target.labels[masks]
            pairs.append((prediction["pred_masks"][b, queries], truth[masks]))
        masks = torch.cat([predicted for predicted, _ in pairs])[:, None]
        candidates = torch.rand(len(masks), sampling.num_candidates, 2)
        uniform = torch.rand(len(masks), sampling.num_points - sampling.num_uncertain, 2)
        points = choose_points(masks, candidates, uniform, sampling.num_uncertain)
        predicted = sample_points(masks, points)[:, 0]
        truth = sample_points(torch.cat([truth for _, truth in pairs])[:, None], points)[:, 0]
        losses["loss_ce" + suffix] = torch.nn.functional.cross_entropy(
            prediction["pred_logits"].flatten(0, 1), classes.flatten(), criterion.empty_weight
        )
        losses["loss_mask" + suffix] = sigmoid_ce_loss(predicted, truth).sum() / total
        losses["loss_dice" + suffix] = dice_loss(predicted, truth).sum() / total
    return {name: loss * criterion.weights[re.sub(r"_\d+$", "", name)] for name, loss in losses.items()}


@pytest.mark.parametrize("with_embeddings", [False, True])
def test_all_predictions_together_equal_one_by_one(with_embeddings):
    criterion = make_criterion()
    outputs_, targets, leaves = random_case(with_embeddings)
    torch.manual_seed(1)
    expected = losses_one_by_one(criterion, outputs_, targets)
    expected_grads = torch.autograd.grad(sum(expected.values()), leaves, retain_graph=True)
    torch.manual_seed(1)
    losses = criterion(outputs_, targets)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(torch.autograd.grad(sum(losses.values()), leaves), expected_grads)


def test_embeddings_without_any_mask_have_gradients_of_zero():
    outputs_, targets, (features, *leaves) = random_case(with_embeddings=True)
    sum(make_criterion()(outputs_, [target(0) for _ in targets]).values()).backward()
    assert not features.grad.any()
    assert not any(embeddings.grad.any() for embeddings in leaves[1::2])


def test_a_step_waits_for_the_device_once(monkeypatch):
    """Each of these would be a copy to the host, if the tensors were on a GPU."""
    outputs_, targets, _ = random_case(with_embeddings=True)
    waits = []
    for name in ("cpu", "item", "tolist", "nonzero", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *args, n=name, f=original, **kw: waits.append(n) or f(self, *args, **kw)
        )
    make_criterion()(outputs_, targets)
    assert waits == ["cpu"]


def test_losses_of_the_parts_of_a_batch_add_up_to_those_of_the_batch(monkeypatch):
    """With the same points, as if both had been drawn together."""
    criterion = make_criterion()
    outputs_, targets, leaves = random_case(with_embeddings=True)
    monkeypatch.setattr(
        torch, "rand", lambda *size, **options: torch.linspace(0.1, 0.9, size[-2] * 2).view(-1, 2).expand(size)
    )
    together = criterion(outputs_, targets)

    def part(images):
        return {
            name: [part_of_prediction(p, images) for p in value] if name == "aux_outputs" else value[images]
            for name, value in outputs_.items()
        }

    def part_of_prediction(prediction, images):
        return {name: value[images] for name, value in prediction.items()}

    parts = [slice(0, 1), slice(1, 3)]
    with criterion.part_of_batch([len(target) for target in targets]):
        apart = [criterion(part(images), targets[images]) for images in parts]
    torch.testing.assert_close({name: apart[0][name] + apart[1][name] for name in together}, together)
    gradients = torch.autograd.grad(sum(sum(losses.values()) for losses in apart), leaves, retain_graph=True)
    torch.testing.assert_close(gradients, torch.autograd.grad(sum(together.values()), leaves))
    torch.testing.assert_close(criterion(outputs_, targets), together)  # parts are forgotten
