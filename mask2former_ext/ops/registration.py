"""What the compiled operators need beside kernels: shapes for tracing, the autograd formula, the autocast rule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import _ExcludeDispatchKeyGuard
from torch.autograd import forward_ad

from .extension import REFERENCE_SWITCH, load_extension

FORWARD = "mask2former_ext::ms_deform_attn"
FUSED = "mask2former_ext::ms_deform_attn_fused"
AUTOCAST_KEYS = {"cpu": torch._C.DispatchKey.AutocastCPU, "cuda": torch._C.DispatchKey.AutocastCUDA}


def fake_forward(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """A tensor of the result's shape, dtype and device.

    Raises:
        ValueError: devices disagree. One tensor without data ("meta") brings all of a call here.
    """
    for tensor in (locations, weights):
        if tensor.device != value.device:
            raise ValueError(f"ms_deform_attn: value is on {value.device}, but another input on {tensor.device}.")
    if value.device.type != "meta" and "meta" in (shapes.device.type, starts.device.type):
        raise ValueError("ms_deform_attn: level shapes and starts are on meta, where they have no numbers.")
    return value.new_empty(value.shape[0], weights.shape[1], value.shape[2] * value.shape[3])


def fake_forward_fused(
    value: Tensor, shapes: Tensor, starts: Tensor, reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """The same for the fused operator."""
    if reference.device != value.device:
        raise ValueError(f"ms_deform_attn: value is on {value.device}, but reference_points on {reference.device}.")
    return fake_forward(value, shapes, starts, offsets, logits)


def fake_backward(grad: Tensor, value: Tensor, shapes: Tensor, starts: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Tensors of the gradients' shapes, dtypes and device: for ``value`` and all that follows the level starts."""
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (value, *others))


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.mask2former_ext.ms_deform_attn_backward(grad_output, *ctx.saved_tensors)
    return grads[0], None, None, *grads[1:]


def _differentiate_fused(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.mask2former_ext.ms_deform_attn_fused_backward(grad_output, *ctx.saved_tensors)
    return grads[0], None, None, *grads[1:]


def _save_nothing(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    pass


def _refuse_to_differentiate(ctx: Any, *grads: Tensor) -> None:
    """Without this PyTorch warns, and takes second derivatives for zero."""
    raise NotImplementedError(
        "The compiled multi-scale deformable attention has no second derivative. "
        f"Plain PyTorch has it: set {REFERENCE_SWITCH}=1 before the start."
    )


def refuse_forward_mode(*inputs: Tensor) -> None:
    """Raise where ``inputs`` carry tangents of forward-mode differentiation, which PyTorch would drop silently.

    Raises:
        NotImplementedError: they do.
    """
    if torch.compiler.is_compiling():
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in inputs):
        raise NotImplementedError(
            "The compiled multi-scale deformable attention has no forward-mode derivative (jvp, jacfwd). "
            f"Plain PyTorch has it: set {REFERENCE_SWITCH}=1 before the start."
        )


def _autocast_kernel(operator: Any, device_type: str) -> Any:
    """Values in the low precision; everything else in float32, which kernels sum in. float64 stays."""
    key_set = torch._C.DispatchKeySet(AUTOCAST_KEYS[device_type])

    def kernel(value: Tensor, shapes: Tensor, starts: Tensor, *others: Tensor) -> Tensor:
        if value.dtype != torch.float64:
            value = value.to(torch.get_autocast_dtype(device_type))
            others = tuple(x.float() for x in others)
        with _ExcludeDispatchKeyGuard(key_set):
            return operator(value, shapes, starts, *others)

    return kernel


def _register() -> torch.library.Library:
    torch.library.register_fake(FORWARD, fake_forward)
    torch.library.register_fake(f"{FORWARD}_backward", fake_backward)
    torch.library.register_autograd(FORWARD, _differentiate, setup_context=_save_inputs)
    torch.library.register_fake(FUSED, fake_forward_fused)
    torch.library.register_fake(f"{FUSED}_backward", fake_backward)
    torch.library.register_autograd(FUSED, _differentiate_fused, setup_context=_save_inputs)
    for name in (f"{FORWARD}_backward", f"{FUSED}_backward"):
        torch.library.register_autograd(name, _refuse_to_differentiate, setup_context=_save_nothing)
    library = torch.library.Library("mask2former_ext", "IMPL")
    operators = torch.ops.mask2former_ext
    for device_type, key in AUTOCAST_KEYS.items():
        for operator in (operators.ms_deform_attn, operators.ms_deform_attn_fused):
            library.impl(operator.__name__, _autocast_kernel(operator, device_type), key.name)
    return library


# Kept for the life of the process: registrations end with the object that made them.
LIBRARY = _register() if load_extension().loaded else None
