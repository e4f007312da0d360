"""Attention, feed-forward network and multilayer perceptron of the masked decoder.

Shapes: B batch, Q queries, S keys, C channels. Parameter names are torch.nn.MultiheadAttention's, which published
checkpoints use.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.linear import linear


class Attention(nn.Module):
    """Multi-head attention; a mask holds for all heads."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"attention over {dim} channels is not divisible by {num_heads} heads.")
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Attend from B×Q×C ``query`` to B×S×C ``key`` and ``value``; returns B×Q×C.

        ``allowed`` is B×Q×S bool, True where a query may look; a query must be allowed at least one key.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        inputs = zip((query, key, value), weights, biases, strict=True)
        q, k, v = (self._split_heads(linear(x, weight, bias)) for x, weight, bias in inputs)
        mask = None if allowed is None else allowed[:, None]
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def with_position(x: Tensor, position: Tensor | None) -> Tensor:
    """Add a position encoding where there is one."""
    return x if position is None else x + position


class SelfAttentionLayer(nn.Module):
    """Queries attend to each other; residual and layer norm after (or before, with ``pre_norm``)."""

    def __init__(self, dim: int, num_heads: int, pre_norm: bool) -> None:
        super().__init__()
        self.self_attn = Attention(dim, num_heads)
        self.norm = nn.LayerNorm(dim)
        self.pre_norm = pre_norm

    def forward(self, queries: Tensor, query_position: Tensor | None) -> Tensor:
        """B×Q×C to B×Q×C."""
        x = self.norm(queries) if self.pre_norm else queries
        q = with_position(x, query_position)
        queries = queries + self.self_attn(q, q, x)
        return queries if self.pre_norm else self.norm(queries)


class CrossAttentionLayer(nn.Module):
    """Queries attend to pixels, each where ``allowed`` says."""

    def __init__(self, dim: int, num_heads: int, pre_norm: bool) -> None:
        super().__init__()
        self.multihead_attn = Attention(dim, num_heads)
        self.norm = nn.LayerNorm(dim)
        self.pre_norm = pre_norm

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        query_position: Tensor | None,
        memory_position: Tensor | None,
        allowed: Tensor | None,
    ) -> Tensor:
        """B×Q×C queries, B×S×C memory, B×Q×S bool ``allowed``; returns B×Q×C."""
        x = self.norm(queries) if self.pre_norm else queries
        keys = with_position(memory, memory_position)
        queries = queries + self.multihead_attn(with_position(x, query_position), keys, memory, allowed)
        return queries if self.pre_norm else self.norm(queries)


class FFNLayer(nn.Module):
    """Two linear layers with a ReLU between, residual and layer norm."""

    def __init__(self, dim: int, hidden_dim: int, pre_norm: bool) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.pre_norm = pre_norm
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """B×Q×C to B×Q×C."""
        inner = self.norm(x) if self.pre_norm else x
        x = x + self.linear2(F.relu(self.linear1(inner)))
        return x if self.pre_norm else self.norm(x)


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        super().__init__()
        dims = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """…×input_dim to …×output_dim."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
