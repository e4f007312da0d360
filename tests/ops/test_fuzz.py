"""A hundred thousand random calls of the compiled operator, valid and broken: a right answer or a clear error."""

import random
import time

import pytest
import torch

from mask2former_ext.ops.reference import ms_deform_attn_reference

op = torch.ops.mask2former_ext.ms_deform_attn
backward = torch.ops.mask2former_ext.ms_deform_attn_backward

CALLS = 100_000
SECONDS = 300.0
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 5e-2, torch.float16: 1e-2}
WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 128)
POOL = 200_000
NAMES = ("value", "shapes", "starts", "locations", "weights")


class Maker:
    """Draws inputs; numbers come from pools, because a generator call for each tensor would take most of the time."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        self.normal = torch.randn(POOL, generator=generator, dtype=torch.float64)
        self.uniform = torch.rand(POOL, generator=generator, dtype=torch.float64)

    def draw(self, pool, shape, dtype):
        count = 1
        for size in shape:
            count *= size
        start = self.random.randrange(POOL - count)
        return pool[start : start + count].view(shape).to(dtype)

    def valid(self):
        pick = self.random
        levels = [(pick.randint(1, 5), pick.randint(1, 5)) for _ in range(pick.randint(1, 5))]
        sizes = [h * w for h, w in levels]
        batch, queries, heads, points = pick.randint(0, 3), pick.randint(0, 4), pick.randint(1, 3), pick.randint(1, 8)
        dtype = pick.choice(DTYPES)
        other = dtype if dtype == torch.float64 else pick.choice((torch.float32, dtype))
        samples = (batch, queries, heads, len(levels), points)
        spread, shift = pick.choice(((1.0, 0.0), (1.4, -0.2), (7.0, -3.0)))
        return {
            "value": self.draw(self.normal, (batch, sum(sizes), heads, pick.choice(WIDTHS)), dtype),
            "shapes": torch.tensor(levels),
            "starts": torch.tensor([sum(sizes[:i]) for i in range(len(sizes))]),
            "locations": (self.draw(self.uniform, (*samples, 2), torch.float64) * spread + shift).to(other),
            "weights": self.draw(self.uniform, samples, other),
        }

    def broken(self):
        inputs = self.valid()
        for _ in range(self.random.randint(1, 2)):
            name = self.random.choice(NAMES)
            inputs[name] = self.random.choice(BREAKS)(self.random, inputs[name])
        return inputs


def drop_dimension(pick, x):
    return x.flatten(0, 1) if x.dim() > 1 else x[..., None]


def add_dimension(pick, x):
    return x[None]


def resize(pick, x):
    if x.dim() == 0:
        return x
    dimension = pick.randrange(x.dim())
    if pick.random() < 0.5:
        return torch.cat([x, x], dim=dimension)
    return x.narrow(dimension, 0, max(0, x.shape[dimension] - 1))


def change_type(pick, x):
    return x.to(pick.choice((torch.int32, torch.bool, torch.complex64, torch.uint8, torch.float32, torch.int64)))


def transpose(pick, x):
    return x.transpose(0, -1) if x.dim() > 1 else x.flip(0) if x.dim() else x


def poison(pick, x):
    if x.is_floating_point():
        return torch.where(x > 0.5, pick.choice((float("inf"), float("nan"), -20.0)), x)
    return x + pick.choice((-1, 1, 2**31, 2**62, -(2**62))) if x.dtype == torch.int64 else x


BREAKS = (drop_dimension, add_dimension, resize, change_type, transpose, poison)


def assert_close(actual, expected, dtype):
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], equal_nan=True)


def is_comparable(inputs):
    """The reference gives NaN for locations that are none, where the kernels take them as outside."""
    return all(inputs[name].isfinite().all() for name in ("value", "locations", "weights"))


@pytest.mark.parametrize("part", range(4))
def test_every_answer_is_the_reference_or_a_clear_error(part):
    maker, start = Maker(seed=part), time.monotonic()
    answered = refused = 0
    for call in range(CALLS // 4):
        is_valid = call % 2 == 0
        inputs = maker.valid() if is_valid else maker.broken()
        try:
            output = op(*inputs.values())
        except (ValueError, RuntimeError) as error:
            assert not is_valid and str(error), inputs
            refused += 1
            continue
        answered += 1
        if is_comparable(inputs):
            levels = [tuple(shape) for shape in inputs["shapes"].tolist()]
            expected = ms_deform_attn_reference(inputs["value"], levels, inputs["locations"], inputs["weights"])
            assert_close(output, expected, output.dtype)
        if call % 10 == 0:
            gradients = backward(torch.ones_like(output), *inputs.values())
            shapes = [inputs[name].shape for name in ("value", "locations", "weights")]
            assert [gradient.shape for gradient in gradients] == shapes
        assert time.monotonic() - start < SECONDS / 4, f"only {call} calls in the time"
    assert answered > CALLS // 8 and refused > CALLS // 40
