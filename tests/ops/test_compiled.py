"""What holds of the compiled operators alone: registrations, threads, memory, autocast, odd inputs."""

import math

import pytest
import torch

from mask2former_ext.ops import ms_deform_attn
from mask2former_ext.ops.registration import LIBRARY

# The fused operator is for the CPU alone.
on_the_cpu = pytest.mark.parametrize("device", ["cpu"], indirect=True)

op = torch.ops.mask2former_ext.ms_deform_attn
backward = torch.ops.mask2former_ext.ms_deform_attn_backward
fused = torch.ops.mask2former_ext.ms_deform_attn_fused


def test_the_operators_are_compiled():
    assert LIBRARY is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(make_inputs, dtype):
    value, shapes, starts, locations, weights = make_inputs(dtype, width=8)
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    torch.library.opcheck(op, (leaves[0], shapes, starts, *leaves[1:]))
    grad = torch.randn(2, 3, 16).to(value)
    torch.library.opcheck(backward, (grad, *(x.detach() for x in (value, shapes, starts, locations, weights))))


@on_the_cpu
@pytest.mark.parametrize("coordinates", [2, 4])
def test_opcheck_and_gradcheck_of_the_fused_operator(make_inputs, coordinates):
    value, shapes, starts, locations, weights = make_inputs(levels=((3, 4), (2, 2)), queries=2)
    reference = torch.rand(2, 2, 2, coordinates, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (value, reference, locations, weights)]
    torch.library.opcheck(fused, (leaves[0], shapes, starts, *leaves[1:]))
    assert torch.autograd.gradcheck(lambda v, *rest: fused(v, shapes, starts, *rest), leaves)


@on_the_cpu
def test_fused_gradients_of_no_points_at_all_are_laid_out_as_tracing_says(make_inputs):
    value, shapes, starts, locations, weights = make_inputs(points=0)
    strided = value.transpose(1, 2).contiguous().transpose(1, 2)
    inputs = (strided, shapes, starts, torch.rand(2, 3, 3, 2), locations, weights)
    gradients = torch.ops.mask2former_ext.ms_deform_attn_fused_backward(torch.randn(2, 3, 8), *inputs)
    assert all(gradient.is_contiguous() and not gradient.any() for gradient in gradients)


def test_second_derivatives_are_refused(make_inputs):
    value, shapes, starts, locations, weights = make_inputs()
    (gradient,) = torch.autograd.grad(
        op(value.requires_grad_(), shapes, starts, locations.requires_grad_(), weights).sum(), value, create_graph=True
    )
    with pytest.raises(NotImplementedError, match=r"no second derivative.*MASK2FORMER_EXT_REFERENCE_OPS=1"):
        gradient.square().sum().backward()


@on_the_cpu
def test_second_derivatives_of_the_fused_operator_are_refused(make_inputs):
    value, shapes, starts, locations, weights = make_inputs()
    output = fused(value.requires_grad_(), shapes, starts, torch.rand(2, 3, 3, 2).to(value), locations, weights)
    (gradient,) = torch.autograd.grad(output.square().sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.square().sum().backward()


def test_forward_mode_derivatives_are_refused(make_inputs):
    value, shapes, starts, locations, weights = make_inputs()
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.func.jvp(lambda x: ms_deform_attn(x, shapes, starts, locations, weights), (value,), (value,))


@pytest.mark.parametrize("position", range(5))
def test_inputs_without_data_beside_others_are_refused(make_inputs, position):
    """One tensor on meta takes the whole call to the fake kernel, which has no results to give."""
    inputs = list(make_inputs())
    inputs[position] = inputs[position].to("meta")
    with pytest.raises(ValueError, match="meta"):
        op(*inputs)


@on_the_cpu
def test_fused_operator_refuses_reference_points_of_another_shape(make_inputs):
    value, shapes, starts, locations, weights = make_inputs()
    with pytest.raises(ValueError, match="reference_points must be B x Q x L x 2"):
        fused(value, shapes, starts, torch.rand(2, 3, 1, 2), locations, weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_are_rounded_once_to_the_nearest(device, dtype):
    factors = torch.tensor([1.0, 1 + 2**-9, 1 + 3 * 2**-9, 1 + 2**-12, -1 / 3, 1e-7, 1e5, 3e38, math.inf, math.nan])
    value = torch.randn(37).to(dtype).index_fill_(0, torch.tensor([0, 36]), 1.0).to(device)
    center = torch.full((1, len(factors), 1, 1, 1, 2), 0.5, device=device)
    weights = factors.view(1, -1, 1, 1, 1).to(device)
    output = op(value.view(1, 1, 1, -1), torch.ones(1, 2, dtype=torch.long), torch.zeros(1).long(), center, weights)
    expected = (factors[:, None].to(device) * value.float()).to(dtype)
    torch.testing.assert_close(output[0], expected, rtol=0, atol=0, equal_nan=True)


@on_the_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_the_same_bits_at_any_number_of_threads(make_inputs, dtype):
    inputs = make_inputs(dtype, levels=((9, 11), (4, 5)), queries=200, heads=3, width=32, points=3)
    grad = torch.randn(2, 200, 96).to(dtype)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append((op(*inputs), *backward(grad, *inputs)))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(make_inputs, low):
    """Values in half precision, locations in float32: the error is that of rounding inputs and output, once each."""
    value, shapes, starts, locations, weights = make_inputs(torch.float32, width=32, points=8)
    exact = op(value.to(low).float(), shapes, starts, locations, weights)
    assert torch.equal(op(value.to(low), shapes, starts, locations, weights), exact.to(low))
    grad = torch.randn(2, 3, 64).to(locations.device, low)
    gradients = backward(grad, value.to(low), shapes, starts, locations, weights)
    expected = backward(grad.float(), value.to(low).float(), shapes, starts, locations, weights)
    assert [g.dtype for g in gradients] == [low, torch.float32, torch.float32]
    torch.testing.assert_close(gradients[0], expected[0].to(low), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(gradients[1:], expected[1:], rtol=1e-5, atol=1e-5)


def test_autocast_rule(make_inputs):
    value, shapes, starts, locations, weights = make_inputs(torch.float32)
    with torch.autocast(value.device.type, dtype=torch.bfloat16):
        output = op(value, shapes, starts, locations, weights)
        double = op(value.double(), shapes, starts, locations.double(), weights.double())
    assert output.dtype == torch.bfloat16 and double.dtype == torch.float64
    assert torch.equal(output, op(value.bfloat16(), shapes, starts, locations, weights))


def test_gradients_keep_the_dtypes_of_their_inputs(make_inputs):
    value, shapes, starts, locations, weights = make_inputs(torch.float32)
    leaves = [value.bfloat16().requires_grad_(), locations.requires_grad_(), weights.half().requires_grad_()]
    op(leaves[0], shapes, starts, *leaves[1:]).sum().backward()
    assert [x.grad.dtype for x in leaves] == [torch.bfloat16, torch.float32, torch.float16]


@pytest.mark.parametrize("outside", [math.nan, math.inf, -math.inf, 1e38, -1e38])
def test_locations_that_are_far_away_or_no_numbers_are_outside(make_inputs, outside):
    value, shapes, starts, locations, weights = make_inputs(torch.float32, width=32)
    locations[0] = outside
    assert not op(value, shapes, starts, locations, weights)[0].any()
    grads = backward(value.new_ones(2, 3, 64), value, shapes, starts, locations, weights)
    assert not any(grad[0].any() for grad in grads)


def test_infinite_values_beyond_the_border_do_not_reach_the_sum(make_inputs):
    value, shapes, starts, locations, weights = make_inputs(levels=((2, 2),), points=1)
    value[:, 0] = math.inf  # the top left pixel, which samples right of the border must not touch
    locations[..., 0], locations[..., 1] = 1.0, 0.75
    assert op(value, shapes, starts, locations, weights).isfinite().all()


@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (0, lambda x: x.long(), "value must be float32"),
        (3, lambda x: x.long(), "sampling_locations must be float32"),
        (1, lambda x: x.float(), "must be int64"),
        (1, lambda x: x[:, :1], "L x 2"),
        (1, lambda x: x[:0], "at least one level"),
        (1, lambda x: torch.full_like(x, 2**62), "holds 48 pixels"),
        (2, lambda x: x[:2], "one entry for each"),
        (0, lambda x: x[..., :0], "at least one head and channel"),
    ],
)
def test_refusals_that_name_the_input(make_inputs, position, change, message):
    inputs = list(make_inputs())
    inputs[position] = change(inputs[position])
    with pytest.raises((ValueError, RuntimeError), match=message):
        op(*inputs)


def test_backward_refuses_a_gradient_of_another_shape(make_inputs):
    with pytest.raises(ValueError, match="grad_output must be"):
        inputs = make_inputs()
        backward(inputs[0].new_zeros(2, 3, 7), *inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deterministic_algorithms_give_the_same_bits_twice(make_inputs, dtype):
    inputs = make_inputs(dtype, levels=((9, 11), (4, 5)), queries=500, heads=3, width=32, points=3)
    grad = torch.randn(2, 500, 96).to(inputs[0])
    close = backward(grad, *inputs)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = backward(grad, *inputs), backward(grad, *inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.testing.assert_close(first, close, rtol=1e-2, atol=1e-2)


def test_level_shapes_may_be_on_the_device_too(make_inputs):
    value, shapes, starts, locations, weights = make_inputs()
    expected = op(value, shapes, starts, locations, weights)
    assert torch.equal(op(value, shapes.to(value.device), starts.to(value.device), locations, weights), expected)
