"""Multi-scale deformable attention as a module (Deformable DETR, section 4.1).

Shapes: B batch, S pixels of all levels together, M heads, Q queries, L levels, P points a level, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .extension import uses_fused
from .functional import ms_deform_attn
from .linear import Linear
from .reference import ms_deform_attn_reference
from .registration import refuse_forward_mode


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention: every query looks at P learned points on each level, in each head."""

    def __init__(self, d_model: int = 256, n_levels: int = 4, n_heads: int = 8, n_points: int = 4) -> None:
        """
        Args:
            d_model: channels C of queries and values.
            n_levels: levels L.
            n_heads: heads M; must divide ``d_model``.
            n_points: points P a head samples on each level.

        Raises:
            ValueError: a number is below 1, or ``n_heads`` does not divide ``d_model``.
        """
        super().__init__()
        if min(d_model, n_levels, n_heads, n_points) < 1:
            raise ValueError(
                f"MSDeformAttn: d_model {d_model}, n_levels {n_levels}, n_heads {n_heads} and n_points {n_points} must "
                "all be at least 1."
            )
        if d_model % n_heads:
            raise ValueError(f"MSDeformAttn: d_model {d_model} is not divisible by n_heads {n_heads}.")
        self.d_model, self.n_levels, self.n_heads, self.n_points = (d_model, n_levels, n_heads, n_points)
        self.sampling_offsets = Linear(d_model, n_heads * n_levels * n_points * 2)
        self.attention_weights = Linear(d_model, n_heads * n_levels * n_points)
        self.value_proj = Linear(d_model, d_model)
        self.output_proj = Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads start looking in M directions, point p at p + 1 pixels, all points weighing the same."""
        angles = torch.arange(self.n_heads, dtype=torch.float32) * (2 * math.pi / self.n_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        distances = torch.arange(1, self.n_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None, :] * distances[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.n_levels, -1, -1).reshape(-1))
        for constant in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(constant)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        input_flatten: Tensor,
        input_spatial_shapes: Tensor | Sequence[tuple[int, int]],
        input_level_start_index: Tensor,
        input_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: B×Q×C.
            reference_points: B×Q×L×2, (x, y) in [0, 1]; or B×Q×L×4, boxes (center x, center y, width, height). B, Q
                and L may be 1 where they are the same for all.
            input_flatten: B×S×C, the levels' pixels one after another.
            input_spatial_shapes: L×2 int64, (height, width). The same as numbers asks for plain PyTorch: a graph that
                holds for other sizes too, which exporters can take apart.
            input_level_start_index: L int64.
            input_padding_mask: B×S bool, True where a pixel is padding and counts as zero.

        Returns:
            B×Q×C.
        """
        batch, queries, _ = query.shape
        value = self.value_proj(input_flatten)
        if input_padding_mask is not None:
            value = value.masked_fill(input_padding_mask[..., None], 0.0)
        value = value.view(batch, -1, self.n_heads, self.d_model // self.n_heads)
        samples = (batch, queries, self.n_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(query).view(*samples, 2)
        logits = self.attention_weights(query).view(samples)
        if reference_points.dim() != 4 or reference_points.shape[-1] not in (2, 4):
            raise ValueError(
                f"reference_points must be B×Q×L with 2 or 4 coordinates, got shape {tuple(reference_points.shape)}."
            )
        if isinstance(input_spatial_shapes, Tensor) and uses_fused(query.device.type, query.device.index):
            references = reference_points.expand(batch, queries, self.n_levels, -1)
            refuse_forward_mode(value, references, offsets, logits)
            sampled = torch.ops.mask2former_ext.ms_deform_attn_fused(
                value, input_spatial_shapes, input_level_start_index, references, offsets, logits
            )
        else:
            locations = sampling_locations(reference_points, offsets, input_spatial_shapes)
            weights = _at_least_float32(logits).flatten(3).softmax(-1).view(samples)
            if isinstance(input_spatial_shapes, Tensor):
                sampled = ms_deform_attn(value, input_spatial_shapes, input_level_start_index, locations, weights)
            else:
                sampled = ms_deform_attn_reference(value, input_spatial_shapes, locations, weights)
        return self.output_proj(sampled)


def sampling_locations(
    reference_points: Tensor, offsets: Tensor, spatial_shapes: Tensor | Sequence[tuple[int, int]]
) -> Tensor:
    """Where samples are taken, in [0, 1] of width and height (Deformable DETR, section 4.1 and appendix A.3).

    Args:
        reference_points: B×Q×L×2, (x, y); or B×Q×L×4, boxes (center x, center y, width, height).
        offsets: B×Q×M×L×P×2, in pixels of the level; with boxes, in halves of the box divided by P.
        spatial_shapes: L×2, (height, width); a tensor or numbers.

    Returns:
        B×Q×M×L×P×2, float32 at least, because bfloat16 cannot tell neighbouring pixels of a large level apart.
    """
    offsets = _at_least_float32(offsets)
    reference = reference_points[:, :, None, :, None, :]
    if reference_points.shape[-1] == 4:
        return reference[..., :2] + offsets / offsets.shape[-2] * reference[..., 2:] * 0.5
    if not isinstance(spatial_shapes, Tensor):
        return reference + _in_level_sizes(offsets, spatial_shapes)
    return reference + offsets / spatial_shapes.flip(-1).to(offsets)[None, None, None, :, None, :]


def _in_level_sizes(offsets: Tensor, level_shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Divide B×Q×M×L×P×2 offsets by numbers, which may be unknowns of a graph that is being exported."""
    levels = [
        torch.stack([offset[..., 0] / width, offset[..., 1] / height], dim=-1)
        for offset, (height, width) in zip(offsets.unbind(3), level_shapes, strict=True)
    ]
    return torch.stack(levels, dim=3)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
