"""Linear layers by the faster of two ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Inputs of fewer numbers than this gain nothing.
SMALLEST_INPUT = 2**18


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: x·weightᵀ + bias, for …×C ``x``, C'×C ``weight`` and C' ``bias``; returns …×C'.

    On the CPU large float32 inputs go as pixels through a convolution of one pixel: the same product, but one of
    oneDNN's, which on some processors (AMD's, that is) has faster kernels than what serves ``F.linear`` there.
    """
    if not _gains_as_convolution(x):
        return F.linear(x, weight, bias)
    pixels = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)  # 1×C×1×N, channels last
    return F.conv2d(pixels, weight[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def _gains_as_convolution(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    # a graph is to hold for other sizes and machines too
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return x.numel() >= SMALLEST_INPUT and torch.backends.mkldnn.is_available()


class Linear(nn.Linear):
    """``nn.Linear`` by way of :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """…×in_features to …×out_features."""
        return linear(x, self.weight, self.bias)
