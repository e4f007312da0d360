"""What the compiled operators need beside kernels: shapes for tracing, the autograd formula, the autocast rule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import _ExcludeDispatchKeyGuard

from .extension import load_extension

FORWARD = "mask2former_ext::ms_deform_attn"
BACKWARD = "mask2former_ext::ms_deform_attn_backward"
AUTOCAST_KEYS = {"cpu": torch._C.DispatchKey.AutocastCPU, "cuda": torch._C.DispatchKey.AutocastCUDA}


def fake_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """A tensor of the result's shape, dtype and device."""
    batch, _, heads, width = value.shape
    return value.new_empty(batch, sampling_locations.shape[1], heads * width)


def fake_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tensors of the gradients' shapes, dtypes and device."""
    inputs = (value, sampling_locations, attention_weights)
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs)  # type: ignore[return-value]


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.mask2former_ext.ms_deform_attn_backward(grad_output, *ctx.saved_tensors)
    return grads[0], None, None, grads[1], grads[2]


def autocast_dtypes(
    value: Tensor, sampling_locations: Tensor, attention_weights: Tensor, low: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Values in the low precision; locations and weights in float32, which kernels sum in. float64 stays."""
    if value.dtype == torch.float64:
        return value, sampling_locations, attention_weights
    return value.to(low), sampling_locations.float(), attention_weights.float()


def _autocast_kernel(device_type: str) -> Any:
    key_set = torch._C.DispatchKeySet(AUTOCAST_KEYS[device_type])

    def kernel(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        low = torch.get_autocast_dtype(device_type)
        value, locations, weights = autocast_dtypes(value, locations, weights, low)
        with _ExcludeDispatchKeyGuard(key_set):
            return torch.ops.mask2former_ext.ms_deform_attn(value, shapes, starts, locations, weights)

    return kernel


def _register() -> torch.library.Library:
    torch.library.register_fake(FORWARD, fake_forward)
    torch.library.register_fake(BACKWARD, fake_backward)
    torch.library.register_autograd(FORWARD, _differentiate, setup_context=_save_inputs)
    library = torch.library.Library("mask2former_ext", "IMPL")
    for device_type, key in AUTOCAST_KEYS.items():
        library.impl("ms_deform_attn", _autocast_kernel(device_type), key.name)
    return library


# Kept for the life of the process: registrations end with the object that made them.
LIBRARY = _register() if load_extension().loaded else None
