"""Computing in parts: only where it helps, and with the same result."""

import pytest
import torch

from mask2former_ext.modeling import parts
from mask2former_ext.modeling.parts import in_parts


@pytest.fixture
def computed(monkeypatch):
    """Doubles a 2×10×3 tensor in parts of four positions at most; the slices that were asked for."""
    monkeypatch.setattr(parts, "NUMBERS_AT_ONCE", 24)
    x, slices = torch.arange(60.0).view(2, 10, 3), []

    def double(some):
        slices.append((some.start, min(some.stop, 10)))
        return 2 * x[:, some]

    def compute():
        slices.clear()
        assert torch.equal(in_parts(double, 10, 6, x, dim=1), 2 * x)
        return slices

    return compute


def test_inference_computes_a_few_positions_at_a_time(computed):
    with torch.no_grad():
        assert computed() == [(0, 4), (4, 8), (8, 10)]
    with torch.inference_mode():
        assert len(computed()) == 3


def test_training_and_small_inputs_are_computed_at_once(computed, monkeypatch):
    assert computed() == [(0, 10)]
    monkeypatch.setattr(parts, "NUMBERS_AT_ONCE", 60)
    with torch.no_grad():
        assert computed() == [(0, 10)]


def test_one_position_is_computed_even_where_it_is_too_large(computed, monkeypatch):
    monkeypatch.setattr(parts, "NUMBERS_AT_ONCE", 5)
    with torch.no_grad():
        assert computed() == [(i, i + 1) for i in range(10)]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_traced_graphs_are_not_unrolled(computed):
    with torch.no_grad():
        torch.jit.trace(lambda x: x + len(computed()), torch.zeros(1), check_trace=False)
        assert len(computed()) == 3
    traced = []
    with torch.no_grad():
        torch.jit.trace(lambda x: (traced.append(len(computed())), x)[1], torch.zeros(1), check_trace=False)
    assert traced == [1]
