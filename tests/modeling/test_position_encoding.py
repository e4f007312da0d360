"""The sine encoding by its formula, and what is remembered of it."""

import math

import pytest
import torch
from torch._subclasses import FakeTensorMode

from mask2former_ext.modeling.position_encoding import PositionEmbeddingSine, remember


def test_encoding_by_its_formula():
    encoding = PositionEmbeddingSine(4)(torch.zeros(2, 7, 3, 5))
    assert encoding.shape == (1, 8, 3, 5) and encoding.dtype == torch.float32
    row, column = 1, 4
    y = (row + 1) / (3 + 1e-6) * 2 * math.pi
    x = (column + 1) / (5 + 1e-6) * 2 * math.pi
    expected = [f(v / 10000 ** (i / 4)) for v in (y, x) for i in (0, 2) for f in (math.sin, math.cos)]
    assert encoding[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.fixture
def made():
    """A remembering function, and the lengths that it was really called for."""
    calls = []

    @remember(2)
    def ones(length):
        calls.append(length)
        return torch.ones(length)

    return ones, calls


def test_the_last_results_are_kept(made):
    ones, calls = made
    assert ones(1) is ones(1)
    ones(2)
    ones(1)
    ones(3)  # 2 was used longest ago
    ones(1)
    ones(2)
    assert calls == [1, 2, 3, 2]


def test_what_is_made_in_inference_mode_can_be_trained_with(made):
    ones, _ = made
    with torch.inference_mode():
        ones(3)
    weight = torch.ones(3, requires_grad=True)
    (ones(3) * weight).sum().backward()
    assert weight.grad.tolist() == [1, 1, 1]


def test_graphs_and_fake_tensors_leave_nothing_behind(made):
    ones, calls = made
    with FakeTensorMode():
        assert type(ones(4)) is not torch.Tensor
    torch.jit.trace(lambda x: x + ones(4), torch.zeros(4))
    assert type(ones(4)) is torch.Tensor
    known = len(calls)
    with FakeTensorMode():
        assert type(ones(4)) is not torch.Tensor
    assert len(calls) == known + 1
