"""The module around the operator: where heads look at first, how offsets are scaled, padding, tracing."""

import pytest
import torch

from mask2former_ext.ops import MSDeformAttn
from mask2former_ext.ops.module import sampling_locations

LEVELS = [(5, 7), (3, 4), (1, 1)]


@pytest.fixture
def module_inputs(level_starts):
    def make(module, levels=LEVELS, queries=5):
        pixels = torch.randn(2, sum(h * w for h, w in levels), module.d_model)
        return torch.randn(2, queries, module.d_model), pixels, torch.tensor(levels), level_starts(levels)

    return make


def test_heads_start_looking_in_all_directions_at_growing_distance():
    module = MSDeformAttn(d_model=16, n_levels=1, n_heads=4, n_points=2)
    offsets = module.sampling_offsets(torch.randn(16)).view(4, 2, 2)
    expected = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    torch.testing.assert_close(offsets, torch.stack([expected, 2 * expected], 1), atol=1e-6, rtol=0)


def test_offsets_are_in_pixels_of_the_level_or_in_shares_of_the_reference_box():
    shapes, offsets = torch.tensor([(4, 8), (2, 2)]), torch.zeros(1, 1, 1, 2, 2, 2)
    offsets[..., 0, 0], offsets[..., 1, 0] = 1.0, 2.0
    centers = torch.full((1, 1, 2, 2), 0.5)
    moved = torch.tensor([[[1 / 8, 0], [2 / 8, 0]], [[1 / 2, 0], [2 / 2, 0]]])
    torch.testing.assert_close(sampling_locations(centers, offsets, shapes)[0, 0, 0], 0.5 + moved)

    boxes = torch.cat([centers, torch.tensor([0.4, 0.2]).expand_as(centers)], -1)
    moved = torch.tensor([[0.5 * 0.4 / 2, 0], [2 * 0.5 * 0.4 / 2, 0]])
    torch.testing.assert_close(sampling_locations(boxes, offsets, shapes)[0, 0, 0, 0], 0.5 + moved)


def test_refuses_reference_points_of_other_sizes(implementation, module_inputs):
    module = MSDeformAttn(d_model=16, n_levels=3, n_heads=4, n_points=2)
    query, pixels, shapes, starts = module_inputs(module)
    with pytest.raises(ValueError, match="2 or 4 coordinates"):
        module(query, torch.rand(2, 5, 3, 3), pixels, shapes, starts)


@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fused_operator_gives_the_same_results_and_gradients(monkeypatch, module_inputs, coordinates, dtype):
    module = MSDeformAttn(d_model=32, n_levels=3, n_heads=4, n_points=3).to(dtype)
    for projection in (module.sampling_offsets, module.attention_weights):
        torch.nn.init.normal_(projection.weight, std=0.3)
    query, pixels, shapes, starts = module_inputs(module)
    leaves = [x.to(dtype).requires_grad_() for x in (query, torch.rand(2, 5, 3, coordinates), pixels)]
    results = []
    for fused in (True, False):
        monkeypatch.setattr("mask2former_ext.ops.module.uses_fused", lambda *device, fused=fused: fused)
        output = module(*leaves, shapes, starts)
        results.append((output, *torch.autograd.grad(output.square().sum(), [*leaves, *module.parameters()])))
    for fused, composed in zip(*results, strict=True):
        torch.testing.assert_close(fused, composed, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 5, 3), (2, 1, 3), (2, 5, 1)])
def test_reference_points_may_be_shared(implementation, module_inputs, shape):
    module = MSDeformAttn(d_model=16, n_levels=3, n_heads=4, n_points=2)
    query, pixels, shapes, starts = module_inputs(module)
    points = torch.rand(*shape, 2)
    expected = module(query, points.expand(2, 5, 3, 2).contiguous(), pixels, shapes, starts)
    torch.testing.assert_close(module(query, points, pixels, shapes, starts), expected)


def test_padding_counts_as_zero_value(implementation, module_inputs):
    module = MSDeformAttn(d_model=16, n_levels=3, n_heads=4, n_points=2)
    torch.nn.init.normal_(module.value_proj.bias)
    query, pixels, shapes, starts = module_inputs(module)
    center = torch.full((2, 5, 3, 2), 0.5)
    everything = torch.ones(2, pixels.shape[1], dtype=torch.bool)
    output = module(query, center, pixels, shapes, starts, everything)
    torch.testing.assert_close(output, module.output_proj.bias.expand_as(output))
    assert not torch.allclose(module(query, center, pixels, shapes, starts), output)


@pytest.mark.parametrize("numbers", [{"n_heads": 0}, {"n_levels": 0}, {"n_points": -1}])
def test_refuses_numbers_below_one(numbers):
    with pytest.raises(ValueError, match=f"{next(iter(numbers))} {next(iter(numbers.values()))}.*at least 1"):
        MSDeformAttn(d_model=16, **numbers)


def test_refuses_heads_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match="16 is not divisible by n_heads 3"):
        MSDeformAttn(d_model=16, n_heads=3)


class Encoder(torch.nn.Module):
    """A model that uses the module, with everything but its pixels constant."""

    def __init__(self, level_starts):
        super().__init__()
        self.attention = MSDeformAttn(d_model=32, n_levels=3, n_heads=4, n_points=2)
        torch.nn.init.normal_(self.attention.sampling_offsets.weight, std=0.1)
        self.register_buffer("shapes", torch.tensor(LEVELS))
        self.register_buffer("starts", level_starts(LEVELS))
        self.register_buffer("centers", torch.rand(1, sum(h * w for h, w in LEVELS), 3, 2))

    def forward(self, pixels):
        centers = self.centers.expand(pixels.shape[0], -1, -1, -1)
        return self.attention(pixels, centers, pixels, self.shapes, self.starts)


@pytest.fixture
def encoder(level_starts):
    return Encoder(level_starts), torch.randn(2, sum(h * w for h, w in LEVELS), 32)


def test_compiles_whole_and_agrees_forward_and_backward(encoder):
    model, pixels = encoder
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    gradients = []
    for run in (model, compiled):
        model.zero_grad()
        run(pixels).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(compiled(pixels), model(pixels), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


def test_exports_with_a_dynamic_batch_and_agrees(encoder):
    model, pixels = encoder
    exported = torch.export.export(model, (pixels,), dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1)}})
    targets = [str(node.target) for node in exported.graph.nodes]
    assert "mask2former_ext.ms_deform_attn_fused.default" in targets
    for batch in (2, 5):
        inputs = torch.randn(batch, *pixels.shape[1:])
        torch.testing.assert_close(exported.module()(inputs), model(inputs))


def test_locations_are_float32_under_autocast_too(encoder, implementation):
    model, pixels = encoder
    seen = []
    model.attention.sampling_offsets.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(pixels)
        offsets = torch.zeros(1, 1, 1, 3, 2, 2, dtype=torch.bfloat16)
        locations = sampling_locations(torch.full((1, 1, 3, 2), 0.123456), offsets, model.shapes)
    assert seen == [torch.bfloat16] and output.dtype == torch.bfloat16
    assert locations.dtype == torch.float32 and locations.unique().item() == torch.tensor(0.123456)
    torch.testing.assert_close(output.float(), model(pixels), rtol=0.1, atol=0.05)
