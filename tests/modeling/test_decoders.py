"""Position encoding, attention, pixel decoder and transformer decoder."""

import logging
import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.utils import logger as detectron2_logger
from torch import nn

from mask2former_ext.modeling import build_transformer_decoder
from mask2former_ext.modeling.blocks import MLP, Attention, CrossAttentionLayer, FFNLayer, SelfAttentionLayer
from mask2former_ext.modeling.head import MaskFormerHead, build_pixel_decoder
from mask2former_ext.modeling.pixel_decoder import pixel_centers
from mask2former_ext.modeling.transformer_decoder import attention_mask


def shapes():
    return {f"res{i + 2}": ShapeSpec(channels=64 * 2**i, stride=4 * 2**i) for i in range(4)}


def features(height, width, batch=2):
    sizes = {name: (math.ceil(height / s.stride), math.ceil(width / s.stride)) for name, s in shapes().items()}
    return {name: torch.randn(batch, shapes()[name].channels, *sizes[name]) for name in sizes}


def test_pixel_centers():
    centers = pixel_centers(((2, 2), (1, 4)), torch.device("cpu"))
    assert centers.shape == (1, 8, 2, 2)
    assert centers[0, :4, 0].tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert centers[0, 4:, 1].tolist() == [[0.125, 0.5], [0.375, 0.5], [0.625, 0.5], [0.875, 0.5]]


def test_attention_is_torch_multihead_attention():
    ours, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    query, key, value = torch.randn(2, 3, 16), torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    allowed = torch.rand(2, 3, 5) > 0.4
    allowed[..., 0] = True
    expected = theirs(query, key, value, attn_mask=~allowed.repeat_interleave(4, 0))[0]
    torch.testing.assert_close(ours(query, key, value, allowed), expected, rtol=1e-4, atol=1e-5)


def test_attention_refuses_heads_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match="16 channels"):
        Attention(16, 3)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_blocks_normalise_where_they_should(pre_norm):
    x, memory = torch.randn(2, 3, 16) * 5, torch.randn(2, 6, 16)
    outputs = [
        SelfAttentionLayer(16, 4, pre_norm)(x, None),
        CrossAttentionLayer(16, 4, pre_norm)(x, memory, None, None, None),
        FFNLayer(16, 32, pre_norm)(x),
    ]
    for output in outputs:
        assert torch.allclose(output.mean(-1), torch.zeros(2, 3), atol=1e-5) != pre_norm


def test_mlp_has_no_activation_at_its_end():
    mlp = MLP(4, 8, 2, 3)
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(8, 4), (8, 8), (2, 8)]
    assert (mlp(torch.randn(200, 4)) < 0).any()


def test_attention_mask_opens_only_the_predicted_mask():
    logits = torch.full((1, 3, 4, 4), -5.0)
    logits[0, 0, :, :2] = 5.0
    logits[0, 2, :] = 0.0  # sigmoid(0) is not below one half
    allowed = attention_mask(logits.requires_grad_(), (2, 2))
    assert allowed.tolist() == [[[True, False, True, False], [True] * 4, [True] * 4]]
    assert not allowed.requires_grad


def test_pixel_decoder_returns_mask_features_and_three_scales(tiny_cfg):
    decoder = build_pixel_decoder(tiny_cfg, shapes()).eval()
    mask_features, lowest, scales = decoder.forward_features(features(72, 104))
    assert mask_features.shape == (2, 16, 18, 26)
    assert [tuple(s.shape) for s in scales] == [(2, 32, 3, 4), (2, 32, 5, 7), (2, 32, 9, 13)]
    assert lowest is scales[0]


def test_pixel_decoder_with_two_encoder_levels_takes_the_third_from_the_pyramid(tiny_cfg):
    tiny_cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res4", "res5"]
    decoder = build_pixel_decoder(tiny_cfg, shapes())
    mask_features, _, scales = decoder.forward_features(features(64, 64))
    assert [s.shape[-1] for s in scales] == [2, 4, 8] and mask_features.shape[-1] == 16


def test_pixel_decoder_results_do_not_depend_on_the_rest_of_the_batch(tiny_cfg):
    decoder = build_pixel_decoder(tiny_cfg, shapes()).eval()
    inputs = features(64, 96)
    together = decoder.forward_features(inputs)[0]
    alone = decoder.forward_features({name: x[1:] for name, x in inputs.items()})[0]
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)


def test_keys_of_the_encoder_work(tiny_cfg):
    head = tiny_cfg.MODEL.SEM_SEG_HEAD
    attention = build_pixel_decoder(tiny_cfg, shapes()).transformer.encoder.layers[0].self_attn
    assert (attention.n_heads, attention.n_points, attention.n_levels) == (4, 4, 3)  # heads: MASK_FORMER.NHEADS
    head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS, head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 2, 6
    attention = build_pixel_decoder(tiny_cfg, shapes()).transformer.encoder.layers[0].self_attn
    assert (attention.n_heads, attention.n_points) == (2, 6)


def test_encoder_dropout_is_the_configured_one_and_its_width_is_fixed(tiny_cfg):
    tiny_cfg.MODEL.MASK_FORMER.DROPOUT = 0.3
    layer = build_pixel_decoder(tiny_cfg, shapes()).transformer.encoder.layers[0]
    assert {layer.dropout1.p, layer.dropout2.p, layer.dropout3.p} == {0.3}
    assert layer.linear1.out_features == 1024


def test_transformer_decoder_predicts_once_more_than_it_has_layers(tiny_cfg):
    decoder = build_transformer_decoder(tiny_cfg, 32)
    scales = [torch.randn(2, 32, 2, 3), torch.randn(2, 32, 4, 6), torch.randn(2, 32, 8, 12)]
    outputs = decoder(scales, torch.randn(2, 16, 16, 24))
    assert len(outputs["aux_outputs"]) == 2
    for prediction in (outputs, *outputs["aux_outputs"]):
        assert prediction["pred_logits"].shape == (2, 10, 4)
        assert prediction["pred_masks"].shape == (2, 10, 16, 24)


def test_attention_masks_from_resized_mask_features_are_those_of_resized_masks(tiny_cfg):
    scales = [torch.randn(2, 32, 2, 3), torch.randn(2, 32, 4, 6), torch.randn(2, 32, 8, 12)]
    mask_features = torch.randn(2, 16, 15, 22)
    plain = build_transformer_decoder(tiny_cfg, 32).eval()
    tiny_cfg.MODEL.MASK_FORMER.RESIZE_MASK_FEATURES = True
    decoder = build_transformer_decoder(tiny_cfg, 32).eval()
    decoder.load_state_dict(plain.state_dict())
    expected, outputs = plain(scales, mask_features), decoder(scales, mask_features)
    for name in ("pred_logits", "pred_masks"):
        torch.testing.assert_close(outputs[name], expected[name], rtol=1e-4, atol=1e-4)
    assert outputs["aux_outputs"] == []
    assert len(decoder.train()(scales, mask_features)["aux_outputs"]) == len(expected["aux_outputs"])


def test_transformer_decoder_projects_scales_of_other_width_or_on_demand(tiny_cfg):
    assert not list(build_transformer_decoder(tiny_cfg, 32).input_proj.parameters())
    assert len(list(build_transformer_decoder(tiny_cfg, 24).input_proj.parameters())) == 6
    tiny_cfg.MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ = True
    assert len(list(build_transformer_decoder(tiny_cfg, 32).input_proj.parameters())) == 6


def test_keys_that_cannot_work_are_refused_or_warned_of(tiny_cfg, caplog):
    node = tiny_cfg.MODEL.MASK_FORMER
    detectron2_logger._LOG_COUNTER.clear()
    node.ENC_LAYERS = 2
    with caplog.at_level(logging.WARNING):
        build_transformer_decoder(tiny_cfg, 32)
        build_transformer_decoder(tiny_cfg, 32)
    assert caplog.text.count("ENC_LAYERS is 2 and has no effect") == 1
    node.DEC_LAYERS = 0
    with pytest.raises(ValueError, match="DEC_LAYERS"):
        build_transformer_decoder(tiny_cfg, 32)
    node.TRANSFORMER_DECODER_NAME = "StandardTransformerDecoder"
    with pytest.raises(ValueError, match="'StandardTransformerDecoder', but only"):
        build_transformer_decoder(tiny_cfg, 32)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res5", "older MaskFormer"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "NoSuchDecoder", "'NoSuchDecoder', which no imported module"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "SemSegFPNHead", "no pixel decoder"),
        ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", ["res6"], r"missing: \['res6'\]"),
    ],
)
def test_head_refuses_what_it_cannot_build(tiny_cfg, key, value, message):
    tiny_cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        MaskFormerHead(tiny_cfg, build_backbone(tiny_cfg).output_shape())


def test_old_key_forms_load(tiny_cfg):
    head = MaskFormerHead(tiny_cfg, build_backbone(tiny_cfg).output_shape())
    current = head.state_dict()
    old = {k.removeprefix("pixel_decoder."): v + 1 if v.is_floating_point() else v for k, v in current.items()}
    old["predictor.static_query.weight"] = old.pop("predictor.query_feat.weight")
    assert head.load_state_dict({k: v.clone() for k, v in old.items()}, strict=True)
    expected = old["predictor.static_query.weight"]
    assert torch.equal(head.predictor.query_feat.weight, expected)
    assert torch.equal(head.pixel_decoder.mask_features.weight, old["mask_features.weight"])
