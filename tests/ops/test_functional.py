"""Both implementations of the functional against a loop written from its definition; gradients; refusals."""

import itertools
import math

import pytest
import torch

from mask2former_ext.ops import ms_deform_attn

DTYPES = [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)]


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


def assert_equals_naive(inputs, tolerance=1e-12):
    output = ms_deform_attn(*inputs)
    assert (output.dtype, output.device) == (inputs[0].dtype, inputs[0].device)
    expected = naive(*(x.cpu() for x in inputs))
    torch.testing.assert_close(output.cpu().double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_equals_the_naive_loop_in_every_dtype(implementation, make_inputs, dtype, tolerance):
    assert_equals_naive(make_inputs(dtype), tolerance)


@pytest.mark.parametrize("levels", range(1, 6))
@pytest.mark.parametrize("points", [1, 3, 8])
def test_any_number_of_levels_and_points(implementation, make_inputs, levels, points):
    sizes = [(4, 5), (2, 3), (1, 7), (6, 1), (1, 1)][:levels]
    assert_equals_naive(make_inputs(levels=sizes, points=points, batch=1))


@pytest.mark.parametrize("width", [1, 7, 8, 16, 20, 32, 33, 64, 96, 128])
@pytest.mark.parametrize(("dtype", "tolerance"), [DTYPES[0], DTYPES[1], DTYPES[2]])
def test_any_head_width(implementation, make_inputs, width, dtype, tolerance):
    assert_equals_naive(make_inputs(dtype, width=width, batch=1, levels=((4, 5), (2, 2))), tolerance)


@pytest.mark.parametrize("spread", [(0.0, 1.0), (-3.0, 4.0), (0.0, 0.0), (1.0, 1.0), (-1e30, 1e30)])
def test_locations_inside_outside_and_on_the_border(implementation, make_inputs, spread):
    assert_equals_naive(make_inputs(spread=spread))


@pytest.mark.parametrize("far", [math.inf, -math.inf, 3e38])
def test_locations_infinitely_far_away_are_outside(implementation, make_inputs, far):
    value, shapes, starts, locations, weights = make_inputs(torch.float32)
    locations[0] = far
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    output = ms_deform_attn(value, shapes, starts, locations, weights)
    gradients = torch.autograd.grad(output.sum(), leaves)
    assert not output[0].any() and not any(gradient[0].any() for gradient in gradients)
    assert output[1].any() and all(gradient.isfinite().all() for gradient in gradients)


def test_locations_on_pixel_centers_and_edges(implementation, make_inputs):
    value, shapes, starts, locations, weights = make_inputs(levels=((4, 8),), points=4)
    grid = torch.tensor([0.0, 1 / 16, 1 / 8, 15 / 16, 1.0])
    locations.copy_(grid[torch.randint(len(grid), locations.shape)].to(locations))
    assert_equals_naive((value, shapes, starts, locations, weights))


@pytest.mark.parametrize("empty", [{"batch": 0}, {"queries": 0}, {"batch": 0, "queries": 0}])
def test_empty_batch_and_no_queries(implementation, make_inputs, empty):
    value, shapes, starts, locations, weights = make_inputs(**empty)
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    output = ms_deform_attn(value, shapes, starts, locations, weights)
    assert output.shape == (locations.shape[0], locations.shape[1], 8)
    output.sum().backward()
    assert not leaves[0].grad.any()


def test_a_batch_of_33(implementation, make_inputs):
    assert_equals_naive(make_inputs(batch=33, queries=1, levels=((2, 3),), points=1))


def test_non_contiguous_inputs(implementation, make_inputs):
    value, shapes, starts, locations, weights = make_inputs()
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (value, locations, weights)]
    assert not any(x.is_contiguous() for x in strided)
    expected = ms_deform_attn(value, shapes, starts, locations, weights)
    torch.testing.assert_close(ms_deform_attn(strided[0], shapes, starts, *strided[1:]), expected)


@pytest.mark.parametrize("width", [3, 8, 32])
def test_gradients(implementation, make_inputs, width):
    # eight float64 are a vector of the CPU kernels: 3 is less than one, 32 are the four of a fast path
    inputs = make_inputs(levels=[(3, 4), (2, 2)], queries=2, batch=1 if width > 3 else 2, width=width)
    value, shapes, starts, locations, weights = inputs
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    # on a GPU sums of one pixel's gradients come in any order
    assert torch.autograd.gradcheck(
        lambda v, s, w: ms_deform_attn(v, shapes, starts, s, w), leaves, fast_mode=width > 3, nondet_tol=1e-10
    )


def refusals():
    """(what is done to the inputs, what the message says)."""
    yield "starts", lambda i: i.update(starts=i["starts"] + 1), r"start"
    yield "few pixels", lambda i: i.update(value=i["value"][:, 1:]), r"47"
    yield "few levels", lambda i: i.update(locations=i["locations"][:, :, :, :2]), r"sampling_locations"
    yield "no batch", lambda i: i.update(value=i["value"][0]), r"shape"
    yield "weights", lambda i: i.update(weights=i["weights"][..., :1]), r"attention_weights"
    yield "heads", lambda i: i.update(value=i["value"][:, :, :1]), r"sampling_locations"
    yield "zero height", lambda i: i["shapes"].__setitem__((0, 0), 0), r"level"
    yield "negative", lambda i: i["shapes"].neg_(), r"level"
    yield "fractions", lambda i: i.update(shapes=i["shapes"].double()), r"must be int64"
    yield "three sides", lambda i: i.update(shapes=i["shapes"][:, [0, 1, 1]]), r"height, width"
    yield "whole values", lambda i: i.update(value=i["value"].long()), r"value must be float32"
    yield "yes or no", lambda i: i.update(weights=i["weights"].bool()), r"attention_weights must be float32"
    yield "whole locations", lambda i: i.update(locations=i["locations"].int()), r"sampling_locations must be float32"


@pytest.mark.parametrize(("change", "message"), [r[1:] for r in refusals()], ids=[r[0] for r in refusals()])
def test_refuses_inputs_that_disagree(implementation, make_inputs, change, message):
    names = ("value", "shapes", "starts", "locations", "weights")
    inputs = dict(zip(names, make_inputs(), strict=True))
    change(inputs)
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(*inputs.values())
