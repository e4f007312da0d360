"""The merge of one mask: both implementations by hand and against each other, bit for bit."""

import pytest
import torch

from mask2former_ext.ops import panoptic_merge as module
from mask2former_ext.ops.panoptic_merge import is_inside, panoptic_merge

op = torch.ops.mask2former_ext.panoptic_merge


@pytest.fixture(params=[True, False], ids=["compiled", "plain"])
def merge(request, monkeypatch):
    monkeypatch.setattr(module, "uses_compiled", lambda *device: request.param)
    return panoptic_merge


def test_pixels_go_to_the_larger_product(merge):
    best, owner = torch.tensor([[-1.0, 0.5, 0.4, 0.375]]), torch.tensor([[0, 1, 1, 1]], dtype=torch.int32)
    area = merge(torch.tensor([[0.0, 0.8, 0.75, 0.5]]), best, owner, torch.tensor(0.75), 4)
    # equal products leave a pixel to the mask that came first
    assert owner.tolist() == [[4, 4, 4, 1]]
    torch.testing.assert_close(best, torch.tensor([[0.0, 0.6, 0.5625, 0.375]]))
    assert area.item() == 3 and area.dtype == torch.int64


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (251, 263), (0, 4)])
def test_compiled_and_plain_agree_to_the_bit(monkeypatch, size):
    results = []
    for compiled in (True, False):
        monkeypatch.setattr(module, "uses_compiled", lambda *device, compiled=compiled: compiled)
        torch.manual_seed(0)
        best, owner = torch.full(size, -1.0), torch.zeros(size, dtype=torch.int32)
        areas = [
            panoptic_merge((torch.randn(size[::-1]) * 3).sigmoid().t(), best, owner, torch.rand(()), rank)
            for rank in range(6)
        ]
        results.append((best, owner, torch.stack(areas)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_results_are_the_same_bits_at_any_number_of_threads():
    probability, score = torch.rand(300, 400), torch.tensor(0.9)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        best, owner = torch.full((300, 400), 0.4), torch.zeros(300, 400, dtype=torch.int32)
        results.append((op(probability, best, owner, score, 2), best, owner))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_inside_is_told_from_the_product_whatever_the_score():
    """The numbers around one half, with scores that round every way."""
    half = torch.tensor(0.5)
    below, above = (torch.nextafter(half, torch.tensor(limit)) for limit in (0.0, 1.0))
    scores = torch.cat([torch.rand(100_000).clamp(min=1e-6), 0.5 ** torch.arange(20.0)])
    for probability, expected in ((below, False), (half, True), (above, True)):
        assert (is_inside(probability * scores, scores) == expected).all()


def test_the_schema_tells_what_is_written():
    inputs = (torch.rand(4, 5), torch.rand(4, 5), torch.zeros(4, 5, dtype=torch.int32), torch.tensor(0.5), 3)
    torch.library.opcheck(op, inputs, test_utils="test_schema")


@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (0, lambda x: x.double(), "must be float32 and owner int32"),
        (2, lambda x: x.long(), "must be float32 and owner int32"),
        (1, lambda x: x[:1], "of one shape"),
        (1, lambda x: x.t().contiguous().t(), "must be contiguous"),
    ],
)
def test_refuses_other_inputs(position, change, message):
    inputs = [torch.rand(4, 5), torch.rand(4, 5), torch.zeros(4, 5, dtype=torch.int32), torch.tensor(0.5), 3]
    inputs[position] = change(inputs[position])
    with pytest.raises(ValueError, match=message):
        op(*inputs)
