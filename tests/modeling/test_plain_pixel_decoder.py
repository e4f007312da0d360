"""Pixel decoders without deformable attention: names, numbers by hand, and a Mask2Former on top of them."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from mask2former_ext.modeling.head import build_pixel_decoder
from mask2former_ext.modeling.plain_pixel_decoder import TransformerEncoder, TransformerEncoderLayer

NAMES = ["BasePixelDecoder", "TransformerEncoderPixelDecoder"]
CONVOLUTIONS = {f"{part}_{index}.weight" for part in ("adapter", "layer") for index in (1, 2, 3)} | {"layer_4.weight"}
NORMS = {key.replace("weight", f"norm.{parameter}") for key in CONVOLUTIONS for parameter in ("weight", "bias")}
BASE_KEYS = CONVOLUTIONS | NORMS | {"mask_features.weight", "mask_features.bias"}
ENCODER_KEYS = {"input_proj.weight", "input_proj.bias"} | {
    f"transformer.encoder.layers.0.{name}"
    for name in [
        *("self_attn.in_proj_weight", "self_attn.in_proj_bias", "self_attn.out_proj.weight", "self_attn.out_proj.bias"),
        *("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"),
        *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
    ]
}


def shapes():
    return {f"res{i + 2}": ShapeSpec(channels=8 * 2**i, stride=4 * 2**i) for i in range(4)}


def features(height, width, batch=2):
    sizes = {name: (math.ceil(height / s.stride), math.ceil(width / s.stride)) for name, s in shapes().items()}
    return {name: torch.randn(batch, shapes()[name].channels, *sizes[name]) for name in sizes}


@pytest.fixture
def build(tiny_cfg):
    tiny_cfg.MODEL.SEM_SEG_HEAD.NORM = "GN"

    def build(name, *opts):
        tiny_cfg.merge_from_list(["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", name, *opts])
        return build_pixel_decoder(tiny_cfg, shapes()).eval()

    return build


def test_parameters_have_the_names_of_published_weights(build):
    assert set(build("BasePixelDecoder").state_dict()) == BASE_KEYS
    decoder = build("TransformerEncoderPixelDecoder")
    assert set(decoder.state_dict()) == BASE_KEYS | ENCODER_KEYS
    assert decoder.layer_4.weight.shape == (32, 32, 3, 3) and decoder.input_proj.weight.shape == (32, 64, 1, 1)
    assert decoder.mask_features.weight.shape == (16, 32, 3, 3)
    pre_norm = build("TransformerEncoderPixelDecoder", "MODEL.MASK_FORMER.PRE_NORM", True)
    extra = {"transformer.encoder.norm.weight", "transformer.encoder.norm.bias"}
    assert set(pre_norm.state_dict()) == BASE_KEYS | ENCODER_KEYS | extra


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), [(72, 104), (50, 71)])
def test_mask_features_and_three_scales_of_odd_sizes(build, name, height, width):
    inputs = features(height, width)
    mask_features, encoded, scales = build(name).forward_features(inputs)
    assert mask_features.shape == (2, 16, *inputs["res2"].shape[-2:])
    lowest_first = [inputs[name].shape[-2:] for name in ("res5", "res4", "res3")]
    assert [tuple(scale.shape) for scale in scales] == [(2, 32, *size) for size in lowest_first]
    if name == "BasePixelDecoder":
        assert encoded is None
    else:
        assert encoded.shape == scales[0].shape and not torch.equal(encoded, scales[0])


def test_pyramid_by_its_formula(build):
    decoder = build("BasePixelDecoder", "MODEL.SEM_SEG_HEAD.NORM", "")
    inputs = features(40, 64, batch=1)

    def conv(module, x):
        return F.conv2d(x, module.weight, module.bias, padding=module.weight.shape[-1] // 2)

    expected = [F.relu(conv(decoder.layer_4, inputs["res5"]))]
    for level in (3, 2, 1):
        lateral = conv(getattr(decoder, f"adapter_{level}"), inputs[f"res{level + 1}"])
        height, width = lateral.shape[-2:]
        rows = torch.arange(height) * expected[-1].shape[-2] // height  # nearest neighbour
        columns = torch.arange(width) * expected[-1].shape[-1] // width
        top_down = expected[-1][:, :, rows][:, :, :, columns]
        expected.append(F.relu(conv(getattr(decoder, f"layer_{level}"), lateral + top_down)))
    mask_features, _, scales = decoder.forward_features(inputs)
    torch.testing.assert_close(mask_features, conv(decoder.mask_features, expected[-1]))
    torch.testing.assert_close(scales, expected[:3])


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_layer_is_torch_s_where_positions_are_zero(pre_norm):
    ours = TransformerEncoderLayer(16, 4, 24, 0.5, pre_norm).eval()
    theirs = nn.TransformerEncoderLayer(16, 4, 24, 0.5, batch_first=True, norm_first=pre_norm).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 16)
    torch.testing.assert_close(ours(x, torch.zeros(1, 6, 16)), theirs(x), rtol=1e-4, atol=1e-5)


def test_positions_steer_attention_but_are_no_part_of_values():
    layer = TransformerEncoderLayer(16, 4, 24, 0.0, pre_norm=False)
    x, position = torch.randn(2, 6, 16), torch.randn(1, 6, 16)
    attended = layer._attend(x, position)
    torch.testing.assert_close(attended, layer.self_attn(x + position, x + position, x)[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(attended, layer._attend(x, torch.zeros_like(position)), atol=1e-3)


def test_last_norm_only_where_layers_normalise_first():
    x = 5 * torch.randn(2, 6, 16)
    for pre_norm in (False, True):
        encoder = TransformerEncoder(0, dim=16, num_heads=4, feedforward_dim=24, dropout=0.0, pre_norm=pre_norm)
        assert torch.equal(encoder(x, torch.zeros(1, 6, 16)), x) != pre_norm


def test_encoder_puts_pixels_back_where_they_were(build):
    decoder = build("TransformerEncoderPixelDecoder", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 0)
    inputs = features(64, 96)
    encoded = decoder.forward_features(inputs)[1]
    torch.testing.assert_close(encoded, decoder.input_proj(inputs["res5"]))


def test_keys_of_the_encoder_work(build):
    decoder = build(
        "TransformerEncoderPixelDecoder",
        *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 3, "MODEL.MASK_FORMER.NHEADS", 2),
        *("MODEL.MASK_FORMER.DIM_FEEDFORWARD", 40, "MODEL.MASK_FORMER.DROPOUT", 0.3),
    )
    layers = decoder.transformer.encoder.layers
    assert len(layers) == 3
    assert (layers[2].self_attn.num_heads, layers[2].self_attn.dropout) == (2, 0.3)
    assert layers[2].linear1.out_features == 40
    assert {layers[2].dropout.p, layers[2].dropout1.p, layers[2].dropout2.p} == {0.3}


@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_the_rest_of_the_batch(build, name):
    decoder, inputs = build(name), features(64, 96)
    together = decoder.forward_features(inputs)[0]
    alone = decoder.forward_features({key: x[1:] for key, x in inputs.items()})[0]
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_too_few_features_are_refused(build, name):
    with pytest.raises(ValueError, match=r"IN_FEATURES \['res4', 'res5'\].*needs 3 scales"):
        build(name, "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res5", "res4"])


@pytest.mark.parametrize("name", NAMES)
def test_mask2former_trains_all_its_parameters(tiny_cfg, name):
    tiny_cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = name
    model = build_model(tiny_cfg)
    instances = Instances((64, 80))
    instances.gt_classes = torch.tensor([1])
    instances.gt_masks = torch.zeros(1, 64, 80, dtype=torch.bool)
    instances.gt_masks[0, 10:40, 20:60] = True
    image = torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8)
    batch = [{"image": image, "instances": instances}] * 2
    losses = model(batch)
    assert torch.isfinite(sum(losses.values()))
    sum(losses.values()).backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
    with torch.no_grad():
        assert model.eval()(batch)[0]["sem_seg"].shape == (3, 64, 80)
