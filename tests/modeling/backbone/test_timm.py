"""Backbones of timm, on its own tiny test models."""

import pytest
import timm
import torch
import yaml
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Instances

from mask2former_ext.config import load_config


@pytest.fixture
def build(tiny_cfg):
    def build(name, out_features=("res2", "res3", "res4", "res5"), **kwargs):
        tiny_cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
        tiny_cfg.MODEL.TIMM.NAME = name
        tiny_cfg.MODEL.TIMM.OUT_FEATURES = list(out_features)
        tiny_cfg.MODEL.TIMM.KWARGS.update(kwargs)
        return build_backbone(tiny_cfg).eval()

    return build


@pytest.mark.parametrize(
    ("name", "kwargs", "channels"),
    [
        ("test_convnext", {}, [24, 32, 48, 64]),
        ("test_resnet", {}, [32, 48, 192, 96]),
        ("test_efficientnet", {}, [24, 32, 48, 64]),
        ("test_mambaout", {}, [16, 32, 48, 64]),  # its maps are B×h×w×C
        ("test_vit", {}, [16, 32, 64, 64]),
        ("vit_tiny_patch16_224", {"depth": 3, "patch_size": 14}, [48, 96, 192, 192]),
        ("vit_tiny_patch16_224", {"depth": 3, "patch_size": 8}, [96, 192, 192, 192]),
    ],
)
def test_features_have_the_promised_shapes(build, name, kwargs, channels):
    backbone = build(name, **kwargs)
    features = backbone(torch.randn(2, 3, 64, 96))
    specs = backbone.output_shape()
    assert list(features) == list(specs) == ["res2", "res3", "res4", "res5"]
    assert [spec.channels for spec in specs.values()] == channels
    for feature, spec in zip(features.values(), specs.values(), strict=True):
        assert feature.shape == (2, spec.channels, 64 // spec.stride, 96 // spec.stride)
    assert backbone.size_divisibility == 32


def test_hierarchical_features_are_timm_s(build):
    backbone = build("test_resnet", out_features=["res5", "res3"])
    theirs = timm.create_model("test_resnet", features_only=True).eval()
    theirs.load_state_dict(backbone.body.state_dict())
    images = torch.randn(1, 3, 64, 64)
    maps = theirs(images)
    features = backbone(images)
    assert list(features) == ["res3", "res5"]
    torch.testing.assert_close(features["res3"], maps[2])
    torch.testing.assert_close(features["res5"], maps[4])


def test_plain_features_are_the_last_map_of_timm_s(build):
    backbone = build("test_vit", out_features=["res4"])
    theirs = timm.create_model("test_vit", features_only=True).eval()
    theirs.load_state_dict(backbone.body.state_dict())
    images = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(backbone(images)["res4"], theirs(images)[-1])


def test_patches_of_14_pixels_see_the_image_resized_to_them(build):
    backbone = build("vit_tiny_patch16_224", depth=3, patch_size=14)
    seen = []
    backbone.body.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.linspace(0, 1, 96).expand(1, 3, 64, 96)
    backbone(image)
    assert seen[0].shape == (1, 3, 56, 84)
    torch.testing.assert_close(seen[0][0, 0, 0, [0, -1]], torch.tensor([0.0, 1.0]), atol=0.01, rtol=0)


def test_plain_models_pad_what_does_not_fit(build):
    features = build("test_vit")(torch.randn(1, 3, 50, 65))
    assert [tuple(x.shape[-2:]) for x in features.values()] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_stages_that_nothing_uses_are_not_built(build):
    backbone = build("test_convnext", out_features=["res2", "res3"])
    sum(x.sum() for x in backbone(torch.randn(1, 3, 64, 64)).values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert backbone.size_divisibility == 8


def test_keys_of_a_yaml_file_reach_timm(tmp_path, tiny_cfg):
    weights = timm.create_model("test_resnet", num_classes=5).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 5}
    node = {"NAME": "test_resnet", "PRETRAINED": True, "KWARGS": {"pretrained_cfg_overlay": overlay}}
    model = {"BACKBONE": {"NAME": "build_timm_backbone"}, "TIMM": node}
    (tmp_path / "timm.yaml").write_text(yaml.safe_dump({"VERSION": 2, "MODEL": model}))
    backbone = build_backbone(load_config(str(tmp_path / "timm.yaml")))
    loaded = backbone.body.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.items())


def test_swin_transformers_take_images_of_any_size(build):
    small = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    backbone = build("swin_tiny_patch4_window7_224", **small)
    for height, width in ((64, 96), (96, 64)):
        assert backbone(torch.randn(1, 3, height, width))["res3"].shape == (1, 32, height // 8, width // 8)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("beit_base_patch16_224", {"embed_dim": 32, "depth": 4, "num_heads": 2}),
        ("hiera_tiny_224", {"embed_dim": 16, "stages": [1, 1, 1, 1]}),
    ],
)
def test_models_of_one_image_size_say_so(build, name, sizes):
    backbone = build(name, **sizes)
    with pytest.raises(ValueError, match=r"does not take images of 64×96 pixels: .*img_size"):
        backbone(torch.randn(1, 3, 64, 96))


def test_other_errors_are_not_explained_away(build):
    with pytest.raises(RuntimeError, match="expected input"):
        build("test_resnet")(torch.randn(1, 5, 64, 64))


def test_images_of_other_channel_counts(tiny_cfg, build):
    tiny_cfg.MODEL.PIXEL_MEAN, tiny_cfg.MODEL.PIXEL_STD = [100.0], [50.0]
    assert build("test_convnext")(torch.randn(1, 1, 32, 32))["res5"].shape == (1, 64, 1, 1)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("resnet19", {}, r"MODEL.TIMM.NAME is 'resnet19', no model of timm .*similar: \['resnet1"),
        ("", {}, "MODEL.TIMM.NAME is ''"),
        ("test_resnet", {"no_such_argument": 1}, "'test_resnet', from which timm makes no .*no_such_argument"),
        ("repvgg_a0", {"output_stride": 16}, r"OUT_FEATURES names \['res5'\], but .* strides \[2, 4, 8, 16, 16\]"),
    ],
)
def test_what_cannot_be_built_is_refused(build, name, changes, message):
    with pytest.raises(ValueError, match=message):
        build(name, **changes)


@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_mask2former_trains_all_its_parameters(tiny_cfg, build, name):
    build(name)
    model = build_model(tiny_cfg)
    instances = Instances((64, 80))
    instances.gt_classes = torch.tensor([1])
    instances.gt_masks = torch.zeros(1, 64, 80, dtype=torch.bool)
    instances.gt_masks[0, 10:40, 20:60] = True
    image = torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8)
    losses = model([{"image": image, "instances": instances}] * 2)
    sum(losses.values()).backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
    with torch.no_grad():
        assert model.eval()([{"image": image}])[0]["sem_seg"].shape == (3, 64, 80)
