"""Multi-scale deformable attention in plain PyTorch: the definition that every other implementation is held to.

Shapes: B batch, S pixels of all levels together, M heads, D channels a head, Q queries, L levels, P points a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

LOW_PRECISION = (torch.float16, torch.bfloat16)


def ms_deform_attn_reference(
    value: Tensor, level_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Sample ``value`` bilinearly at ``sampling_locations`` and sum, weighted (Deformable DETR, equation 3).

    Args:
        value: B×S×M×D, the levels' pixels one after another, each level row by row.
        level_shapes: (height, width) of each of the L levels.
        sampling_locations: B×Q×M×L×P×2, (x, y) in [0, 1] of the level's width and height; outside, the value is zero.
        attention_weights: B×Q×M×L×P.

    Returns:
        B×Q×(M·D) in the dtype of ``value``; half precisions are accumulated in float32.
    """
    batch, _, heads, width = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    dtype = torch.float32 if value.dtype in LOW_PRECISION else value.dtype
    # All is zero from half a pixel beyond the level on; of infinity grid_sample would make NaN.
    locations = sampling_locations.to(dtype).clamp(-1, 2)
    grid = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5)  # L×B×M×Q×P×2
    weights = attention_weights.to(dtype).permute(3, 0, 2, 1, 4)  # L×B×M×Q×P
    levels = value.to(dtype).split([height * width_ for height, width_ in level_shapes], dim=1)

    output = value.new_zeros(batch * heads, width, queries, dtype=dtype)
    for (h, w), level, level_grid, level_weights in zip(level_shapes, levels, grid, weights, strict=True):
        pixels = level.permute(0, 2, 3, 1).reshape(batch * heads, width, h, w)
        sampled = F.grid_sample(
            pixels,
            level_grid.reshape(batch * heads, queries, points, 2),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )  # (B·M)×D×Q×P
        output = output + (sampled * level_weights.reshape(batch * heads, 1, queries, points)).sum(-1)
    return output.view(batch, heads * width, queries).transpose(1, 2).to(value.dtype)
