"""Test-time augmentation of models that are exactly equivariant, of a tiny Mask2Former, and on scores set by hand."""

import pytest
import torch
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mask2former_ext.modeling.inference_rules import masks_to_boxes
from mask2former_ext.modeling.test_time_augmentation import MaskFormerWithTTA, SemanticSegmentorWithTTA, is_flipped

TASKS = ("SEMANTIC", "PANOPTIC", "INSTANCE")


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.TEST.AUG.update(ENABLED=True, MIN_SIZES=(64,), MAX_SIZE=400, FLIP=True)
    return tiny_cfg


def image(h, w, **extra):
    """Noise that is smooth over the 4 pixels of a cell of the masks."""
    cells = torch.randint(0, 256, (1, 3, h // 8 + 1, w // 8 + 1)).float()
    smooth = F.interpolate(cells, scale_factor=8, mode="bilinear")[0, :, :h, :w]
    return {"image": smooth.to(torch.uint8), **extra}


class PixelHead(nn.Module):
    """Masks and classes by the colours of pixels alone, so that mirroring the image mirrors the masks.

    As a decoder may, it gives each image's queries in another order.
    """

    def __init__(self, queries=8, classes=3, sharpness=10.0):
        super().__init__()
        self.weight = sharpness * torch.randn(queries, 3)
        self.class_logits = 3 * torch.randn(queries, classes + 1)
        self.sizes = []

    def forward(self, features):
        self.sizes.append(tuple(features.shape[-2:]))
        masks = torch.einsum("qc,bchw->bqhw", self.weight, F.avg_pool2d(features, 4))
        order = torch.randperm(len(self.weight))
        return {"pred_logits": self.class_logits[None, order], "pred_masks": masks[:, order]}


def pixel_model(cfg, **kwargs):
    model = build_model(cfg).eval()
    model.backbone, model.sem_seg_head = nn.Identity(), PixelHead(**kwargs)
    return model


def by_score(instances):
    return instances[instances.scores.argsort(descending=True)]


def labels(result):
    """The panoptic category of each pixel, since ids follow the order of queries; -1 for none."""
    ids, segments = result["panoptic_seg"]
    return torch.tensor([-1] + [segment["category_id"] for segment in segments])[ids.long()]


def assert_same_results(result, expected):
    """Equal up to rounding, which may move a few pixels that lie on a border."""
    torch.testing.assert_close(result["sem_seg"], expected["sem_seg"], atol=2e-3, rtol=0)
    assert (labels(result) != labels(expected)).float().mean() < 1e-3
    assert len(result["panoptic_seg"][1]) == len(expected["panoptic_seg"][1])
    found, wanted = by_score(result["instances"]), by_score(expected["instances"])
    torch.testing.assert_close(found.scores, wanted.scores, atol=2e-3, rtol=0)
    assert found.pred_classes.tolist() == wanted.pred_classes.tolist()
    assert (found.pred_masks != wanted.pred_masks).float().mean() < 1e-3
    assert torch.equal(found.pred_boxes.tensor, masks_to_boxes(found.pred_masks))


def test_one_view_as_it_is_gives_the_models_own_result_to_the_bit(cfg):
    cfg.TEST.AUG.FLIP = False
    model = build_model(cfg).eval()
    inputs = [image(64, 90, height=70, width=101), image(64, 64)]
    with torch.no_grad():
        expected = [model([x])[0] for x in inputs]
    for result, wanted in zip(MaskFormerWithTTA(cfg, model)(inputs), expected, strict=True):
        assert torch.equal(result["sem_seg"], wanted["sem_seg"])
        assert torch.equal(result["panoptic_seg"][0], wanted["panoptic_seg"][0])
        assert result["panoptic_seg"][1] == wanted["panoptic_seg"][1]
        for name, field in wanted["instances"].get_fields().items():
            values = [getattr(each, "tensor", each) for each in (result["instances"].get(name), field)]
            assert torch.equal(*values), name


@pytest.mark.parametrize("output_size", [(64, 96), (128, 192), (50, 77)])
def test_a_model_that_mirrors_with_the_image_gives_the_plain_result(cfg, output_size):
    model = pixel_model(cfg)
    inputs = image(64, 96, height=output_size[0], width=output_size[1])
    (expected,) = model([inputs])
    assert len(expected["panoptic_seg"][1]) > 1
    (result,) = MaskFormerWithTTA(cfg, model)([inputs])
    assert_same_results(result, expected)
    assert model.sem_seg_head.sizes == [(64, 96)] * 3


def test_padded_views_are_mirrored_about_the_image(cfg):
    """90 columns are padded to 96, and 4 does not divide them: masks shift by half a cell between the views."""
    model = pixel_model(cfg, sharpness=2.0)
    inputs = image(64, 90)
    (expected,), (result,) = model([inputs]), MaskFormerWithTTA(cfg, model)([inputs])
    assert (result["sem_seg"] - expected["sem_seg"]).abs().mean() < 0.02
    assert (labels(result) == labels(expected)).float().mean() > 0.95


def test_sizes_agree_on_a_smooth_image(cfg):
    cfg.TEST.AUG.MIN_SIZES = (64, 128, 96)
    model = pixel_model(cfg, sharpness=2.0)
    inputs = image(96, 144)
    (expected,), (result,) = model([inputs]), MaskFormerWithTTA(cfg, model)([inputs])
    # first the view of the input's own size, and last the mirrored ones
    assert model.sem_seg_head.sizes[1:] == [(96, 160), (128, 192), (64, 96), (96, 160), (128, 192), (64, 96)]
    assert (result["sem_seg"] - expected["sem_seg"]).abs().mean() < 0.05
    masks = [by_score(r["instances"]).pred_masks[0] for r in (result, expected)]
    assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.9


def test_masks_are_merged_as_fine_as_those_of_the_largest_view(cfg, monkeypatch):
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = False
    cfg.TEST.AUG.MIN_SIZES = (64, 128, 96)
    merged = []
    monkeypatch.setattr(
        MaskFormerWithTTA, "_infer", lambda self, view, prediction, semantic: merged.append(prediction[1].shape) or {}
    )
    MaskFormerWithTTA(cfg, pixel_model(cfg))([image(96, 144)])
    # the input's 96×160, padding included, have masks of 24×40; in the largest view this is 4/3 of it
    assert merged == [(8, 32, 54)]


@pytest.mark.parametrize("enabled", [("SEMANTIC",), ("INSTANCE",), ("PANOPTIC",), TASKS])
def test_what_the_model_returns_is_returned(cfg, enabled):
    for task in TASKS:
        cfg.MODEL.MASK_FORMER.TEST[f"{task}_ON"] = task in enabled
    cfg.TEST.AUG.MIN_SIZES = (32, 64)
    model = build_model(cfg).eval()
    (result,) = MaskFormerWithTTA(cfg, model)([image(50, 70, height=60, width=84)])
    keys = {"SEMANTIC": "sem_seg", "PANOPTIC": "panoptic_seg", "INSTANCE": "instances"}
    assert result.keys() == {keys[task] for task in enabled}
    assert result.keys() == model([image(50, 70)])[0].keys()
    if "SEMANTIC" in enabled:
        assert result["sem_seg"].shape == (3, 60, 84)
    if "PANOPTIC" in enabled:
        assert result["panoptic_seg"][0].shape == (60, 84)
    if "INSTANCE" in enabled:
        assert result["instances"].pred_masks.shape[1:] == (60, 84)


@pytest.mark.parametrize("before_inference", [False, True])
def test_semantic_scores_do_not_depend_on_the_wrapper(cfg, before_inference):
    test = cfg.MODEL.MASK_FORMER.TEST
    test.update(PANOPTIC_ON=False, INSTANCE_ON=False, SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE=before_inference)
    cfg.TEST.AUG.MIN_SIZES = (32, 64)
    model = build_model(cfg).eval()
    inputs = [image(50, 70)]
    one, other = MaskFormerWithTTA(cfg, model)(inputs), SemanticSegmentorWithTTA(cfg, model)(inputs)
    assert torch.equal(one[0]["sem_seg"], other[0]["sem_seg"])


class Scores(nn.Module):
    """Returns scores set by hand, one after another, and keeps the images it was shown."""

    def __init__(self, *scores):
        super().__init__()
        self.scores = [torch.tensor([[row]]) for row in scores]
        self.images = []

    def forward(self, batch):
        (x,) = batch
        self.images.append(x["image"])
        assert (x["height"], x["width"]) == (1, 4)
        assert "transforms" not in x
        return [{"sem_seg": self.scores[len(self.images) - 1]}]


def test_mean_of_scores_by_hand(cfg):
    cfg.TEST.AUG.MIN_SIZES = (2, 4)
    model = Scores([1.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.0])
    shown = torch.arange(8, dtype=torch.uint8).repeat(3, 2, 1)
    (result,) = SemanticSegmentorWithTTA(cfg, model)([{"image": shown, "height": 1, "width": 4}])
    # the first two upright, the others mirrored
    assert result["sem_seg"].tolist() == [[[(1 + 4 + 1) / 4, (4 + 3) / 4, 2 / 4, 1 / 4]]]
    assert [tuple(seen.shape[1:]) for seen in model.images] == [(2, 8), (4, 16), (2, 8), (4, 16)]
    assert torch.equal(model.images[0], shown)
    assert torch.equal(model.images[2], shown.flip(-1))


def test_the_input_stays_as_it_is_and_sizes_are_optional(cfg):
    model = pixel_model(cfg)
    inputs = image(64, 96)
    (result,) = MaskFormerWithTTA(cfg, model)([inputs])
    assert inputs.keys() == {"image"}
    assert result["sem_seg"].shape == (3, 64, 96)
    assert (model.semantic_on, model.panoptic_on, model.instance_on) == (True, True, True)


def test_model_of_distributed_training_is_unwrapped(cfg, monkeypatch):
    model = pixel_model(cfg)
    monkeypatch.setattr(DistributedDataParallel, "__init__", lambda self, module: nn.Module.__init__(self))
    wrapped = DistributedDataParallel(model)
    wrapped.module = model
    assert MaskFormerWithTTA(cfg, wrapped).model is model


def test_no_gradients_are_kept(cfg):
    model = build_model(cfg).eval()
    assert not MaskFormerWithTTA(cfg, model)([image(64, 64)])[0]["sem_seg"].requires_grad


@pytest.mark.parametrize(
    ("transforms", "flipped"),
    [
        ([T.NoOpTransform()], False),
        ([T.ResizeTransform(4, 4, 8, 8), T.HFlipTransform(8)], True),
        ([T.HFlipTransform(8), T.NoOpTransform(), T.HFlipTransform(8)], False),
    ],
)
def test_is_flipped(transforms, flipped):
    assert is_flipped(T.TransformList(transforms)) is flipped


def test_other_transforms_are_refused(cfg):
    def mapper(inputs):
        return [inputs | {"transforms": T.TransformList([T.VFlipTransform(8)])}]

    with pytest.raises(ValueError, match="VFlipTransform cannot be undone"):
        MaskFormerWithTTA(cfg, pixel_model(cfg), tta_mapper=mapper)([image(64, 64)])


def test_no_sizes_are_refused(cfg):
    cfg.TEST.AUG.MIN_SIZES = ()
    with pytest.raises(ValueError, match=r"TEST\.AUG\.MIN_SIZES is empty"):
        SemanticSegmentorWithTTA(cfg, nn.Identity())
