"""What the reference implementation returned for seeded weights and inputs, ours returns too."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList, Instances

from mask2former_ext.config import load_config

CONFIG = Path(__file__).parents[2] / "configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml"
CLASSES, QUERIES, PREDICTIONS = 133, 100, 10


@pytest.fixture(scope="module")
def model():
    return build_model(load_config(str(CONFIG), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]))


@pytest.fixture
def with_outputs(model, monkeypatch):
    """The model with backbone and head answering given predictions."""

    def stub(outputs):
        monkeypatch.setattr(model.backbone, "forward", lambda images: {})
        monkeypatch.setattr(model.sem_seg_head, "forward", lambda features: outputs)
        return model

    return stub


def assert_close(actual, expected, name):
    error = np.abs(actual.astype(np.float64) - expected)
    scale = np.abs(expected).max()
    assert actual.shape == expected.shape, name
    assert np.quantile(error, 0.995) <= 2e-3 * scale and error.max() <= 0.1 * scale, (name, error.max(), scale)


def test_forward_of_the_whole_network(model, fill_seeded, seeded_image, golden):
    expected = golden("forward_r50_coco_panoptic")
    fill_seeded(model).eval()
    images = ImageList.from_tensors([(seeded_image(1, 128, 160) - model.pixel_mean) / model.pixel_std], 32)
    with torch.no_grad():
        outputs = model.sem_seg_head(model.backbone(images.tensor))
    assert_close(outputs["pred_logits"].numpy(), expected["pred_logits"], "pred_logits")
    assert_close(outputs["pred_masks"][:, :, ::4, ::4].numpy(), expected["pred_masks"], "pred_masks")
    assert len(outputs["aux_outputs"]) == PREDICTIONS - 1
    for i, earlier in enumerate(outputs["aux_outputs"]):
        assert_close(earlier["pred_logits"][:, ::5].numpy(), expected[f"aux{i}_logits"], f"aux{i}_logits")
        means = earlier["pred_masks"].mean((2, 3)).numpy()
        assert_close(means, expected[f"aux{i}_masks_mean"], f"aux{i}_masks_mean")


def test_results_of_all_three_tasks(with_outputs, seeded_blobs, seeded_image, golden):
    expected = golden("post_coco_panoptic")
    logits, masks = seeded_blobs(21, QUERIES, 32, 48, CLASSES)
    model = with_outputs({"pred_logits": logits[None], "pred_masks": masks[None], "aux_outputs": []}).eval()
    with torch.no_grad():
        result = model([{"image": seeded_image(21, 120, 180), "height": 240, "width": 361}])[0]
    assert sorted(result) == list(expected["keys"])

    scores = result["sem_seg"]
    assert (scores.argmax(0).numpy() != expected["sem_argmax"]).mean() <= 5e-4
    assert_close(scores.sum((1, 2)).numpy(), expected["sem_sum"], "sem_sum")

    segmentation, segments = result["panoptic_seg"]
    classes = np.full(segmentation.shape, -1)
    for segment in segments:
        classes[segmentation.numpy() == segment["id"]] = segment["category_id"]
    assert (classes != expected["pan_class_map"]).mean() <= 5e-4
    rows = sorted([s["category_id"], int(s["isthing"]), int((segmentation == s["id"]).sum())] for s in segments)
    np.testing.assert_allclose(rows, expected["pan_segments"], rtol=2e-3, atol=3)

    instances = result["instances"]
    areas = instances.pred_masks.flatten(1).sum(1).numpy()
    order = np.lexsort((areas, instances.pred_classes.numpy(), -np.round(instances.scores.numpy(), 6)))
    assert_close(instances.scores.numpy()[order], expected["inst_scores"], "inst_scores")
    assert (instances.pred_classes.numpy()[order] != expected["inst_classes"]).mean() <= 0.03
    assert (np.abs(areas[order] - expected["inst_areas"]) > 3 + 2e-3 * expected["inst_areas"]).mean() <= 0.03


def loss_case(seeded_blobs, seeded_image, name, counts, size, constant):
    """A batch and its predictions; with ``constant`` masks the losses hardly depend on where points fall."""
    random = np.random.RandomState(len(name))
    batch = []
    for index, count in enumerate(counts):
        masks = seeded_blobs(random.randint(1 << 30), count, *size, CLASSES)[1] > 0
        if constant:
            masks = (torch.arange(count) % 2 == 0)[:, None, None].expand(count, *size)
        instances = Instances(size)
        instances.gt_classes = torch.from_numpy(random.randint(0, CLASSES, count).astype(np.int64))
        instances.gt_masks = masks
        batch.append({"image": seeded_image(index, *size), "instances": instances})

    predictions = []
    for _ in range(PREDICTIONS):
        images = []
        for _ in counts:
            logits, masks = seeded_blobs(random.randint(1 << 30), QUERIES, size[0] // 4, size[1] // 4, CLASSES)
            if constant:
                level = torch.from_numpy(random.standard_normal((QUERIES, 1, 1)).astype(np.float32))
                masks = level.expand_as(masks).contiguous()
            images.append((logits, masks / 3))
        logits, masks = (torch.stack(x) for x in zip(*images, strict=True))
        predictions.append({"pred_logits": logits, "pred_masks": masks})
    return batch, {**predictions[-1], "aux_outputs": predictions[:-1]}


def test_losses_of_constant_masks(with_outputs, seeded_blobs, seeded_image, golden):
    name = "loss_constant_masks"
    batch, outputs = loss_case(seeded_blobs, seeded_image, name, [5, 3], (64, 96), constant=True)
    model = with_outputs(outputs).train()
    torch.manual_seed(0)
    losses = {key: float(value) for key, value in model(batch).items()}
    assert losses == pytest.approx({key: float(value) for key, value in golden(name).items()}, rel=2e-4, abs=1e-5)


def test_losses_of_blobs_over_many_draws_of_points(with_outputs, seeded_blobs, seeded_image, golden):
    name, draws = "loss_blobs", 5
    batch, outputs = loss_case(seeded_blobs, seeded_image, name, [7, 4], (96, 128), constant=False)
    model = with_outputs(outputs).train()
    values = []
    for seed in range(draws):
        torch.manual_seed(seed)
        losses = model(batch)
        values.append([float(loss) for loss in losses.values()])
    mean, error = np.mean(values, 0), np.std(values, 0) / np.sqrt(draws)
    for key, ours, our_error in zip(losses, mean, error, strict=True):
        theirs, their_error = golden(name)[key]
        assert abs(ours - theirs) <= 4 * np.hypot(our_error, their_error) + 2e-4 * abs(theirs), key
