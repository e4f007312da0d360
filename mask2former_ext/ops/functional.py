"""Multi-scale deformable attention as a function (Deformable DETR, section 4.1, equation 3).

Shapes: B batch, S pixels of all levels together, M heads, D channels a head, Q queries, L levels, P points a level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .extension import uses_compiled
from .reference import LOW_PRECISION, ms_deform_attn_reference
from .registration import refuse_forward_mode  # registers autograd, fake kernels and autocast, too

FLOATING = (torch.float32, torch.float64, *LOW_PRECISION)


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum bilinear samples of multi-scale values, weighted, per query and head.

    Compiled operators do it where they were built for the device, else plain PyTorch; the log says once which and why.

    Args:
        value: B×S×M×D of float32, float64, float16 or bfloat16; the levels' pixels one after another, each level row by
            row.
        spatial_shapes: L×2 int64, (height, width) of each level. Best kept on the CPU: from a GPU it is copied, which
            waits for all work before it.
        level_start_index: L int64, where each level starts in S; best kept on the CPU too.
        sampling_locations: B×Q×M×L×P×2, (x, y) in [0, 1] of the level's width and height; samples outside are zero.
            Kept in float32 where ``value`` is of half precision.
        attention_weights: B×Q×M×L×P.

    Returns:
        B×Q×(M·D), of the dtype of ``value``. Half precisions are summed in float32.

    Raises:
        ValueError: shapes, dtypes or devices disagree, or level starts are not those of levels laid end to end.
        RuntimeError: the operators were compiled for other GPUs than this one; says how to build them.
        NotImplementedError: a compiled operator is asked for a second or a forward-mode derivative.
    """
    if uses_compiled(value.device.type, value.device.index):
        refuse_forward_mode(value, sampling_locations, attention_weights)
        return torch.ops.mask2former_ext.ms_deform_attn(
            value, spatial_shapes, level_start_index, sampling_locations, attention_weights
        )
    _check_types(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    level_shapes = [(int(h), int(w)) for h, w in spatial_shapes.tolist()]
    _check_shapes(value, level_shapes, level_start_index.tolist(), sampling_locations, attention_weights)
    return ms_deform_attn_reference(value, level_shapes, sampling_locations, attention_weights)


def _check_types(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    for name, tensor in (("spatial_shapes", spatial_shapes), ("level_start_index", level_start_index)):
        if tensor.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"ms_deform_attn: {name} must be int64, got {tensor.dtype}.")
    if spatial_shapes.dim() != 2 or spatial_shapes.shape[1] != 2 or level_start_index.dim() != 1:
        raise ValueError(
            "ms_deform_attn takes spatial_shapes L×2 (height, width) and level_start_index L, got shapes "
            f"{tuple(spatial_shapes.shape)} and {tuple(level_start_index.shape)}."
        )
    floating = {"value": value, "sampling_locations": sampling_locations, "attention_weights": attention_weights}
    for name, tensor in floating.items():
        if tensor.dtype not in FLOATING:
            raise ValueError(
                f"ms_deform_attn: {name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}."
            )
        if tensor.device != value.device:
            raise ValueError(f"ms_deform_attn: value is on {value.device}, but {name} on {tensor.device}.")


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
    if min((min(shape) for shape in level_shapes), default=0) < 1:
        raise ValueError(f"ms_deform_attn: a level has no pixels, or there is no level: {level_shapes}.")
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
