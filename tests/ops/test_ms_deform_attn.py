"""The functional against a loop written from its definition, its gradients, its refusals, and the module around it."""

import itertools
import math

import pytest
import torch

from mask2former_ext.ops import MSDeformAttn, ms_deform_attn

LEVELS = [(5, 7), (3, 4), (1, 1)]


def make_inputs(dtype=torch.float64, levels=LEVELS, batch=2, queries=3, heads=2, width=4, points=2, spread=(-0.3, 1.3)):
    sizes = [h * w for h, w in levels]
    value = torch.randn(batch, sum(sizes), heads, width, dtype=dtype)
    starts = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])
    low, high = spread
    locations = torch.rand(batch, queries, heads, len(levels), points, 2, dtype=torch.float64) * (high - low) + low
    weights = torch.rand(batch, queries, heads, len(levels), points, dtype=torch.float64)
    return value, torch.tensor(levels), starts, locations.to(dtype), weights.to(dtype)


def bilinear(pixels, x, y):
    """D channels of h×w×D ``pixels`` at pixel coordinates whose integers are pixel centers; zero outside."""
    total = torch.zeros(pixels.shape[-1], dtype=torch.float64)
    for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]:
            total += pixels[row, column].double() * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def naive(value, shapes, starts, locations, weights):
    batch, queries, heads, levels, points, _ = locations.shape
    output = torch.zeros(batch, queries, heads, value.shape[-1], dtype=torch.float64)
    for b, q, m, level, p in itertools.product(*map(range, (batch, queries, heads, levels, points))):
        h, w = shapes[level].tolist()
        pixels = value[b, starts[level] : starts[level] + h * w, m].reshape(h, w, -1)
        x, y = locations[b, q, m, level, p].double().tolist()
        output[b, q, m] += weights[b, q, m, level, p].double() * bilinear(pixels, x * w - 0.5, y * h - 0.5)
    return output.flatten(2)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)],
)
def test_equals_the_naive_loop(dtype, tolerance):
    inputs = make_inputs(dtype)
    output = ms_deform_attn(*inputs)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), naive(*inputs), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("spread", [(0.0, 1.0), (-3.0, 4.0), (0.0, 0.0), (1.0, 1.0)])
def test_locations_inside_outside_and_on_the_border(spread):
    inputs = make_inputs(spread=spread)
    torch.testing.assert_close(ms_deform_attn(*inputs), naive(*inputs))


@pytest.mark.parametrize("empty", [{"batch": 0}, {"queries": 0}])
def test_empty_batch_and_no_queries(empty):
    inputs = make_inputs(**empty)
    assert ms_deform_attn(*inputs).shape == (inputs[3].shape[0], inputs[3].shape[1], 8)


def test_non_contiguous_inputs():
    value, shapes, starts, locations, weights = make_inputs()
    strided = value.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    expected = ms_deform_attn(value, shapes, starts, locations, weights)
    torch.testing.assert_close(ms_deform_attn(strided, shapes, starts, locations, weights), expected)


def test_gradients():
    value, shapes, starts, locations, weights = make_inputs(levels=[(3, 4), (2, 2)], queries=2)
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, s, w: ms_deform_attn(v, shapes, starts, s, w), leaves)


def test_refuses_inputs_that_disagree():
    value, shapes, starts, locations, weights = make_inputs()
    with pytest.raises(ValueError, match="level_start_index is"):
        ms_deform_attn(value, shapes, starts + 1, locations, weights)
    with pytest.raises(ValueError, match="value has 47 pixels"):
        ms_deform_attn(value[:, 1:], shapes, starts, locations, weights)
    with pytest.raises(ValueError, match="does not fit"):
        ms_deform_attn(value, shapes, starts, locations[:, :, :, :2], weights)
    with pytest.raises(ValueError, match="B×S×M×D"):
        ms_deform_attn(value[0], shapes, starts, locations, weights)


def module_inputs(module, levels=LEVELS, queries=5):
    sizes = [h * w for h, w in levels]
    starts = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])
    pixels = torch.randn(2, sum(sizes), module.d_model)
    return torch.randn(2, queries, module.d_model), pixels, torch.tensor(levels), starts


def test_module_starts_looking_in_all_directions_at_growing_distance():
    module = MSDeformAttn(d_model=16, n_levels=1, n_heads=4, n_points=2)
    offsets = module.sampling_offsets(torch.randn(16)).view(4, 2, 2)
    expected = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    torch.testing.assert_close(offsets, torch.stack([expected, 2 * expected], 1), atol=1e-6, rtol=0)


def test_module_scales_offsets_by_level_size_or_by_the_reference_box():
    module = MSDeformAttn(d_model=16, n_levels=2, n_heads=4, n_points=2)
    query, _, shapes, _ = module_inputs(module, [(4, 8), (2, 2)])
    center = torch.full((2, 5, 2, 2), 0.5)
    locations = module._sampling_locations(query, center, shapes)
    first_head = torch.tensor([[[1 / 8, 0], [2 / 8, 0]], [[1 / 2, 0], [2 / 2, 0]]])
    torch.testing.assert_close(locations[0, 0, 0], 0.5 + first_head, atol=1e-6, rtol=0)

    boxes = torch.cat([center, torch.tensor([0.4, 0.2]).expand_as(center)], -1)
    locations = module._sampling_locations(query, boxes, shapes)
    first_head = torch.tensor([[0.5 * 0.4 / 2, 0], [2 * 0.5 * 0.4 / 2, 0]])
    torch.testing.assert_close(locations[0, 0, 0, 0], 0.5 + first_head, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="2 or 4 coordinates"):
        module._sampling_locations(query, center[..., :1], shapes)


def test_module_treats_padding_as_zero_value():
    module = MSDeformAttn(d_model=16, n_levels=3, n_heads=4, n_points=2)
    torch.nn.init.normal_(module.value_proj.bias)
    query, pixels, shapes, starts = module_inputs(module)
    center = torch.full((2, 5, 3, 2), 0.5)
    everything = torch.ones(2, pixels.shape[1], dtype=torch.bool)
    output = module(query, center, pixels, shapes, starts, everything)
    torch.testing.assert_close(output, module.output_proj.bias.expand_as(output))
    assert not torch.allclose(module(query, center, pixels, shapes, starts), output)


def test_module_refuses_heads_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match="16 is not divisible by n_heads 3"):
        MSDeformAttn(d_model=16, n_heads=3)
