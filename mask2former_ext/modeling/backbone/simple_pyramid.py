"""Simple feature pyramid: several scales from the one scale of a plain Vision Transformer (ViTDet, section 3).

Shapes: B images, C channels of the Vision Transformer, h, w of its feature map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of B×C×h×w."""

    def forward(self, x: Tensor) -> Tensor:
        """B×C×h×w to B×C×h×w."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimpleFeaturePyramid(nn.Module):
    """Each scale is made of the same map, by deconvolutions or by pooling.

    The 1×1 and 3×3 convolutions that close each scale in ViTDet are left to what comes after: pixel decoders begin
    with projections of their own.
    """

    def __init__(self, dim: int, stride: int, out_strides: Sequence[int]) -> None:
        """
        Args:
            dim: channels C of the map.
            stride: its stride, in pixels, a power of two.
            out_strides: strides to give, powers of two.
        """
        super().__init__()
        steps = [round(math.log2(stride / out_stride)) for out_stride in out_strides]
        self.scales = nn.ModuleList(_scale(dim, step) for step in steps)
        # a deconvolution doubles the resolution and halves the channels
        self.out_channels = [dim // 2 ** max(step, 0) for step in steps]

    def forward(self, x: Tensor) -> list[Tensor]:
        """B×C×h×w to one map for each of ``out_strides``."""
        return [scale(x) for scale in self.scales]


def _scale(dim: int, doublings: int) -> nn.Sequential:
    """Layers that double the resolution so many times; negative numbers halve it."""
    layers: list[nn.Module] = [nn.MaxPool2d(2) for _ in range(-doublings)]
    for index in range(doublings):
        if index:
            layers += [ChannelNorm(dim), nn.GELU()]
        layers.append(nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2))
        dim //= 2
    return nn.Sequential(*layers)
