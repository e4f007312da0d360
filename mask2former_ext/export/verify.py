"""How far an exported model's outputs are from those of the model that it is of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .capture import reason_of
from .runner import Outputs

# Tables of rows whose order depends on numbers that may be nearly the same → what tells their rows apart.
ROW_KEYS = {"instance_": ("instance_queries", "instance_classes"), "segment_": ("segment_queries",)}


@dataclass(frozen=True)
class Difference:
    """The largest difference of one output, at one size.

    Attributes:
        output: its name.
        size: (batch, height, width) of the images.
        value: for numbers the largest difference, as a share of the largest number; for classes, ids and masks the
            share of elements that differ.
    """

    output: str
    size: tuple[int, int, int]
    value: float


def verification_images(size: tuple[int, int, int], channels: int) -> Tensor:
    """Waves and noise, B×C×H×W float32 in [0, 255], the same at every call."""
    batch, height, width = size
    generator = torch.Generator().manual_seed(height * 10007 + width)
    phases = torch.rand(batch, channels, 3, 1, 1, generator=generator) * 6.3
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    waves = (x * 20 + phases[:, :, 0]).sin() + (y * 30 + phases[:, :, 1]).sin() + ((x + y) * 8 + phases[:, :, 2]).sin()
    noise = torch.randn(batch, channels, height, width, generator=generator)
    return (127 + 40 * waves + 15 * noise).clamp(0, 255).round()


def verification_sizes(size: tuple[int, int, int], divisor: int, *, static: bool) -> list[tuple[int, int, int]]:
    """The sizes to run an exported model at: its own, and if it takes any, three others.

    These are larger and smaller, upright and lying, of one image and of two; two of them need padding.
    """
    if static:
        return [size]
    _, height, width = size
    return [
        size,
        (1, width + divisor, height + divisor),
        (1, height + 2 * divisor + 5, max(width - divisor, 2 * divisor) - 3),
        (2, max(height - divisor, 2 * divisor) - 1, width + 3 * divisor + 1),
    ]


def verify(
    run: Callable[[Tensor], Outputs], module: nn.Module, sizes: Sequence[tuple[int, int, int]], example: Tensor
) -> list[Difference]:
    """Run an exported model and the one that it is of, and compare.

    Args:
        run: the exported model: B×C×H×W images to its outputs.
        module: the same in PyTorch.
        sizes: (batch, height, width) of images to run them at.
        example: B×C×H×W; tells channels and device.

    Returns:
        The difference of every output at every size.

    Raises:
        ValueError: the exported model does not run at a size, or lacks an output.
    """
    differences = []
    for size in sizes:
        images = verification_images(size, example.shape[1]).to(example.device)
        try:
            found = run(images)
        except Exception as error:  # each runtime has its own kinds; whatever it is, the file is of no use
            raise ValueError(
                f"the exported model does not run at {size[0]}×{size[1]}×{size[2]} (batch, height, width): "
                f"{reason_of(error)}. For a model that takes one size only there is --static."
            ) from error
        with torch.no_grad():
            expected = module(images)
        values = compare(expected, found)
        differences += [Difference(output, size, value) for output, value in values.items()]
    return differences


def compare(expected: Outputs, found: Outputs) -> dict[str, float]:
    """The difference of each output, see :class:`Difference`; infinite where shapes or dtypes differ, or for NaN.

    Instances and segments are compared with those of the same query (and class), wherever they are in their tables.
    The share of them that has no counterpart is the difference of the outputs that hold queries and classes.
    """
    differences = {}
    for name, value in expected.items():
        if name not in found:
            raise ValueError(f"the exported model has no output '{name}', only {list(found)}.")
        other = found[name].to(value.device)
        keys = next((keys for prefix, keys in ROW_KEYS.items() if name.startswith(prefix)), ())
        if other.shape != value.shape or other.dtype != value.dtype:
            differences[name] = math.inf
        elif name == "panoptic_seg":
            differences[name] = _difference(_queries_of(expected), _queries_of(found).to(value.device))
        elif keys:
            matched, rows = _match(keys, expected, found)
            batch = torch.arange(len(rows), device=rows.device)[:, None]
            missing = (~matched).float().mean().item()
            differences[name] = missing if name in keys else _difference(value[matched], other[batch, rows][matched])
        else:
            differences[name] = _difference(value, other)
    return differences


def _match(keys: Sequence[str], expected: Outputs, found: Outputs) -> tuple[Tensor, Tensor]:
    """B×R bool: which rows have a counterpart, and B×R int64: where that is."""
    same = torch.tensor(True, device=expected[keys[0]].device)
    for key in keys:
        same = same & (expected[key][:, :, None] == found[key].to(same.device)[:, None, :])
    return same.any(2), same.byte().argmax(2)


def _queries_of(outputs: Outputs) -> Tensor:
    """B×(H·W) int64: the query whose segment each pixel is part of, −1 for none."""
    table = F.pad(outputs["segment_queries"], (1, 0), value=-1)
    return table.gather(1, outputs["panoptic_seg"].flatten(1).long())


def _difference(expected: Tensor, found: Tensor) -> float:
    if not expected.numel():
        return 0.0
    if not expected.is_floating_point():
        return (expected != found).float().mean().item()
    if not (expected.isfinite() & found.isfinite()).all():
        return math.inf
    # the tiny number keeps outputs that are all zero from dividing by it
    return ((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
