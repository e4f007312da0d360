"""Attention within windows, regular and shifted, and cutting maps into windows (Swin Transformer, section 3.2).

Shapes: B images, H, W of a feature map, C its channels, M×M pixels a window: N = M² pixels a window, G windows a map,
D heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...ops.linear import Linear
from ..position_encoding import remember


def relative_position_index(window_size: int) -> Tensor:
    """N×N int64: for query pixel i and key pixel j of a window, the row of the bias table that their offset owns.

    Offsets range over [1−M, M−1] for rows and columns; the table holds (2M−1)² of them, row by row (equation 4).
    """
    pixels = torch.arange(window_size)
    offsets = pixels[:, None] - pixels + window_size - 1  # M×M, from query to key along one axis
    rows = offsets.repeat_interleave(window_size, 0).repeat_interleave(window_size, 1)
    columns = offsets.repeat(window_size, window_size)
    return rows * (2 * window_size - 1) + columns


class WindowAttention(nn.Module):
    """Multi-head self-attention within each window, with a learned bias for each relative position."""

    relative_position_index: Tensor

    def __init__(
        self,
        dim: int,
        window_size: int,
        num_heads: int,
        *,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_dropout: float,
        dropout: float,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"MODEL.SWIN.NUM_HEADS: {num_heads} heads do not divide the {dim} channels of their stage "
                "(MODEL.SWIN.EMBED_DIM, doubled from stage to stage)."
            )
        self.num_heads = num_heads
        self.qk_scale = qk_scale
        self.attn_dropout = attn_dropout
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window_size))
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Attend within windows.

        Args:
            x: B×G×N×C.
            blocked: G×N×N bool, True where a query pixel must not look at a key pixel; None lets all look at all.

        Returns:
            B×G×N×C.
        """
        batch, windows = x.shape[:2]
        qkv = self.qkv(x).flatten(0, 1).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B·G)×D×N×(C/D) each
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # D×N×N
        mask = bias[None]
        if blocked is not None:
            mask = bias.masked_fill(blocked[:, None], float("-inf"))
            if _in_graph() or batch > 1:
                mask = mask.repeat(batch, 1, 1, 1)
        dropout = self.attn_dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=self.qk_scale)
        joined = attended.transpose(1, 2)
        if _in_graph():  # exporters put another attention here, whose result lies in memory otherwise
            joined = joined.clone(memory_format=torch.contiguous_format)
        return self.dropout(self.proj(joined.flatten(2).unflatten(0, (batch, windows))))


def to_multiple(length: int, multiple: int) -> int:
    """What ``length`` lacks to the next multiple; in a form in which exporters see that the sum is one."""
    return (length + multiple - 1) // multiple * multiple - length


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad B×H×W×C with zeros at the bottom and at the right, where the multiple does not divide H or W."""
    height, width = to_multiple(x.shape[1], multiple), to_multiple(x.shape[2], multiple)
    return F.pad(x, (0, 0, 0, width, 0, height)) if _in_graph() or height or width else x


def split_windows(x: Tensor, window_size: int) -> Tensor:
    """B×H×W×… to B×G×N×…, windows and their pixels row by row; M divides H and W."""
    x = x.unflatten(2, (-1, window_size)).unflatten(1, (-1, window_size))
    return _swap(x).flatten(3, 4).flatten(1, 2)


def join_windows(windows: Tensor, window_size: int, height: int, width: int) -> Tensor:
    """B×G×N×C to B×H×W×C, the inverse of :func:`split_windows`."""
    rows, columns = height // window_size, width // window_size
    x = windows.unflatten(2, (window_size, window_size)).unflatten(1, (rows, columns))
    return _swap(x).flatten(3, 4).flatten(1, 2)


def _swap(x: Tensor) -> Tensor:
    """Dimensions 2 and 3 in each other's place, and in memory too: a copy in any case, whatever their sizes."""
    return x.transpose(2, 3).clone(memory_format=torch.contiguous_format)


def _in_graph() -> bool:
    """Whether what runs becomes a graph, which is to hold for other sizes too: so it does not ask for the size."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


@remember(256)
def _window_sides(height: int, width: int, window_size: int, shift: int, device: torch.device) -> Tensor:
    """G×N uint8: which side of the seams each pixel of a rolled map lies on.

    Rolling brings the first ``shift`` rows and columns behind the last ones. Windows over such a seam hold pixels that
    are no neighbours, told apart by this number. It depends on the shapes alone, and training meets the same few
    shapes again and again.
    """
    rows = torch.arange(height, device=device) >= height - shift
    columns = torch.arange(width, device=device) >= width - shift
    sides = 2 * rows.to(torch.uint8)[:, None] + columns.to(torch.uint8)
    return split_windows(sides[None], window_size)[0]


def shifted_window_mask(height: int, width: int, window_size: int, shift: int, device: torch.device) -> Tensor:
    """G×N×N bool: True between the pixels of a window that are not connected in the unrolled map (figure 4)."""
    sides = _window_sides(height, width, window_size, shift, device)
    return sides[:, :, None] != sides[:, None, :]
