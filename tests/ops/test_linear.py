"""The linear layer: the same product, whichever way it goes."""

import pytest
import torch
from torch.nn import functional as F

from mask2former_ext.ops import linear as module
from mask2former_ext.ops.linear import Linear, linear


@pytest.fixture
def convolutions(monkeypatch):
    """Shapes of what went through a convolution; inputs of any size may."""
    seen, conv2d = [], F.conv2d
    monkeypatch.setattr(module.F, "conv2d", lambda x, *rest: (seen.append(x.shape), conv2d(x, *rest))[1])
    monkeypatch.setattr(module, "SMALLEST_INPUT", 1)
    return seen


@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (2, 3, 4, 24), (2, 0, 24)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_results_and_gradients_are_those_of_the_plain_layer(convolutions, shape, with_bias):
    layer = Linear(24, 10, bias=with_bias)
    x = torch.randn(shape, requires_grad=True)
    output, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    assert len(convolutions) == bool(x.numel()) and output.is_contiguous()
    torch.testing.assert_close(output, expected)
    leaves = [x, *layer.parameters()]
    gradients, expected = (torch.autograd.grad(y.square().sum(), leaves) for y in (output, expected))
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)


def test_inputs_need_not_be_contiguous(convolutions):
    x, layer = torch.randn(2, 24, 6).transpose(1, 2), Linear(24, 10)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    assert convolutions


def test_other_precisions_small_inputs_and_graphs_go_the_plain_way(convolutions, monkeypatch):
    x, layer = torch.randn(2, 5, 24), Linear(24, 10)
    assert linear(x.double(), layer.weight.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    exported = torch.export.export(layer, (x,))
    assert "aten.linear.default" in [str(node.target) for node in exported.graph.nodes]
    monkeypatch.setattr(module, "SMALLEST_INPUT", x.numel() + 1)
    layer(x)
    assert not convolutions
