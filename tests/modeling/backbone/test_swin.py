"""Swin Transformer: its parts by hand, every key of MODEL.SWIN, and a Mask2Former on top of it."""

import math

import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Instances
from torch import nn

from mask2former_ext.modeling.backbone.swin import DropPath, PatchMerging
from mask2former_ext.solver import parameter_groups

TINY_SWIN = [
    *("MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM", 8, "MODEL.SWIN.DEPTHS", [2, 2, 2, 2]),
    *("MODEL.SWIN.NUM_HEADS", [1, 2, 2, 4], "MODEL.SWIN.WINDOW_SIZE", 4, "MODEL.SWIN.DROP_PATH_RATE", 0.0),
]


@pytest.fixture
def swin_cfg(tiny_cfg):
    tiny_cfg.merge_from_list(TINY_SWIN)
    return tiny_cfg


@pytest.fixture
def build(swin_cfg):
    """Build the tiny Swin Transformer with changed keys of MODEL.SWIN."""

    def build(**changes):
        for key, value in changes.items():
            swin_cfg.MODEL.SWIN[key] = value
        return build_backbone(swin_cfg)

    return build


def test_drop_path_leaves_out_whole_images_and_keeps_the_expectation():
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    y = drop(x)
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert drop.eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_patch_merging_by_hand():
    merging = PatchMerging(1)
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()
    x = torch.arange(1.0, 16).view(1, 3, 5, 1)
    expected = [[[1, 6, 2, 7], [3, 8, 4, 9], [5, 10, 0, 0]], [[11, 0, 12, 0], [13, 0, 14, 0], [15, 0, 0, 0]]]
    assert merging(x)[0].tolist() == expected


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 50), (5, 71)])
def test_features_have_the_promised_shapes(build, height, width):
    backbone = build()
    features = backbone(torch.randn(2, 3, height, width))
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for index, (name, spec) in enumerate(backbone.output_shape().items()):
        assert (spec.channels, spec.stride) == (8 * 2**index, 4 * 2**index)
        assert features[name].shape == (
            2,
            spec.channels,
            math.ceil(height / spec.stride),
            math.ceil(width / spec.stride),
        )
        assert features[name].is_contiguous()
    assert backbone.size_divisibility == 32


def test_features_are_normalised_and_do_not_depend_on_the_rest_of_the_batch(build):
    backbone = build().eval()
    images = torch.randn(3, 3, 40, 72)
    together = backbone(images)
    alone = backbone(images[1:2])
    for name, feature in together.items():
        torch.testing.assert_close(feature[1:2], alone[name], rtol=1e-4, atol=1e-5)
        assert feature.mean(1).abs().max() < 1e-4


def test_checkpointing_changes_neither_losses_nor_gradients(build):
    images = torch.randn(2, 3, 40, 64)
    results = {}
    for use_checkpoint in (False, True):
        torch.manual_seed(3)
        backbone = build(USE_CHECKPOINT=use_checkpoint, DROP_PATH_RATE=0.4, DROP_RATE=0.1)
        torch.manual_seed(4)
        loss = sum(feature.square().mean() for feature in backbone(images).values())
        loss.backward()
        results[use_checkpoint] = [loss.detach(), *(p.grad for p in backbone.parameters())]
    for plain, recomputed in zip(results[False], results[True], strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_checkpointing_keeps_less_for_the_backward_pass(build):
    def kept(backbone):
        count = 0

        def pack(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            backbone(torch.randn(1, 3, 64, 64))
        return count

    assert kept(build(USE_CHECKPOINT=True)) < 0.5 * kept(build(USE_CHECKPOINT=False))


def test_drop_path_grows_from_block_to_block(build):
    rates = [m.rate for m in build(DROP_PATH_RATE=0.7).modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.1 * index for index in range(8)])


def test_windows_of_every_second_block_are_shifted_by_half(build):
    assert [block.shift for block in build(WINDOW_SIZE=5, DEPTHS=[1, 4, 1, 1]).layers[1].blocks] == [0, 2, 0, 2]


def test_patches_are_dropped_out(build):
    backbone = build(DROP_RATE=0.25)
    seen = []
    backbone.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    backbone(torch.randn(1, 3, 128, 128))
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_absolute_position_embedding_is_added_and_resized_to_the_image(build):
    backbone = build(APE=True, PRETRAIN_IMG_SIZE=32).eval()
    assert backbone.absolute_pos_embed.shape == (1, 8, 8, 8)
    seen = []
    backbone.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for size in [(32, 32), (40, 64)]:
        images = torch.randn(1, 3, *size)
        backbone(images)
        position = nn.functional.interpolate(backbone.absolute_pos_embed, (size[0] // 4, size[1] // 4), mode="bicubic")
        torch.testing.assert_close(seen[-1], backbone.patch_embed(images) + position.permute(0, 2, 3, 1))
    assert "absolute_pos_embed" in backbone.state_dict()


@pytest.mark.parametrize(
    ("key", "value", "name", "shape"),
    [
        ("PATCH_SIZE", 2, "patch_embed.proj.weight", (8, 3, 2, 2)),
        ("EMBED_DIM", 16, "layers.3.blocks.1.norm1.weight", (128,)),
        ("DEPTHS", [1, 1, 3, 1], "layers.2.blocks.2.norm1.weight", (64 // 2,)),
        ("NUM_HEADS", [2, 4, 4, 8], "layers.0.blocks.0.attn.relative_position_bias_table", (49, 2)),
        ("WINDOW_SIZE", 3, "layers.0.blocks.0.attn.relative_position_index", (9, 9)),
        ("MLP_RATIO", 3.0, "layers.0.blocks.0.mlp.fc1.weight", (24, 8)),
        ("QKV_BIAS", False, "layers.0.blocks.0.attn.qkv.bias", None),
        ("PATCH_NORM", False, "patch_embed.norm.weight", None),
    ],
)
def test_keys_that_shape_parameters(build, key, value, name, shape):
    backbone = build(**{key: value})
    found = backbone.state_dict().get(name)
    assert (None if found is None else tuple(found.shape)) == shape
    assert backbone(torch.randn(1, 3, 32, 32))["res5"].shape[1] == backbone.output_shape()["res5"].channels


def test_patch_size_sets_strides(build):
    backbone = build(PATCH_SIZE=2)
    assert [spec.stride for spec in backbone.output_shape().values()] == [2, 4, 8, 16]
    assert backbone.size_divisibility == 16


def test_keys_that_shape_no_parameters(build):
    backbone = build(QK_SCALE=0.3, DROP_RATE=0.2, ATTN_DROP_RATE=0.1)
    attention = backbone.layers[3].blocks[1].attn
    assert (attention.qk_scale, attention.attn_dropout) == (0.3, 0.1)
    dropouts = [module.p for module in backbone.modules() if isinstance(module, nn.Dropout)]
    assert dropouts == [0.2] * (1 + 8 * 2)  # patches, then projection and perceptron of each block


def test_stages_after_the_last_feature_are_not_built(build):
    backbone = build(OUT_FEATURES=["res4", "res3"])
    assert list(backbone(torch.randn(1, 3, 64, 64))) == list(backbone.output_shape()) == ["res3", "res4"]
    names = [name for name, _ in backbone.named_children()]
    assert "norm0" not in names and "norm3" not in names and len(backbone.layers) == 3
    sum(x.sum() for x in backbone(torch.randn(1, 3, 64, 64)).values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"OUT_FEATURES": ["res2", "res6"]}, r"OUT_FEATURES \['res2', 'res6'\] must be some of \['res2'"),
        ({"OUT_FEATURES": []}, "OUT_FEATURES"),
        ({"NUM_HEADS": [1, 2, 4]}, "differ in length"),
        ({"NUM_HEADS": [3, 2, 2, 4]}, "3 heads do not divide the 8 channels"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build, changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_grey_images_are_cut_into_patches_of_one_channel(swin_cfg):
    swin_cfg.MODEL.PIXEL_MEAN, swin_cfg.MODEL.PIXEL_STD = [100.0], [50.0]
    assert build_backbone(swin_cfg).patch_embed.proj.weight.shape == (8, 1, 4, 4)


def test_half_precision(build):
    with torch.autocast("cpu", torch.bfloat16):
        features = build()(torch.randn(1, 3, 40, 64))
    assert all(torch.isfinite(feature).all() for feature in features.values())


def batch_of_two():
    batch = []
    for index, (height, width) in enumerate([(64, 80), (50, 71)]):
        instances = Instances((height, width))
        instances.gt_classes = torch.tensor([0, 2])
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, 5:30, 8:40], masks[1, 30:, :] = True, True
        instances.gt_masks = masks
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": 2 * height, "width": width, "image_id": index})
    return batch


def test_mask2former_with_swin_trains_and_infers(swin_cfg):
    swin_cfg.MODEL.SWIN.DROP_PATH_RATE = 0.1
    model = build_model(swin_cfg)
    batch = batch_of_two()
    optimizer = torch.optim.AdamW(parameter_groups(swin_cfg, model), lr=1e-3)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    sum(model(batch).values()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    optimizer.step()
    assert torch.isfinite(sum(model(batch).values()))
    assert not torch.equal(model.backbone.patch_embed.proj.weight, before["backbone.patch_embed.proj.weight"])
    with torch.no_grad():
        results = model.eval()(batch)
    assert [tuple(result["sem_seg"].shape) for result in results] == [(3, 128, 80), (3, 100, 71)]


def test_position_tables_and_norms_decay_as_they_should(swin_cfg):
    swin_cfg.merge_from_list(["SOLVER.WEIGHT_DECAY", 0.05, "SOLVER.WEIGHT_DECAY_NORM", 0.01, "MODEL.SWIN.APE", True])
    model = build_model(swin_cfg)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(swin_cfg, model)
    decay = {names[p]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay["backbone.layers.1.blocks.0.attn.relative_position_bias_table"] == 0
    assert decay["backbone.absolute_pos_embed"] == 0
    assert decay["backbone.layers.1.downsample.norm.weight"] == decay["backbone.norm3.bias"] == 0.01
    assert decay["backbone.layers.1.blocks.0.attn.qkv.weight"] == 0.05
