"""Sine position encoding of images (DETR, appendix A.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PositionEmbeddingSine(nn.Module):
    """Encode each pixel's row in the first half of the channels and its column in the second half."""

    def __init__(self, num_pos_feats: int, temperature: float = 10000.0) -> None:
        """
        Args:
            num_pos_feats: channels for each of row and column; the encoding has twice as many. Must be even.
            temperature: the longest wave is this many times the shortest.
        """
        super().__init__()
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Return the 1×(2·num_pos_feats)×H×W float32 encoding for a feature map ``x`` of size …×H×W."""
        height, width = x.shape[-2:]
        rows = self._encode(height, x.device)[:, :, None].expand(-1, -1, width)
        columns = self._encode(width, x.device)[:, None, :].expand(-1, height, -1)
        return torch.cat([rows, columns])[None]

    def _encode(self, length: int, device: torch.device) -> Tensor:
        """num_pos_feats×length: sines on even and cosines on odd channels of positions normalised to (0, 2π]."""
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        position = position / (length + 1e-6) * (2 * math.pi)
        exponent = torch.arange(0, self.num_pos_feats, 2, dtype=torch.float32, device=device) / self.num_pos_feats
        phase = position / self.temperature ** exponent[:, None]
        return torch.stack([phase.sin(), phase.cos()], dim=1).flatten(0, 1)
