"""Inputs of the operator, and the choice of implementation."""

import pytest
import torch

from mask2former_ext.ops.extension import load_extension

# A machine with a GPU runs the operator's tests there too.
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=DEVICES)
def device(request):
    """Where the inputs of ``make_inputs`` are: each device of this machine, unless a test names one."""
    return torch.device(request.param)


@pytest.fixture(params=["reference", "compiled"])
def implementation(request, monkeypatch):
    """Runs a test with each implementation of the functional; the compiled one must be there."""
    compiled = request.param == "compiled"
    assert not compiled or load_extension().loaded, load_extension().problem
    monkeypatch.setattr("mask2former_ext.ops.functional.uses_compiled", lambda *device: compiled)
    monkeypatch.setattr("mask2former_ext.ops.module.uses_fused", lambda *device: compiled)
    return request.param


def starts_of(levels):
    sizes = [h * w for h, w in levels]
    return torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])


@pytest.fixture
def level_starts():
    """Where levels of given (height, width) start when they lie end to end."""
    return starts_of


@pytest.fixture
def make_inputs(device):
    """The operator's five inputs, of float64 or of a given dtype; locations fall within ``spread``.

    Level shapes and starts stay on the CPU.
    """

    def make(
        dtype=torch.float64,
        levels=((5, 7), (3, 4), (1, 1)),
        batch=2,
        queries=3,
        heads=2,
        width=4,
        points=2,
        spread=(-0.3, 1.3),
    ):
        pixels = sum(h * w for h, w in levels)
        value = torch.randn(batch, pixels, heads, width, dtype=torch.float64).to(device, dtype)
        low, high = spread
        locations = torch.rand(batch, queries, heads, len(levels), points, 2, dtype=torch.float64)
        locations = (locations * (high - low) + low).to(device, dtype)
        weights = torch.rand(batch, queries, heads, len(levels), points, dtype=torch.float64).to(device, dtype)
        return value, torch.tensor(levels), starts_of(levels), locations, weights

    return make
