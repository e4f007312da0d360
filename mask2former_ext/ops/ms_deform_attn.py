"""Multi-scale deformable attention (Deformable DETR, section 4.1): the functional and the module.

Shapes: B batch, S pixels of all levels together, M heads, D channels a head, Q queries, L levels, P points a level,
C = M·D channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .reference import ms_deform_attn_reference


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum bilinear samples of multi-scale values, weighted, per query and head.

    Args:
        value: B×S×M×D floating point; the levels' pixels one after another, each level row by row.
        spatial_shapes: L×2 int64, (height, width) of each level.
        level_start_index: L int64, where each level starts in S.
        sampling_locations: B×Q×M×L×P×2, (x, y) in [0, 1] of the level's width and height; samples outside are zero.
        attention_weights: B×Q×M×L×P.

    Returns:
        B×Q×(M·D), of the dtype of ``value``. Half precisions are accumulated in float32.

    Raises:
        ValueError: the shapes disagree, or the level starts are not those of levels laid end to end.
    """
    level_shapes = [(int(h), int(w)) for h, w in spatial_shapes.tolist()]
    _check_shapes(value, level_shapes, level_start_index.tolist(), sampling_locations, attention_weights)
    return ms_deform_attn_reference(value, level_shapes, sampling_locations, attention_weights)


def _check_shapes(
    value: Tensor,
    level_shapes: list[tuple[int, int]],
    level_starts: list[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    if value.dim() != 4 or sampling_locations.dim() != 6:
        raise ValueError(
            "ms_deform_attn takes value B×S×M×D and sampling_locations B×Q×M×L×P×2, got shapes "
            f"{tuple(value.shape)} and {tuple(sampling_locations.shape)}."
        )
    sizes = [h * w for h, w in level_shapes]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    if level_starts != starts or value.shape[1] != sum(sizes):
        raise ValueError(
            f"ms_deform_attn: levels of shapes {level_shapes} start at {starts} and hold {sum(sizes)} pixels, but "
            f"level_start_index is {level_starts} and value has {value.shape[1]} pixels."
        )
    batch, queries, _, _, points = sampling_locations.shape[:5]
    expected = (batch, queries, value.shape[2], len(level_shapes), points)
    if (
        value.shape[0] != batch
        or tuple(sampling_locations.shape) != (*expected, 2)
        or tuple(attention_weights.shape) != expected
    ):
        raise ValueError(
            f"ms_deform_attn: value {tuple(value.shape)} with {len(level_shapes)} levels does not fit "
            f"sampling_locations "
            f"{tuple(sampling_locations.shape)} and attention_weights {tuple(attention_weights.shape)}."
        )


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention: every query looks at P learned points on each level, in each head."""

    def __init__(self, d_model: int = 256, n_levels: int = 4, n_heads: int = 8, n_points: int = 4) -> None:
        """
        Args:
            d_model: channels C of queries and values.
            n_levels: levels L.
            n_heads: heads M; must divide ``d_model``.
            n_points: points P a head samples on each level.
        """
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"MSDeformAttn: d_model {d_model} is not divisible by n_heads {n_heads}.")
        self.d_model, self.n_levels, self.n_heads, self.n_points = (d_model, n_levels, n_heads, n_points)
        self.sampling_offsets = nn.Linear(d_model, n_heads * n_levels * n_points * 2)
        self.attention_weights = nn.Linear(d_model, n_heads * n_levels * n_points)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
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
        input_spatial_shapes: Tensor,
        input_level_start_index: Tensor,
        input_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: B×Q×C.
            reference_points: B×Q×L×2, (x, y) in [0, 1]; or B×Q×L×4, boxes (center x, center y, width, height).
            input_flatten: B×S×C, the levels' pixels one after another.
            input_spatial_shapes: L×2 int64, (height, width).
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
        logits = self.attention_weights(query).view(batch, queries, self.n_heads, self.n_levels * self.n_points)
        weights = logits.float().softmax(-1) if logits.dtype != torch.float64 else logits.softmax(-1)
        weights = weights.view(batch, queries, self.n_heads, self.n_levels, self.n_points)
        locations = self._sampling_locations(query, reference_points, input_spatial_shapes)
        sampled = ms_deform_attn(value, input_spatial_shapes, input_level_start_index, locations, weights)
        return self.output_proj(sampled)

    def _sampling_locations(self, query: Tensor, reference_points: Tensor, spatial_shapes: Tensor) -> Tensor:
        """B×Q×M×L×P×2; float32 at least, because bfloat16 cannot tell neighbouring pixels of a large level apart."""
        batch, queries, _ = query.shape
        offsets = self.sampling_offsets(query).view(batch, queries, self.n_heads, self.n_levels, self.n_points, 2)
        offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
        reference = reference_points[:, :, None, :, None, :]
        if reference_points.shape[-1] == 2:
            width_height = spatial_shapes.flip(-1)[None, None, None, :, None, :]
            return reference + offsets / width_height
        if reference_points.shape[-1] == 4:
            return reference[..., :2] + offsets / self.n_points * reference[..., 2:] * 0.5
        raise ValueError(f"reference_points need 2 or 4 coordinates, got shape {tuple(reference_points.shape)}.")
