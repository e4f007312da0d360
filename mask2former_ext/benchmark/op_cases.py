"""Inputs of multi-scale deformable attention as models have them, the exact results, and the bytes that must move.

Shapes: B batch, S pixels of all levels together, M heads, D channels a head, Q queries, L levels, P points a level.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mask2former_ext.ops import MSDeformAttn
from mask2former_ext.ops.reference import LOW_PRECISION, ms_deform_attn_reference

STRIDES = (32, 16, 8)  # of the levels that Mask2Former's pixel decoder attends to
TRAINED_SPREAD = 4.0  # pixels, standard deviation
CLEARANCE = 1 / 64  # pixels
QUERIES_AT_ONCE = 4096

OFFSETS = ("initialised", "trained")


@dataclass(frozen=True)
class OpSize:
    """A size of the operator's inputs.

    Attributes:
        name: as :meth:`parse` takes it.
        levels: (height, width) of each level.
        batch: images.
        queries: queries an image; None for one at each pixel, as in the pixel decoder.
        heads: heads.
        width: channels a head.
        points: points a level.
    """

    name: str
    levels: tuple[tuple[int, int], ...]
    batch: int = 1
    queries: int | None = None
    heads: int = 8
    width: int = 32
    points: int = 4

    @classmethod
    def parse(cls, text: str) -> OpSize:
        """Read a size like 1024, 1024x8 or 1024x8q300: a square image's side, images a batch, queries an image.

        Raises:
            ValueError: ``text`` is no such size.
        """
        match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?(?:q([1-9]\d*))?", text)
        if match is None or int(match.group(1)) % STRIDES[0]:
            raise ValueError(
                f"'{text}' is no size: give an image's side, a multiple of {STRIDES[0]}, then optionally x and the "
                "batch, q and the number of queries, such as 1024, 1024x8 or 1024x8q300"
            )
        side, batch, queries = (int(group) if group else None for group in match.groups())
        levels = tuple((side // stride, side // stride) for stride in STRIDES)  # type: ignore[operator]
        return cls(text, levels, batch=1 if batch is None else batch, queries=queries)

    @property
    def pixels(self) -> int:
        """S."""
        return sum(height * width for height, width in self.levels)

    @property
    def samples_bytes(self) -> int:
        """Of all samples of one level in float32, which implementations composed of PyTorch's operators write out."""
        queries = self.pixels if self.queries is None else self.queries
        return self.batch * queries * self.heads * self.points * self.width * 4


@dataclass(frozen=True)
class OpInputs:
    """Arguments of one call, and the gradient of its result.

    Attributes:
        level_shapes: (height, width) of each level.
        spatial_shapes: the same as a tensor, L×2 int64 on the CPU.
        level_starts: L int64 on the CPU.
        value: B×S×M×D.
        locations: B×Q×M×L×P×2.
        weights: B×Q×M×L×P.
        grad_output: B×Q×(M·D).
    """

    level_shapes: tuple[tuple[int, int], ...]
    spatial_shapes: Tensor
    level_starts: Tensor
    value: Tensor
    locations: Tensor
    weights: Tensor
    grad_output: Tensor

    @property
    def differentiable(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.value, self.locations, self.weights

    def require_grad(self) -> OpInputs:
        """The same memory, with new leaves of a graph."""
        value, locations, weights = (x.detach().requires_grad_() for x in self.differentiable)
        return replace(self, value=value, locations=locations, weights=weights)

    def first_image(self) -> OpInputs:
        """Only the first image of the batch."""
        value, locations, weights = (x[:1] for x in self.differentiable)
        return replace(self, value=value, locations=locations, weights=weights, grad_output=self.grad_output[:1])

    def bytes_forward(self) -> int:
        """Value, locations and weights read, and the output written, each once."""
        return sum(x.nbytes for x in (*self.differentiable, self.grad_output))

    def bytes_backward(self) -> int:
        """Inputs and the output's gradient read, and the inputs' gradients written, each once."""
        return 2 * sum(x.nbytes for x in self.differentiable) + self.grad_output.nbytes


def make_inputs(size: OpSize, offsets: str, dtype: torch.dtype, device: torch.device, seed: int = 0) -> OpInputs:
    """Make inputs of one call.

    Locations and weights are float32 for half precisions, as the module passes them.

    Args:
        size: of the inputs.
        offsets: "initialised": where :class:`MSDeformAttn` looks before any training, in a ring of directions, 1 to P
            pixels away, all points weighing the same. "trained": normally distributed around the reference point, by
            several pixels, with weights that differ.
        dtype: of value and output.
        device: of everything but shapes and starts.
        seed: of the random numbers, which are the same for every dtype and device.
    """
    generator = torch.Generator().manual_seed(seed)
    queries = size.pixels if size.queries is None else size.queries
    shape = (size.batch, queries, size.heads, len(size.levels), size.points)
    if offsets == "initialised":
        pixels_away = _ring(size).expand(*shape, 2)
        logits = torch.zeros(shape)
    else:
        pixels_away = torch.randn(*shape, 2, generator=generator) * TRAINED_SPREAD
        logits = torch.randn(shape, generator=generator) * 2
    spatial_shapes = torch.tensor(size.levels)
    areas = spatial_shapes.prod(1)
    locations = _locations(_reference_points(size, generator), pixels_away, spatial_shapes)
    wide = torch.float32 if dtype in LOW_PRECISION else dtype
    value = torch.randn(size.batch, size.pixels, size.heads, size.width, generator=generator)
    grad_output = torch.randn(size.batch, queries, size.heads * size.width, generator=generator)
    return OpInputs(
        level_shapes=size.levels,
        spatial_shapes=spatial_shapes,
        level_starts=areas.cumsum(0) - areas,
        value=value.to(device, dtype),
        locations=locations.to(device, wide),
        weights=logits.flatten(3).softmax(-1).view(shape).to(device, wide),
        grad_output=grad_output.to(device, dtype),
    )


def _ring(size: OpSize) -> Tensor:
    """M×L×P×2, in pixels: the module's own initial offsets."""
    module = MSDeformAttn(size.heads * size.width, len(size.levels), size.heads, size.points)
    return module.sampling_offsets.bias.detach().view(size.heads, len(size.levels), size.points, 2)


def _reference_points(size: OpSize, generator: torch.Generator) -> Tensor:
    """Q×2 (x, y): the centers of all levels' pixels; for a given number of queries, anywhere in the image."""
    if size.queries is not None:
        return torch.rand(size.queries, 2, generator=generator)
    centers = []
    for height, width in size.levels:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        centers.append(torch.stack([x, y], dim=-1).view(-1, 2))
    return torch.cat(centers)


def _locations(points: Tensor, pixels_away: Tensor, spatial_shapes: Tensor) -> Tensor:
    """B×Q×M×L×P×2, kept clear of pixel centers.

    There a sample's gradient by its location jumps, and which side a computation takes is a matter of rounding: an
    error against another precision would say nothing.
    """
    sides = spatial_shapes.flip(-1)[:, None, :].float()  # L×1×2, (width, height)
    pixels = points[None, :, None, None, None, :] * sides + pixels_away - 0.5
    whole = pixels.floor()
    return (whole + (pixels - whole).clamp(CLEARANCE, 1 - CLEARANCE) + 0.5) / sides


@dataclass(frozen=True)
class OpResults:
    """The output, and the gradients by value, locations and weights."""

    output: Tensor
    gradients: Sequence[Tensor]

    def cpu(self) -> OpResults:
        return OpResults(self.output.cpu(), [gradient.cpu() for gradient in self.gradients])


def exact_results(inputs: OpInputs) -> OpResults:
    """The reference's results in float64 on these very inputs, some queries at a time so that memory suffices."""
    value = inputs.value.detach().double().requires_grad_()
    grad_value = torch.zeros_like(value)
    parts = []
    for start in range(0, inputs.locations.shape[1], QUERIES_AT_ONCE):
        chosen = slice(start, start + QUERIES_AT_ONCE)
        locations, weights = (x[:, chosen].detach().double().requires_grad_() for x in inputs.differentiable[1:])
        output = ms_deform_attn_reference(value, inputs.level_shapes, locations, weights)
        gradients = torch.autograd.grad(output, (value, locations, weights), inputs.grad_output[:, chosen].double())
        grad_value += gradients[0]
        parts.append((output.detach(), *gradients[1:]))
    output, grad_locations, grad_weights = (torch.cat(chunks, dim=1) for chunks in zip(*parts))
    return OpResults(output, (grad_value, grad_locations, grad_weights))


def largest_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The largest absolute difference, in proportion to the largest exact value; the worst of several tensors.

    Infinite where anything found is not finite.
    """
    if not all(bool(x.isfinite().all()) for x in found):
        return math.inf
    return max(
        float((x.double() - y).abs().max() / y.abs().max().clamp_min(torch.finfo(y.dtype).tiny))
        for x, y in zip(found, exact, strict=True)
    )
