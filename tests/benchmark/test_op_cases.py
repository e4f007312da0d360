import math

import pytest
import torch

from mask2former_ext.benchmark import op_cases
from mask2former_ext.benchmark.op_cases import OpSize, exact_results, largest_error, make_inputs
from mask2former_ext.ops.reference import ms_deform_attn_reference

CPU = torch.device("cpu")
TINY = OpSize("tiny", levels=((2, 3), (4, 6)), batch=2, heads=4, width=8, points=2)


def test_the_size_of_a_1024_image():
    size = OpSize.parse("1024")
    assert size.levels == ((32, 32), (64, 64), (128, 128))
    assert (size.pixels, size.batch, size.queries, size.heads, size.width, size.points) == (21504, 1, None, 8, 32, 4)


def test_batch_and_queries():
    size = OpSize.parse("64x8q300")
    assert (size.levels, size.batch, size.queries) == (((2, 2), (4, 4), (8, 8)), 8, 300)
    assert OpSize.parse("64x3").queries is None and OpSize.parse("64q1").batch == 1


@pytest.mark.parametrize("text", ["", "0", "100", "64x", "64q", "64x0", "64q0", "q100", "64q3x2", "-64", "big"])
def test_no_size(text):
    with pytest.raises(ValueError, match=r"is no size: .* such as 1024, 1024x8"):
        OpSize.parse(text)


def test_bytes_that_must_move_at_1024():
    inputs = make_inputs(OpSize.parse("1024"), "initialised", torch.float32, CPU)
    values, samples = 21504 * 256 * 4, 21504 * 8 * 3 * 4 * 4  # bytes of value; of weights, and twice that of locations
    assert inputs.bytes_forward() == 2 * values + 3 * samples == 68_812_800
    assert inputs.bytes_backward() == 3 * values + 6 * samples
    half = op_cases.replace(inputs, value=inputs.value.bfloat16(), grad_output=inputs.grad_output.bfloat16())
    assert half.bytes_forward() == values + 3 * samples


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_shapes_and_dtypes(dtype):
    inputs = make_inputs(TINY, "trained", dtype, CPU)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert inputs.value.shape == (2, 30, 4, 8) and inputs.value.dtype == dtype
    assert inputs.locations.shape == (2, 30, 4, 2, 2, 2) and inputs.locations.dtype == wide
    assert inputs.weights.shape == (2, 30, 4, 2, 2) and inputs.weights.dtype == wide
    assert inputs.grad_output.shape == (2, 30, 32) and inputs.grad_output.dtype == dtype
    assert inputs.spatial_shapes.tolist() == [[2, 3], [4, 6]] and inputs.level_starts.tolist() == [0, 6]
    torch.testing.assert_close(inputs.weights.sum((-1, -2)).double(), torch.ones(2, 30, 4).double(), atol=1e-6, rtol=0)


def pixels_from_center(inputs):
    """B×Q×M×L×P×2: how far samples are from the reference point, in pixels of their level."""
    centers = torch.cat(
        [
            torch.stack(
                [(torch.arange(h * w) % w + 0.5) / w, (torch.arange(h * w) // w + 0.5) / h],
                dim=-1,
            )
            for h, w in inputs.level_shapes
        ]
    )
    sides = inputs.spatial_shapes.flip(-1)[:, None, :]
    return (inputs.locations - centers[None, :, None, None, None, :]) * sides


def test_initial_offsets_are_the_modules_ring_of_directions():
    inputs = make_inputs(TINY, "initialised", torch.float32, CPU)
    away = pixels_from_center(inputs)
    directions = torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]])  # of four heads
    expected = directions[:, None, None, :] * torch.tensor([1, 2])[None, None, :, None]
    assert (away - expected).abs().max() < op_cases.CLEARANCE + 1e-5
    assert inputs.weights.unique().tolist() == [0.25]


def test_trained_offsets_are_several_pixels_wide():
    size = OpSize("wide", levels=((8, 8), (16, 16)))
    inputs = make_inputs(size, "trained", torch.float32, CPU)
    assert pixels_from_center(inputs).std().item() == pytest.approx(4.0, rel=0.05)
    assert inputs.weights.std() > 0.05


def test_few_queries_look_anywhere():
    inputs = make_inputs(OpSize("few", levels=((8, 8),), queries=500, points=1), "initialised", torch.float32, CPU)
    assert inputs.locations.shape[1] == 500
    assert inputs.locations.mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("offsets", op_cases.OFFSETS)
def test_no_sample_lies_on_a_pixel_center(offsets):
    inputs = make_inputs(OpSize.parse("128"), offsets, torch.float32, CPU)
    pixels = inputs.locations * inputs.spatial_shapes.flip(-1)[:, None, :] - 0.5
    assert (pixels - pixels.round()).abs().min() > op_cases.CLEARANCE / 2


def test_inputs_are_the_same_every_time():
    first, second = (make_inputs(TINY, "trained", torch.float32, CPU) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first.differentiable, second.differentiable))


@pytest.mark.parametrize("at_once", [1, 7, 4096])
def test_exact_results_are_the_references_in_float64(monkeypatch, at_once):
    monkeypatch.setattr(op_cases, "QUERIES_AT_ONCE", at_once)
    inputs = make_inputs(TINY, "trained", torch.float32, CPU)
    exact = exact_results(inputs)
    leaves = [x.double().requires_grad_() for x in inputs.differentiable]
    output = ms_deform_attn_reference(leaves[0], inputs.level_shapes, *leaves[1:])
    gradients = torch.autograd.grad(output, leaves, inputs.grad_output.double())
    for found, expected in zip([exact.output, *exact.gradients], [output, *gradients], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_largest_error_is_relative_to_the_largest_value():
    exact = torch.tensor([1.0, -4.0], dtype=torch.float64)
    assert largest_error([torch.tensor([1.5, -4.0])], [exact]) == 0.125
    assert largest_error([exact, exact + 1], [exact, exact]) == 0.25
    assert largest_error([torch.tensor([math.nan, 0.0]), exact], [exact, exact]) == math.inf
    assert largest_error([exact, torch.tensor([math.inf, 0.0])], [exact, exact]) == math.inf
